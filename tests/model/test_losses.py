"""The Bernoulli cross-entropy: torch's own, exact at large logits, and its targets are checked."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from gradeval import GradevalError, Problem, exact_gradient, exact_moments
from gradeval.estimators import get_estimator
from gradeval.model.losses import bernoulli
from gradeval.model.randomness import RandomDraws, generator
from gradeval.training.prediction import predict, score


def test_it_is_the_cross_entropy_of_bernoulli_variables() -> None:
    random = torch.Generator().manual_seed(0)
    h = 5 * torch.randn(2, 4, 3, generator=random, dtype=torch.float64)
    y = torch.rand(4, 3, generator=random, dtype=torch.float64)
    expected = binary_cross_entropy_with_logits(h, y.expand(2, 4, 3), reduction="none").sum(-1)
    torch.testing.assert_close(bernoulli(h, y), expected, rtol=1e-13, atol=1e-13)


def test_it_is_finite_and_exact_at_large_logits_and_has_its_gradient_at_zero() -> None:
    h = torch.tensor([[-1000.0], [1000.0], [0.0]], dtype=torch.float64, requires_grad=True)
    f = bernoulli(h, torch.tensor([[1.0], [1.0], [0.25]], dtype=torch.float64))
    assert f.detach().tolist() == pytest.approx([1000.0, 0.0, 0.6931471805599453])
    f.sum().backward()
    assert h.grad is not None
    assert h.grad.flatten().tolist() == [-1.0, 0.0, 0.25]


def test_its_targets_are_checked(make_problem) -> None:
    problem = make_problem(loss="bernoulli")
    for targets, message in (
        (problem.targets - 0.5, "loss 'bernoulli' needs targets from 0 to 1, found -0"),
        (problem.targets[:, :1], r"loss 'bernoulli' needs targets of shape \[points, 2\], found \[4, 1\]"),
        (problem.targets[:, 0], r"loss 'bernoulli' needs targets of shape \[points, 2\], found \[4\]"),
    ):
        with pytest.raises(GradevalError, match=message):
            Problem(problem.network, problem.inputs, targets, "bernoulli")


def test_a_head_bias_left_out_is_seen(make_problem) -> None:
    """Planted: psa whose flips forget the head's bias."""
    problem = make_problem((3,), loss="bernoulli", points=2)
    exact = exact_gradient(problem)
    assert exact_moments(problem, get_estimator("psa")).bias.norm() < 1e-12 * exact.vector.norm()

    def without_bias(network, inputs, loss, randomness):
        bias = network.head.bias
        return get_estimator("psa")(network, inputs, lambda x: bernoulli(network.head(x) - bias, targets), randomness)

    targets = problem.targets[:1].expand(1, -1)
    one = Problem(problem.network, problem.inputs[:1], targets, "bernoulli")
    assert exact_moments(one, without_bias).relative_bias()["head"] > 0.1


def test_predictions_are_probabilities(make_problem) -> None:
    """The score of the most probable states is f at these."""
    problem = make_problem((3,), loss="bernoulli")
    (layer,) = problem.network.layers
    x = layer.encode((layer.preactivation(problem.inputs) >= 0).double())
    found = predict(problem, "mode", RandomDraws(generator("cpu", 1)))
    assert score(problem, found) == {"loss": pytest.approx(float(problem.loss_function()(x).detach().mean()))}
