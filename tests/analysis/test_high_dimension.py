"""Bias and its test where there are more parameters than draws: levels, coverage and unbiased parts, by simulation.

Every simulation has a fixed seed; a bound on a share of N runs is its nominal value and z √(p(1 − p)/N), z = 4: it
would be missed with probability 3e-5 by another seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from gradeval.analysis import high_dimension
from gradeval.analysis.high_dimension import MeanNorm, Spectrum, trace_of_square
from gradeval.errors import GradevalError

SIZE, DRAWS, BLOCKS = 400, 200, 100
SPECTRA = {
    "flat": np.ones(SIZE),
    "power law": 1 / np.arange(1, SIZE + 1.0),
    "one direction": np.append(400.0, np.ones(SIZE - 1) / 20),
    "three directions": np.append([300.0, 200.0, 100.0], np.ones(SIZE - 3)),
}


def norm_of(errors: np.ndarray, blocks: int = BLOCKS) -> MeanNorm:
    """What a run of these draws keeps."""
    draws, size = errors.shape
    mean = errors.mean(0)
    rows = np.vstack([errors.reshape(blocks, -1, size).mean(1), mean])
    numbers = float((errors**2).sum(1).mean()), float(((errors - mean) ** 2).sum()) / (draws - 1)
    return MeanNorm.of(rows @ rows.T, draws // blocks, draws, numbers, size)


def runs(spectrum: str, bias: np.ndarray, count: int, blocks: int = BLOCKS, draws: int = DRAWS) -> Iterator[MeanNorm]:
    random = np.random.default_rng(list(spectrum.encode()))
    for _ in range(count):
        errors = random.standard_normal((draws, SIZE)) * np.sqrt(SPECTRA[spectrum])
        yield norm_of(errors + bias, blocks)


def direction(spectrum: str, size: float) -> np.ndarray:
    """A bias in a direction of no account, as large as so many roots of the noise of ‖b̂‖²."""
    found = np.random.default_rng(1).standard_normal(SIZE)
    noise = math.sqrt(2 * float((SPECTRA[spectrum] ** 2).sum())) / DRAWS
    return found * size * math.sqrt(noise) / np.linalg.norm(found)


def test_the_square_and_the_traces_are_unbiased() -> None:
    """Of skewed draws of unequal length, where normal theory is off. Planted: tr S² in place of its estimate."""
    random = np.random.default_rng(0)
    values, bias = SPECTRA["power law"], direction("power law", 3.0)
    found, plain = [], []
    for _ in range(400):
        z = (random.exponential(size=(40, SIZE)) - 1) * np.sqrt(2 * random.random((40, 1)))
        errors = z * np.sqrt(values) + bias
        centred = errors - errors.mean(0)
        found.append((norm_of(errors, blocks=40).square, trace_of_square(centred @ centred.T)))
        plain.append(float((np.cov(errors.T) ** 2).sum()))
    mean, error = np.mean(found, 0), np.std(found, 0) / 20
    truth = np.array([bias @ bias, values @ values])
    assert (np.abs(mean - truth) <= 4 * error).all(), (mean, truth, error)
    assert abs(np.mean(plain) - truth[1]) > 20 * np.std(plain) / 20


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize(("draws", "blocks"), [(DRAWS, BLOCKS), (20, 20)])
def test_the_level_of_the_test(spectrum: str, draws: int, blocks: int) -> None:
    """At 5 %, 1 % and 0.1 %, of draws without a bias."""
    count = 300
    pvalues = np.array([
        norm.test(0.0, 1.0, 1).pvalue for norm in runs(spectrum, np.zeros(SIZE), count, blocks, draws)
    ])  # fmt: skip
    for level in (0.05, 0.01, 0.001):
        share = float((pvalues < level).mean())
        assert share <= level + 4 * math.sqrt(level * (1 - level) / count), (level, share)


def test_a_test_that_takes_a_chi_square_of_one_width_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: no leading directions, and a sure Σ. With one wide direction it alarms too often."""
    monkeypatch.setattr(high_dimension, "LEADING_DIRECTIONS", 0)
    monkeypatch.setattr(MeanNorm, "freedom", property(lambda self: 10**9))
    pvalues = [norm.test(0.0, 1.0, 1).pvalue for norm in runs("three directions", np.zeros(SIZE), 1500, 20, 20)]
    assert np.mean(np.array(pvalues) < 0.01) > 0.01 + 4 * math.sqrt(0.01 * 0.99 / 1500)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("size", [0.0, 1.0, 4.0, 30.0])
def test_the_interval_covers(spectrum: str, size: float) -> None:
    """At least 95 % less chance; and not nearly always where the bias is large."""
    count, bias = 100, direction(spectrum, size)
    true, found = float(np.linalg.norm(bias)), [norm.interval() for norm in runs(spectrum, bias, count)]
    share = np.mean([one.low <= true <= one.high for one in found])
    assert share >= 0.95 - 4 * math.sqrt(0.05 * 0.95 / count), share
    assert all(one.low <= one.estimate <= one.high for one in found)
    if size == 30:
        assert share <= 0.985, share
        assert np.mean([one.high / one.low for one in found]) < 1.5


def test_what_is_detectable_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bias in the widest direction, as large as stated, in 95 % of the runs; half as large, seldom."""
    for spectrum in ("power law", "one direction"):
        alpha = 0.01
        sizes = [norm.test(0.0, 1.0, 1).detectable for norm in runs(spectrum, np.zeros(SIZE), 20)]
        widest = np.eye(SIZE)[0] * float(np.median(sizes))
        for factor, least, most in ((1.0, 0.95 - 4 * math.sqrt(0.05 * 0.95 / 150), 1.0), (0.5, 0.0, 0.8)):
            hits = [norm.test(0.0, 1.0, 1).pvalue < alpha for norm in runs(spectrum, factor * widest, 150)]
            assert least <= np.mean(hits) <= most, (spectrum, factor, np.mean(hits))


def test_what_rare_states_may_be_missing_is_no_bias() -> None:
    """A bias as large as φ alarms no more often than the level; one that is far larger does."""
    bias = direction("power law", 20.0)
    missing = float(np.linalg.norm(bias))
    count = 200
    pvalues = np.array([norm.test(missing, 1.0, 1).pvalue for norm in runs("power law", bias, count)])
    assert (pvalues < 0.01).mean() <= 0.01 + 4 * math.sqrt(0.01 * 0.99 / count)
    assert (np.array([norm.test(0.0, 1.0, 1).pvalue for norm in runs("power law", bias, 20)]) < 0.01).all()
    found = next(runs("power law", bias, 1))
    assert found.test(missing, 1.0, 1).detectable > found.test(0.0, 1.0, 1).detectable


def test_nothing_varies() -> None:
    errors = np.tile(direction("flat", 5.0), (40, 1))
    found = norm_of(errors, 40)
    length = float(np.linalg.norm(errors[0]))
    interval = found.interval()
    assert (interval.low, interval.high) == pytest.approx((length, length), rel=1e-6)
    assert math.isnan(found.test(0.1, 1.0, 1).pvalue)
    nothing = norm_of(np.zeros((40, 10)), 40)
    assert nothing.interval().high == 0
    assert nothing.test(0.0, 1.0, 1).pvalue == 1


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(GradevalError, match="must be finite"):
        MeanNorm.of(np.full((5, 5), math.nan), 1, 100, (1.0, 1.0), 10)


def test_extreme_sizes_give_finite_answers() -> None:
    random = np.random.default_rng(5)
    for scale in (1e-40, 1.0, 1e20):
        for size, blocks in ((1, 20), (3, 20), (2000, 20)):
            found = norm_of(scale * random.standard_normal((40, size)), blocks)
            interval, test = found.interval(), found.test(0.0, scale, 1)
            assert math.isfinite(interval.high)
            assert 0 <= test.pvalue <= 1
            assert 0 < test.detectable < math.inf


def test_a_spectrum_keeps_its_trace() -> None:
    random = np.random.default_rng(3)
    for values in SPECTRA.values():
        rows = random.standard_normal((50, SIZE)) * np.sqrt(values)
        found = Spectrum.of(rows @ rows.T, 1, float(values.sum()), SIZE)
        assert found.trace == pytest.approx(values.sum())
        assert (found.counts >= 1 - 1e-9).all()
        assert found.counts.sum() <= SIZE + 1e-6
