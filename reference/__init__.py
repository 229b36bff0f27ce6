"""The ground truth: exact gradients by enumerating all binary states."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from gradeval.errors import GradevalError
from gradeval.problem import Problem
from gradeval.reference.differences import finite_differences
from gradeval.reference.joint import joint_value_and_gradient
from gradeval.reference.layerwise import layerwise_values
from gradeval.reference.moments import MAX_BITS, ExactMoments, count_chance, exact_moments

__all__ = [
    "MAX_BITS",
    "ExactGradient",
    "ExactMoments",
    "count_chance",
    "exact_gradient",
    "exact_moments",
    "finite_differences",
    "layerwise_values",
]

MAX_LOG2_JOINT = 22
MAX_LOG2_PAIR = 24


@dataclass(frozen=True)
class ExactGradient:
    """J and ∇J.

    Attributes:
        value: J = mean over points of E[f(x^L)].
        gradient: ∂J/∂θ by parameter name.
    """

    value: float
    gradient: dict[str, Tensor]
    slices: dict[str, slice]

    @property
    def vector(self) -> Tensor:
        """All of ∇J, flattened in the order of the parameters."""
        return torch.cat([g.flatten() for g in self.gradient.values()])

    def by_layer(self) -> dict[str, Tensor]:
        """∇J of each layer ("1".."L", "head", "all"): weight then bias, flattened."""
        return {name: self.vector[where] for name, where in self.slices.items()}


def exact_gradient(problem: Problem, method: str = "auto") -> ExactGradient:
    """J and its gradient, by enumeration of all binary states.

    Args:
        problem: network, data and loss.
        method: "layerwise" (Σₖ 2^(nₖ₋₁+nₖ) terms), "joint" (2^(n₁+…+n_L) terms), or "auto" (layerwise).

    Raises:
        GradevalError: too many states to enumerate, or an unknown method.
    """
    names = [name for name, _ in problem.network.named_parameters()]
    parameters = list(problem.network.parameters())
    widths = problem.widths
    if method == "joint":
        _check_size(sum(widths), MAX_LOG2_JOINT, "joint enumeration of " + "-".join(map(str, widths)))
        value, gradient = joint_value_and_gradient(problem)
    elif method in ("auto", "layerwise"):
        pairs = list(itertools.pairwise(widths)) or [(0, widths[0])]
        wide = max(pairs, key=sum)
        _check_size(max(sum(wide), widths[0]), MAX_LOG2_PAIR, f"layers of {wide[0]} and {wide[1]} units in sequence")
        value = layerwise_values(problem).mean()
        found = torch.autograd.grad(value, parameters, allow_unused=True)
        gradient = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
    else:
        raise GradevalError(f"unknown method '{method}': use 'auto', 'layerwise' or 'joint'.")
    return ExactGradient(value.item(), dict(zip(names, gradient, strict=True)), problem.network.layer_slices())


def _check_size(log2_states: int, limit: int, what: str) -> None:
    if log2_states > limit:
        raise GradevalError(
            f"{what} needs 2^{log2_states} = {2.0**log2_states:.3g} states; the limit is 2^{limit}. Use fewer units."
        )
