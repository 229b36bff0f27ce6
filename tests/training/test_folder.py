"""The folder of a training: another training and damaged files are refused; what it holds is told."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pandas as pd
import pytest

from gradeval import GradevalError
from gradeval.analysis.training import Training
from gradeval.analysis.training_figures import accuracy_figure
from gradeval.checkpoint import read_checkpoint
from gradeval.errors import Incomplete
from gradeval.files import sealed
from gradeval.folder_lock import FolderLock
from gradeval.problems.catalogue import load_task
from gradeval.problems.tasks import Task
from gradeval.training.folder import checkpoint_path, is_training, training_status
from gradeval.training.protocol import Protocol
from gradeval.training.trainer import train

pytestmark = pytest.mark.no_shapes

SHORT = Protocol(epochs=3, seeds=2, rates=(0.03, 0.1), tuning_epochs=1, tuning_seeds=1, checks=3, gradient_epochs=())


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("expclass", units="2", points=20)


@pytest.fixture(scope="module")
def trained(task: Task, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("training") / "run"
    train(task, ["st", "psa"], SHORT, folder=folder)
    return folder


def test_another_training_in_the_folder_is_refused(task: Task, trained: Path) -> None:
    with pytest.raises(GradevalError, match="protocol differs \\(epochs: 3 there, 4 here"):
        train(task, ["st", "psa"], replace(SHORT, epochs=4), folder=trained)
    with pytest.raises(GradevalError, match="estimators differs"):
        train(task, ["st"], SHORT, folder=trained)
    other = load_task("expclass", units="2", points=20, seed=1)
    with pytest.raises(GradevalError, match="task differs"):
        train(other, ["st", "psa"], SHORT, folder=trained)
    before = Training.load(trained).tables["timings"]
    again = train(task, ["st", "psa"], SHORT, folder=trained)  # nothing is trained again
    pd.testing.assert_frame_equal(again.tables["timings"], before)


def test_a_folder_of_something_else_is_refused(task: Task, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("dear reader")
    with pytest.raises(GradevalError, match="exists and is not empty: it holds something else"):
        train(task, ["st"], SHORT, folder=tmp_path)
    assert not is_training(tmp_path)


def test_a_training_of_an_earlier_version_has_no_ensembles_until_it_is_resumed(
    task: Task, trained: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    copytree(trained, folder)
    for name in ("st", "psa"):
        checkpoint = read_checkpoint(checkpoint_path(folder, name))
        assert checkpoint is not None
        checkpoint.ensembles = []
        checkpoint.write(checkpoint_path(folder, name))
    document = json.loads((folder / "training.json").read_text())
    del document["digest"]
    document["files"] = {name: digest for name, digest in document["files"].items() if "ensembles" not in name}
    (folder / "training.json").write_bytes(sealed(document))
    (folder / "ensembles.parquet").unlink()
    found = Training.load(folder)
    assert found.tables["ensembles"].empty
    assert not accuracy_figure(found)
    train(task, ["st", "psa"], SHORT, folder=folder)
    for name in ("ensembles.csv", "predictions.csv", "timings.csv"):
        assert (folder / name).read_bytes() == (trained / name).read_bytes()


def without(document: dict[str, Any], *keys: str) -> None:
    *path, last = keys
    for key in path:
        document = document[key]
    del document[last]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: without(d, "kind", "task"), r"training\.json: kind: object missing required field `task`"),
        (
            lambda d: d["problem"].update(widths=["2"]),
            r"training\.json: problem\.widths\[0\]: expected `int`, got `str`",
        ),
        (lambda d: d.update(failures=[]), r"training\.json: failures: expected `object`, got `array`"),
        (lambda d: d["estimators"]["st"].update(unbiased_claim=0), r"unbiased_claim: expected `bool`, got `int`"),
        (lambda d: d.update(format="gradeval-training/9"), r"this version reads 'gradeval-training/2', found '.*/9'"),
    ],
)
def test_a_damaged_manifest_is_one_line_with_the_place(
    task: Task, trained: Path, tmp_path: Path, damage: Callable[[dict[str, Any]], None], message: str
) -> None:
    copytree(trained, tmp_path / "run")
    path = tmp_path / "run" / "training.json"
    document = json.loads(path.read_text())
    damage(document)
    path.write_bytes(sealed({key: value for key, value in document.items() if key != "digest"}))
    for use in (
        lambda: train(task, ["st", "psa"], SHORT, folder=tmp_path / "run"),
        lambda: Training.load(tmp_path / "run"),
        lambda: training_status(tmp_path / "run"),
    ):
        with pytest.raises(GradevalError, match=message) as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_key_that_stands_twice_is_refused(trained: Path, tmp_path: Path) -> None:
    text = (trained / "training.json").read_text()
    (tmp_path / "training.json").write_text(text.replace('"failures"', '"failures": {}, "failures"'))
    with pytest.raises(GradevalError, match="the key 'failures' stands twice"):
        training_status(tmp_path)


@pytest.mark.parametrize("name", ["training.json", "curves.parquet", "ensembles.parquet"])
def test_a_flipped_bit_is_noticed(trained: Path, tmp_path: Path, name: str) -> None:
    copytree(trained, tmp_path / "run")
    content = bytearray((tmp_path / "run" / name).read_bytes())
    content[len(content) // 2] ^= 2
    (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(GradevalError, match=name):
        Training.load(tmp_path / "run")


def test_a_flipped_bit_in_a_checkpoint_is_noticed(task: Task, trained: Path, tmp_path: Path) -> None:
    copytree(trained, tmp_path / "run")
    path = checkpoint_path(tmp_path / "run", "st")
    good = path.read_bytes()
    for place in (0, 40, len(good) // 2, len(good) - 1):
        content = bytearray(good)
        content[place] ^= 1
        path.write_bytes(content)
        assert [row["damaged"] for row in training_status(tmp_path / "run")["estimators"]] == [path.name, None]


def test_one_process_at_a_time(task: Task, trained: Path, tmp_path: Path) -> None:
    copytree(trained, tmp_path / "run")
    with FolderLock(tmp_path / "run", "training.json"):
        assert f"process {os.getpid()} on" in training_status(tmp_path / "run")["holder"]
        with pytest.raises(GradevalError, match="is in use by process"):
            train(task, ["st", "psa"], SHORT, folder=tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(GradevalError, match="exists and is not empty"):
        train(task, ["st", "psa"], SHORT, folder=tmp_path / "other")


def test_a_damaged_checkpoint_is_named(task: Task, trained: Path, tmp_path: Path) -> None:
    copytree(trained, tmp_path / "run")
    path = checkpoint_path(tmp_path / "run", "st")
    path.write_bytes(b"half a file")
    with pytest.raises(Incomplete, match=r"not a readable checkpoint .* remove it to train that estimator again"):
        train(task, ["st", "psa"], SHORT, folder=tmp_path / "run")
    found = training_status(tmp_path / "run")
    assert [row["damaged"] for row in found["estimators"]] == [path.name, None]
    assert not found["complete"]
    path.unlink()
    again = train(task, ["st", "psa"], SHORT, folder=tmp_path / "run").summary
    pd.testing.assert_frame_equal(again, Training.load(trained).summary)


def test_the_status_of_a_training(task: Task, trained: Path, tmp_path: Path) -> None:
    found = training_status(trained)
    assert json.loads(json.dumps(found)) == found
    assert found["complete"]
    assert [(row["estimator"], row["phase"], row["epoch"], row["epochs"]) for row in found["estimators"]] == [
        ("st", "done", 3, 3),
        ("psa", "done", 3, 3),
    ]
    copytree(trained, tmp_path / "run")
    checkpoint_path(tmp_path / "run", "psa").unlink()
    found = training_status(tmp_path / "run")
    assert not found["complete"]
    assert [(row["phase"], row["rate"] is None) for row in found["estimators"]] == [("done", False), ("search", True)]
    with pytest.raises(GradevalError, match=r"is not a training: it has no training\.json"):
        training_status(tmp_path)
