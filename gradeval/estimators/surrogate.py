"""What the estimators' formulas share."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

PointLoss = Callable[[Tensor], Tensor]
"""x_L ↦ f(x_L): [..., points, units] -> [..., points]."""


def carry(t: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """Zero in value, with the gradient of ``t``."""
    return t - t.detach()
