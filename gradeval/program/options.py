"""What the commands share: specs, folders, numbers, signals."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer

from gradeval.errors import GradevalError

LARGEST_NUMBER = 10**18  # number in an option

ImageData = Annotated[
    str | None,
    typer.Option(help="Images: digits, mnist, omniglot, cifar10, … or a folder with a folder for each class."),
]
ImageRoot = Annotated[
    str | None, typer.Option(help="Folder of torchvision's data sets, or of Omniglot's file; nothing is downloaded.")
]
RealEncoder = Annotated[
    str | None, typer.Option(help="vae, autoencoder: widths of real encoder layers with tanh, 200-200; '' for none.")
]
RealDecoder = Annotated[
    str | None, typer.Option(help="vae, autoencoder: widths of real decoder layers with tanh, 200-200; '' for none.")
]
KLForm = Annotated[
    str | None,
    typer.Option(help="vae: sampled (log q − log p at the sample) or analytic; sampled if not given."),
]
BoundSamples = Annotated[
    int | None, typer.Option(help="vae: K for the bound of K samples, log of the mean weight; 1 is the ELBO.")
]


def check_output(folder: Path, marker: str = "plan.json") -> None:
    """Refuse a folder that results could not be written to, before they are computed; see `check_folder`."""
    from gradeval.folder_lock import check_folder

    try:
        check_folder(folder, marker)
        folder.parent.mkdir(parents=True, exist_ok=True)
        within = folder if folder.exists() else folder.parent
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=within):
            pass
    except OSError as error:
        raise GradevalError(f"cannot write {folder}: {error.strerror}.") from None


def free_folder(name: str = "gradeval-run") -> Path:
    """The first of NAME-1, NAME-2, … that does not exist."""
    number = 1
    while (folder := Path(f"{name}-{number}")).exists():
        number += 1
    return folder


def numbers_of(name: str, text: str, kind: Any) -> tuple[Any, ...]:
    """The numbers in an option's text, joined by commas."""
    try:
        return tuple(kind(piece) for piece in text.split(",") if piece.strip())
    except ValueError:
        raise GradevalError(f"--{name} must be numbers joined by commas, found '{text}'.") from None


def whole_number(text: str) -> int:
    """The whole number in an option's text, which may be written as 1000000, 1_000_000 or 1e6."""
    try:
        value = Decimal(text)
        if value != value.to_integral_value() or abs(value) > LARGEST_NUMBER:
            raise ValueError
        return int(value)
    except (ArithmeticError, ValueError, OverflowError):
        raise typer.BadParameter(f"'{text}' is no whole number, such as 20000 or 2e4.") from None


def is_given(context: typer.Context, name: str) -> bool:
    """Whether an option was given on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM interrupts as Ctrl-C does, so that what has finished is kept after either."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
