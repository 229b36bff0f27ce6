"""Faults planted in estimators: each is seen by the conformance table's comparison of exact moments with ∇J.

A fault is a name somewhere in an estimator's module that is exchanged; the estimator's own code runs.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gradeval.estimators import antithetic, control_variates, get_estimator, marginalisation, without_replacement
from gradeval.estimators.surrogate import first_taken, one_unit
from gradeval.reference import exact_gradient, exact_moments


def always_the_last(like, randomness):
    """BitFlip-1 flips no unit but the last, with the weight of a random one."""
    one_unit(like, randomness)
    return torch.eye(like.shape[-1], dtype=like.dtype)[-1].expand_as(like)


def of_all_equally(like, randomness):
    """The unit is chosen with the chance 1/n in turn, not 1/(n + 1 − i)."""
    chances = torch.full_like(like[..., 1:], 1 / like.shape[-1])
    return first_taken(randomness.bernoulli(chances))


def without_the_width(s, randomness):
    """The flip's weight lacks the factor n."""
    chosen, sign = one_unit(s, randomness), 2 * s - 1
    return s - sign * chosen, sign * chosen


def independent_pair(p, p_not, randomness):
    """DisARM's weight for samples that are not antithetic."""
    b, other = randomness.bernoulli(p), randomness.bernoulli(p)
    return b, other, 0.5 * (b - other) * torch.maximum(p, p_not).detach()


def perhaps_the_same(layer, a, p, s, randomness):
    """The second state is drawn as the first, with replacement."""
    return randomness.bernoulli(p)


def without_a_tail(layer, a, p, s, randomness):
    """The units after the first that differs stay as they are."""
    sign = 2 * s - 1
    log_same = layer.noise.log_cdf(sign * a).flip(-1).cumsum(-1).flip(-1)
    differs = layer.probability(-sign * a) / -torch.expm1(log_same)
    return s - sign * first_taken(randomness.bernoulli(differs[..., :-1].clamp(max=1)))


def both_sides(network, inputs, loss, randomness, weight):
    """The stochastic derivative counts units that are on, too: with 1/P(s), not with half of it."""

    def either(step):
        return (2 * step.s - 1) / step.layer.probability((2 * step.s - 1) * step.a)

    return marginalisation._summed_flips(*path(network, inputs, loss, randomness), either)


def path(network, inputs, loss, randomness):
    steps, x = marginalisation.sample_path(network, inputs, randomness)
    return steps, loss(x), loss, lambda k, x: marginalisation.continue_path(network.layers[k + 1 :], x, randomness)


def phantom_stops(layers, x, randomness):
    """Later layers of a phantom take their means: right for a linear f only."""
    for layer in layers:
        x = layer.encode(layer.probability(layer.preactivation(x)))
    return x


def with_its_own(f):
    """Each sample's difference from the mean of all, its own with them: the baseline sees its draw."""
    return f - f.mean(0)


FAULTS = [
    ("rodeo:samples=2", control_variates, "leave_one_out", with_its_own),
    ("bitflip", antithetic, "one_unit", always_the_last),
    ("bitflip", antithetic, "one_unit", of_all_equally),
    ("bitflip", antithetic, "_flip_of_one", without_the_width),
    ("ugc", antithetic, "_flip_of_one", without_the_width),
    ("ugc", antithetic, "antithetic_pair", independent_pair),
    ("sum-and-sample", without_replacement, "_another", perhaps_the_same),
    ("unordered-set", without_replacement, "_another", without_a_tail),
    ("measure-valued", marginalisation, "continue_path", phantom_stops),
    ("stochastic-ad", marginalisation, "_with_fixed_noises", both_sides),
]


@pytest.mark.parametrize(
    ("name", "module", "where", "fault"), FAULTS, ids=[f"{name}-{fault.__name__}" for name, _, _, fault in FAULTS]
)
def test_a_fault_is_seen(make_problem, monkeypatch, name: str, module, where: str, fault: Callable) -> None:
    problem = make_problem((3, 1), states=(-1.0, 1.0), points=1, seed=2)
    exact, estimator = exact_gradient(problem).vector.norm(), get_estimator(name)
    if name != "stochastic-ad":  # it has further chance; the conformance table samples it
        assert exact_moments(problem, estimator).bias.norm() < 1e-10 * exact
    monkeypatch.setattr(module, where, fault)
    assert exact_moments(problem, estimator).bias.norm() > 1e-3 * exact
