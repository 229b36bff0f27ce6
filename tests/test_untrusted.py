"""Problem files and run folders are data, perhaps a stranger's: only clean errors come of them, and no code runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradeval import Evaluation, GradevalError, Problem
from gradeval.evaluation.plan import Plan
from tests.programs import gradeval

ROOT = Path(__file__).parents[1]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all values of a JSON document."""
    keys = document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    return [path, *(place for key in keys for place in places(document[key], (*path, key)))][bool(not path) :]


def with_value(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = deepcopy(document)
    node = changed
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return changed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small: Problem) -> Path:
    from gradeval import evaluate

    home = tmp_path_factory.mktemp("untrusted")
    evaluate(small, ["st", "tanh"], draws=40, folder=home)
    return home


@pytest.mark.parametrize("name", ["problem.json", "plan.json", "manifest.json"])
def test_a_value_in_the_place_of_any_other(
    folder: Path, tmp_path: Path, name: str, forge: Callable[[Path], None]
) -> None:
    """Whatever stands where, the loader succeeds or says in one line what is wrong."""
    document = json.loads((folder / name).read_text())
    for other in folder.iterdir():
        if other.is_file() and other.name != name:
            os.link(other, tmp_path / other.name)
    load = {"problem.json": Problem.load, "plan.json": lambda p: Plan.read(p.parent)}.get(name)

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(st.sampled_from(places(document)), VALUES)
    def check(path: tuple[Any, ...], value: Any) -> None:
        spoilt = tmp_path / name
        spoilt.write_text(json.dumps(with_value(document, path, value)))
        forge(tmp_path)
        message = ""
        try:
            if load:
                load(spoilt)
            else:
                Evaluation.load(tmp_path)
        except GradevalError as error:
            message = str(error)
        assert len(message.splitlines()) <= 1

    check()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(content=st.binary(max_size=400))
def test_any_bytes(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.getbasetemp()
    for name in ("problem.json", "plan.json", "manifest.json"):
        (home / name).write_bytes(content)
    for load in (lambda: Problem.load(home / "problem.json"), lambda: Plan.read(home), lambda: Evaluation.load(home)):
        with pytest.raises(GradevalError):
            load()


def test_spoilt_files_of_every_kind() -> None:
    """A smaller version of docs/studies/fuzz.py: also arrays, tables, chunks behind forged checksums, pickles."""
    command = [sys.executable, str(ROOT / "docs" / "studies" / "fuzz.py"), "--inputs", "250", "--no-write"]
    done = subprocess.run([*command, "--workers", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert " 0 findings" in done.stdout


def test_damaged_folders_and_killed_writing() -> None:
    """A smaller version of docs/studies/damage.py."""
    command = [
        sys.executable,
        str(ROOT / "docs" / "studies" / "damage.py"),
        "--bits",
        "1",
        "--share",
        "0.1",
        "--no-write",
    ]
    done = subprocess.run([*command, "--boundaries", "2", "--moments", "0"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 2 kills. 0 findings" in done.stdout


def test_limits_on_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradeval.model.problem_file.MAX_FILE_BYTES", 1000)
    monkeypatch.setattr("gradeval.evaluation.plan.MAX_PLAN_BYTES", 1000)
    monkeypatch.setattr("gradeval.analysis.run.manifest.MAX_MANIFEST_BYTES", 1000)
    for name in ("problem.json", "plan.json", "manifest.json"):
        (tmp_path / name).write_text(json.dumps({"name": "x" * 2000}))
    for load in (lambda p: Problem.load(p / "problem.json"), Plan.read, Evaluation.load):
        with pytest.raises(GradevalError, match=r"larger than"):
            load(tmp_path)


def test_an_estimator_in_a_strangers_plan_is_not_run(
    folder: Path, tmp_path: Path, forge: Callable[[Path], None]
) -> None:
    """Planted: the plan of a folder names code beside it."""
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('ran').touch()\ndef e(*a): return a[2](a[1])\n")
    for name in ("plan.json", "problem.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    plan = json.loads((tmp_path / "plan.json").read_text())
    plan["estimators"]["evil.py:e"] = plan["estimators"]["st"]
    plan["arguments"] = {"estimators": "evil.py:e", "problem": "evil.py"}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    forge(tmp_path)
    for arguments in (["run", "--resume", "."], ["status", "."]):
        done = gradeval(*arguments, cwd=tmp_path)
        assert "Traceback" not in done.stderr
        assert ("estimators that are code" in done.stderr) == (arguments[0] == "run")
    assert not (tmp_path / "ran").exists()
