"""The oracle: enumerate all joint states s = (s¹..s^L), J = mean over points of Σₛ Πₖ P(sᵏ|xᵏ⁻¹) f(x^L)."""

from __future__ import annotations

import torch
from torch import Tensor

from gradeval.model.problem import Problem


def joint_value_and_gradient(problem: Problem, memory: int = 2**28) -> tuple[Tensor, list[Tensor]]:
    """J and its gradient by 2^(n₁+…+n_L) terms.

    Args:
        problem: network, data and loss.
        memory: bytes that a chunk of states may take, about.

    Returns:
        J, and its gradient for every trainable parameter, in their order.
    """
    network, loss = problem.network, problem.loss_function()
    parameters = list(network.trainable().values())
    widths = problem.widths
    per_state = 16 * problem.points * sum(widths) * network.dtype.itemsize
    states = 2 ** sum(widths)
    value, gradient = (
        torch.zeros((), dtype=network.dtype, device=network.device),
        [torch.zeros_like(p) for p in parameters],
    )
    for indices in torch.arange(states, device=network.device).split(max(1, memory // per_state)):
        x, weight = problem.inputs, torch.ones_like(value)
        first = 0
        for layer, width in zip(network.layers, widths, strict=True):
            p = layer.probability(layer.preactivation(x))  # [points, units], from layer 2 on [states, points, units]
            s = binary_digits(indices, first, width).to(p)[:, None, :]
            weight = weight * torch.where(s > 0.5, p, 1 - p).prod(-1)
            x = layer.encode(s).expand(-1, problem.points, -1)
            first += width
        part = (weight * loss(x)).sum() / problem.points
        value += part.detach()
        for total, piece in zip(gradient, torch.autograd.grad(part, parameters, allow_unused=True), strict=True):
            if piece is not None:
                total += piece
    return value, gradient


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
