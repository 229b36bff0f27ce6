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
from torch import Tensor, nn

from gradeval.errors import GradevalError
from gradeval.model.affine import affine_form
from gradeval.model.elbo import NegativeElbo
from gradeval.model.losses import Loss, bernoulli, cross_entropy, logistic, squared
from gradeval.model.problem import Problem
from gradeval.model.randomness import generator
from gradeval.progress import Advance
from gradeval.reference.characteristic import sum_of_cosines
from gradeval.reference.layerwise import layerwise_value_and_gradient, layerwise_values
from gradeval.reference.series import Series
from gradeval.reference.transform_error import Used, error_bounds
from gradeval.threads import Crew, one_thread


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
    constants: Callable[[Tensor], Tensor]
    contrast: bool = False


def _none(targets: Tensor) -> Tensor:
    return targets.new_zeros(len(targets))


SEPARABLE: dict[Loss, Separable] = {
    logistic: Separable(False, lambda y: -y[:, None] / 2, _none),
    bernoulli: Separable(False, lambda y: 0.5 - y, _none),
    cross_entropy: Separable(False, lambda y: 0.5 - y[:, None], _none, contrast=True),
    squared: Separable(True, lambda y: -2 * y, lambda y: (y**2).sum(1)),
}
"""The losses that the transform knows."""


def _separable(loss: Loss | None) -> Separable | None:
    """What is known of a loss; one of the user's own may have no hash."""
    return next((separable for known, separable in SEPARABLE.items() if known is loss), None)


@dataclass(frozen=True)
class LastLayer:
    """The outputs z as affine functions of the last layer's states s ∈ {0, 1}.

    Attributes:
        weight: w, [outputs, units], in double precision, differentiable in the head's parameters.
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
        (head, output_loss), layer, like = _head_and_loss(problem), problem.network.layers[-1], problem.inputs
        unit = torch.eye(problem.widths[-1], dtype=problem.network.dtype, device=like.device)
        z = head(layer.encode(torch.cat([torch.zeros_like(unit[:1]), unit]))).double()
        loss = _separable(output_loss)
        assert loss is not None
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
        p = p.double()  # in single precision, the series would be no more exact than a sample
        mean = self.offset + p @ self.weight.mT
        square = mean**2 + (p * (1 - p)) @ (self.weight**2).mT
        if self.loss.square:
            return square.sum(1), mean, None
        series = Series.of(self.weight, self.offset, mean.detach().abs().amax(0))
        cosines = sum_of_cosines(p, self.weight, self.offset, series, (crew, advance))
        return (math.log(2) + square / (4 * series.half_period)).sum(1) + cosines, mean, series


def why_not(problem: Problem) -> str:
    """Why the transform does not apply to a problem.

    Args:
        problem: network, data and loss.

    Returns:
        The reason; empty where it applies.
    """
    (head, output_loss), units = _head_and_loss(problem), problem.widths[-1]
    loss = _separable(output_loss)
    if loss is None:
        known = "'logistic', 'bernoulli', 'squared' or 'cross-entropy' of two classes"
        return f"the loss is not {known}, nor the negative ELBO"
    if affine_form(head, units, problem.inputs) is None:
        return "the head is not affine by structure"
    if loss.contrast:
        with torch.no_grad():
            classes = head(problem.inputs.new_full((1, units), problem.network.layers[-1].lo)).shape[-1]
        return "" if classes == 2 else f"the loss is the cross-entropy of {classes} classes, and two are needed"
    return ""


class _Transform:
    """The last layer of a problem, expected for rows of the layer below."""

    def __init__(self, problem: Problem, advance: Advance = lambda done: None) -> None:
        self.problem, self.advance = problem, advance
        self.last, self.layer = LastLayer.of(problem), problem.network.layers[-1]
        self.crew = Crew(problem.network.device)
        self.used: Used | None = None

    def expectations(self, x: Tensor) -> tuple[Float[Tensor, " rows"], Float[Tensor, "rows outputs"]]:
        """Σₒ E h(zₒ) and E zₒ."""
        p = self.layer.probability(self.layer.preactivation(x))
        even, mean, series = self.last.expectations(p, self.crew, self.advance)
        weight, offset, head = self.last.weight.detach(), self.last.offset.detach(), _head_and_loss(self.problem)[0]
        self.used = Used(weight, offset, series, x.detach(), self.last.loss.contrast, head)
        return even, mean

    def table(self, x: Tensor, targets: Tensor) -> Float[Tensor, "targets states"]:
        """V of all states of the layer below."""
        (even, mean), targets = self.expectations(x), targets.double()
        found = even + self.last.loss.slopes(targets) @ mean.mT + self.last.loss.constants(targets)[:, None]
        return found.to(x.dtype)

    def values(self) -> Float[Tensor, " points"]:
        """E f for every point of a network of one layer."""
        (even, mean), targets = self.expectations(self.problem.inputs), self.problem.targets.double()
        odd = (self.last.loss.slopes(targets) * mean).sum(1) + self.last.loss.constants(targets)
        return even + odd + _constant(self.problem)


def transform_values(problem: Problem) -> Float[Tensor, " points"]:
    """E f(x^L) for every data point, with the last layer by transform and those below by enumeration.

    Args:
        problem: network, data and loss.

    Returns:
        The expectations, [points], differentiable in the network's parameters.

    Raises:
        GradevalError: the transform does not apply.
    """
    transform = _Transform(problem)
    with transform.crew.at_work():
        return transform.values() if len(problem.widths) == 1 else layerwise_values(problem, transform.table)


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
    transform, parameters = _Transform(problem, advance), list(problem.network.trainable().values())
    with transform.crew.at_work(), torch.enable_grad():
        if len(problem.widths) == 1:
            value = transform.values().mean()
            gradient = list(torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True))
        else:
            value, gradient = layerwise_value_and_gradient(problem, problem.points, lambda done: None, transform.table)
    used = transform.used
    assert used is not None
    return value, gradient, lambda: error_bounds(problem, used)


def output_terms(problem: Problem) -> tuple[int, int]:
    """How many outputs there are, and how many cosines, about.

    Args:
        problem: that the transform applies to.

    Returns:
        Both numbers; of squares no cosines.
    """
    with one_thread(), torch.no_grad():
        return _output_terms(problem)


def _output_terms(problem: Problem) -> tuple[int, int]:
    last, layer, x = LastLayer.of(problem), problem.network.layers[-1], problem.inputs
    if last.loss.square:
        return len(last.offset), 0
    if len(problem.widths) > 1:  # some states of the layer below
        chance = torch.rand(64, problem.widths[-2], generator=generator(x.device, "transform"), dtype=x.dtype)
        x = problem.network.layers[-2].encode((chance.to(x.device) < 0.5).to(x.dtype))
    mean = last.offset + layer.probability(layer.preactivation(x)).double() @ last.weight.mT
    return len(last.offset), len(Series.of(last.weight, last.offset, mean.abs().amax(0)).output)


def _head_and_loss(problem: Problem) -> tuple[nn.Module, Loss | None]:
    """What makes the outputs, and the loss of these; None where it is an objective."""
    if isinstance(problem.loss, NegativeElbo):
        return problem.network.head.get_submodule("map"), bernoulli
    return problem.network.head, problem.output_loss


def _constant(problem: Problem) -> Tensor:
    """What the loss has beside that of the outputs: the negative ELBO's divergence, whose expectation is exact."""
    if isinstance(problem.loss, NegativeElbo):
        return problem.loss.divergence(problem.network, problem.inputs)
    return problem.inputs.new_zeros(())
