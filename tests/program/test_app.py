"""The program, as a user runs it: in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
import typer
from typer.core import TyperGroup

from gradeval import evaluate
from gradeval.program.app import app
from tests.programs import COMMAND, gradeval

ENVIRONMENT = os.environ | {"PYTHONWARNINGS": "default", "COLUMNS": "120"}


def test_the_main_job(tmp_path: Path) -> None:
    done = gradeval("run", "--units", "2", "--stage", 1, "--draws", 200, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = tmp_path / "gradeval-run-1" / "report.html"
    assert done.stdout.rstrip().endswith(f"report: {report}")
    assert "holds" in done.stdout
    assert "st: 200 in" in done.stderr
    found = {path.name for path in report.parent.iterdir()}
    assert {"manifest.json", "summary.csv", "summary.parquet", "curves.csv", "curves.parquet", "figures"} <= found
    before = (report.parent / "summary.csv").read_bytes()
    report.unlink()
    again = gradeval("report", report.parent, "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert report.exists()
    assert (report.parent / "summary.csv").read_bytes() == before
    rows = json.loads(again.stdout)["summary"]
    assert {row["estimator"] for row in rows} >= {"psa", "st", "arm"}


def test_problem_files_and_own_estimators(tmp_path: Path, make_problem) -> None:
    make_problem().save(tmp_path / "p.json")
    (tmp_path / "mine.py").write_text(
        "def zero(network, inputs, loss, randomness):\n    return 0 * loss(inputs.new_zeros(4, 3))\n"
    )
    done = gradeval(
        *("run", "p.json", "--estimators", "mine.py:zero,st", "--draws", 40, "--out", "o", "--json", "--no-report"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    rows = shown["summary"]
    assert shown["folder"] == str(tmp_path / "o")
    assert not (tmp_path / "o" / "report.html").exists()
    (mine,) = (row for row in rows if row["estimator"] == "mine.py:zero" and row["layer"] == "all")
    assert mine["relative_bias"] == pytest.approx(1)
    other, resumed = (gradeval("run", *rest, cwd=tmp_path) for rest in (("p.json", "--out", "o"), ("--resume", "o")))
    assert (other.returncode, resumed.returncode) == (2, 2)
    assert "o also holds 'mine.py:zero': name it too, or choose another folder" in other.stderr
    assert "estimators that are code (mine.py:zero): if you trust it, add" in resumed.stderr


def test_names_of_python_are_not_offered_as_specs(tmp_path: Path, make_problem) -> None:
    """Planted: `--estimators 'cold,st'`, which names nothing."""
    evaluate(make_problem(), {"cold": "concrete:temperature=0.1", "st": "st"}, draws=40, folder=tmp_path / "o")
    resumed = gradeval("run", "--resume", "o", cwd=tmp_path)
    assert resumed.returncode == 2
    assert "o has estimators that were made in Python (cold)" in resumed.stderr
    assert "repeat the call of gradeval.evaluate there, with folder='o'." in resumed.stderr
    assert "--estimators" not in resumed.stderr


UNUSABLE = {
    "run --estimators pas,st": "unknown estimator 'pas': did you mean psa",
    "run absent.json": "cannot read absent.json",
    "run --units 30-30 --stage 0": "layer 1 (30 units) has 2^30",
    "run --stage 0 --draws 1": "draws must be at least 20",
    "run --stage 0 --device abacus": "device 'abacus' cannot be used",
    "report nowhere": "nowhere is not a run",
}


def test_unusable_input_is_one_line_and_exit_2(tmp_path: Path) -> None:
    for command, message in UNUSABLE.items():
        done = gradeval(*command.split(), cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("gradeval-run*"))


def test_a_failing_estimator_is_exit_1_and_the_others_are_kept(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def rare(network, inputs, loss, randomness):\n"
        "    f = loss(inputs.new_zeros(len(inputs), 2))\n"
        "    return torch.where(randomness.uniform((1,)) < 0.02, torch.log(f - f), f)\n"
    )
    done = gradeval(
        "run",
        "--units",
        "2",
        "--stage",
        0,
        "--draws",
        1000,
        "--estimators",
        "mine.py:rare,st",
        "--no-report",
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stderr
    assert "NaN or infinite gradients" in done.stderr
    assert (tmp_path / "gradeval-run-1" / "summary.csv").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_keeps_what_had_finished(tmp_path: Path) -> None:
    command = [*COMMAND, "run", "--units", "2", "--stage", "0"]
    command += ["--draws", "10000000", "--yes", "--estimators", "tanh,st", "--out", "kept"]
    environment = ENVIRONMENT | {"GRADEVAL_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert re.fullmatch(r"st: about .*\n", line), line
        while "tanh: 10,000,000 in" not in line:
            line = process.stderr.readline()
            assert line
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=120) == 130
    assert "interrupted; kept: tanh" in rest
    assert (tmp_path / "kept" / "report.html").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


REPEATED = """
import contextlib, io, json
from pathlib import Path
from gradeval import GradevalError
from gradeval.program.app import app

def command(*arguments):
    app(list(map(str, arguments)), standalone_mode=False)

def refusal(*arguments):
    try:
        command(*arguments)
    except GradevalError as error:
        return str(error)

begin = ("run", "p.json", "--no-report", "--estimators", "st,tanh", "--seed", 3, "--draws")
command(*begin, 40, "--out", "o")
first = Path("o/summary.csv").read_bytes()
chunks = {path: path.stat().st_mtime_ns for path in Path("o").glob("chunks/*/*")}
command(*begin, 40, "--out", "o")
assert Path("o/summary.csv").read_bytes() == first
assert {path: path.stat().st_mtime_ns for path in Path("o").glob("chunks/*/*")} == chunks
command(*begin, 60, "--out", "at once")
Path("p.json").unlink()  # the folder holds it
command("run", "--resume", "o", "--draws", 60, "--no-report")
assert Path("o/summary.csv").read_bytes() != first
assert Path("at once/curves.csv").read_bytes() == Path("o/curves.csv").read_bytes()  # a second look has other p-values
assert json.loads(Path("o/manifest.json").read_text())["arguments"]["draws"] == 60
for path in Path("o").glob("chunks/st-*/0000000-60-*"):
    path.write_bytes(b"")
print("STATUS")
command("status", "o")
with contextlib.redirect_stdout(io.StringIO()) as out:
    command("status", "o", "--json")
assert [len(row["damaged"]) for row in json.loads(out.getvalue())["estimators"]] == [1, 0]
assert refusal("run", "--resume", "o", "--problem-seed", 1) == (
    "--resume continues what is in o: leave out --problem-seed."
)
assert "nowhere holds no run" in refusal("run", "--resume", "nowhere")
with contextlib.redirect_stderr(io.StringIO()) as errors:
    command("run", "--resume", "o", "--draws", 50, "--no-report")
assert "o holds a run of 60 draws: this shows the first 50" in errors.getvalue()
import sys
sys.modules["distributed"] = None
assert "pip install 'gradeval[dask]'" in refusal("run", "--out", "d", "--units", "2", "--stage", 0, "--scheduler", "x")
"""


def test_a_run_is_repeated_extended_and_shown(make_problem, tmp_path: Path) -> None:
    make_problem((2,)).save(tmp_path / "p.json")
    environment = ENVIRONMENT | {"GRADEVAL_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", REPEATED]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.partition("STATUS")[2]
    assert "not complete; nobody is at work on it" in shown
    assert "0/1" in shown


def test_help_and_list_do_not_load_the_heavy_libraries(tmp_path: Path) -> None:
    for command in ("--help", "list"):
        code = (
            "import sys; sys.argv = ['gradeval', sys.argv[1]]\n"
            "from gradeval.program.app import main\n"
            "try: main()\nexcept SystemExit: pass\n"
            "heavy = {'torch', 'numpy', 'pandas', 'scipy', 'statsmodels', 'seaborn', 'matplotlib'} & set(sys.modules)\n"
            "sys.exit(f'loaded {heavy}' if heavy else 0)"
        )
        done = subprocess.run([sys.executable, "-c", code, command], text=True, capture_output=True, env=ENVIRONMENT)
        assert done.returncode == 0, done.stderr
        assert "psa" in done.stdout or command == "--help"


def test_help_is_whole_at_80_columns() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    context = click.Context(group, info_name="gradeval", terminal_width=80)
    for name, command in group.commands.items():
        text = command.get_help(click.Context(command, info_name=name, parent=context, terminal_width=80))
        assert max(map(len, text.splitlines())) <= 80
        missing = {option for parameter in command.params for option in parameter.opts if option not in text}
        assert not missing, f"help of {name}"
    words = " ".join(group.get_help(context).split())
    assert all(command.short_help and command.short_help in words for command in group.commands.values())


def test_the_cache_can_be_seen_and_cleared(tmp_path: Path) -> None:
    run = ("run", "--units", "2", "--stage", 1, "--draws", 20, "--estimators", "tanh", "--no-report")
    assert f"tables: {tmp_path}" in gradeval(*run, cwd=tmp_path).stdout
    where = str(tmp_path / "cache")
    assert json.loads(gradeval("cache", "--json", cwd=tmp_path).stdout) == {"folder": where, "removed": 0}
    shown = gradeval("cache", "--clear", cwd=tmp_path)
    assert where in shown.stdout
    assert "removed 1 file" in shown.stdout


FAIL = """
from gradeval.problems import catalogue

def fail(*arguments, **options):
    raise RuntimeError("of several\\nlines")

catalogue.load_problem = fail
"""


def test_an_internal_failure_is_exit_2_and_one_line(tmp_path: Path) -> None:
    """Exit 1 would say that a comparison had found a regression."""
    command = [sys.executable, "-c", FAIL + COMMAND[-1], "run", "--units", "2"]
    environment = ENVIRONMENT | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert line.startswith("gradeval has failed: RuntimeError: of several lines; please report it with the file ")
    (kept,) = tmp_path.glob("gradeval-failure-*.txt")
    assert "Traceback" in kept.read_text()
    assert str(kept) in line


def test_huge_numbers_and_estimators_that_exit(tmp_path: Path, make_problem) -> None:
    """Huge numbers are refused in one line. An estimator that exits was exit 0 with nothing written."""
    make_problem((2,), points=3).save(tmp_path / "p.json")
    document = json.loads((tmp_path / "p.json").read_text()) | {"states": [-9e298, 9e298]}
    (tmp_path / "huge.json").write_text(json.dumps(document))
    (tmp_path / "mine.py").write_text(
        "import sys\n\ndef leaves(network, inputs, loss, randomness):\n    print('bye')\n    sys.exit(0)\n"
    )
    options = ["--draws", 40, "--workers", 1, "--json", "--no-report", "--estimators"]
    leaves = gradeval("run", "p.json", *options, "mine.py:leaves", cwd=tmp_path)
    assert (leaves.returncode, leaves.stdout) == (2, "")
    (line,) = [line for line in leaves.stderr.splitlines() if line != "bye"]
    assert "raised SystemExit (0), which would have ended the program" in line
    huge = gradeval("run", "huge.json", *options, "reinforce,st", cwd=tmp_path)
    assert huge.returncode == 2
    (line,) = huge.stderr.splitlines()
    assert "the exact gradient, or J, has entries of" in line


def test_the_variational_autoencoder(tmp_path: Path) -> None:
    """Its options are taken by run and train, are recorded, and are refused in one line."""
    task = ("vae", "--units", 3, "--points", 4, "--kl", "analytic", "--encoder", "5", "--decoder", "4-3")
    done = gradeval("run", *task, "--estimators", "st,disarm", "--draws", 40, "--out", "o", "--no-report", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "o" / "manifest.json").read_text())
    assert manifest["problem"]["loss"] == "NegativeElbo(kl='analytic')"
    assert manifest["arguments"]["kl"] == "analytic"
    assert manifest["problem"]["widths"] == [3]
    for command in ("run", "train"):
        wrong = gradeval(command, "vae", "--units", 3, "--kl", "analitic", cwd=tmp_path)
        assert wrong.returncode == 2
        assert wrong.stderr.strip() == "gradeval: unknown form of the KL 'analitic': did you mean analytic?"
