"""J and ∇J exactly, by the method that is predicted to be fastest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.analysis.run.sampled import SampledReference
from gradeval.arguments import real, whole
from gradeval.errors import GradevalError
from gradeval.given import GivenProblem, given_problem
from gradeval.model.precision import in_precision
from gradeval.model.problem import Problem
from gradeval.progress import Advance, Progress, foretell
from gradeval.reference.cost import Cost, check_affordable, predicted_cost
from gradeval.reference.joint import joint_value_and_gradient
from gradeval.reference.layerwise import layerwise_value_and_gradient, layerwise_values, plain_values
from gradeval.reference.transform import transform_value_and_gradient, transform_values
from gradeval.sampling.streaming import LARGEST_GRADIENT
from gradeval.threads import threads_for

# Progress is reported of what is predicted to take more seconds.
PATIENCE = 2.0
EXACT_TASK = "exact gradient"


@dataclass(frozen=True)
class ExactGradient:
    """J and ∇J.

    Attributes:
        value: J = mean over points of E[f(x^L)].
        gradient: ∂J/∂θ by the name of every trainable parameter, each with the parameter's shape.
        slices: where each layer's parameters lie in ``vector``.
        method: how it was made.
        error: a bound of the norm of ∇J's error by layer, proven for the method "transform"
            (`gradeval.reference.transform_error`); empty for enumeration, which is exact to rounding. For the method
            "sampled" the standard error.
        sampled: for the method "sampled", what is known of its error (`gradeval.reference.sampled`).
    """

    value: float
    gradient: dict[str, Tensor]
    slices: dict[str, slice]
    method: str = "layerwise"
    error: dict[str, float] = field(default_factory=dict)
    sampled: SampledReference | None = None

    @property
    def vector(self) -> Tensor:
        """All of ∇J, flattened in the order of the parameters, [P]."""
        return torch.cat([g.flatten() for g in self.gradient.values()])

    def check_size(self) -> None:
        """Refuse a gradient, or a value, that statistics of draws could not be compared with.

        Raises:
            GradevalError: an entry is so large that they would overflow.
        """
        largest = max(abs(self.value), float(self.vector.abs().max()))
        if largest > LARGEST_GRADIENT:
            raise GradevalError(
                f"the exact gradient, or J, has entries of {largest:.0e}, beyond {LARGEST_GRADIENT:.0e}: scale the "
                "problem's weights, states or targets down."
            )

    def by_layer(self) -> dict[str, Tensor]:
        """∇J of each layer, weight then bias, flattened.

        Returns:
            A vector for "1" … "L", "head" and "all".
        """
        return {name: self.vector[where] for name, where in self.slices.items()}


def exact_gradient(
    problem: GivenProblem,
    method: str = "auto",
    *,
    memory: int = 2**32,
    seconds: float = 3600.0,
    progress: Progress | None = None,
    precision: str = "double",
) -> ExactGradient:
    """J and its gradient, by enumeration of all binary states, or of those of all layers but the last.

    Small work is done on one thread, large work on as many as torch has; of the methods "layerwise", "joint" and
    "transform" no number depends on how many these are.

    Args:
        problem: network, data and loss, or the name or file of a problem. Parameters that do not require a gradient are
            left out.
        method: "layerwise" (Σₖ 2^(nₖ₋₁+nₖ) terms by matrix products), "plain" (the same terms one by one, for small
            nets), "joint" (2^(n₁+…+n_L) terms: the oracle), "transform" (a last layer of any width, for losses that are
            sums over outputs: logistic, bernoulli, squared, cross-entropy of two classes; an affine head), or "auto",
            the one predicted to be fastest.
        memory: bytes that may be used beyond the problem's own; many distinct targets are taken in turn to keep to it.
        seconds: refuse what is predicted to take longer.
        progress: gets the task "exact gradient", in percent, where a method other than "plain" and "joint" is
            predicted to take over two seconds. By default nothing is reported.
        precision: "double", whatever the network's, or "network" for its own.

    Returns:
        J and ∇J.

    Raises:
        GradevalError: too many states for the limits (the message names the layers), an unknown method, or numbers that
            overflow.

    Examples:
        >>> from gradeval import load_problem
        >>> exact = exact_gradient(load_problem("expclass", units="2-2", stage=0, points=4))
        >>> round(exact.value, 6), list(exact.by_layer()), exact.vector.shape
        (0.775876, ['1', '2', 'head', 'all'], torch.Size([15]))
    """
    problem = in_precision(given_problem(problem), precision)
    memory, seconds = whole("memory", memory), real("seconds", seconds)
    cost = predicted_cost(problem, method)
    check_affordable(problem, cost, memory, seconds)
    foretell(progress, lambda: {EXACT_TASK: cost.seconds})
    value, found, errors = _by_method(problem, cost, memory, progress if cost.seconds > PATIENCE else None)
    gradient = {name: g.detach() for name, g in zip(problem.network.trainable(), found, strict=True)}
    if not (math.isfinite(value.item()) and all(bool(torch.isfinite(g).all()) for g in gradient.values())):
        raise GradevalError(
            "the exact gradient, or J, is infinite or NaN: the problem's weights, states or targets are too large."
        )
    return ExactGradient(value.item(), gradient, problem.network.layer_slices(), cost.method, errors())


def _by_method(
    problem: Problem, cost: Cost, memory: int, progress: Progress | None
) -> tuple[Tensor, list[Tensor], Callable[[], dict[str, float]]]:
    """J, its gradient, and a function that gives bounds of the gradient's error."""
    parameters = list(problem.network.trainable().values())
    errors: Callable[[], dict[str, float]] = dict
    if cost.method == "joint":
        value, found = joint_value_and_gradient(problem)
    elif cost.method == "plain":
        with threads_for(cost.multiply_adds):
            value = plain_values(problem).mean()
            found = list(torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True))
    elif cost.method == "transform":
        with _percent(progress, cost) as advance:
            value, found, errors = transform_value_and_gradient(problem, advance)
    else:
        at_once = 1 + (memory - cost.bytes) // cost.bytes_per_target
        with _percent(progress, cost) as advance:
            value, found = layerwise_value_and_gradient(problem, at_once, advance)
    return value, found, errors


def exact_values(problem: Problem) -> Float[Tensor, " points"]:
    """E[f(x^L)] for every data point, by layerwise enumeration or by transform, whichever is predicted to be faster.

    Args:
        problem: network, data and loss. It is computed in its own precision, and no limit is looked at.

    Returns:
        The expectations, [points], once differentiable in the network's parameters. Their mean is J.

    Examples:
        >>> from gradeval import load_problem
        >>> exact_values(load_problem("expclass", units="2-2", stage=0, points=4)).shape
        torch.Size([4])
    """
    return transform_values(problem) if predicted_cost(problem).method == "transform" else layerwise_values(problem)


@contextmanager
def _percent(progress: Progress | None, cost: Cost, task: str = EXACT_TASK) -> Iterator[Advance]:
    """Report a task in percent; yields the callback that takes multiply–adds."""
    if progress is None:
        yield lambda multiply_adds: None
        return
    done = percent = 0

    def advance(multiply_adds: int) -> None:
        nonlocal done, percent
        done += multiply_adds
        before, percent = percent, min(100, 100 * done // cost.multiply_adds)
        if percent > before:
            progress.advance(task, percent - before)

    progress.start(task, 100)
    yield advance
    progress.finish(task)
