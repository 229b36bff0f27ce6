"""`gradeval check` as a program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from gradeval.model.problem import Problem

ENVIRONMENT = os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, text=True, capture_output=True, timeout=300)


GRADEVAL = ("-c", "from gradeval.program.app import main; main()")


def test_the_program(tmp_path: Path, small: Problem) -> None:
    small.save(tmp_path / "own.json")
    holds = run(*GRADEVAL, "check", "reinforce", "--problem", "own.json", "--json", cwd=tmp_path)
    assert holds.returncode == 0, holds.stderr
    found = json.loads(holds.stdout)
    assert (found["verdict"], found["claims"]) == ("holds", ["unbiased"])
    assert len(found["rows"]) > 30
    assert small.name in {row["problem"] for row in found["rows"]}  # beside the battery's
    fault_file = Path(__file__).parents[1] / "faults" / "sign.py"
    fails = run(*GRADEVAL, "check", f"{fault_file}:estimator", "--unbiased", cwd=tmp_path)
    assert fails.returncode == 1, fails.stderr
    assert "all layers: the sign is wrong" in fails.stdout
    unusable = run(*GRADEVAL, "check", "pas", cwd=tmp_path)
    assert unusable.returncode == 2
    assert "did you mean psa" in unusable.stderr
