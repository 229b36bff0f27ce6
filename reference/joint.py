"""The oracle: enumerate all joint states s = (s¹..s^L), J = mean over points of Σₛ Πₖ P(sᵏ|xᵏ⁻¹) f(x^L)."""

from __future__ import annotations

import torch
from torch import Tensor

from gradeval.model.problem import Problem


def joint_value_and_gradient(problem: Problem, memory: int = 2**28) -> tuple[Tensor, list[Tensor]]:
    """J and its gradient for every parameter by 2^(n₁+…+n_L) terms, in chunks that hold about ``memory`` bytes."""
    network, loss = problem.network, problem.loss_function()
    parameters = [p for p in network.parameters() if p.requires_grad]
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
    """Bits first..first+width−1 of every index, [indices, width]."""
    return (indices[:, None] >> torch.arange(first, first + width, device=indices.device)) & 1
