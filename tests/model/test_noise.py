"""Noise: against scipy's distributions, stable in the tails, differentiable to the density, and sampled right."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from gradeval.errors import GradevalError
from gradeval.model.noise import NOISES, Noise, get_noise
from gradeval.model.randomness import RandomDraws, generator

SCIPY = {
    "logistic": stats.logistic(),
    "normal": stats.norm(),
    "uniform": stats.uniform(-1, 2),
    "laplace": stats.laplace(),
    "cauchy": stats.cauchy(),
    "triangular": stats.triang(0.5, -1, 2),
}
BOUNDED = ("uniform", "triangular")

every_noise = pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)


def grid() -> torch.Tensor:
    # off the kinks at −1, 0 and 1, where one-sided derivatives differ
    return torch.linspace(-4.03, 4.01, 173, dtype=torch.float64)


@every_noise
def test_equals_scipy(noise: Noise) -> None:
    a, u = grid(), torch.linspace(0.001, 0.999, 77, dtype=torch.float64)
    oracle = SCIPY[noise.name]
    np.testing.assert_allclose(noise.cdf(a), oracle.cdf(a), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(noise.pdf(a), oracle.pdf(a), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(noise.icdf(u), oracle.ppf(u), rtol=1e-11, atol=1e-13)


@every_noise
def test_gradients_are_the_density(noise: Noise) -> None:
    a = torch.cat([grid(), torch.zeros(1, dtype=torch.float64)]).requires_grad_()
    (slope,) = torch.autograd.grad(noise.cdf(a).sum(), a)
    torch.testing.assert_close(slope, noise.pdf(a.detach()), rtol=1e-12, atol=1e-15)
    (slope,) = torch.autograd.grad(noise.log_cdf(a)[noise.cdf(a) > 0].sum(), a)
    f = noise.cdf(a.detach())
    expected = torch.where(f > 0, noise.pdf(a.detach()) / f.clamp(min=1e-300), 0.0)
    torch.testing.assert_close(slope, expected, rtol=1e-10, atol=1e-14)


@every_noise
def test_log_probabilities_in_the_tails(noise: Noise) -> None:
    a = torch.tensor([-50.0, -40.0, -10.0, -8.0, 10.0, 40.0, 50.0], dtype=torch.float64, requires_grad=True)
    np.testing.assert_allclose(noise.cdf(a.detach()), SCIPY[noise.name].cdf(a.detach()), rtol=1e-10)
    log_cdf = noise.log_cdf(a)
    np.testing.assert_allclose(log_cdf.detach(), SCIPY[noise.name].logcdf(a.detach()), rtol=1e-10)
    if noise.name not in BOUNDED:
        assert torch.isfinite(log_cdf).all()
        assert (log_cdf < 0).sum() >= 3
    (slope,) = torch.autograd.grad(log_cdf[torch.isfinite(log_cdf)].sum(), a)
    assert torch.isfinite(slope).all()


@every_noise
def test_log_odds(noise: Noise) -> None:
    a = torch.linspace(-0.97, 0.96, 21, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(noise.log_odds(a), torch.logit(noise.cdf(a)), rtol=1e-10, atol=1e-12)
    far = torch.tensor([-40.0, 40.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(noise.log_odds(far).sum(), far)
    assert torch.isfinite(slope).all()


@every_noise
def test_samples_follow_the_distribution(noise: Noise) -> None:
    """Kolmogorov–Smirnov at a false-alarm rate of 1e-6 for each noise (one fixed seed)."""
    randomness = RandomDraws(generator("cpu", "noise test", noise.name))
    draws = randomness.noise(noise, (50_000,)).numpy()
    assert stats.kstest(draws, SCIPY[noise.name].cdf).pvalue > 1e-6
    # the same test sees a density that is 10 % too wide
    assert stats.kstest(1.1 * draws, SCIPY[noise.name].cdf).pvalue < 1e-6


@pytest.mark.parametrize(("name", "tolerance"), [(name, 2e-2) for name in NOISES] + [("normal", 1e-8)])
def test_gaussian_expectation(name: str, tolerance: float) -> None:
    """Quadrature by scipy; 0.02 is the stated error of the logistic's probit matching, 1e-8 the closed form's."""
    for mean, variance in ((0.3, 0.5), (-1.2, 2.0), (0.7, 0.0)):
        found = get_noise(name).gaussian_expectation(
            torch.tensor([mean], dtype=torch.float64), torch.tensor([variance], dtype=torch.float64)
        )
        scale = math.sqrt(variance)
        expected = (
            integrate.quad(
                lambda t, m=mean, s=scale: SCIPY[name].cdf(m + s * t) * stats.norm.pdf(t), -10, 10, limit=200
            )[0]
            if variance
            else SCIPY[name].cdf(mean)
        )
        assert float(found) == pytest.approx(expected, abs=tolerance)


def test_unknown_noise_names_the_near_one() -> None:
    with pytest.raises(GradevalError, match="unknown noise 'logistik': did you mean logistic"):
        get_noise("logistik")
