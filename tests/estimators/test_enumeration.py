"""The exact gradient as an estimator."""

from __future__ import annotations

import pytest
import torch

from gradeval import evaluate
from gradeval.errors import GradevalError
from gradeval.estimators import get_estimator
from gradeval.model.problem import Problem
from gradeval.model.randomness import RandomDraws, generator
from gradeval.model.states import all_digits, joint_probabilities
from gradeval.reference import exact_gradient
from gradeval.sampling.sampler import Sampler


def draw(problem: Problem):
    """Values and the gradient, flattened."""
    chance = RandomDraws(generator("cpu", 1))
    value = get_estimator("exact")(problem.network, problem.inputs, problem.loss_function(), chance)
    gradients = torch.autograd.grad(value.mean(), list(problem.network.parameters()))
    return value, torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize("noise", ["logistic", "uniform"])
@pytest.mark.parametrize("units", [(4,), (3, 2, 4)])
def test_it_is_the_exact_gradient(make_problem, units, noise: str) -> None:
    problem = make_problem(units, noise=noise, scale=0.5, states=(-1.0, 1.0), points=3)
    exact, (value, found) = exact_gradient(problem), draw(problem)
    assert value.mean().item() == pytest.approx(exact.value, rel=1e-13)
    torch.testing.assert_close(found, exact.vector, rtol=1e-12, atol=1e-14)
    assert Sampler(problem, "exact", get_estimator("exact")).deterministic


def test_states_in_the_wrong_order_are_seen(make_problem, monkeypatch) -> None:
    """Planted: unit j is the j-th bit from above, in the probabilities alone."""
    problem = make_problem((3, 2))
    name = "gradeval.estimators.enumeration.joint_probabilities"
    monkeypatch.setattr(name, lambda p: joint_probabilities(p.flip(-1)))
    difference = draw(problem)[1] - exact_gradient(problem).vector
    assert difference.norm() > 0.01 * exact_gradient(problem).vector.norm()


def test_joint_probabilities_are_products_and_have_gradients_at_zero() -> None:
    p = torch.tensor([[0.0, 0.3, 1.0]], dtype=torch.float64, requires_grad=True)
    s = all_digits(3, p)
    expected = torch.where(s > 0.5, p, 1 - p).prod(-1)
    found = joint_probabilities(p)[0]
    torch.testing.assert_close(found, expected)
    weights = torch.arange(8.0, dtype=torch.float64)
    torch.testing.assert_close(*(torch.autograd.grad(f @ weights, p)[0] for f in (found, expected)))


def test_it_leads_every_table_without_variance(make_problem) -> None:
    summary = evaluate(make_problem((2, 2)), ["st", "exact"], draws=20).summary
    row = summary[(summary["estimator"] == "exact") & (summary["layer"] == "all")].iloc[0]
    assert row["relative_rmse"] < 1e-12
    assert row["relative_variance"] == 0


def test_too_many_states_are_refused(make_problem) -> None:
    with pytest.raises(GradevalError, match=r"cannot enumerate layer 2: 2\^19 states for 4 points or states below"):
        draw(make_problem((2, 19)))
