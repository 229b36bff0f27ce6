"""`gradeval sweep`, as a user runs it; interrupted for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gradeval.studies.sweeps import sweep_status
from tests.programs import COMMAND, gradeval

FILE = """
[problem]
name = "expclass"
units = ["2", "2-2"]
seed = [0, 1, 2]
stage = 0
points = 10

[evaluate]
estimators = ["st"]
draws = DRAWS
"""


def test_the_help_shows_the_tables_of_a_file(tmp_path: Path) -> None:
    """Planted fault: brackets that are not escaped are taken for markup and vanish."""
    done = gradeval("sweep", "--help", cwd=tmp_path)
    assert "[problem]" in done.stdout
    assert "[evaluate]" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("workers", [1, 2] if "GRADEVAL_KILLS" in os.environ else [1])
def test_ctrl_c_says_what_is_kept_and_how_to_resume(tmp_path: Path, workers: int) -> None:
    """Sent to the whole group, as a terminal does, once a cell is done; then the sweep is resumed."""
    (tmp_path / "s.toml").write_text(FILE.replace("DRAWS", "30000"))
    arguments = ["sweep", "s.toml", "--workers", str(workers)]
    with subprocess.Popen(
        [*COMMAND, *arguments], cwd=tmp_path, text=True, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        end = time.monotonic() + 600
        while not list(tmp_path.glob("s/cells/*.parquet")) and process.poll() is None:
            if time.monotonic() > end:
                os.killpg(process.pid, signal.SIGKILL)  # else leaving the block would wait for it
                pytest.fail("nothing was finished in 600 s")
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
        assert process.wait(timeout=60) == 130, lines
    found = sweep_status(tmp_path / "s")
    assert 1 <= found["done"] < 6
    assert found["cells"] - len(found["missing"]) == found["done"]
    assert not found["complete"]
    assert lines == [
        "cells of the sweep",
        f"gradeval: interrupted; kept in s: {found['done']} of 6 cells. Repeat the command with --out s to resume.",
    ]
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("s/cells/*.parquet")}
    done = gradeval(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert sweep_status(tmp_path / "s")["complete"]
