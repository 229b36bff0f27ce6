"""From the moments of one estimator to estimates with intervals, and to the test of its bias, layer by layer."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import numpy as np

from gradeval.analysis.high_dimension import MeanNorm
from gradeval.analysis.hypotheses import FAMILY_ALPHA, BiasTest, bias_test, constant_test
from gradeval.analysis.measures import relative, relative_variance, scale
from gradeval.analysis.ratios import ratio_interval
from gradeval.analysis.run.moments import Moments
from gradeval.analysis.run.rare import NOTHING_RARE, Missing, RareStates
from gradeval.analysis.run.sampled import SecondSample
from gradeval.analysis.statistics import (
    LEVEL,
    UNKNOWN,
    Array,
    Interval,
    bias_interval,
    mean_interval,
    positive_mean_interval,
    skewness,
    together,
)

Z = 1.959963984540054  # standard normal quantile of a two-sided 95 % interval
ROUNDING_OF_SINGLE = 1e-5  # of a mean of gradients in single precision: some hundred of its rounding units
ESTIMATES = ("relative_bias", "relative_variance", "cosine", "relative_rmse", "descent_probability", "scale")
ROUNDING_VARIANCE = 1e-26  # a variance below this share of the mean squared gradient is rounding


@dataclass(frozen=True)
class Accuracy:
    """What the error of a mean of any number of draws follows from, in one layer.

    Attributes:
        bias: ‖E g − g*‖.
        variance: tr Σ of one draw.
        correlation: of the errors of bias² and variance, as both are estimated from the same draws.
        missing: what states too rare to be drawn may be missing; the intervals of bias and variance reach that far.
    """

    bias: Interval
    variance: Interval
    correlation: float = 0.0
    missing: Missing = NOTHING_RARE

    def rmse(self, samples: int = 1) -> Interval:
        """√(bias² + variance/M), with an interval from those of the two.

        The ends of the interval of a sum are those of its terms, combined as their errors are: the distances a and b of
        the terms make √(a² + b² + 2ρab) of the sum (MOVER: Zou & Donner, Statistics in Medicine 27, 2008,
        doi:10.1002/sim.3095).

        Args:
            samples: M.

        Returns:
            The root-mean-square error of the mean of M draws.

        Examples:
            >>> Accuracy(Interval(0.3, 0.3, 0.3), Interval(1.6, 1.6, 1.6)).rmse(10).estimate
            0.5
        """
        terms = self.bias.map(lambda b: b * abs(b)), Interval(*(v / samples for v in astuple(self.variance)))
        total = sum(term.estimate for term in terms)
        below = together([term.estimate - term.low for term in terms], self.correlation)
        above = together([term.high - term.estimate for term in terms], self.correlation)
        return Interval(total, max(0.0, total - below), total + above).map(math.sqrt)


def accuracies_of(moments: Moments, exact: Array, rare: RareStates | None) -> dict[str, Accuracy]:
    """Bias and variance of one draw with intervals, by layer.

    Where states are rare, the intervals reach as far as the states that may be missing in the draws could take them.

    Args:
        moments: of one estimator.
        exact: g* of all layers, [P].
        rare: what is known of rare states, or None.

    Returns:
        Both, by layer, in the units of the gradient and its square.
    """
    found = {}
    for layer in moments.layout.layers:
        missing = unseen(rare, moments, layer, (1 - LEVEL) / 2)
        n, variance, error = moments.draws, *total_variance(moments, exact, layer)
        skew = skewness(float(moments.third(layer)[2]), math.sqrt(moments.deviation(layer)[1] / n), n)
        bias = bias_of(moments, layer)
        found[layer] = Accuracy(
            bias.widened(missing.mean, missing.mean),
            positive_mean_interval(variance, error, n, skew).widened(0.0, missing.square),
            _correlation(moments, layer),
            missing,
        )
    return found


def bias_of(moments: Moments, layer: str) -> Interval:
    """‖E g − g*‖ with an interval, from the covariance or, at size, from means of blocks of draws.

    Args:
        moments: of one estimator.
        layer: its name.

    Returns:
        See `bias_interval` and `MeanNorm.interval`.
    """
    if not moments.at_size:
        return bias_interval(moments.bias(layer), *spread_of_mean(moments, layer))
    if certain(moments):
        return Interval(*(float(np.linalg.norm(moments.bias(layer))),) * 3)
    return mean_norm(moments, layer).interval()


def certain(moments: Moments) -> bool:
    """Whether the mean of g − g* has no sampling error.

    Args:
        moments: of one estimator.

    Returns:
        Whether all draws are the same by construction, and g* was not sampled.
    """
    return moments.deterministic and moments.second is None


def draws_of_mean(moments: Moments) -> int:
    """The number n such that the mean of g − g* has the covariance of `spread_of_mean` over n.

    Args:
        moments: of one estimator.

    Returns:
        The number of draws; of a deterministic estimator, against a sampled reference, that of the reference.
    """
    if moments.deterministic and moments.second is not None:
        return moments.second.reference.draws
    return moments.draws


def spread_of_mean(moments: Moments, layer: str) -> tuple[Array, int]:
    """Σ and n such that the mean of g − g* has the covariance Σ/n in one layer.

    Against a sampled reference that is Σ_g + n Σ_r/m, the reference being a second, independent sample.

    Args:
        moments: of one estimator, not at size.
        layer: its name.

    Returns:
        Σ and n.
    """
    spread, n = moments.spread(layer), draws_of_mean(moments)
    return (spread, n) if moments.second is None else (spread + n * moments.second.reference.of_layer(layer), n)


def variance_along(moments: Moments, layer: str, target: Array) -> float:
    """The variance over single draws of ⟨g, u⟩ in one layer, u = g*/‖g*‖.

    Args:
        moments: of one estimator.
        layer: its name.
        target: g* of the layer; where it is zero, u is.

    Returns:
        The variance.
    """
    norm = float(np.linalg.norm(target))
    if moments.at_size:
        return moments.inner(layer)[1] / norm / norm if norm else 0.0
    direction = target / norm if norm else np.zeros_like(target)
    return float(direction @ moments.spread(layer) @ direction)


def mean_norm(moments: Moments, layer: str) -> MeanNorm:
    """What is known at size of ‖E g − g*‖ and of the covariance of g.

    Args:
        moments: of an estimator that is not deterministic.
        layer: its name.

    Returns:
        Norm and spectrum.
    """
    assert moments.products is not None
    found, k = moments.products, moments.layout.number(layer)
    numbers = float(moments.square(layer)[0]), max(float(moments.deviation(layer)[0]), 0.0)
    size, n = len(moments.bias(layer)), draws_of_mean(moments)
    if moments.second is not None:
        trace = moments.second.reference.trace(layer)
        numbers = numbers[0] + (n - 1) * trace, numbers[1] + n * trace
    return MeanNorm.of(found.of_layer(k), int(found.draws[0]), n, numbers, size)


def spectrum_of(moments: Moments, layer: str, norm: float) -> Array:
    """The eigenvalues of the covariance of g/‖g*‖ in one layer, ascending; at size as far as they are known.

    Args:
        moments: of one estimator.
        layer: its name.
        norm: ‖g*‖.

    Returns:
        One for each parameter of the layer.
    """
    if not moments.at_size:
        return np.linalg.eigvalsh(relative_variance(moments.spread(layer), norm))
    values = np.zeros(len(moments.bias(layer)))
    if not certain(moments):
        spectrum = mean_norm(moments, layer).spectrum
        # an equal share of the last one's sum for each, where their number is not whole
        found = np.repeat(spectrum.values, np.ceil(spectrum.counts - 1e-9).astype(int))[: len(values)]
        values[: len(found)] = found
    return np.sort(relative_variance(values, norm))


def _correlation_at_size(moments: Moments, layer: str) -> float:
    """As `_correlation`, from means of blocks: of U, as far as it is linear in them, and the deviation."""
    if moments.deterministic or moments.products is None:
        return 0.0
    known, (k, norm) = moments.products, (moments.layout.number(layer), mean_norm(moments, layer))
    products, deviations = known.of_layer(k), known.deviations[:, k]
    own = np.diag(products)[:-1] * float(known.draws[0]) / moments.draws  # a block's share in its product with the mean
    parts = products[:-1, -1] - own
    if min(float(parts.std()), float(deviations.std())) <= 0:
        return 0.0
    return float(np.corrcoef(parts, deviations)[0, 1]) * math.sqrt(norm.linear_share)


def _correlation(moments: Moments, layer: str) -> float:
    """Of ‖b̂‖² and the mean deviation, as far as ‖b̂‖² is linear in the noise.

    Its covariance with the deviation v is 2 bᵀ Cov(g, v)/n, its variance 4 bᵀΣb/n + 2 tr Σ²/n². Chance moves b̂ along
    Cov(g, v) just when it moves v: so b is b̂, shrunk by the share of b̂ᵀΣb̂ that is above its mean for b = 0, tr Σ²/n.
    """
    if moments.at_size:
        return _correlation_at_size(moments, layer)
    where, place = moments.layout.slices[layer], moments.layout.deviation(layer)
    bias, n, variance = moments.bias(layer), moments.draws, float(moments.covariance[place, place])
    spread, count = spread_of_mean(moments, layer)
    along, square = float(bias @ spread @ bias) * n / count, float((spread**2).sum()) * n / count**2
    rest = max(0.0, along - square)
    if rest <= 0 or variance <= 0:
        return 0.0
    joint = rest / along * float(bias @ moments.covariance[where, place])
    return min(1.0, max(-1.0, joint / math.sqrt(rest + square / 2) / math.sqrt(variance)))


def unseen(rare: RareStates | None, moments: Moments, layer: str, level: float) -> Missing:
    """What rare states may be missing in an estimator's draws; see `RareStates`.

    Args:
        rare: what is known of rare states for this estimator, or None.
        moments: of the estimator.
        layer: its name.
        level: of a test or an interval.

    Returns:
        It, in the units of the gradient and of its square; nothing for a deterministic estimator.
    """
    if certain(moments):
        return NOTHING_RARE
    found = NOTHING_RARE if moments.deterministic or rare is None else rare.unseen(layer, moments.draws, level)
    if moments.second is not None:  # they may be missing in the reference, too
        reference = moments.second.reference
        if (theirs := reference.rare or rare) is not None:
            found = found._replace(mean=found.mean + theirs.unseen(layer, reference.draws, level).mean)
    return found


def intervals(moments: Moments, exact: Array, layer: str, accuracy: Accuracy) -> dict[str, Interval]:
    """Every estimate of the summary that has an interval, for one layer.

    Args:
        moments: of one estimator.
        exact: g* of all layers, [P].
        layer: its name.
        accuracy: of the estimator in this layer.

    Returns:
        Intervals by the column of the summary.
    """
    if moments.second is not None:
        return _against_sampled(moments, moments.second, layer, accuracy)
    target = exact[moments.layout.slices[layer]]
    norm = float(np.linalg.norm(target))
    n, bias = moments.draws, moments.bias(layer)
    cosine, cosine_variance = moments.cosine(layer)
    direction = target / norm if norm else np.zeros_like(bias)
    third, errors = moments.third(layer), [math.sqrt(cosine_variance / n)]
    errors.append(math.sqrt(max(0.0, variance_along(moments, layer, target)) / n))
    skew = [skewness(float(third[1]), errors[0], n), skewness(float(third[3]), errors[1] * norm, n)]
    cosines, missing = mean_interval(cosine, errors[0], n, skew[0]), accuracy.missing
    along = mean_interval(float(direction @ bias) + norm, errors[1], n, skew[1])
    # a draw that was missed may point anywhere: its cosine is between −1 and 1
    cosines = _reaching(cosines, missing.share * (1 + cosine), missing.share * (1 - cosine)).map(within_bounds)
    return {
        "relative_bias": relative(accuracy.bias, norm),
        "relative_variance": relative_variance(accuracy.variance, norm),
        "cosine": cosines if norm else UNKNOWN,
        "relative_rmse": relative(accuracy.rmse(), norm),
        "descent_probability": _proportion(moments.descent(layer), n, moments.deterministic),
        "scale": scale(_reaching(along, missing.mean, missing.mean), norm),
    }


def _against_sampled(moments: Moments, second: SecondSample, layer: str, accuracy: Accuracy) -> dict[str, Interval]:
    """`intervals` where g* was sampled: its error is in all of them but the descent probability, which is as to r̄."""
    descent = _proportion(moments.descent(layer), moments.draws, moments.deterministic)
    if not second.reference.measured(layer):  # nothing is known relative to what may be zero
        return dict.fromkeys(ESTIMATES, UNKNOWN) | {"descent_probability": descent}
    target, bias = second.reference.mean[moments.layout.slices[layer]], moments.bias(layer)
    norm, n, missing = second.reference.norm(layer).estimate, draws_of_mean(moments), accuracy.missing
    along, factor = second.scale(layer, bias), second.reference.attenuation(layer)
    found, cosine_variance = moments.cosine(layer)
    own = math.sqrt(max(0.0, variance_along(moments, layer, target)) / n) * float(np.linalg.norm(target)) / norm**2
    errors = math.hypot(factor * math.sqrt(cosine_variance / n), second.cosine_error(layer, found))
    third, wide = moments.third(layer), (errors, math.hypot(own, second.scale_error(layer, along)))
    skew = [skewness(float(t), error, n) for t, error in zip((third[1], third[3] / norm**6), wide, strict=True)]
    cosine, scaled = (
        mean_interval(second.true_cosine(layer, found), wide[0], n, skew[0]),
        mean_interval(along, wide[1], n, skew[1]),
    )
    rmse, sides = accuracy.rmse(), (missing.share * (1 + found), missing.share * (1 - found))
    variance = ratio_interval(accuracy.variance.map(math.sqrt), second.reference.norm(layer))
    return {
        "relative_bias": second.relative(layer, accuracy.bias, float(np.linalg.norm(bias))),
        "relative_variance": variance.map(lambda v: v**2),
        "cosine": _reaching(cosine, *sides).map(within_bounds),
        "relative_rmse": second.relative(layer, rmse, rmse.estimate),
        "descent_probability": descent,
        "scale": _reaching(scaled, missing.mean / norm, missing.mean / norm),
    }


def _reaching(interval: Interval, below: float, above: float) -> Interval:
    """The interval of a number of any sign with its ends moved outward."""
    return Interval(interval.estimate, interval.low - below, interval.high + above)


def unbiasedness(
    moments: Moments, exact: Array, layer: str, comparisons: int, missing: float = 0.0, rounding: float = 0.0
) -> BiasTest:
    """The test of E[g] = g* in one layer.

    Args:
        moments: of one estimator.
        exact: g* of all layers, [P].
        layer: its name.
        comparisons: number of tests that share the significance level.
        missing: the norm that may be missing in the mean gradient, since states are too rare to be drawn.
        rounding: a bias up to this, relative to the larger of ‖g*‖ and the size of a draw's error, is rounding.

    Returns:
        The test.
    """
    norm = float(np.linalg.norm(exact[moments.layout.slices[layer]]))
    square, variance = moments.square(layer)
    size, ratio = math.sqrt(square + variance / square) if square > 0 else 0.0, 1.0
    if moments.second is not None:  # what may be missing in both means, as if it were in that of the draws alone
        reference, n = moments.second.reference, draws_of_mean(moments)
        size = (0.0 if moments.deterministic else size) + reference.draw_size(layer) * n / reference.draws
        ratio = n / moments.draws
    size = max(size, ratio * missing * moments.draws / math.log(comparisons / FAMILY_ALPHA))
    bias = moments.bias(layer)
    if moments.at_size:
        least = rounding * max(norm, size)
        return _unbiasedness_at_size(moments, layer, comparisons, (norm, size, least))
    covariance, n = spread_of_mean(moments, layer)
    if rounding:
        bias = bias * max(0.0, 1 - rounding * max(norm, size) / max(float(np.linalg.norm(bias)), 1e-300))
    if moments.second is not None and (fewer := min(n, moments.second.reference.draws)) < n:  # degrees of freedom
        covariance, size, n = covariance * fewer / n, size * fewer / n, fewer
    return bias_test(bias, covariance, n, size, norm, comparisons, certain(moments))


def _unbiasedness_at_size(
    moments: Moments, layer: str, comparisons: int, sizes: tuple[float, float, float]
) -> BiasTest:
    """`unbiasedness` from means of blocks; the sizes are ‖g*‖, that of a draw that matters, and that of rounding."""
    norm, size, rounding = sizes
    alpha = FAMILY_ALPHA / comparisons
    missing = size * math.log(1 / alpha) / draws_of_mean(moments)
    if certain(moments):
        length = max(0.0, float(np.linalg.norm(moments.bias(layer))) - rounding)
        return constant_test(length, missing, norm, (moments.draws, alpha), True)
    return mean_norm(moments, layer).test(missing + rounding, norm, comparisons)


def total_variance(moments: Moments, exact: Array, layer: str) -> tuple[float, float]:
    """tr Σ of one draw in one layer, estimated, and its standard error.

    The variance of the estimate is that of the squared deviation of a draw over n, and 2 tr Σ²/n², which is what is
    left where all draws are equally far from their mean.

    Args:
        moments: of one estimator.
        exact: g* of all layers, [P].
        layer: its name.

    Returns:
        Both, in the units of the squared gradient.
    """
    if moments.deterministic:
        return 0.0, 0.0
    variance, spread = moments.deviation(layer)
    size = float(np.linalg.norm(exact[moments.layout.slices[layer]])) ** 2 + moments.square(layer)[0]
    if variance < ROUNDING_VARIANCE * size:
        variance = 0.0
    if moments.at_size:
        root = math.sqrt(mean_norm(moments, layer).spectrum.square)
    else:
        root = float(np.linalg.norm(moments.spread(layer)))
    least = math.sqrt(2) * root / moments.draws
    return variance, math.hypot(math.sqrt(max(0.0, spread) / moments.draws), least)


def within_bounds(cosine: float) -> float:
    """Cut a number, such as the end of an interval, to what a cosine can be.

    Args:
        cosine: any number.

    Returns:
        The nearest number between −1 and 1.

    Examples:
        >>> within_bounds(1.02)
        1.0
    """
    return min(max(cosine, -1.0), 1.0)


def _proportion(count: int, n: int, deterministic: bool) -> Interval:
    from statsmodels.stats.proportion import proportion_confint

    if deterministic:
        return Interval(*(float(count > 0),) * 3)
    low, high = proportion_confint(count, n, alpha=1 - LEVEL, method="wilson")
    return Interval(count / n, float(low), float(high))
