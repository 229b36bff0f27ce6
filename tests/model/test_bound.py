"""The bound of K samples: against numpy, by all methods, K = 1, files; its estimators exactly; faults are planted."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gradeval import GradevalError, Problem, StochasticBinaryNetwork, check, exact_gradient, exact_moments, load_problem
from gradeval.checking.battery import bound_problems
from gradeval.estimators import BUILT_IN, get_estimator
from gradeval.estimators.bound_table import BOUND_TABLE
from gradeval.estimators.facts import Chance
from gradeval.estimators.multi_sample import LocalDisarm, LocalRloo, Vimco
from gradeval.estimators.protocol import samples_of
from gradeval.model.elbo import MultiSampleBound, NegativeElbo, SampleLosses
from gradeval.model.maps import BernoulliDecoder
from gradeval.sampling.probes import count_evaluations
from gradeval.sampling.sampler import Sampler

DOUBLE = torch.float64
EXACT = [name for name, facts in BOUND_TABLE.items() if facts.randomness != Chance.CONTINUOUS]


def bound_problem(
    samples: int, units: int = 2, noise: str = "logistic", states: tuple[float, float] = (0.0, 1.0)
) -> Problem:
    """Three grey pixels, two points, random parameters everywhere, the prior's logits too."""
    random = torch.Generator().manual_seed(3)
    head = BernoulliDecoder(nn.Linear(units, 3, dtype=DOUBLE), torch.zeros(units, dtype=DOUBLE))
    bound = MultiSampleBound(samples)
    network = bound.network(StochasticBinaryNetwork(nn.Linear(3, units, dtype=DOUBLE), head, noise, states))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=DOUBLE))
    pixels = torch.rand(2, 3, generator=random, dtype=DOUBLE)
    return Problem(network, pixels, pixels, bound)


def by_numpy(problem: Problem, samples: int) -> float:
    """J from the formula, one K-tuple of samples after another, with none of gradeval's functions."""
    single = problem.loss.single(problem.network)
    weight, bias = (t.detach().numpy() for t in single.layers[0].map.parameters())
    decoder, offset = (t.detach().numpy() for t in single.head.map.parameters())
    prior = 1 / (1 + np.exp(-single.head.prior_logits.detach().numpy()))
    lo, hi = single.states
    total = 0.0
    for x in problem.inputs.numpy():
        q = 1 / (1 + np.exp(-(weight @ x + bias)))
        chance, ratio = {}, {}
        for s in itertools.product([0, 1], repeat=len(q)):
            pixel = 1 / (1 + np.exp(-(decoder @ (lo + (hi - lo) * np.array(s)) + offset)))
            chance[s] = math.prod(qj if sj else 1 - qj for qj, sj in zip(q, s, strict=True))
            likelihood = math.prod(pixel**x * (1 - pixel) ** (1 - x))
            ratio[s] = likelihood * math.prod(p if sj else 1 - p for p, sj in zip(prior, s, strict=True)) / chance[s]
        for tuple_ in itertools.product(chance, repeat=samples):
            mean = sum(ratio[s] for s in tuple_) / samples
            total -= math.prod(chance[s] for s in tuple_) * math.log(mean)
    return total / problem.points


@pytest.mark.parametrize("states", [(0.0, 1.0), (-1.0, 1.0)])
@pytest.mark.parametrize("samples", [1, 2, 3])
def test_value_and_gradient_are_those_of_the_formula(samples: int, states: tuple[float, float]) -> None:
    problem = bound_problem(samples, states=states)
    expected = by_numpy(problem, samples)
    found = {method: exact_gradient(problem, method) for method in ("joint", "layerwise", "plain")}
    for exact in found.values():
        assert exact.value == pytest.approx(expected, rel=1e-12)
        torch.testing.assert_close(exact.vector, found["joint"].vector, rtol=1e-11, atol=1e-13)
    parameters = list(problem.network.parameters())
    theta = nn.utils.parameters_to_vector(parameters).detach()
    for k in range(0, len(theta), 3):
        values = []
        for sign in (1e-5, -1e-5):
            nn.utils.vector_to_parameters(theta + sign * torch.eye(len(theta), dtype=DOUBLE)[k], parameters)
            values.append(by_numpy(problem, samples))
        slope = (values[0] - values[1]) / 2e-5
        assert float(found["joint"].vector[k]) == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_a_bound_of_one_sample_is_the_negative_elbo() -> None:
    problem = bound_problem(1)
    single = Problem(problem.loss.single(problem.network), problem.inputs, problem.targets, NegativeElbo())
    ours, theirs = exact_gradient(problem), exact_gradient(single)
    assert ours.value == pytest.approx(theirs.value, rel=1e-12)
    torch.testing.assert_close(ours.vector, theirs.vector, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("samples", [2, 3])
@pytest.mark.parametrize("name", EXACT)
def test_estimators_of_the_bound_are_unbiased(name: str, samples: int) -> None:
    """By enumeration of all K-tuples, in every layer, for another noise and encoding too."""
    for noise, states in (("logistic", (0.0, 1.0)), ("normal", (-1.0, 1.0))):
        found = exact_moments(bound_problem(samples, noise=noise, states=states), name)
        assert max(found.relative_bias().values()) < 1e-12
        assert found.value == pytest.approx(exact_gradient(bound_problem(samples, 2, noise, states)).value, rel=1e-12)


@pytest.mark.parametrize("name", ["reinforce", "rloo:samples=2", "disarm", "leg", "muprop"])
def test_estimators_of_any_loss_work_unchanged(name: str) -> None:
    assert max(exact_moments(bound_problem(2), name).relative_bias().values()) < 1e-12


def test_three_sets_are_unbiased_and_of_one_unit_local_disarm_is_below_vimco() -> None:
    problem = bound_problem(2, units=1)
    assert exact_moments(problem, LocalRloo(samples=3)).relative_bias()["all"] < 1e-12
    variance = {e: exact_moments(problem, e).relative_variance()["1"] for e in (Vimco(), LocalDisarm())}
    assert variance[LocalDisarm()] < variance[Vimco()]


def test_local_arms_of_two_is_local_disarm_in_distribution() -> None:
    """By mean and second moments of 20,000 draws: false-alarm rate 10⁻⁶ by Šidák over the entries."""
    problem = bound_problem(2)
    exact = exact_moments(problem, "local-disarm")
    draws, _ = Sampler(problem, "local-arms", get_estimator("local-arms:samples=2")).chunk(20_000, "arms")
    error = exact.variance.sqrt() / len(draws) ** 0.5
    assert bool(((draws.mean(0) - exact.mean).abs() <= 5.5 * error + 1e-12).all())
    squares = (draws - exact.mean) ** 2
    error = squares.std(0) / len(draws) ** 0.5
    assert bool(((squares.mean(0) - exact.variance).abs() <= 5.5 * error + 1e-12).all())


@pytest.mark.parametrize("fault", ["own weight in the baseline", "sample not replaced", "without log K"])
def test_faults_are_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A baseline that sees its own sample makes a bias; f without log K is another value."""
    problem, right = bound_problem(2), SampleLosses.with_one_replaced
    if fault == "without log K":
        monkeypatch.setattr(SampleLosses, "joined", lambda self, losses: -(-losses).logsumexp(-1))
        assert abs(exact_gradient(problem).value - by_numpy(problem, 2)) > 0.1
        return
    changed = {
        "own weight in the baseline": lambda self, losses, by: right(self, losses, 0.5 * (by + losses)),
        "sample not replaced": lambda self, losses, by: right(self, losses, by.roll(1, -1)),
    }[fault]
    monkeypatch.setattr(SampleLosses, "with_one_replaced", changed)
    assert exact_moments(problem, "vimco").relative_bias()["1"] > 0.001


@pytest.mark.parametrize("name", BOUND_TABLE)
def test_saturated_units_give_finite_gradients(name: str) -> None:
    problem = bound_problem(2, noise="uniform")
    with torch.no_grad():
        problem.network.layers[0].map.map.bias.copy_(torch.tensor([60.0, -60.0]))
    draws, values = Sampler(problem, name, get_estimator(name)).chunk(100, "saturated")  # raises where not finite
    assert torch.isfinite(draws).all()
    assert torch.isfinite(values).all()


@pytest.mark.parametrize("name", BOUND_TABLE)
def test_evaluations_are_those_of_the_formula(name: str) -> None:
    problem, estimator = bound_problem(3), get_estimator(name)
    assert count_evaluations(problem, estimator) == BUILT_IN[name].evaluations([6], samples_of(estimator))


@pytest.mark.parametrize("name", BOUND_TABLE)
def test_other_losses_are_refused_in_a_line(name: str, small: Problem) -> None:
    with pytest.raises(GradevalError, match=r"needs a bound of K ≥ . samples.*vae --samples"):
        exact_moments(small, name)


def test_one_sample_is_too_few_for_vimco() -> None:
    with pytest.raises(GradevalError, match="K ≥ 2"):
        exact_moments(bound_problem(1), "vimco")


def test_a_network_of_other_copies_is_refused() -> None:
    problem = bound_problem(2)
    with pytest.raises(GradevalError, match="needs a network of 3 copies"):
        replace(problem, loss=MultiSampleBound(3))
    with pytest.raises(GradevalError, match="samples must be at least 1, found 0"):
        MultiSampleBound(0)


def test_a_file_keeps_every_bit(tmp_path: Path) -> None:
    problem = bound_problem(2)
    problem.save(tmp_path / "bound.json")
    again = Problem.load(tmp_path / "bound.json")
    assert again.loss == problem.loss
    assert again.fingerprint() == problem.fingerprint()


def test_the_registered_problem_has_the_parameters_of_one_sample() -> None:
    one, two = (load_problem("vae", units=2, points=3, samples=samples) for samples in (1, 2))
    assert two.widths == [4]
    for first, second in zip(one.network.parameters(), two.network.parameters(), strict=True):
        assert torch.equal(first, second)
    assert exact_gradient(two).value < exact_gradient(one).value
    with pytest.raises(GradevalError, match="has the sampled KL"):
        load_problem("vae", units=2, points=3, samples=2, kl="analytic")


def test_the_check_has_problems_for_them() -> None:
    assert check("vimco").headline == "vimco: unbiased: HOLDS"
    assert [problem.loss.samples for problem in bound_problems()] == [2, 3, 4]
