"""Four oracles that share little code must agree: joint, layerwise, finite differences, and closed forms in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from gradeval.errors import GradevalError
from gradeval.model.noise import NOISES
from gradeval.model.problem import Problem
from gradeval.reference import exact_gradient, exact_moments, finite_differences, layerwise_values

LOSSES = ("logistic", "squared", "cross-entropy")


@pytest.mark.parametrize("units", [(1,), (4,), (2, 3), (3, 1, 2)])
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("states", [(0.0, 1.0), (-1.0, 1.0)])
def test_joint_equals_layerwise(make_problem, units, noise: str, states) -> None:
    for loss in LOSSES:
        problem = make_problem(units, noise=noise, states=states, loss=loss)
        joint, layerwise = (exact_gradient(problem, method) for method in ("joint", "layerwise"))
        assert joint.value == pytest.approx(layerwise.value, rel=1e-12)
        torch.testing.assert_close(joint.vector, layerwise.vector, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("loss", LOSSES)
def test_finite_differences_of_the_value(make_problem, loss: str) -> None:
    problem = make_problem((2, 3), loss=loss, states=(-1.0, 1.0), scale=0.5)
    differences = finite_differences(problem, lambda p: layerwise_values(p).mean(), step=1e-2)
    found = torch.cat([g.flatten() for g in differences])
    torch.testing.assert_close(found, exact_gradient(problem).vector, rtol=0, atol=1e-11)


def logistic_cdf(a: float) -> float:
    return 1 / (1 + math.exp(-a))


def test_closed_form_of_one_unit(make_problem) -> None:
    """One unit, states {−1, 1}: J = mean F(a) f(1) + (1 − F(a)) f(−1), ∂J/∂b = mean F(a)(1 − F(a)) (f(1) − f(−1))."""
    problem = make_problem((1,), states=(-1.0, 1.0))
    weight, bias, head, head_bias = (p.detach().numpy().ravel() for p in problem.network.parameters())
    value, slope, head_slope = 0.0, np.zeros(3), 0.0
    for x, y in zip(problem.inputs.numpy(), problem.targets.numpy(), strict=True):
        p = logistic_cdf(float(weight @ x + bias[0]))
        on, off = (math.log1p(math.exp(-y * (head[0] * s + head_bias[0]))) for s in (1, -1))
        value += p * on + (1 - p) * off
        slope += p * (1 - p) * (on - off) * np.array([*x, 1.0])
        head_slope += sum(
            chance * -y * s * logistic_cdf(-y * (head[0] * s + head_bias[0])) for chance, s in ((p, 1), (1 - p, -1))
        )
    exact = exact_gradient(problem)
    assert exact.value == pytest.approx(value / 4, rel=1e-12)
    np.testing.assert_allclose(exact.by_layer()["1"], slope / 4, rtol=1e-12)
    np.testing.assert_allclose(exact.by_layer()["head"][0], head_slope / 4, rtol=1e-12)


def test_closed_form_of_two_units_in_a_chain(make_problem) -> None:
    """Two layers of one unit: P(s² = 1) = Σ_s¹ P(s¹) F(w s¹ + b), by hand in numpy."""
    problem = make_problem((1, 1), loss="squared")
    w1, b1, w2, b2, head, head_bias = (p.detach().numpy() for p in problem.network.parameters())
    value, slope = 0.0, 0.0
    for x, y in zip(problem.inputs.numpy(), problem.targets.numpy(), strict=True):
        p1 = logistic_cdf(float(w1[0] @ x + b1[0]))
        high, low = (logistic_cdf(float(w2[0, 0] * s + b2[0])) for s in (1, 0))
        on, off = (float(((head[:, 0] * s + head_bias - y) ** 2).sum()) for s in (1, 0))
        p2 = p1 * high + (1 - p1) * low
        value += p2 * on + (1 - p2) * off
        slope += p1 * (1 - p1) * (high - low) * (on - off)
    exact = exact_gradient(problem)
    assert exact.value == pytest.approx(value / 4, rel=1e-12)
    assert float(exact.gradient["layers.0.map.bias"][0]) == pytest.approx(slope / 4, rel=1e-12)


def test_unknown_methods_are_refused(make_problem) -> None:
    with pytest.raises(GradevalError, match="unknown method 'brute'"):
        exact_gradient(make_problem(), "brute")


def test_exact_moments_equal_those_of_many_draws(make_problem) -> None:
    """REINFORCE on one unit and one point: the two possible gradients and their chances, by hand."""
    problem = make_problem((1,), points=1)
    from gradeval.estimators import get_estimator

    moments = exact_moments(problem, get_estimator("reinforce"))
    weight, bias, head, head_bias = (p.detach().numpy().ravel() for p in problem.network.parameters())
    x, y = problem.inputs.numpy()[0], float(problem.targets[0])
    p = logistic_cdf(float(weight @ x + bias[0]))
    f = [math.log1p(math.exp(-y * (head[0] * s + head_bias[0]))) for s in (0, 1)]
    gradient = [f[0] * -p, f[1] * (1 - p)]
    mean = (1 - p) * gradient[0] + p * gradient[1]
    variance = (1 - p) * gradient[0] ** 2 + p * gradient[1] ** 2 - mean**2
    bias_index = 2
    assert float(moments.mean[bias_index]) == pytest.approx(mean, rel=1e-12)
    assert float(moments.variance[bias_index]) == pytest.approx(variance, rel=1e-10)
    assert moments.value == pytest.approx(exact_gradient(problem).value, rel=1e-12)


def test_exact_moments_of_several_points_add(make_problem) -> None:
    """Cov(mean over points) = Σ Cov / N²."""
    from gradeval.estimators import get_estimator

    problem = make_problem((2, 2))
    whole = exact_moments(problem, get_estimator("st"))
    parts = [
        exact_moments(
            Problem(problem.network, problem.inputs[i : i + 1], problem.targets[i : i + 1]), get_estimator("st")
        )
        for i in range(4)
    ]
    torch.testing.assert_close(whole.covariance, sum(part.covariance for part in parts) / 16)
    torch.testing.assert_close(whole.mean, sum(part.mean for part in parts) / 4)


def test_further_noise_is_sampled_within_every_joint_state(make_problem) -> None:
    """f (1 + ε) with ε ~ N(0, 1) has the mean of f: within 5.5 standard errors of every parameter (17: 1e-6)."""
    from gradeval.estimators import get_estimator

    def noisy(network, inputs, loss, randomness):
        f = get_estimator("st")(network, inputs, loss, randomness)
        return f * (1 + randomness.normal((len(inputs),)))

    problem = make_problem((2, 2))
    plain = exact_moments(problem, get_estimator("st"))
    found = exact_moments(problem, noisy, samples=400, seed=1)
    assert (plain.standard_error == 0).all()
    assert (found.standard_error > 0).all()
    assert ((found.mean - plain.mean).abs() <= 5.5 * found.standard_error).all()
    # Var(f (1 + ε)) = Var(f) + E[f²]/N per point: the noise adds, and not less than the mean's square
    assert (found.variance.sum() > plain.variance.sum() + (plain.mean**2).sum() / problem.points).item()
    # the stated error is the true one: 40 seeds' squared spread over it is χ²/39 at the widest (all entries move as
    # one), here at 1e-6
    means = torch.stack([exact_moments(problem, noisy, samples=20, seed=s).mean for s in range(40)])
    error = exact_moments(problem, noisy, samples=20, seed=99).standard_error
    ratio = float(means.var(0).sum() / (error**2).sum())
    assert stats.chi2.ppf(5e-7, 39) / 39 < ratio < stats.chi2.isf(5e-7, 39) / 39


def test_exact_moments_refuse_too_many_states(make_problem) -> None:
    from gradeval.estimators import get_estimator

    with pytest.raises(GradevalError, match=r"2\^20 joint states; the limit is 2\^18"):
        exact_moments(make_problem((10, 10)), get_estimator("reinforce"))
