"""Work that would take too long is refused on the command line, before anything is written."""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar

import pytest

from gradeval import evaluate, load_problem
from gradeval.errors import TooLong
from gradeval.estimators import get_estimator
from gradeval.program.budget import Budget
from gradeval.program.options import whole_number
from gradeval.program.progress import TerminalProgress
from gradeval.studies.sweeps import run_sweep
from gradeval.training.protocol import Protocol
from gradeval.training.trainer import train
from tests.programs import gradeval

SMALL = ["expclass", "--units", "2", "--stage", "0", "--points", "4", "--estimators", "st"]


def test_the_rule() -> None:
    """Planted: --yes that only doubles the limit; what was spent is left out."""
    budget = Budget(False, None, "fewer draws")
    budget.check({"a": 3000.0, "b": 500.0})
    with pytest.raises(
        TooLong, match=r"predicted to take 2\.\d+ hours \(of which a: 2 hours\), the limit is 60 minutes"
    ):
        budget.check({"a": 7200.0, "b": 500.0})
    Budget(True, None, "").check({"a": 1e12})
    Budget(False, 1e13, "").check({"a": 1e12})
    with pytest.raises(TooLong, match="add --yes to do it all the same, raise --max-seconds, or take fewer draws"):
        Budget(False, 10.0, "fewer draws").check({"a": 20.0})
    late = Budget(False, 10.0, "fewer draws")
    late._began -= 100
    late.check({"a": 0.5})  # nearly done
    with pytest.raises(TooLong):
        late.check({"a": 5.0})


@pytest.mark.parametrize(("text", "number"), [("20000", 20000), ("1e12", 10**12), ("2_000", 2000), ("2.5e3", 2500)])
def test_whole_numbers(text: str, number: int) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize("text", ["1.5", "many", "nan", "inf", "1e999999999", "-1e20", ""])
def test_what_is_no_whole_number(text: str) -> None:
    with pytest.raises(Exception, match="is no whole number, such as 20000 or 2e4"):
        whole_number(text)


def test_a_run_of_years_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    done = gradeval("run", *SMALL, "--draws", "1e12", cwd=tmp_path, COLUMNS="200", GRADEVAL_CACHE="")
    assert done.returncode == 2
    assert "the limit is 60 minutes: add --yes to do it all the same, raise --max-seconds, or take" in done.stderr
    assert "of which st:" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_run_in_a_folder_is_refused_before_the_folder_is_made(tmp_path: Path) -> None:
    problem = load_problem("expclass", units="2", stage=0, points=4)
    with TerminalProgress(budget=Budget(False, 0.5, "")) as progress, pytest.raises(TooLong, match="of which st"):
        evaluate(problem, ["st"], draws=10_000_000, folder=tmp_path / "run", progress=progress, workers=1)
    assert not (tmp_path / "run").exists()


def test_exact_moments_count(tmp_path: Path) -> None:
    """2^14 states × 200 points × 211 parameters take seconds; draws below a thousand are not timed."""
    problem = load_problem("expclass", units="14", stage=0)
    with TerminalProgress(budget=Budget(False, 0.5, "")) as progress, pytest.raises(TooLong, match="st on all states"):
        evaluate(problem, ["st"], draws=100, exact="always", progress=progress, workers=1)


def test_a_training_is_refused_before_its_folder_is_made(tmp_path: Path) -> None:
    from gradeval.problems.catalogue import load_task

    task = load_task("expclass", units="2", points=20)
    long = Protocol(epochs=10**9, seeds=2, rates=(0.1,), gradient_epochs=())
    with TerminalProgress(budget=Budget(False, None, "")) as progress, pytest.raises(TooLong, match="st, training"):
        train(task, ["st"], long, folder=tmp_path / "run", progress=progress)
    assert not (tmp_path / "run").exists()


class SlowToFit:
    """Learns nothing, in a thousand steps."""

    budget = 1000
    learned: ClassVar[dict[str, float]] = {}

    def fit(self, problem, seed, advance):
        for _ in range(self.budget):
            time.sleep(0.001)
            advance(1)
        return self

    def __call__(self, network, inputs, loss, randomness):
        return get_estimator("st")(network, inputs, loss, randomness)


def test_a_fit_is_refused_as_a_whole(monkeypatch) -> None:
    """A refusal is no failure of one estimator beside others. Planted: it was taken for one."""
    monkeypatch.setattr("gradeval.program.progress.SURE", 0.0)
    problem = load_problem("expclass", units="2", stage=0, points=4)
    with TerminalProgress(budget=Budget(False, 0.05, "")) as progress, pytest.raises(TooLong, match="of which fitting"):
        evaluate(problem, [get_estimator("st"), SlowToFit()], draws=100, exact="never", progress=progress)


def test_a_sweep_is_refused_after_its_first_cell_which_is_kept(tmp_path: Path, monkeypatch) -> None:
    """Planted: a refusal that counts as the failure of some cells."""
    monkeypatch.setattr("gradeval.program.progress.SURE", 0.0)
    (tmp_path / "sweep.toml").write_text(
        '[problem]\nname = "expclass"\nunits = ["2", "3", "2-2"]\nstage = 0\npoints = 4\n'
        '[evaluate]\nestimators = ["st"]\ndraws = 40\n'
    )
    with TerminalProgress(budget=Budget(False, 1e-3, "")) as progress, pytest.raises(TooLong, match="cells"):
        run_sweep(tmp_path / "sweep.toml", tmp_path / "sweep", progress=progress)
    assert len(list((tmp_path / "sweep" / "cells").glob("*.parquet"))) == 1


def test_the_library_never_refuses() -> None:
    problem = load_problem("expclass", units="2", stage=0, points=4)
    assert evaluate(problem, ["st"], draws=1000, exact="never").summary["draws"].max() == 1000
