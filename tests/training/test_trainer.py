"""Training under one protocol: the same numbers after any stop; nothing tuned on held-out data."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from gradeval.analysis.training import Training
from gradeval.analysis.training_report import build_training_report
from gradeval.errors import Incomplete
from gradeval.problems.catalogue import load_task
from gradeval.problems.tasks import Task
from gradeval.training.protocol import Protocol
from gradeval.training.trainer import train

SHORT = Protocol(epochs=3, seeds=2, rates=(0.03, 0.1), tuning_epochs=1, tuning_seeds=1, checks=3, gradient_draws=20)


KILLS = int(os.environ.get("GRADEVAL_KILLS", "1"))  # tox -e kills: ten, and with workers, too


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("expclass", units="3-2", points=30)


@pytest.fixture(scope="module")
def undisturbed(task: Task, tmp_path_factory) -> tuple[Path, Training]:
    folder = tmp_path_factory.mktemp("training") / "run"
    return folder, train(task, ["st", "psa"], SHORT, folder=folder)


def test_tables_and_report(undisturbed) -> None:
    folder, training = undisturbed
    trials = training.tables["trials"]
    assert set(trials["seed"]) == {1_000_000}  # none of the runs' seeds
    curves = training.tables["curves"]
    assert curves["exact"].all()
    assert list(curves[(curves["estimator"] == "st") & (curves["seed"] == 0)]["epoch"]) == [0, 1, 2, 3]
    start = curves[curves["epoch"] == 0].pivot(index="seed", columns="estimator", values="objective")
    assert (start["st"] == start["psa"]).all()  # the same initial parameters
    summary = training.summary
    assert set(summary["split"]) == {"train", "validation", "test"}
    assert set(summary["predictor"]) == {"expected", "ensemble", "mode", "mean-field"}
    assert (summary["seeds"] == 2).all()
    final = curves[(curves["epoch"] == 3) & (curves["estimator"] == "st")]["objective"].mean()
    row = summary.query("estimator == 'st' and split == 'train' and predictor == 'expected'").iloc[0]
    assert row["loss"] == pytest.approx(final, rel=1e-12)
    assert row["loss_low"] < row["loss"] < row["loss_high"]
    table = training.tables["ensembles"]
    assert set(table["split"]) == {"validation", "test"}  # those held out
    assert sorted(set(table["draws"])) == [1, 2, 5, 10, 20, 50, 100]
    ten = table[table["draws"] == SHORT.ensemble].drop(columns="draws")
    plain = training.tables["predictions"].query("predictor == 'ensemble' and split != 'train'")
    assert ten.to_numpy().tolist() == plain.drop(columns="predictor").to_numpy().tolist()
    loaded = Training.load(folder)
    pd.testing.assert_frame_equal(loaded.summary, summary)
    text = build_training_report(loaded, folder).read_text()
    assert "Training with gradient estimators on expclass 3-2" in text
    assert {p.name for p in (folder / "figures").glob("*.svg")} == {
        *("objective.svg", "gradients.svg", "search.svg", "accuracy.svg")
    }
    assert not list(folder.rglob(".*"))  # nothing temporary is left


def test_the_chosen_rate_is_the_best_on_the_training_objective(undisturbed) -> None:
    trials = undisturbed[1].tables["trials"]
    for _, group in trials.groupby("estimator"):
        means = group.groupby("rate")["objective"].mean()
        assert set(group[group["chosen"]]["rate"]) == {means.idxmin()}


def test_the_search_goes_on_where_the_best_is_at_an_end(task: Task, tmp_path: Path) -> None:
    short = replace(SHORT, rates=(1e-6, 1e-5), epochs=1, gradient_epochs=())
    trials = train(task, ["st"], short, folder=tmp_path / "a").tables["trials"]
    assert sorted(trials["rate"]) == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    assert trials.loc[trials["objective"].idxmin(), "chosen"]


def test_held_out_data_tune_nothing(task: Task, undisturbed, tmp_path: Path) -> None:
    """With other validation and test data the trials, the rate and the runs are the same."""
    flipped = replace(task.validation, targets=-task.validation.targets)
    other = replace(task, validation=flipped, test=flipped)
    training = train(other, ["st", "psa"], SHORT, folder=tmp_path / "run")
    before = undisturbed[1].tables
    pd.testing.assert_frame_equal(training.tables["trials"], before["trials"])
    same = ["estimator", "seed", "epoch", "objective", "rate"]
    pd.testing.assert_frame_equal(training.tables["curves"][same], before["curves"][same])
    assert not training.tables["curves"]["validation_objective"].equals(before["curves"]["validation_objective"])


SCRIPT = """
from gradeval.problems.catalogue import load_task
from gradeval.training.protocol import Protocol
from gradeval.training.trainer import train
if __name__ == "__main__":
    short = Protocol({protocol})
    train(load_task("expclass", units="3-2", points=30), ["st", "psa"], short, folder={folder!r}, workers={workers},
          checkpoint_seconds=0.0)
"""


@pytest.mark.parametrize("workers", [1, 2] if "GRADEVAL_KILLS" in os.environ else [1])
def test_killed_training_goes_on_to_the_same_numbers(task: Task, tmp_path: Path, workers: int) -> None:
    """SIGKILL at random moments, of the program and so of its workers; one kill, or $GRADEVAL_KILLS."""
    protocol = replace(SHORT, epochs=30, gradient_epochs=(30,))
    arguments = ", ".join(f"{name}={getattr(protocol, name)!r}" for name in protocol.__dataclass_fields__)
    script = tmp_path / "script.py"
    folder = tmp_path / "killed"
    script.write_text(SCRIPT.format(protocol=arguments, folder=str(folder), workers=workers))
    chance, kills = random.Random(workers), 0
    while True:
        process = subprocess.Popen([sys.executable, "-P", str(script)], cwd=tmp_path)
        if kills >= KILLS:
            assert process.wait(120) == 0
            break
        until = time.monotonic() + 60
        before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.pt")}
        while {p: p.stat().st_mtime_ns for p in folder.rglob("*.pt")} == before and process.poll() is None:
            assert time.monotonic() < until  # until it has gone on from where it was
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3))
        if process.poll() is not None:
            assert process.returncode == 0
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills > 0
    train(task, ["st", "psa"], protocol, folder=tmp_path / "undisturbed")
    for table in ("trials", "curves", "gradients", "predictions", "ensembles", "summary"):
        killed, whole = ((tmp_path / run / f"{table}.csv").read_bytes() for run in ("killed", "undisturbed"))
        assert killed == whole, table


def test_a_failing_estimator_leaves_the_others(task: Task, tmp_path: Path) -> None:
    def broken(network, inputs, loss, randomness):
        return loss(network.layers[-1].encode(network.layers[0].preactivation(inputs))).sum()

    with pytest.raises(Incomplete, match="broken"):
        train(task, ["st", broken], replace(SHORT, epochs=1, gradient_epochs=()), folder=tmp_path / "run")
    assert set(Training.load(tmp_path / "run").summary["estimator"]) == {"st"}


def test_a_rate_at_which_training_diverges_is_not_chosen(task: Task, tmp_path: Path) -> None:
    short = replace(SHORT, rates=(0.05, 1e300), optimiser="sgd", gradient_epochs=())
    trials = train(task, ["tanh"], short, folder=tmp_path / "run").tables["trials"]
    assert set(trials[trials["chosen"]]["rate"]) < {*trials["rate"]} - {1e300}
