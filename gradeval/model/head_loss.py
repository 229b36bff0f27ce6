"""The loss of a problem as a function of the last layer's states: the head, the output loss and the targets in one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradeval.model.affine import affine_form
from gradeval.model.forms import Dense
from gradeval.model.losses import Loss
from gradeval.model.network import BinaryLayer
from gradeval.torch_private import inside_transform

FLIP_ENTRIES = 2**22  # the most outputs of flips that are kept at once

PointLoss = Callable[[Tensor], Tensor]
"""x_L ↦ f(x_L): [..., points, units] -> [..., points]."""


@runtime_checkable
class FlippableLoss(Protocol):
    """A `PointLoss` with a cheap way to evaluate it at all flips of one unit; see `HeadLoss.flipped`."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def flipped(self, layer: BinaryLayer, s: Tensor) -> Tensor:
        """f with every unit of the last layer flipped in turn.

        Args:
            layer: the last layer.
            s: its states, 0 or 1, [..., points, units].

        Returns:
            f, [units, ..., points].
        """
        raise NotImplementedError


@dataclass(frozen=True)
class HeadLoss:
    """f(x_L) = loss(head(x_L), targets), one number per data point.

    Args:
        head: from [..., points, units] to [..., points, outputs].
        loss: (output, target) -> [..., points].
        targets: [points] or [points, outputs], one for each point of the states.
    """

    head: nn.Module
    loss: Loss
    targets: Tensor

    def __call__(self, x: Float[Tensor, "*batch points units"]) -> Float[Tensor, "*batch points"]:
        return self.loss(self.head(x), self.targets)

    def flipped(
        self, layer: BinaryLayer, s: Float[Tensor, "*batch points units"]
    ) -> Float[Tensor, "units *batch points"]:
        """f with every unit of the last layer flipped in turn.

        Of an affine head, a flip adds a column of its matrix to its outputs; any other head is evaluated for every
        flip. Where all outputs would take much memory they are made in parts, and again for the gradient.

        Args:
            layer: the last layer.
            s: its states, 0 or 1, [..., points, units].

        Returns:
            f, [units, ..., points].
        """
        x, units = layer.encode(s), s.shape[-1]
        form = affine_form(self.head, units, x)
        if isinstance(form, Dense):
            output = self.head(x)
            # outputs first and contiguous: there are few, and the loss works on long rows
            outputs = output.reshape(-1, output.shape[-1]).mT.contiguous()[:, None, :]
            change, columns = (layer.encode(1 - s) - x).reshape(-1, units).mT.contiguous(), form.weight[:, :, None]

            def part(start: int, stop: int) -> Tensor:
                flipped = torch.addcmul(outputs, columns[:, start:stop], change[start:stop])
                return self.loss(flipped.movedim(0, -1).reshape(-1, *output.shape), self.targets)

            size = output.numel()
        else:
            identity = torch.eye(units, dtype=s.dtype, device=s.device)

            def part(start: int, stop: int) -> Tensor:
                unit = identity[start:stop].reshape(-1, *[1] * (s.ndim - 1), units)
                return self(layer.encode(s + unit * (1 - 2 * s)))

            size = s.numel()
        at_once = max(1, FLIP_ENTRIES // max(1, size))
        if at_once >= units or inside_transform():  # which do not take checkpoints
            return part(0, units)
        starts = range(0, units, at_once)
        return torch.cat([checkpoint(part, i, i + at_once, use_reentrant=False) for i in starts])
