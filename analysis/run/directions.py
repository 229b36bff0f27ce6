"""What the direction of a mean of many draws follows from: the curve of its cosine with g*."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradeval.analysis.high_dimension import MeanNorm
from gradeval.analysis.run.estimates import Z, draws_of_mean, total_variance, variance_along, within_bounds
from gradeval.analysis.run.moments import Moments
from gradeval.analysis.run.sampled import SecondSample
from gradeval.analysis.statistics import Array, Interval, bias_interval


@dataclass(frozen=True)
class Direction:
    """What the direction of a mean of many draws follows from, in one layer; all is relative to ‖g*‖.

    Attributes:
        along: ⟨E g, g*⟩/‖g*‖², its standard error, and how far rare states may move it.
        across: the length of what E g has beside the direction of g*, which is a bias too.
        aside: its unit vector, as was seen, in the eigenbasis of Σ.
        direction: g*/‖g*‖ in that basis.
        variances: the eigenvalues of Σ.
        counts: how often each of them occurs.
        error: relative standard error of tr Σ.
    """

    along: tuple[float, float, float]
    across: Interval
    aside: Array
    direction: Array
    variances: Array
    error: float
    counts: Array | float = 1.0

    @classmethod
    def of(cls, moments: Moments, exact: Array, layer: str, missing: float = 0.0) -> Direction:
        """The direction of one estimator's mean.

        Args:
            moments: of the estimator.
            exact: g* of all layers, [P].
            layer: its name; its gradient is not zero.
            missing: the norm that may be missing in the mean gradient, since states are too rare to be drawn.

        Returns:
            What its cosines follow from.
        """
        if moments.at_size:
            return cls._at_size(moments, exact, layer, missing)
        target, bias, covariance, n = exact[moments.layout.slices[layer]], *_mean_of(moments, layer)
        norm = float(np.linalg.norm(target))
        unit, second, noise = target / norm, moments.second, covariance
        along = 1 + float(unit @ bias) / norm, math.sqrt(max(0.0, float(unit @ covariance @ unit)) / n) / norm
        if second is not None:
            norm, along = second.reference.norm(layer).estimate, _along(second, layer, bias, along[1])
            noise = covariance + along[0] ** 2 * n * second.reference.of_layer(layer)
        outside = np.eye(len(unit)) - np.outer(unit, unit)
        across = bias_interval(outside @ bias, outside @ noise @ outside, n).widened(missing, missing) / norm
        values, vectors = np.linalg.eigh(covariance)
        aside = vectors.T @ (outside @ bias)
        length = float(np.linalg.norm(aside))
        variance, variance_error = total_variance(moments, exact, layer)
        return cls(
            (*along, missing / norm),
            across,
            aside / length if length > 0 else 0 * aside,
            vectors.T @ unit,
            np.maximum(values, 0.0) / norm**2,
            variance_error / variance if variance > 0 else 0.0,
        )

    @classmethod
    def _at_size(cls, moments: Moments, exact: Array, layer: str, missing: float) -> Direction:
        """As `of`, from means of blocks.

        The direction of g* and that of the bias across it count as eigenvectors of Σ, with the variances that the draws
        have along them; what is across has the eigenvalues that the blocks tell, see `Spectrum`.
        """
        assert moments.products is not None
        target, n, known = exact[moments.layout.slices[layer]], draws_of_mean(moments), moments.products
        norm, error = float(np.linalg.norm(target)), moments.bias(layer)
        mean, variance = float(target @ error) / norm, variance_along(moments, layer, target)
        square = moments.square(layer)[0] - mean**2 - variance * (n - 1) / n
        trace, along = (
            max(moments.deviation(layer)[0] - variance, 0.0),
            (1 + mean / norm, math.sqrt(max(0.0, variance) / n) / norm),
        )
        if moments.second is not None:
            reference = moments.second.reference
            beside_it = max(0.0, reference.trace(layer) - reference.along(layer))
            square, trace, norm = square + (n - 1) * beside_it, trace + n * beside_it, reference.norm(layer).estimate
            along = _along(moments.second, layer, error, along[1])
        products = known.across(moments.layout.number(layer))
        beside = MeanNorm.of(products, int(known.draws[0]), n, (max(square, 0.0), trace), max(len(target) - 1, 1))
        across = beside.interval().widened(missing, missing) / norm
        values = np.concatenate([[variance, beside.along(max(beside.square, 0.0))], beside.spectrum.values])
        total, total_error = total_variance(moments, exact, layer)
        first, second = np.eye(len(values))[:2]
        return cls(
            (*along, missing / norm),
            across,
            second,
            first,
            np.maximum(values, 0.0) / norm**2,
            total_error / total if total > 0 else 0.0,
            np.concatenate([np.ones(2), beside.spectrum.counts]),
        )

    @property
    def correlation(self) -> float:
        """Of the errors of the mean along g* and of its length across, where that is told from zero; else 0."""
        along, across = (float(self.variances @ (unit**2 * self.counts)) for unit in (self.direction, self.aside))
        both = float(self.variances @ (self.direction * self.aside * self.counts))
        known = self.across.low > 0 and min(along, across) > 0
        return min(1.0, max(-1.0, both / math.sqrt(along * across))) if known else 0.0

    def cosine(self, samples: int) -> Interval:
        """E cos(ḡ, g*) of the mean ḡ of M draws, where that is nearly normal.

        The three things that it follows from, the mean along g*, the mean across it and the size of Σ, each move it
        within an interval; these are combined as in `Accuracy.rmse`.

        Args:
            samples: M.

        Returns:
            The mean cosine with its 95 % interval.
        """

        def at(along: float, across: float, size: float = 1.0) -> float:
            if math.isinf(across):  # far to the side
                return 0.0
            mean = along * self.direction + across * self.aside
            return _normal_cosine(self.direction, mean, size * self.variances / samples, self.counts)

        (along, error, missing), across = self.along, self.across
        found = at(along, across.estimate)
        moved = [at(along + z * (error + missing / Z), across.estimate) for z in (-Z, Z)]
        moved += [at(along, across.estimate, math.exp(z * self.error)) for z in (-Z, Z)]
        ends = [found, *moved, at(along, across.low), at(along, across.high)]
        pairs = [(ends[i], ends[i + 1]) for i in (1, 3, 5)]
        below = math.hypot(*(max(0.0, found - min(pair)) for pair in pairs))
        above = math.hypot(*(max(0.0, max(pair) - found) for pair in pairs))
        return Interval(found, found - below, found + above).map(within_bounds)


def _mean_of(moments: Moments, layer: str) -> tuple[Array, Array, int]:
    return moments.bias(layer), moments.spread(layer), draws_of_mean(moments)


def _along(second: SecondSample, layer: str, bias: Array, error: float) -> tuple[float, float]:
    """⟨E g, g*⟩/‖g*‖² and its standard error where g* was sampled, from what the draws alone have."""
    scale = second.scale(layer, bias)
    return scale, math.hypot(error, second.scale_error(layer, scale))


def _normal_cosine(direction: Array, mean: Array, variances: Array, counts: Array | float = 1.0) -> float:
    """E[⟨u, x⟩/‖x‖] for x ~ N(mean, diag variances) and a unit vector u; each variance occurs ``counts`` times.

    (2/√π) ∫₀^∞ Πⱼ dⱼ^½ exp(−s² Σⱼ dⱼ mⱼ²) Σⱼ uⱼ dⱼ mⱼ ds with dⱼ = 1/(1 + 2s²vⱼ), since
    1/‖x‖ = (2/√π) ∫ exp(−s²‖x‖²) ds; by the trapezoid rule in log s.
    """
    unit = max(float(np.abs(mean).max()), math.sqrt(float(variances.max())))
    if unit == 0:
        return 0.0
    mean, variances = mean / unit, variances / unit / unit  # squares stay in range
    size = math.sqrt(float(mean @ mean + (counts * variances).sum()))
    logs = np.linspace(math.log(1e-6 / size), math.log(1e6 / size), 500)
    square = np.exp(2 * logs)
    d = 1 / (1 + 2 * square[:, None] * variances)
    weight = np.exp(0.5 * (counts * np.log(d)).sum(1) - square * (d @ mean**2) + logs) * (logs[1] - logs[0])
    return 2 / math.sqrt(math.pi) * float(weight @ (d @ (direction * mean)))
