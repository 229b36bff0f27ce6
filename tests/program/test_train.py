"""`gradeval train`, as a user runs it; interrupted for real."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gradeval.training.folder import is_training, training_status
from tests.programs import COMMAND, gradeval


def in_training(folder: Path) -> int:
    """How many estimators are past the search."""
    rows = training_status(folder)["estimators"] if is_training(folder) else []
    return sum(row["phase"] == "runs" for row in rows)


def test_the_command(tmp_path: Path) -> None:
    arguments = ["expclass", "--units", "2-2", "--points", "20", "--estimators", "st,tanh", "--quick", "--workers", "1"]
    done = gradeval("train", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "gradeval-train-1" / "report.html").exists()
    assert "training" in done.stdout
    assert done.stderr.splitlines()[0] == "st, search"
    failed = gradeval("train", "expclas", cwd=tmp_path)
    assert failed.returncode == 2
    assert failed.stderr.startswith("gradeval: unknown problem 'expclas': did you mean expclass")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("workers", [1, 2] if "GRADEVAL_KILLS" in os.environ else [2])
def test_ctrl_c_says_what_is_kept_and_how_to_resume(tmp_path: Path, workers: int) -> None:
    """Sent to the whole group, as a terminal does: the program has one line, and its processes no traceback.

    Planted faults that it finds: "nothing was written" beside checkpoints; processes that take Ctrl-C for themselves.
    """
    arguments = ["--units", "2", "--points", "20", "--estimators", "st,tanh", "--rates", "0.05,0.1"]
    arguments += [
        "--epochs",
        "500000",
        "--tuning-epochs",
        "1",
        "--gradient-epochs",
        "",
        "--out",
        "kept",
        "--workers",
        str(workers),
        "--yes",
    ]
    with subprocess.Popen(
        [*COMMAND, "train", *arguments], cwd=tmp_path, text=True, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        end = time.monotonic() + 600
        while in_training(tmp_path / "kept") < workers and process.poll() is None:
            if time.monotonic() > end:
                os.killpg(process.pid, signal.SIGKILL)  # else leaving the block would wait for it
                pytest.fail("nothing was finished in 600 s")
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
        assert process.wait(timeout=60) == 130, lines
    what = "the checkpoint of st is" if workers == 1 else "the checkpoints of st and tanh are"
    assert lines[-1] == f"gradeval: interrupted; {what} kept in kept. Repeat the command with --out kept to resume."
    parts = [re.fullmatch(r"(?:st|tanh), (search|training)(: .*)?", line) for line in lines[:-1]]
    assert all(parts), lines
    assert any(part and part[2] and part[2].startswith(": about ") for part in parts), lines
    found = training_status(tmp_path / "kept")
    assert not found["complete"]
    assert [row["phase"] for row in found["estimators"]] == ["runs", "runs" if workers == 2 else "search"]


def test_what_failed_is_told_and_what_is_trained_is_shown(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def broken(network, inputs, loss, randomness):\n    return 1 / 0\n")
    arguments = ["--units", "2", "--points", "20", "--estimators", "st,mine.py:broken", "--rates", "0.1"]
    arguments += ["--epochs", "2", "--seeds", "2", "--gradient-epochs", "", "--out", "out", "--workers", "1"]
    done = gradeval("train", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "gradeval: estimator 'mine.py:broken' raised ZeroDivisionError: division by zero; the tables in out have st. "
        "Repeat the command with --out out to resume."
    )
    assert "Means over seeds" in done.stdout
    assert (tmp_path / "out" / "report.html").exists()
