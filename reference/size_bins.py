"""Sizes of gradients in bins: how probable the states are that have about the same one."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

BINS, RATIO, SMALLEST = 640, 1.25, 1e-32  # of sizes: each is RATIO times the one before, from SMALLEST on
LEVELS = 48  # of the probability of a state: each is half the one before


def histogram(
    sizes: Float[Tensor, " n"], weights: Float[Tensor, " n"], levels: Float[Tensor, " n"]
) -> Float[Tensor, "bins 3"]:
    """Sums over states of about the same size and probability.

    Args:
        sizes: of the gradient in each state.
        weights: how much the state counts.
        levels: −log₂ of the state's probability; `LEVELS` or more where it counts as rare.

    Returns:
        The sums of weight, weight × size and weight × size² of every bin.

    Examples:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> histogram(2 * one, 0.5 * one, one).sum(0).tolist()
        [0.5, 1.0, 2.0]
    """
    bins = (torch.log(sizes.clamp(min=SMALLEST) / SMALLEST) / math.log(RATIO)).long().clamp(0, BINS - 1)
    bins = bins * LEVELS + levels.clamp(0, LEVELS - 1).long()
    columns = (weights, weights * sizes, weights * sizes**2)
    return torch.stack([torch.bincount(bins, column, BINS * LEVELS) for column in columns], -1)


def rounded_up(sizes: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The upper ends of the bins that sizes are in, where the largest of a bin matter as much as their mean.

    Args:
        sizes: any.

    Returns:
        Sizes that are larger by up to a quarter.

    Examples:
        >>> [round(size, 3) for size in rounded_up(torch.tensor([1.0, 1.1, 1.2], dtype=torch.float64)).tolist()]
        [1.195, 1.195, 1.493]
    """
    steps = torch.floor(torch.log(sizes.clamp(min=SMALLEST) / SMALLEST) / math.log(RATIO)) + 1
    return SMALLEST * RATIO ** (steps - 1e-6)  # just below, so that rounding leaves them in their bin


def cells_of(sums: Float[Tensor, "layers bins 3"]) -> np.ndarray:
    """The bins that are not empty, as `RareStates` has them.

    Args:
        sums: by layer, as of `histogram`.

    Returns:
        The largest sizes first: layer, least probability of a state, and the three sums, [cells, 5].

    Examples:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> cells_of(histogram(2 * one, 0.5 * one, one)[None]).tolist()
        [[0.0, 0.25, 0.5, 1.0, 2.0]]
    """
    layers, bins = sums[..., 0].nonzero(as_tuple=True)
    layers, bins = layers.flip(0), bins.flip(0)
    levels = bins % LEVELS
    least = torch.where(levels < LEVELS - 1, 0.5 ** (levels + 1.0), 0.0)
    return torch.cat([layers[:, None], least[:, None], sums[layers, bins]], 1).numpy()
