"""The streamed moments of one estimator, and the one place that knows how they are laid out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gradeval.analysis.run.sampled import SecondSample
from gradeval.analysis.statistics import Array


@dataclass(frozen=True)
class Layout:
    """How the numbers of one draw, [g − g*, squared errors, cosines, deviations, value], are laid out in a vector.

    With P parameters and K named layers ("1".."L", "head", "all") the vector has D = P + 3K + 1 entries.

    Args:
        parameters: P.
        slices: where each layer's parameters lie among the P.

    Examples:
        >>> layout = Layout(5, {"1": slice(0, 3), "head": slice(3, 5), "all": slice(0, 5)})
        >>> layout.size, layout.square("head"), layout.cosine("head")
        (15, 6, 9)
    """

    parameters: int
    slices: Mapping[str, slice]

    @property
    def layers(self) -> list[str]:
        """Names of the K layers."""
        return list(self.slices)

    @property
    def size(self) -> int:
        """D."""
        return self.parameters + 3 * len(self.slices) + 1

    @property
    def scores(self) -> slice:
        """Where the squared errors and the cosines of all layers lie."""
        return slice(self.parameters, self.parameters + 2 * len(self.slices))

    @property
    def squares(self) -> slice:
        """Where the squared errors of all layers lie."""
        return slice(self.parameters, self.parameters + len(self.slices))

    def square(self, layer: str) -> int:
        """The place of ‖g − g*‖² of one layer.

        Args:
            layer: its name.

        Returns:
            Its index in the vector.
        """
        return self.parameters + self.number(layer)

    def cosine(self, layer: str) -> int:
        """The place of cos(g, g*) of one layer.

        Args:
            layer: its name.

        Returns:
            Its index in the vector.
        """
        return self.parameters + len(self.slices) + self.number(layer)

    def deviation(self, layer: str) -> int:
        """The place of the squared deviation of a draw from its mean in one layer.

        Args:
            layer: its name.

        Returns:
            Its index in the vector.
        """
        return self.parameters + 2 * len(self.slices) + self.number(layer)

    def number(self, layer: str) -> int:
        """The place of a layer among the K.

        Args:
            layer: its name.

        Returns:
            Its index among the layers.
        """
        return self.layers.index(layer)


@dataclass(frozen=True)
class BlockProducts:
    """What stands in place of a covariance where there are many parameters: inner products of means of blocks of draws.

    Attributes:
        products: by layer, of the means of g − g* over successive blocks of equally many draws, then of the mean of all
            draws, then of g*, [K, blocks + 2, blocks + 2].
        deviations: means over the same blocks of the squared deviations of a draw, [blocks, K].
        draws: in each block, [1].
    """

    products: Array
    deviations: Array
    draws: Array

    @property
    def blocks(self) -> int:
        """Their number."""
        return len(self.deviations)

    def without_blocks(self) -> BlockProducts:
        """Of an estimator whose draws are all the same, what does not depend on how often it was drawn."""
        return BlockProducts(self.products[:, -2:, -2:], self.deviations[:0], self.draws)

    def of_layer(self, number: int) -> Array:
        """The products of one layer.

        Args:
            number: of the layer.

        Returns:
            Of the blocks and the mean of all draws, [blocks + 1, blocks + 1].
        """
        return self.products[number, :-1, :-1]

    def across(self, number: int) -> Array:
        """The products of one layer, of what is orthogonal to g*.

        Args:
            number: of the layer; its g* is not zero.

        Returns:
            As `of_layer`.
        """
        inner = self.products[number, :-1, -1]
        return self.of_layer(number) - np.outer(inner, inner) / self.products[number, -1, -1]


@dataclass(frozen=True)
class Moments:
    """First two moments of one estimator's draws, jointly for [g − g*, squared errors, cosines, deviations, value].

    The deviation of a draw has the mean tr Σ. Where the N data points of a draw are independent it is
    N⁻² Σᵢ ‖gᵢ − E gᵢ‖², whose own variance is far below that of ‖g − E g‖²; else it is the latter.
    At size, with too many parameters for a covariance, it is of all but g − g*, and every layer's ⟨g − g*, g*⟩ follows.

    Attributes:
        layout, draws: where these lie, [D]; and the number n of draws.
        mean: [D]; at size [D + K].
        covariance: unbiased, of single draws, [D, D]; zero for a deterministic estimator; at size [4K + 1, 4K + 1].
        descents: number of draws with ⟨g, g*⟩ > 0, [K].
        thirds: third moments of [squared errors, cosines, deviations, ⟨g, g*⟩] about the means of chunks, [4K].
        blocks: means over blocks of equally many draws of what `mean_square` and tr Σ are means of, [blocks, 2K]. Two
            estimators of a run have common random numbers in the same block.
        deterministic: whether all draws are the same by construction.
        products: at size, inner products of means of blocks of draws.
        second: where g* was sampled, what is known of the error of the mean r̄ that stands in its place.
    """

    layout: Layout
    draws: int
    mean: Array
    covariance: Array
    descents: Array
    thirds: Array
    blocks: Array
    deterministic: bool
    products: BlockProducts | None = None
    second: SecondSample | None = None

    @property
    def at_size(self) -> bool:
        """Whether there are too many parameters for a covariance of all of them."""
        return self.products is not None

    @property
    def mean_error(self) -> Array:
        """The mean of g − g*, [P]."""
        return self.mean[: self.layout.parameters]

    def bias(self, layer: str) -> Array:
        """The mean of g − g* in one layer.

        Args:
            layer: its name.

        Returns:
            One number for each of the layer's parameters.
        """
        return self.mean[self.layout.slices[layer]]

    def spread(self, layer: str) -> Array:
        """The covariance of g in one layer.

        Args:
            layer: its name.

        Returns:
            A square matrix.

        Raises:
            ValueError: at size there is none.
        """
        if self.at_size:
            raise ValueError("at this size no covariance of the gradient is kept")
        where = self.layout.slices[layer]
        return self.covariance[where, where]

    def square(self, layer: str) -> tuple[float, float]:
        """Mean and variance of ‖g − g*‖² in one layer.

        Args:
            layer: its name.

        Returns:
            Mean and variance over single draws.
        """
        return self._of(self.layout.square(layer))

    def cosine(self, layer: str) -> tuple[float, float]:
        """Mean and variance of cos(g, g*) in one layer.

        Args:
            layer: its name.

        Returns:
            Mean and variance over single draws.
        """
        return self._of(self.layout.cosine(layer))

    def inner(self, layer: str) -> tuple[float, float]:
        """At size, mean and variance of ⟨g − g*, g*⟩ in one layer.

        Args:
            layer: its name.

        Returns:
            Mean and variance over single draws.
        """
        return self._of(self.layout.size + self.layout.number(layer))

    def deviation(self, layer: str) -> tuple[float, float]:
        """Mean and variance of the squared deviation in one layer; the mean estimates tr Σ.

        Args:
            layer: its name.

        Returns:
            Mean and variance over single draws.
        """
        return self._of(self.layout.deviation(layer))

    def third(self, layer: str) -> Array:
        """Third moments of ‖g − g*‖², cos(g, g*), the deviation and ⟨g, g*⟩ in one layer, [4].

        Args:
            layer: its name.

        Returns:
            The four moments, about the means of chunks.
        """
        return self.thirds[self.layout.number(layer) :: len(self.layout.slices)]

    def descent(self, layer: str) -> int:
        """The number of draws with ⟨g, g*⟩ > 0 in one layer.

        Args:
            layer: its name.

        Returns:
            The number.
        """
        return int(self.descents[self.layout.number(layer)])

    def blocks_of(self, layer: str) -> Array:
        """Means over blocks of draws of the squared error's parts, bias² + variance, and of the variance, [blocks, 2].

        Args:
            layer: its name.

        Returns:
            The means, in the order of the draws.
        """
        k = self.layout.number(layer)
        return self.blocks[:, [k, len(self.layout.slices) + k]]

    def _of(self, place: int) -> tuple[float, float]:
        row = place - len(self.mean) + len(self.covariance)
        return self.mean[place], self.covariance[row, row]


def covariance_with_deviation(moments: Moments, layer: str, direction: Array) -> float:
    """The covariance of a draw's component in a direction and of its squared deviation in one layer.

    Args:
        moments: of one estimator.
        layer: its name.
        direction: one number for each of the layer's parameters; at size it must be g*.

    Returns:
        Cov(⟨g, direction⟩, deviation) over single draws.
    """
    layout, place = moments.layout, moments.layout.deviation(layer)
    if moments.at_size:
        unkept = len(moments.mean) - len(moments.covariance)
        return float(moments.covariance[layout.size + layout.number(layer) - unkept, place - unkept])
    return float(direction @ moments.covariance[layout.slices[layer], place])


def correlation_along(moments: Moments, layer: str, target: Array) -> float:
    """The correlation of ⟨g, g*⟩ and of the squared deviation in one layer.

    Args:
        moments: of one estimator.
        layer: its name.
        target: g* of the layer.

    Returns:
        From −1 to 1; zero where either does not vary.
    """
    inner = moments.inner(layer)[1] if moments.at_size else float(target @ moments.spread(layer) @ target)
    product = math.sqrt(max(0.0, inner)) * math.sqrt(max(0.0, moments.deviation(layer)[1]))
    return min(1.0, max(-1.0, covariance_with_deviation(moments, layer, target) / product)) if product > 0 else 0.0
