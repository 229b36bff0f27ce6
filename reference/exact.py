"""J and ∇J exactly, by the method that is predicted to be fastest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gradeval.model.problem import Problem
from gradeval.progress import Progress, Silent
from gradeval.reference.cost import check_affordable, predicted_cost
from gradeval.reference.joint import joint_value_and_gradient
from gradeval.reference.layerwise import layerwise_value_and_gradient, plain_values

# Progress is told of anything predicted to take longer.
PATIENCE = 2.0  # seconds
TASK_NAME = "exact gradient"


@dataclass(frozen=True)
class ExactGradient:
    """J and ∇J.

    Attributes:
        value: J = mean over points of E[f(x^L)].
        gradient: ∂J/∂θ by parameter name.
        slices: where each layer's parameters ("1".."L", "head", "all") lie in `vector`.
    """

    value: float
    gradient: dict[str, Tensor]
    slices: dict[str, slice]

    @property
    def vector(self) -> Tensor:
        """All of ∇J, flattened in the order of the parameters, [P]."""
        return torch.cat([g.flatten() for g in self.gradient.values()])

    def by_layer(self) -> dict[str, Tensor]:
        """∇J of each layer ("1".."L", "head", "all"): weight then bias, flattened."""
        return {name: self.vector[where] for name, where in self.slices.items()}


def exact_gradient(
    problem: Problem,
    method: str = "auto",
    *,
    memory: int = 2**32,
    seconds: float = 3600.0,
    progress: Progress | None = None,
) -> ExactGradient:
    """J and its gradient, by enumeration of all binary states.

    Args:
        problem: network, data and loss. Parameters that do not require a gradient get zeros.
        method: "layerwise" (Σₖ 2^(nₖ₋₁+nₖ) terms by matrix products), "plain" (the same terms one by one, for small
            nets), "joint" (2^(n₁+…+n_L) terms: the oracle), or "auto", the one predicted to be fastest.
        memory: bytes that may be used beyond the problem's own; many distinct targets are taken in turn to keep to it.
        seconds: refuse what is predicted to take longer.
        progress: told of the multiply–adds that are done, where over two seconds are predicted.

    Returns:
        J and its gradient.

    Raises:
        GradevalError: too many states for the limits (the message names the layers), or an unknown method.

    Examples:
        >>> from gradeval import load_problem
        >>> problem = load_problem("expclass", units="2-3", stage=0, points=4)
        >>> fast, oracle = exact_gradient(problem), exact_gradient(problem, "joint")
        >>> torch.allclose(fast.vector, oracle.vector, rtol=1e-12)
        True
    """
    cost = predicted_cost(problem, method)
    check_affordable(problem, cost, memory, seconds)
    parameters = [p for p in problem.network.parameters() if p.requires_grad]
    if cost.method == "joint":
        value, found = joint_value_and_gradient(problem)
    elif cost.method == "plain":
        value = plain_values(problem).mean()
        found = list(torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True))
    else:
        at_once = 1 + (memory - cost.bytes) // cost.bytes_per_target
        told = progress if progress and cost.seconds > PATIENCE else Silent()
        told.start(TASK_NAME, cost.multiply_adds)
        value, found = layerwise_value_and_gradient(problem, at_once, partial(told.advance, TASK_NAME))
        told.finish(TASK_NAME)
    by_parameter = dict(zip(parameters, found, strict=True))
    gradient = {
        name: by_parameter.get(p, torch.zeros_like(p)).detach() for name, p in problem.network.named_parameters()
    }
    return ExactGradient(value.item(), gradient, problem.network.layer_slices())
