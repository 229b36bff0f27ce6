"""Measures that no factor changes: made-up moments whose figures are known, and runs of enumerated draws."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from gradeval import evaluate
from gradeval.analysis.run import scale_free as module
from gradeval.analysis.run.estimates import accuracies_of, intervals
from gradeval.analysis.run.moments import Layout, Moments
from gradeval.analysis.run.scale_free import SCALE_FREE, exact_scale_free, scale_free_intervals
from gradeval.analysis.statistics import Interval

LAYOUT = Layout(2, {"all": slice(0, 2)})
EXACT = np.array([3.0, 4.0])
UNIT, SIDE = EXACT / 5, np.array([-4.0, 3.0]) / 5
DRAWS, RUNS = 400, 400


def moments_of(draws: np.ndarray, deterministic: bool = False) -> Moments:
    """As a run streams them, of draws of g at one point, [n, 2]."""
    errors, n = draws - EXACT, len(draws)
    rows = np.zeros((n, LAYOUT.size))
    rows[:, :2], rows[:, 2] = errors, (errors**2).sum(1)
    rows[:, 3] = draws @ UNIT / np.linalg.norm(draws, axis=1)
    rows[:, 4] = ((draws - draws.mean(0)) ** 2).sum(1) * n / max(n - 1, 1)
    covariance = np.cov(rows.T) if not deterministic else np.zeros((6, 6))
    scores = np.column_stack([rows[:, 2:5], errors @ EXACT])
    thirds = ((scores - scores.mean(0)) ** 3).mean(0)
    descents = np.array([(draws @ EXACT > 0).sum()])
    return Moments(LAYOUT, n, rows.mean(0), covariance, descents, thirds, np.zeros((0, 2)), deterministic)


def found_in(moments: Moments, exact: np.ndarray = EXACT) -> dict[str, Interval]:
    accuracy = accuracies_of(moments, exact, None)["all"]
    return scale_free_intervals(moments, exact, "all", accuracy, intervals(moments, exact, "all", accuracy)["scale"])


def normal_draws(random: np.random.Generator) -> np.ndarray:
    """Mean 2 g*/5 + 1 across it, standard deviations 3 and 2 along and across, correlated."""
    noise = random.normal(size=(DRAWS, 2))
    return 2 * UNIT + SIDE + np.outer(3 * noise[:, 0], UNIT) + np.outer(noise @ [1.2, 1.6], SIDE)


TRUTH = {
    "rescaled_bias": 2 * math.sin(math.atan2(1, 2) / 2),
    "signal_to_noise": math.sqrt(5 / 13),
    "progress": 2 / math.sqrt(18),
}


@pytest.fixture(scope="module")
def covered() -> dict[str, int]:
    """In how many of 400 runs each interval has the truth."""
    random = np.random.default_rng(5)
    runs = [found_in(moments_of(normal_draws(random))) for _ in range(RUNS)]
    return {key: sum(run[key].low <= TRUTH[key] <= run[key].high for run in runs) for key in SCALE_FREE}


@pytest.mark.parametrize("key", SCALE_FREE)
def test_intervals_cover_what_is_known(covered: dict[str, int], key: str) -> None:
    """95 % of 400 runs, to the binomial error at a false-alarm rate of 10⁻⁶ on each side."""
    low, high = (stats.binom.ppf(rate, RUNS, 0.95) for rate in (1e-6, 1 - 1e-6))
    assert low <= covered[key] <= high


def test_a_wrong_measure_is_not_covered(covered: dict[str, int]) -> None:
    """Planted: progress without the square root, the noise of one coordinate, a bias that is not rescaled."""
    wrong = {"progress": 2 / 18, "signal_to_noise": math.sqrt(5 / 9), "rescaled_bias": math.hypot(2 - 5, 1) / 5}
    run = found_in(moments_of(normal_draws(np.random.default_rng(6))))
    assert all(not run[key].low <= value <= run[key].high for key, value in wrong.items())


def test_a_factor_changes_none_of_them() -> None:
    """Planted: `scale`, which it does."""
    draws = normal_draws(np.random.default_rng(7))
    one, ten = (found_in(moments_of(factor * draws)) for factor in (1.0, 10.0))
    for key in SCALE_FREE:
        assert ten[key].estimate == pytest.approx(one[key].estimate, rel=1e-9)
        assert (ten[key].low, ten[key].high) == pytest.approx((one[key].low, one[key].high), rel=0.02)


def test_the_correlation_of_the_errors_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = moments_of(normal_draws(np.random.default_rng(8)))
    right = found_in(moments)["rescaled_bias"]
    monkeypatch.setattr(module.Direction, "correlation", 0.0)
    assert found_in(moments)["rescaled_bias"].high > 1.05 * right.high - 0.05 * right.estimate


def test_ends_of_what_can_be() -> None:
    fixed = moments_of(np.tile(2 * UNIT, (3, 1)), deterministic=True)
    found = found_in(fixed)
    assert found["signal_to_noise"] == Interval(math.inf, math.inf, math.inf)
    assert found["progress"].estimate == pytest.approx(1.0)
    assert found["rescaled_bias"].estimate == pytest.approx(0.0, abs=1e-7)
    assert all(math.isnan(found_in(fixed, np.zeros(2))[key].estimate) for key in SCALE_FREE)


def test_exact_figures_are_those_of_the_enumerated_draws(small) -> None:
    """The estimates of a run agree with the exact ones, which are from bias, variance and scale alone."""
    run = evaluate(small, ["st", "reinforce"], draws=4000, seed=1)
    table = run.summary[run.summary["layer"] == "1"]
    exact = exact_scale_free(table["exact_relative_bias"], table["exact_relative_variance"], table["exact_scale"])
    assert list(table.columns[-9:]) == [f"{key}{end}" for key in SCALE_FREE for end in ("", "_low", "_high")]
    for key in SCALE_FREE:
        error = (table[f"{key}_high"] - table[f"{key}_low"]) / 2
        assert ((table[key] - exact[key]).abs() <= 2.5 * error + 1e-9).all()  # 4.9 standard errors


def test_a_sampled_reference_and_size_leave_them_out() -> None:
    moments = moments_of(normal_draws(np.random.default_rng(9)))
    accuracy = accuracies_of(moments, EXACT, None)["all"]
    scale = Interval(1.0, 0.9, 1.1)
    sampled = scale_free_intervals(replace(moments, second=object()), EXACT, "all", accuracy, scale)  # type: ignore[arg-type]
    assert all(math.isnan(sampled[key].estimate) for key in SCALE_FREE)
