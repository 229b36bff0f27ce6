"""All states of binary units, numbered: unit j is bit j of a state's number."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def binary_digits(indices: Tensor, first: int, width: int) -> Tensor:
    """Some binary digits of numbers.

    Args:
        indices: whole numbers, [indices].
        first: the number of the first digit; 0 is the lowest.
        width: how many digits.

    Returns:
        The digits, lowest first, [indices, width].

    Examples:
        >>> binary_digits(torch.tensor([6]), first=0, width=4).tolist()
        [[0, 1, 1, 0]]
    """
    return (indices[:, None] >> torch.arange(first, first + width, device=indices.device)) & 1


def all_digits(width: int, like: Tensor) -> Float[Tensor, "states units"]:
    """s of every state of a layer.

    Args:
        width: its number of units.
        like: has the precision and the device.

    Returns:
        0 or 1 of every unit, [2^width, width]; unit j is bit j of a state's number.
    """
    return binary_digits(torch.arange(2**width, device=like.device), 0, width).to(like.dtype)


def joint_probabilities(p: Float[Tensor, "*rows units"]) -> Float[Tensor, "*rows states"]:
    """The probability of every state of independent units.

    Args:
        p: P(sⱼ = 1), [..., units].

    Returns:
        Πⱼ P(sⱼ) of every state, [..., 2^units].

    Examples:
        >>> joint_probabilities(torch.tensor([0.5, 0.0]))
        tensor([0.5000, 0.5000, 0.0000, 0.0000])
    """
    chances = torch.ones_like(p[..., :1])
    for chance in p.split(1, -1):
        chances = torch.cat([chances * (1 - chance), chances * chance], -1)
    return chances
