"""The program: its commands, and how an error becomes one line and an exit code."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from gradeval.errors import GradevalError
from gradeval.program.atlas import atlas_command, reference_command
from gradeval.program.baseline import baseline_command
from gradeval.program.cache import cache_command
from gradeval.program.check import check_command
from gradeval.program.compare import compare_command
from gradeval.program.cost import cost_command
from gradeval.program.listing import list_command
from gradeval.program.report import report_command
from gradeval.program.run import run_command
from gradeval.program.status import status_command
from gradeval.program.sweep import sweep_command
from gradeval.program.terminal import say
from gradeval.program.train import train_command

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # whose columns cut long names at 80 characters
)


def _print_version(wanted: bool) -> bool:
    if wanted:
        from importlib.metadata import version

        print(version("gradeval"))
        raise typer.Exit
    return wanted


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """How accurate are gradient estimators for stochastic binary networks, against the exact gradient?"""


for _name, _command in (
    ("run", run_command),
    ("report", report_command),
    ("status", status_command),
    ("check", check_command),
    ("train", train_command),
    ("sweep", sweep_command),
    ("cost", cost_command),
    ("baseline", baseline_command),
    ("compare", compare_command),
    ("list", list_command),
    ("atlas", atlas_command),
    ("reference", reference_command),
    ("cache", cache_command),
):
    # all of the first sentence: by itself it would be cut to 45 characters
    app.command(_name, short_help=" ".join((_command.__doc__ or "").partition("\n\n")[0].split()))(_command)


def main() -> None:
    """Run the program: exit 0 done, 1 incomplete results or a regression, 2 unusable input or a bug, 130 Ctrl-C."""
    began = time.perf_counter()
    try:
        app(standalone_mode=True)
    except GradevalError as error:
        say(f"gradeval: {error}", sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print(f"gradeval: interrupted after {time.perf_counter() - began:.0f} s; nothing was written.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:  # never exit 1, which says that the input was judged
        say(f"gradeval has failed: {_in_short(error)}; please report it{_with_traceback()}", sys.stderr)
        sys.exit(2)


def _in_short(error: Exception) -> str:
    """Type and message of an error, in a line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text:.200}" if text else type(error).__name__


def _with_traceback() -> str:
    """Write the traceback of the error that is handled to a file, and say which."""
    import tempfile
    import traceback

    try:
        with tempfile.NamedTemporaryFile("w", prefix="gradeval-failure-", suffix=".txt", delete=False) as file:
            file.write(f"{' '.join(sys.argv)}\n\n{traceback.format_exc()}")
    except OSError:
        return "."
    return f" with the file {file.name}."
