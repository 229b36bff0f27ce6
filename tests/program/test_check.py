"""`gradeval check` as a program."""

from __future__ import annotations

import json
from pathlib import Path

from gradeval.model.problem import Problem
from tests.programs import gradeval


def test_the_program(tmp_path: Path, small: Problem) -> None:
    small.save(tmp_path / "own.json")
    holds = gradeval("check", "reinforce", "--problem", "own.json", "--json", cwd=tmp_path)
    assert holds.returncode == 0, holds.stderr
    found = json.loads(holds.stdout)
    assert (found["verdict"], found["claims"]) == ("holds", ["unbiased"])
    assert len(found["rows"]) > 30
    assert small.name in {row["problem"] for row in found["rows"]}  # beside the battery's
    fault_file = Path(__file__).parents[1] / "faults" / "sign.py"
    fails = gradeval("check", f"{fault_file}:estimator", "--unbiased", cwd=tmp_path)
    assert fails.returncode == 1, fails.stderr
    assert "all layers: the sign is wrong" in fails.stdout
    unusable = gradeval("check", "pas", cwd=tmp_path)
    assert unusable.returncode == 2
    assert "did you mean psa" in unusable.stderr
