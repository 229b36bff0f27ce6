"""Points of a draw: whose estimates are their own, and what the variance is then."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradeval import load_problem
from gradeval.estimators import get_estimator
from gradeval.estimators.protocol import fit, learns
from gradeval.estimators.table import TABLE
from gradeval.reference import exact_moments
from gradeval.sampling.independence import independent_points
from gradeval.sampling.point_draws import draws_of_points
from gradeval.sampling.sampler import Sampler


def reinforce(network, inputs, loss, randomness, share=None, mix=None):
    """REINFORCE, whose chance or loss may be spoilt."""
    x, score = inputs, 0.0
    for layer in network.layers:
        a = layer.preactivation(x)
        p = layer.probability(a)
        s = randomness.bernoulli(p) if share is None else share(randomness, p)
        score = score + layer.log_prob(s, a)
        x = layer.encode(s)
    f = loss(x)
    weight = f.detach() if mix is None else mix(f.detach())
    return f + weight * (score - score.detach())


def one_for_all(randomness, p):
    return (randomness.uniform([p.shape[-1]]) < p).to(p.dtype)


def mirrored(randomness, p):
    u = randomness.uniform(p.shape)
    half = (len(u) + 1) // 2
    return (torch.cat([u[:half], 1 - u[: len(u) - half]]) < p).to(p.dtype)


def sorted_over_points(randomness, p):
    return (randomness.uniform(p.shape).sort(0).values < p).to(p.dtype)


def of_its_own(randomness, p):
    return torch.bernoulli(p, generator=OWN)


def of_the_generator(randomness, p):
    return (torch.rand(1, generator=randomness.generator, dtype=p.dtype) < p).to(p.dtype)


OWN = torch.Generator().manual_seed(3)


@pytest.mark.parametrize("share", [one_for_all, mirrored, sorted_over_points, of_its_own, of_the_generator])
@pytest.mark.parametrize("units", [(3, 2), (1,)])
def test_points_that_share_chance_are_not_independent(make_problem, share, units: tuple[int, ...]) -> None:
    """Of a single unit the states agree by luck in half of the random trials: those at the edges tell."""
    for seed in range(3):
        problem = make_problem(units, seed=seed)
        assert not independent_points(problem, lambda *given: reinforce(*given, share=share))


@pytest.mark.parametrize("mix", [lambda f: f - f.mean(), lambda f: f / f.std()])
def test_points_that_are_mixed_are_not_independent(make_problem, mix) -> None:
    assert not independent_points(make_problem((3, 2)), lambda *given: reinforce(*given, mix=mix))


@pytest.mark.parametrize("units", [(3, 3), (1,)])
@pytest.mark.parametrize("name", sorted(TABLE))
def test_the_points_of_every_built_in_are_independent(make_problem, name: str, units: tuple[int, ...]) -> None:
    problem, estimator = make_problem(units, points=3), get_estimator(name)
    if learns(estimator):
        estimator = fit(estimator, name, problem, 0).estimator
    assert independent_points(problem, estimator)


@pytest.mark.no_shapes
@pytest.mark.parametrize("name", ["reinforce", "arm", "st", "psa", "ram"])
def test_the_deviations_of_points_have_the_exact_variance_as_their_mean(make_problem, name: str) -> None:
    """|z| < 5 in each of 5 × 4 layers: all pass by chance with probability 1 − 1e-5. Planted: N for N², the mean
    deviation of the pilot not taken off, n for n − 1 (z = 40 in a chunk of 20 draws, below)."""
    problem, estimator = make_problem((3, 2), points=6), get_estimator(name)
    exact = exact_moments(problem, estimator)
    norms = {layer: float(exact.exact[where].norm()) for layer, where in exact.slices.items()}
    wanted = np.array([exact.relative_variance()[layer] * norms[layer] ** 2 for layer in exact.slices])
    sampler = Sampler(problem, name, estimator)
    for chunks, draws in ((1, 4000), (200, 20)):
        found = [draws_of_points(sampler, draws, "points", i)[2].numpy() for i in range(chunks)]
        means = np.concatenate(found) if chunks == 1 else np.stack([one.mean(0) for one in found])
        error = means.std(0, ddof=1) / np.sqrt(len(means))
        assert (np.abs(means.mean(0) - wanted) <= 5 * error + 1e-12).all()


def test_by_points_the_variance_is_known_far_better() -> None:
    """On 100 points: the ratio of the variances is ten here, and the means agree within 5 standard errors."""
    problem = load_problem("expclass", units="3-3", stage=0, points=100)
    sampler = Sampler(problem, "reinforce", get_estimator("reinforce"))
    gradients, values, deviations = draws_of_points(sampler, 2000, "points")
    whole = ((gradients - gradients.mean(0)) ** 2).sum(1)
    error = float(whole.std()) / 2000**0.5
    assert float(whole.mean()) == pytest.approx(float(deviations[:, -1].mean()), abs=5 * error)
    assert whole.var() > 5 * deviations[:, -1].var()
    assert values.shape == (2000,)
