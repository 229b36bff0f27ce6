"""The oracle: enumerate all joint states s = (s¹..s^L), J = mean over points of Σₛ Πₖ P(sᵏ|xᵏ⁻¹) f(x^L)."""

from __future__ import annotations

import threading

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradeval.model.problem import Problem, own_copy
from gradeval.model.states import binary_digits
from gradeval.threads import Crew


def joint_value_and_gradient(problem: Problem, memory: int = 2**25) -> tuple[Tensor, list[Tensor]]:
    """J and its gradient by 2^(n₁+…+n_L) terms.

    Args:
        problem: network, data and loss.
        memory: bytes that a chunk of states may take, about; there is one for each thread.

    Returns:
        J, and its gradient for every trainable parameter, in their order.
    """
    network, widths = problem.network, problem.widths
    states, factors = 2 ** sum(widths), problem.points * sum(widths)
    gradient = [torch.zeros_like(p) for p in network.trainable().values()]
    value = torch.zeros((), dtype=network.dtype, device=network.device)
    own, crew = threading.local(), Crew(network.device)

    def sums(indices: Tensor) -> tuple[Tensor, list[Tensor]]:
        if not hasattr(own, "problem"):  # this thread's: it computes beside others
            own.problem = own_copy(problem)
        with torch.enable_grad():
            part = _sum_over(own.problem, indices)
            parameters = list(own.problem.network.trainable().values())
            return part.detach(), list(torch.autograd.grad(part, parameters, allow_unused=True, materialize_grads=True))

    chunks = torch.arange(states, device=network.device).split(
        max(1, memory // (16 * factors * network.dtype.itemsize))
    )
    with crew.at_work():
        for part, pieces in crew.in_order(sums, chunks, states * factors):
            value += part
            for total, piece in zip(gradient, pieces, strict=True):
                total += piece
    return value, gradient


def _sum_over(problem: Problem, indices: Int[Tensor, " states"]) -> Float[Tensor, ""]:
    """The terms of some joint states, by their numbers."""
    x, weight, first = problem.inputs, torch.ones((), dtype=problem.network.dtype, device=indices.device), 0
    for layer, width in zip(problem.network.layers, problem.widths, strict=True):
        p = layer.probability(layer.preactivation(x))  # [points, units], from layer 2 on [states, points, units]
        s = binary_digits(indices, first, width).to(p)[:, None, :]
        weight = weight * torch.where(s > 0.5, p, 1 - p).prod(-1)
        x = layer.encode(s).expand(-1, problem.points, -1)
        first += width
    return (weight * problem.loss_function()(x)).sum() / problem.points
