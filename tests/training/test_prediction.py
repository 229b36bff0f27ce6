"""Predictions of trained networks, against enumeration."""

from __future__ import annotations

import pytest
import torch

from gradeval import GradevalError
from gradeval.model.randomness import RandomDraws, generator
from gradeval.problems.catalogue import load_task
from gradeval.problems.tasks import Task, with_parameters
from gradeval.training.prediction import predict, score


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
