"""The matrix M of an affine map between layers, dense or as the windows of a convolution, and sums over all flips.

Flipping input i of the map adds a multiple of column i of M to its outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

CHUNK_ENTRIES = 2**20  # the direct form works on this many pairs at once

Terms = Callable[..., Tensor]
"""(aⱼ with a flip, aⱼ, further tensors like a …) ↦ a term that vanishes where the flip does not change aⱼ."""


@dataclass(frozen=True, eq=False)
class Dense:
    """A matrix M.

    Attributes:
        weight: M, [units, inputs].
    """

    weight: Float[Tensor, "units inputs"]

    @property
    def pairs(self) -> int:
        """How many (input, unit) pairs may have Mⱼᵢ ≠ 0."""
        return self.weight.numel()

    def forward(self, x: Float[Tensor, "*batch inputs"], weight: Tensor | None = None) -> Float[Tensor, "*batch units"]:
        """M x.

        Args:
            x: [..., inputs].
            weight: taken in the place of M's own.

        Returns:
            The product, [..., units].
        """
        return x @ (self.weight if weight is None else weight).mT

    def transposed(
        self, g: Float[Tensor, "*batch units"], weight: Tensor | None = None
    ) -> Float[Tensor, "*batch inputs"]:
        """Mᵀ g.

        Args:
            g: [..., units].
            weight: taken in the place of M's own.

        Returns:
            The product, [..., inputs].
        """
        return g @ (self.weight if weight is None else weight)

    def sum_flips(
        self, change: Float[Tensor, "*batch inputs"], terms: Terms, *values: Float[Tensor, "*batch units"]
    ) -> Float[Tensor, "*batch inputs"]:
        """Σⱼ terms(aⱼ + changeᵢ Mⱼᵢ, aⱼ, …) for every input i.

        Args:
            change: what a flip adds to each input, [..., inputs].
            terms: elementwise; zero where a flip does not change aⱼ.
            values: a, then what else ``terms`` takes, each [..., units].

        Returns:
            The sums, [..., inputs].
        """
        values = tuple(value[..., None, :] for value in values)
        rows = max(1, CHUNK_ENTRIES // max(1, values[0].numel()))
        parts = []
        for part, weight in zip(change.split(rows, -1), self.weight.mT.split(rows), strict=True):
            parts.append(terms(torch.addcmul(values[0], part[..., None], weight), *values).sum(-1))
        return torch.cat(parts, -1)


@dataclass(frozen=True, eq=False)
class Windows:
    """The matrix M of a convolution with zero padding, on flat states.

    Attributes:
        weight: the kernels, [channels, inputs' channels, height, width].
        stride: by height and width.
        padding: by height and width.
        image: channels, height and width of the input.
        channelwise: channel c of the output sees channel c of the input only; the weight is [channels, 1, …].
    """

    weight: Float[Tensor, "channels _ height width"]
    stride: tuple[int, int]
    padding: tuple[int, int]
    image: tuple[int, int, int]
    channelwise: bool

    @property
    def output(self) -> tuple[int, int, int]:
        """Channels, height and width of the output."""
        height, width = (
            (size + 2 * p - k) // s + 1
            for size, p, k, s in zip(self.image[1:], self.padding, self.weight.shape[2:], self.stride, strict=True)
        )
        return len(self.weight), height, width

    @property
    def pairs(self) -> int:
        """How many (input, unit) pairs may have Mⱼᵢ ≠ 0."""
        return self.weight.numel() * math.prod(self.output[1:])

    @property
    def _groups(self) -> int:
        return self.image[0] if self.channelwise else 1

    def forward(self, x: Float[Tensor, "*batch inputs"], weight: Tensor | None = None) -> Float[Tensor, "*batch units"]:
        """M x.

        Args:
            x: [..., inputs].
            weight: taken in the place of M's own.

        Returns:
            The product, [..., units].
        """
        weight = self.weight if weight is None else weight
        y = functional.conv2d(x.reshape(-1, *self.image), weight, None, self.stride, self.padding, 1, self._groups)
        return y.reshape(*x.shape[:-1], -1)

    def transposed(
        self, g: Float[Tensor, "*batch units"], weight: Tensor | None = None
    ) -> Float[Tensor, "*batch inputs"]:
        """Mᵀ g.

        Args:
            g: [..., units].
            weight: taken in the place of M's own.

        Returns:
            The product, [..., inputs].
        """
        sizes = zip(self.image[1:], self.padding, self.weight.shape[2:], self.output[1:], self.stride, strict=True)
        unseen = [full + 2 * p - k - (n - 1) * s for full, p, k, n, s in sizes]  # beyond the last window
        weight = self.weight if weight is None else weight
        images = g.reshape(-1, *self.output)
        back = functional.conv_transpose2d(images, weight, None, self.stride, self.padding, unseen, self._groups)
        return back.reshape(*g.shape[:-1], -1)

    def sum_flips(
        self, change: Float[Tensor, "*batch inputs"], terms: Terms, *values: Float[Tensor, "*batch units"]
    ) -> Float[Tensor, "*batch inputs"]:
        """Σⱼ terms(aⱼ + changeᵢ Mⱼᵢ, aⱼ, …) for every input i.

        Args:
            change: what a flip adds to each input, [..., inputs].
            terms: elementwise; zero where a flip does not change aⱼ.
            values: a, then what else ``terms`` takes, each [..., units].

        Returns:
            The sums, [..., inputs].
        """
        (_, height, width), (py, px), (sy, sx) = self.output, self.padding, self.stride
        values = tuple(value.reshape(-1, 1, *self.output) for value in values)
        padded = functional.pad(change.reshape(-1, *self.image), (px, px, py, py))
        total = torch.zeros_like(padded)
        for ky in range(self.weight.shape[2]):
            for kx in range(self.weight.shape[3]):
                rows, columns = slice(ky, ky + sy * (height - 1) + 1, sy), slice(kx, kx + sx * (width - 1) + 1, sx)
                # every output meets one input of each channel at this place of its window: [N, inputs' channels, …]
                found = self._at(padded[..., rows, columns], self.weight[:, :, ky, kx], terms, values)
                spread = functional.pad(found[..., :, None, :, None], (0, sx - 1, 0, 0, 0, sy - 1))
                spread = spread.reshape(*found.shape[:-2], height * sy, width * sx)
                below, right = padded.shape[-2] - ky - height * sy, padded.shape[-1] - kx - width * sx
                total = total + functional.pad(spread, (kx, right, ky, below))
        inside = total[..., py : py + self.image[1], px : px + self.image[2]]
        return inside.reshape(*change.shape[:-1], -1)

    def _at(self, part: Tensor, weight: Tensor, terms: Terms, values: tuple[Tensor, ...]) -> Tensor:
        if self.channelwise:
            values = tuple(value.squeeze(1) for value in values)
            return terms(torch.addcmul(values[0], part, weight[..., None]), *values)
        rows = max(1, CHUNK_ENTRIES // max(1, values[0].numel()))
        parts = []
        for some, column in zip(part.split(rows, 1), weight.mT.split(rows), strict=True):
            flipped = torch.addcmul(values[0], some[:, :, None], column[:, :, None, None])
            parts.append(terms(flipped, *values).sum(2))
        return torch.cat(parts, 1)


Form = Dense | Windows
"""The matrix M of an affine map."""
