"""Layerwise enumeration: V^L = f, Vᵏ⁻¹(xᵏ⁻¹) = Σ_{xᵏ} P(xᵏ | xᵏ⁻¹) Vᵏ(xᵏ), J = mean V⁰(x⁰).

Every table Vᵏ with k ≥ 1 depends on a data point through its target only, so points with equal targets share it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.network import BinaryLayer
from gradeval.problem import Problem
from gradeval.reference.joint import binary_digits


def layerwise_values(problem: Problem) -> Float[Tensor, " points"]:
    """E[f(x^L)] for every data point, differentiable, by Σₖ 2^(nₖ₋₁+nₖ) terms."""
    network = problem.network
    targets, which = torch.unique(problem.targets, dim=0, return_inverse=True)
    states = [_all_states(layer, width) for layer, width in zip(network.layers, problem.widths, strict=True)]
    x = states[-1][:, None, :].expand(-1, len(targets), -1)
    table = problem.loss_function(targets=targets)(x)  # [states, targets]
    for layer, below in zip(reversed(network.layers[1:]), reversed(states[:-1]), strict=True):
        table = state_probabilities(layer.probability(layer.preactivation(below))) @ table
    first = network.layers[0]
    chances = state_probabilities(first.probability(first.preactivation(problem.inputs)))
    return (chances * table.T[which]).sum(-1)


def state_probabilities(p: Float[Tensor, "rows units"]) -> Float[Tensor, "rows states"]:
    """Πⱼ P(sⱼ) for every state s of independent units with P(sⱼ = 1) = pⱼ; unit j is bit j of the state's number."""
    product = torch.ones_like(p[:, :1])
    for unit in p.unbind(-1):
        product = torch.cat((product * (1 - unit[:, None]), product * unit[:, None]), -1)
    return product


def _all_states(layer: BinaryLayer, width: int) -> Float[Tensor, "states units"]:
    parameter = next(layer.parameters())
    return layer.encode(binary_digits(torch.arange(2**width, device=parameter.device), 0, width).to(parameter.dtype))
