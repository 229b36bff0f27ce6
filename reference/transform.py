"""The last layer without enumeration: losses that are sums over outputs of a function of one affine form.

f = Σₒ h(zₒ) + rₒ zₒ + constant, zₒ = bₒ + Σⱼ wₒⱼ sⱼ, with h(z) = log(2 cosh(z/2)) (logistic loss, Bernoulli
cross-entropy, cross-entropy of two classes) or h(z) = z², and r and a constant, which alone depend on the target. Given
the layer below, the sⱼ are independent with P(sⱼ = 1) = pⱼ; then E zₒ = bₒ + Σ wₒⱼpⱼ,
E zₒ² = (E zₒ)² + Σ wₒⱼ² pⱼ(1 − pⱼ), and E h is a sum of cosines (`gradeval.reference.series`), each with an expectation
in closed form (`gradeval.reference.characteristic`). Only p enters: the noise, the map and the states' values may be
any. Layers below the last are enumerated as ever.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.errors import GradevalError
from gradeval.model.affine import affine_form
from gradeval.model.losses import bernoulli, cross_entropy, get_loss, logistic, squared
from gradeval.model.problem import Problem
from gradeval.model.randomness import generator
from gradeval.progress import Advance
from gradeval.reference.characteristic import SumOfCosines
from gradeval.reference.layerwise import layerwise_value_and_gradient
from gradeval.reference.series import Series
from gradeval.reference.transform_error import Used, error_bounds
from gradeval.threads import Crew


@dataclass(frozen=True)
class Separable:
    """A loss as Σₒ h(zₒ) + rₒ zₒ + constant.

    Attributes:
        square: whether h(z) = z²; else it is log(2 cosh(z/2)).
        slopes: r of each target, [points, outputs].
        constants: of each target, [points].
        contrast: whether the one z is the second output minus the first; else z are the outputs.
    """

    square: bool
    slopes: Callable[[Tensor], Tensor]
    constants: Callable[[Tensor], Tensor] = lambda y: y.new_zeros(len(y))
    contrast: bool = False


SEPARABLE = {
    logistic: Separable(False, lambda y: -y[:, None] / 2),
    bernoulli: Separable(False, lambda y: 0.5 - y),
    cross_entropy: Separable(False, lambda y: 0.5 - y[:, None], contrast=True),
    squared: Separable(True, lambda y: -2 * y, lambda y: (y**2).sum(1)),
}
"""The losses that the transform knows."""


@dataclass(frozen=True)
class LastLayer:
    """The outputs z as affine functions of the last layer's states s ∈ {0, 1}.

    Attributes:
        weight: w, [outputs, units], differentiable in the head's parameters.
        offset: b, [outputs].
        loss: what z goes into.
    """

    weight: Float[Tensor, "outputs units"]
    offset: Float[Tensor, " outputs"]
    loss: Separable

    @classmethod
    def of(cls, problem: Problem) -> LastLayer:
        """The last layer of a problem, seen from its head.

        Args:
            problem: network, data and loss.

        Returns:
            The affine form.

        Raises:
            GradevalError: the transform does not apply; the message says why.
        """
        reason = why_not(problem)
        if reason:
            raise GradevalError(f"method 'transform' does not apply: {reason}.")
        layer, units, like = problem.network.layers[-1], problem.widths[-1], problem.inputs
        unit = torch.eye(units, dtype=problem.network.dtype, device=like.device)
        z = problem.network.head(layer.encode(torch.cat([torch.zeros_like(unit[:1]), unit])))
        loss = SEPARABLE[_loss_of(problem)]
        if loss.contrast:
            z = z[:, 1:] - z[:, :1]
        return cls((z[1:] - z[0]).mT.contiguous(), z[0], loss)

    def expectations(
        self, p: Float[Tensor, "rows units"], crew: Crew, advance: Advance
    ) -> tuple[Float[Tensor, " rows"], Float[Tensor, "rows outputs"], Series | None]:
        """What the expected loss is made of.

        Args:
            p: P(s = 1) of every unit.
            crew: shares the work.
            advance: told the factors that are multiplied.

        Returns:
            Σₒ E h(zₒ), E zₒ, and the series that was used for h; None where h is a square.
        """
        mean = self.offset + p @ self.weight.mT
        square = mean**2 + (p * (1 - p)) @ (self.weight**2).mT
        if self.loss.square:
            return square.sum(1), mean, None
        series = Series.of(self.weight, self.offset, mean.detach().abs().amax(0))
        cosines = SumOfCosines.apply(p, self.weight, self.offset, series, (crew, advance))
        return (math.log(2) + square / (4 * series.half_period)).sum(1) + cosines, mean, series


def why_not(problem: Problem) -> str:
    """Why the transform does not apply to a problem.

    Args:
        problem: network, data and loss.

    Returns:
        The reason; empty where it applies.
    """
    units, loss = problem.widths[-1], _loss_of(problem)
    if loss not in SEPARABLE:
        return "the loss is not 'logistic', 'bernoulli', 'squared' or 'cross-entropy' of two classes"
    if affine_form(problem.network.head, units, problem.inputs) is None:
        return "the head is not affine by structure"
    if SEPARABLE[loss].contrast and _outputs(problem) != 2:
        return f"the loss is the cross-entropy of {_outputs(problem)} classes, and two are needed"
    return ""


def transform_value_and_gradient(
    problem: Problem, advance: Advance
) -> tuple[Tensor, list[Tensor], Callable[[], dict[str, float]]]:
    """J and its gradient with the last layer by transform and those below by enumeration.

    Args:
        problem: network, data and loss.
        advance: a callback for progress; it is given the factors that are multiplied.

    Returns:
        J, its gradient for every trainable parameter, in their order, and a function that gives bounds of the
        gradient's error by layer.

    Raises:
        GradevalError: the transform does not apply.
    """
    last, layer = LastLayer.of(problem), problem.network.layers[-1]
    crew, found = Crew(problem.network.device), list[tuple[Tensor, Series | None]]()

    def expectations(x: Tensor) -> tuple[Tensor, Tensor]:
        even, mean, series = last.expectations(layer.probability(layer.preactivation(x)), crew, advance)
        found.append((x.detach(), series))
        return even, mean

    def table(x: Tensor, targets: Tensor) -> Tensor:
        even, mean = expectations(x)
        return even + last.loss.slopes(targets) @ mean.mT + last.loss.constants(targets)[:, None]

    parameters = list(problem.network.trainable().values())
    with crew.at_work(), torch.enable_grad():
        if len(problem.network.layers) == 1:
            even, mean = expectations(problem.inputs)
            odd = (last.loss.slopes(problem.targets) * mean).sum(1) + last.loss.constants(problem.targets)
            value = (even + odd).mean()
            gradient = list(torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True))
        else:
            value, gradient = layerwise_value_and_gradient(problem, problem.points, lambda done: None, table)
    below, series = found[0]
    used = Used(last.weight.detach(), last.offset.detach(), series, below, last.loss.contrast)
    return value, gradient, lambda: error_bounds(problem, used)


def output_terms(problem: Problem) -> tuple[int, int]:
    """How many outputs there are, and how many cosines, about.

    Args:
        problem: that the transform applies to.

    Returns:
        Both numbers; of squares no cosines.
    """
    last, layer = LastLayer.of(problem), problem.network.layers[-1]
    if last.loss.square:
        return len(last.offset), 0
    x = problem.inputs
    if len(problem.widths) > 1:  # some states of the layer below
        chance = torch.rand(64, problem.widths[-2], generator=generator(x.device, "transform"), dtype=x.dtype)
        x = problem.network.layers[-2].encode((chance.to(x.device) < 0.5).to(x.dtype))
    with torch.no_grad():
        mean = last.offset + layer.probability(layer.preactivation(x)) @ last.weight.mT
        return len(last.offset), len(Series.of(last.weight, last.offset, mean.abs().amax(0)).output)


def _loss_of(problem: Problem) -> object:
    return get_loss(problem.loss) if isinstance(problem.loss, str) else problem.loss


def _outputs(problem: Problem) -> int:
    x = problem.inputs.new_full((1, problem.widths[-1]), problem.network.layers[-1].lo)
    with torch.no_grad():
        return int(problem.network.head(x).shape[-1])
