"""J and ∇J exactly, by the method that is predicted to be fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from gradeval.model.problem import Problem
from gradeval.reference.cost import Cost, check_affordable, predicted_cost
from gradeval.reference.joint import joint_value_and_gradient
from gradeval.reference.layerwise import layerwise_value_and_gradient, plain_values

# A progress bar is shown for anything predicted to take longer.
PATIENCE = 2.0


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


def exact_gradient(
    problem: Problem, method: str = "auto", *, memory: int = 2**32, seconds: float = 3600.0, progress: bool = True
) -> ExactGradient:
    """J and its gradient, by enumeration of all binary states.

    Args:
        problem: network, data and loss. Parameters that do not require a gradient get zeros.
        method: "layerwise" (Σₖ 2^(nₖ₋₁+nₖ) terms by matrix products), "plain" (the same terms one by one, for small
            nets), "joint" (2^(n₁+…+n_L) terms: the oracle), or "auto", the one predicted to be fastest.
        memory: bytes that may be used beyond the problem's own; many distinct targets are taken in turn to keep to it.
        seconds: refuse what is predicted to take longer.
        progress: show a progress bar on stderr for anything predicted to take over two seconds.

    Raises:
        GradevalError: too many states for the limits (the message names the layers), or an unknown method.
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
        with _bar(cost, progress and cost.seconds > PATIENCE) as advance:
            value, found = layerwise_value_and_gradient(problem, at_once, advance)
    by_parameter = dict(zip(parameters, found, strict=True))
    gradient = {
        name: by_parameter.get(p, torch.zeros_like(p)).detach() for name, p in problem.network.named_parameters()
    }
    return ExactGradient(value.item(), gradient, problem.network.layer_slices())


@contextmanager
def _bar(cost: Cost, shown: bool) -> Iterator[Callable[[int], None]]:
    """A bar of multiply–adds on stderr; yields the function that moves it."""
    if not shown:
        yield lambda multiply_adds: None
        return
    from rich.console import Console  # loaded only where a bar is shown
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("exact gradient"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=cost.multiply_adds)
        yield lambda multiply_adds: bar.advance(task, multiply_adds)
