"""Predictions of trained networks, against enumeration."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gradeval import GradevalError
from gradeval.model.randomness import RandomDraws, generator
from gradeval.problems.catalogue import load_task
from gradeval.problems.tasks import Task, with_parameters
from gradeval.training import prediction
from gradeval.training.prediction import ensembles, predict, score


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("expclass", units="3-2", points=30)


def test_an_ensemble_tends_to_the_exact_mean(task: Task) -> None:
    """E[σ(head)] of 4000 draws against enumeration, within 5 standard errors at 30 points (false alarm 2e-5)."""
    problem = with_parameters(task.train, task.initial_parameters(0))
    draws = 4000
    found = predict(problem, "ensemble", RandomDraws(generator("cpu", 5)), draws)
    network, exact, square = problem.network, torch.zeros(30), torch.zeros(30)
    for bits in range(2**5):
        x, weight = problem.inputs, torch.ones(30, dtype=torch.float64)
        for layer, (first, width) in zip(network.layers, ((0, 3), (3, 2)), strict=True):
            p = layer.probability(layer.preactivation(x))
            s = torch.tensor([(bits >> (first + j)) & 1 for j in range(width)], dtype=torch.float64).expand_as(p)
            weight = weight * torch.where(s > 0.5, p, 1 - p).prod(-1)
            x = layer.encode(s)
        output = torch.sigmoid(network.head(x)).squeeze(-1)
        exact, square = exact + weight * output, square + weight * output**2
    error = ((square - exact**2) / draws).sqrt()
    assert bool(((found - exact).abs() < 5 * error).all())
    scores = score(problem, exact.detach())
    right = ((exact > 0.5) == (problem.targets > 0)).double().mean()
    assert scores["accuracy"] == pytest.approx(float(right))


def test_mode_and_mean_field(task: Task) -> None:
    problem = with_parameters(task.train, task.initial_parameters(0))
    network, chance = problem.network, RandomDraws(generator("cpu", 1))
    x = y = problem.inputs
    for layer in network.layers:
        x = layer.encode((layer.probability(layer.preactivation(x)) > 0.5).double())
        y = layer.encode(layer.probability(layer.preactivation(y)))
    torch.testing.assert_close(predict(problem, "mode", chance), torch.sigmoid(network.head(x)).squeeze(-1))
    torch.testing.assert_close(predict(problem, "mean-field", chance), torch.sigmoid(network.head(y)).squeeze(-1))
    assert not chance.used
    with pytest.raises(GradevalError, match="unknown predictor"):
        predict(problem, "modes", chance)


def as_predicted(task: Task, sizes: list[int], first: int) -> list[bool]:
    """By size, whether the running average is the plain prediction from that many draws."""
    found = ensembles(task.train, RandomDraws(generator("cpu", 3)), sizes, first)
    plain = ((s, predict(task.train, "ensemble", RandomDraws(generator("cpu", 3)), s)) for s in sizes)
    return [size == s and bool((average == p).all()) for (size, average), (s, p) in zip(found, plain, strict=True)]


def test_running_averages_are_plain_predictions(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: an average that starts anew after each size."""
    sizes = [1, 2, 5, 10, 20]
    for first in (0, 5, 20):
        assert all(as_predicted(task, sizes, first))
    monkeypatch.setattr(prediction, "POINTS_AT_ONCE", 7)
    assert as_predicted(task, sizes, first=5)[2]  # the draws of the points in parts go on after the fifth
    monkeypatch.undo()
    continued = prediction._continued

    def anew(problem: Any, randomness: Any, totals: list[torch.Tensor], done: int, wanted: Any) -> Any:
        return continued(problem, randomness, [torch.zeros(()) for _ in totals], done, wanted)

    monkeypatch.setattr(prediction, "_continued", anew)
    assert as_predicted(task, sizes, first=5) == [True, True, True, False, False]


def test_points_in_parts_go_on_from_their_own_draws(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """2·(mean of two) − (one) is what a second draw gives, for all points: one of the network's outputs."""
    monkeypatch.setattr(prediction, "POINTS_AT_ONCE", 7)
    problem = with_parameters(task.train, task.initial_parameters(0))
    one, two = (average for _, average in ensembles(problem, RandomDraws(generator("cpu", 3)), [1, 2]))
    head = problem.network.layers[-1].encode(torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).double())
    outputs = torch.sigmoid(problem.network.head(head)).squeeze(-1).detach()
    assert float(((2 * two - one)[:, None] - outputs).abs().amin(1).max()) < 1e-12


@pytest.mark.parametrize("sizes", [[], [0, 1], [2, 2], [5, 1]])
def test_sizes_that_cannot_be_are_refused(task: Task, sizes: list[int]) -> None:
    with pytest.raises(GradevalError, match=r"at least 1 draw|must increase"):
        next(ensembles(task.train, RandomDraws(generator("cpu", 3)), sizes))
