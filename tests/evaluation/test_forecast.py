"""How long a run will take is told before it is begun, and does not change its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from gradeval import Problem, evaluate
from gradeval.estimators.surrogate import carry, sample_path
from gradeval.evaluation.forecast import LEAST_SECONDS
from gradeval.progress import Silent


class Told(Silent):
    """Keeps what it was told to expect."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def expect(self, seconds: Mapping[str, float]) -> None:
        self.seconds |= seconds


def told(problem: Problem, estimator: object, draws: int, folder: Path | None = None, exact: str = "never") -> dict:
    progress = Told()
    evaluate(problem, [estimator], draws=draws, exact=exact, folder=folder, progress=progress, workers=1)  # type: ignore[list-item]
    return progress.seconds


@pytest.fixture(scope="module")
def problem(make_problem) -> Problem:
    return make_problem((3, 2), points=4)


def own_chance(network, inputs, loss, randomness):
    """Its second draw differs from its first, and it asks for no randomness."""
    x = inputs
    for layer in network.layers:
        p = layer.probability(layer.preactivation(x))
        x = layer.encode((torch.rand(p.shape, dtype=p.dtype) < p).to(p.dtype) + p - p.detach())
    return loss(x)


def test_draws_are_timed_and_those_that_are_kept_are_not_counted(problem: Problem, tmp_path: Path) -> None:
    """Planted: the draws of a kept run counted again."""
    first = told(problem, "st", 5000, tmp_path / "run")
    assert 0 < first["exact gradient"] < 1
    assert 5000 * LEAST_SECONDS < first["st"] < 100
    assert first["st on all states"] == 0
    assert told(problem, "st", 5000, tmp_path / "run")["st"] == 0
    assert told(problem, "st", 10_000, tmp_path / "run")["st"] > 0


def test_exact_moments_are_counted(problem: Problem) -> None:
    found = told(problem, "st", 40, exact="auto")
    parameters = sum(p.numel() for p in problem.network.parameters())
    assert found["st on all states"] == 2**5 * 4 * parameters / 1e8
    assert found["st"] == 0  # so few are not timed
    sampled = told(problem, "concrete:temperature=0.5", 40, exact="auto")
    assert sampled["concrete:temperature=0.5 on all states"] == 0


def test_whoever_draws_by_himself_is_not_timed(problem: Problem) -> None:
    (seconds,) = (s for name, s in told(problem, own_chance, 2000).items() if name.endswith("own_chance"))
    assert seconds == 2000 * LEAST_SECONDS


@pytest.mark.parametrize("name", ["reinforce", "tanh", "rebar"])
def test_numbers_do_not_depend_on_it(problem: Problem, name: str) -> None:
    """Planted: chance of the timed draws taken from that of the run."""
    plain, timed = (
        evaluate(problem, [name], draws=2000, exact="never", workers=1, **options)
        for options in ({}, {"progress": Told()})
    )
    columns = [column for column in plain.summary if not column.startswith("seconds")]
    assert plain.summary[columns].equals(timed.summary[columns])


class RunningAverage:
    """REINFORCE with the running mean of past losses as its baseline: what it gives follows from the draws before."""

    def __init__(self) -> None:
        self.baseline = 0.0

    def __call__(self, network, inputs, loss, randomness):
        steps, x = sample_path(network, inputs, randomness)
        f = loss(x)
        baseline, self.baseline = self.baseline, 0.9 * self.baseline + 0.1 * float(f.detach().mean())
        return f + (f.detach() - baseline) * carry(sum(t.layer.log_prob(t.s, t.a) for t in steps))


def test_an_estimator_that_remembers_is_not_changed(problem: Problem) -> None:
    """Planted: draws that were timed on the estimator itself, so that a run with a terminal gave other numbers."""
    runs = [
        evaluate(problem, [RunningAverage()], draws=1200, exact="never", progress=progress, workers=1)
        for progress in (Silent(), Told())
    ]
    (plain,), (foretold,) = (run.moments.values() for run in runs)
    assert plain.mean[:3].tolist() == foretold.mean[:3].tolist()
