"""RODEO: its Stein operator restated flip by flip, and what it makes of the variance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gradeval.estimators import get_estimator
from gradeval.estimators.surrogate import carry, linearise, mean_field, sample_path
from gradeval.model.problem import Problem
from gradeval.reference import exact_gradient, exact_moments
from gradeval.sampling.sampler import Sampler


def with_stein_operators(paths: int, of_two: float = 0.5):
    """RODEO with A h = Σᵤ P(¬sᵤ) [h(flipped) − h] applied to functions, for linear h; surrogates carry gradients."""

    def estimator(network, inputs, loss, randomness):
        steps, last = sample_path(network, inputs.expand(paths, *inputs.shape), randomness)
        f = loss(last)
        value = f.mean(0)
        for k, (layer, _, a, p, s) in enumerate(steps):
            f_bar = lambda x, above=network.layers[k + 1 :]: loss(mean_field(above, x))  # noqa: E731
            _, slopes = linearise(f_bar, layer.encode(s))

            def operator(function, i: int, layer=layer, p=p, s=s) -> Tensor:
                """A of x ↦ function, at path i."""
                total, own = 0.0, s[i]
                for u in range(own.shape[-1]):
                    flipped = own.clone()
                    flipped[..., u] = 1 - flipped[..., u]
                    chance = torch.where(own > 0.5, 1 - p[i], p[i])[..., u].detach()
                    total = total + chance * (function(flipped) - function(own))
                return total

            def h(i: int, state: Tensor, layer=layer, p=p, slopes=slopes) -> Tensor:
                others = [slopes[j] for j in range(paths) if j != i]
                return (sum(others) / (paths - 1) * (layer.encode(state) - layer.encode(p[i]))).sum(-1).detach()

            corrected = [f[i].detach() + operator(lambda state, i=i: h(i, state), i) for i in range(paths)]
            for i in range(paths):
                baseline = sum(corrected[j] for j in range(paths) if j != i) / (paths - 1)
                score = carry(layer.log_prob(s[i], a[i]))
                value = value + (f[i].detach() - baseline) * score / paths

                def product(state: Tensor, i=i, layer=layer, a=a, h=h) -> Tensor:
                    return of_two * h(i, state) * carry(layer.log_prob(state, a[i]))

                value = value + operator(product, i) / paths
        return value

    return estimator


@pytest.mark.parametrize("noise", ["logistic", "cauchy"])
def test_it_is_what_stein_operators_give(make_problem, noise: str) -> None:
    problem = make_problem((3, 2), noise=noise, states=(-1.0, 1.0), points=2)
    draws = [
        Sampler(problem, "rodeo", estimator).chunk(2, 5)[0]
        for estimator in (get_estimator("rodeo:samples=3"), with_stein_operators(3))
    ]
    torch.testing.assert_close(*draws)


def test_the_operators_mean_is_zero_whatever_its_factor(make_problem) -> None:
    problem = make_problem((2, 2), points=1)
    for factor in (0.0, 1.7):
        assert exact_moments(problem, with_stein_operators(2, factor)).relative_bias()["all"] < 1e-12


class Linear:
    """f = Σ xⱼ."""

    def bind(self, network, inputs, targets):
        return lambda x: x.sum(-1)


def test_a_linear_loss_at_equal_chances_leaves_no_variance(make_problem) -> None:
    """Products of two units are all there is, and the factor ½ cancels them; leave-one-out alone does not."""
    problem = make_problem((3,), states=(-1.0, 1.0), points=1)
    with torch.no_grad():
        problem.network.layers[0].map.weight.zero_()
        problem.network.layers[0].map.bias.zero_()
    problem = Problem(problem.network, problem.inputs, problem.targets, Linear())
    layer = exact_gradient(problem).slices["1"]
    left = {
        name: exact_moments(problem, get_estimator(f"{name}:samples=2")).variance[layer].sum()
        for name in ("rodeo", "rloo")
    }
    assert left["rodeo"] < 1e-12
    assert left["rloo"] > 0.1


@pytest.mark.parametrize("noise", ["logistic", "normal"])
def test_it_varies_less_than_leave_one_out_and_than_double_control_variates(make_problem, noise: str) -> None:
    problem = make_problem((2, 2), noise=noise, loss="squared", scale=0.8, points=2)
    where = exact_gradient(problem).slices["2"]
    names = ("rodeo", "double-cv", "rloo")
    moments = [exact_moments(problem, get_estimator(f"{name}:samples=2")) for name in names]
    rodeo, double, rloo = (float(m.variance[where].sum()) for m in moments)
    assert rodeo < 0.8 * double < 0.8 * rloo
