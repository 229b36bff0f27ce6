"""What is known of a reference that was sampled: its error, layer by layer, and the norm of the gradient behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from gradeval.analysis.ratios import ratio_interval
from gradeval.analysis.run.rare import RareStates
from gradeval.analysis.statistics import Array, Interval

NUMBERS, FORMS = 4, 4  # of each layer
_Z = 1.959963984540054  # standard normal quantile of a two-sided 95 % interval


@dataclass(frozen=True)
class SampledReference:
    """r̄, the mean of m independent draws of an unbiased estimator, in place of g*; C = Σ_r/m is its covariance.

    Attributes:
        estimator: the spec of what was drawn.
        draws: m.
        mean: r̄, [P].
        slices: where each of the K layers lies in it.
        numbers: by layer, tr C; tr C²; uᵀCu for u = r̄/‖r̄‖; and the size of a draw's error that matters,
            √(E‖r − g*‖⁴/E‖r − g*‖²), [K, 4].
        covariance: C, [P, P]; None where there are too many parameters for it.
        blocks: in its place, means over blocks of equally many draws, less r̄, in single precision, [B, P].
        block_draws: how many draws a block has; 0 where there are none.
        rare: what states too rare to be drawn could contribute; None where that of any estimator counts.
    """

    estimator: str
    draws: int
    mean: Array
    slices: Mapping[str, slice]
    numbers: Array
    covariance: Array | None = None
    blocks: Array | None = None
    block_draws: int = 0
    rare: RareStates | None = None

    def trace(self, layer: str) -> float:
        """tr C of one layer, the expected squared error of r̄.

        Args:
            layer: its name.

        Returns:
            The trace.
        """
        return float(self._of(layer)[0])

    def draw_size(self, layer: str) -> float:
        """The size of a draw's error that matters in one layer, as in `bias_test`.

        Args:
            layer: its name.

        Returns:
            √(E‖r − g*‖⁴/E‖r − g*‖²).
        """
        return float(self._of(layer)[3])

    def along(self, layer: str) -> float:
        """uᵀCu of one layer, the variance of r̄ along its own direction.

        Args:
            layer: its name.

        Returns:
            The variance.
        """
        return float(self._of(layer)[2])

    def of_layer(self, layer: str) -> Array:
        """C of one layer.

        Args:
            layer: its name.

        Returns:
            A square matrix.

        Raises:
            ValueError: there are too many parameters for it.
        """
        if self.covariance is None:
            raise ValueError("at this size no covariance of the reference is kept")
        return self.covariance[self.slices[layer], self.slices[layer]]

    def norm(self, layer: str) -> Interval:
        """‖g*‖ of one layer with an interval.

        ‖r̄‖² is too large by tr C on average. ‖r̄‖² − tr C is the mean of ⟨rᵢ, rⱼ⟩ over all pairs of different draws,
        which is unbiased, with variance 4 g*ᵀCg* + 2 tr C²: the mean over all ways to split the draws in two
        independent halves of the inner product of their means.

        Args:
            layer: its name.

        Returns:
            The norm; zero where nothing of it is left.
        """
        trace, square, along, _ = self._of(layer)
        found = float(self.mean[self.slices[layer]] @ self.mean[self.slices[layer]]) - trace
        error = _Z * math.sqrt(4 * max(found, 0.0) * along + 2 * square)
        ends = Interval(found, found - error, found + error)
        return ends.map(lambda v: math.sqrt(max(float(v), 0.0)))

    def measured(self, layer: str) -> bool:
        """Whether ‖g*‖ of a layer is told from zero; else nothing relative to it is known.

        Args:
            layer: its name.

        Returns:
            Whether the interval of the norm is above zero.
        """
        return self.norm(layer).low > 0

    def relative_error(self, layer: str) -> float:
        """√(tr C)/‖g*‖, the relative standard error of one layer.

        Args:
            layer: its name.

        Returns:
            The error; 0 where nothing varies, infinite where the norm is not told from zero.
        """
        trace = self.trace(layer)
        if trace == 0:
            return 0.0
        return math.sqrt(trace) / self.norm(layer).estimate if self.measured(layer) else math.inf

    def attenuation(self, layer: str) -> float:
        """By what a cosine with r̄ is to be multiplied to be that with g*, on average and to second order in the error.

        A cosine with r̄ is smaller on average by (tr C − uᵀCu)/2‖g*‖², as r̄ is beside g*.

        Args:
            layer: its name.

        Returns:
            A number above 1; 1 where the norm is not known.
        """
        square = self.norm(layer).estimate ** 2
        return 1 + max(0.0, self.trace(layer) - self.along(layer)) / (2 * square) if square > 0 else 1.0

    def without_blocks(self) -> SampledReference:
        """What tables are made from: all but the means of blocks."""
        return replace(self, blocks=None)

    def _of(self, layer: str) -> Array:
        found: Array = self.numbers[list(self.slices).index(layer)]
        return found


@dataclass(frozen=True)
class SecondSample:
    """What the error of a sampled reference does to one estimator's figures.

    Attributes:
        reference: r̄ and its error.
        forms: by layer, b̂ᵀCb̂ and b̂ᵀCr̄ for b̂ the mean of g − r̄; and vᵀCv and vᵀCr̄ for v the part of the mean of
            g/‖g‖ that is beside r̄, [K, 4].
    """

    reference: SampledReference
    forms: Array

    def quadratic(self, layer: str, bias: float, mean: float) -> float:
        """vᵀCv for v = ``bias`` · b̂ + ``mean`` · r̄ in one layer: the variance of ⟨v, r̄⟩.

        Args:
            layer: its name.
            bias, mean: how much of each v has.

        Returns:
            The variance.
        """
        own = float(np.sum(self.reference.mean[self.reference.slices[layer]] ** 2)) * self.reference.along(layer)
        first, second = self.forms[list(self.reference.slices).index(layer)][:2]
        return max(0.0, float(bias**2 * first + 2 * bias * mean * second + mean**2 * own))

    def shared(self, layer: str) -> float:
        """b̂ᵀCr̄ of one layer.

        Args:
            layer: its name.

        Returns:
            Minus the covariance of ‖b̂‖ and ‖r̄‖ times both.
        """
        return float(self.forms[list(self.reference.slices).index(layer), 1])

    def relative(self, layer: str, length: Interval, size: float) -> Interval:
        """A length over ‖g*‖, where both have the error of r̄ in common.

        Args:
            layer: its name.
            length: ‖b‖ or a root-mean-square error of which ‖b‖² is a part.
            size: its estimate, above zero where the two vary together.

        Returns:
            See `ratio_interval`.
        """
        norm = self.reference.norm(layer)
        products = size * norm.estimate
        return ratio_interval(length, norm, -self.shared(layer) / products if products > 0 else 0.0)

    def scale(self, layer: str, bias: Array) -> float:
        """⟨E g, g*⟩/‖g*‖², estimated by ⟨ḡ, r̄⟩, which is unbiased, over the estimated ‖g*‖².

        Args:
            layer: its name; its norm is known.
            bias: the mean of g − r̄ there.

        Returns:
            The scale.
        """
        target = self.reference.mean[self.reference.slices[layer]]
        return float(target @ (bias + target)) / self.reference.norm(layer).estimate ** 2

    def scale_error(self, layer: str, scale: float) -> float:
        """What the error of r̄ adds to that of ⟨E g, g*⟩/‖g*‖²: √(vᵀCv)/‖g*‖², v = E g − 2 · scale · g*.

        Args:
            layer: its name; its norm is known.
            scale: as estimated.

        Returns:
            A standard error.
        """
        return math.sqrt(self.quadratic(layer, 1.0, 1 - 2 * scale)) / self.reference.norm(layer).estimate ** 2

    def true_cosine(self, layer: str, cosine: float) -> float:
        """The mean cosine of one draw with g*, from that with r̄, to second order in the error of r̄.

        With v the part of E[g/‖g‖] beside g*, the mean over all r̄ is cos · (1 − (tr C − uᵀCu)/2‖g*‖²) − vᵀCu/‖g*‖².

        Args:
            layer: its name; its norm is known.
            cosine: the mean cosine with r̄.

        Returns:
            The corrected one.
        """
        target, norm = self.reference.mean[self.reference.slices[layer]], self.reference.norm(layer).estimate
        moved = float(self.forms[list(self.reference.slices).index(layer), 3]) / float(np.linalg.norm(target))
        return self.reference.attenuation(layer) * cosine + moved / norm**2

    def cosine_error(self, layer: str, cosine: float) -> float:
        """What the error of r̄ adds to that of the mean cosine of one draw.

        With v the part of E[g/‖g‖] beside g*, its square is vᵀCv/‖g*‖² and, with C beside g* alone,
        cos² · tr C²/2‖g*‖⁴, which is what is left where all draws point along g*.

        Args:
            layer: its name; its norm is known.
            cosine: the mean cosine.

        Returns:
            A standard error.
        """
        k, norm = list(self.reference.slices).index(layer), self.reference.norm(layer).estimate
        square = max(0.0, float(self.reference.numbers[k, 1]) - self.reference.along(layer) ** 2)
        curved = abs(cosine) * math.sqrt(square / 2) / norm**2
        return math.hypot(math.sqrt(max(0.0, float(self.forms[k, 2]))) / norm, curved)

    def cosine_error_of_mean(self, layer: str, cosine: float, scale: float) -> float:
        """As `cosine_error`, of means of some draws: the larger of that of one draw and that of very many.

        Of many the mean direction is that of E g.

        Args:
            layer: its name; its norm is known.
            cosine: the mean cosine.
            scale: as of `scale_error`.

        Returns:
            A standard error.
        """
        norm = self.reference.norm(layer).estimate
        most = math.sqrt(max(0.0, 1 - cosine**2) * self.reference.trace(layer)) / norm
        beside = abs(cosine) * math.sqrt(self.quadratic(layer, 1.0, 1 - scale)) / norm**2
        return max(self.cosine_error(layer, cosine), min(most, beside / abs(scale)) if scale else most)
