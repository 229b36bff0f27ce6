"""Parts that the formulas of several estimators share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.errors import GradevalError
from gradeval.model.head_loss import FlippableLoss, PointLoss
from gradeval.model.network import BinaryLayer, StochasticBinaryNetwork
from gradeval.model.randomness import Randomness


def carry(t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Zero in value, with the gradient of a tensor.

    Args:
        t: any shape.

    Returns:
        t − t.detach().

    Examples:
        >>> t = torch.tensor(3.0, requires_grad=True)
        >>> value = 5.0 * carry(t**2)
        >>> value.item(), torch.autograd.grad(value, t)[0].item()
        (0.0, 30.0)
    """
    return t - t.detach()


def flipped_losses(
    loss: PointLoss, layer: BinaryLayer, s: Float[Tensor, "*batch points units"]
) -> Float[Tensor, "units *batch points"]:
    """f with every unit of the last layer flipped in turn; all at once where the loss has a cheap form.

    Args:
        loss: f of the last layer's states.
        layer: the last layer.
        s: its states, 0 or 1, [..., points, units].

    Returns:
        f, [units, ..., points].
    """
    if isinstance(loss, FlippableLoss):
        return loss.flipped(layer, s)
    return loss(layer.encode(layer.flip(s)))


class Step(NamedTuple):
    """One layer of a sampled path.

    Attributes:
        layer: the layer.
        x: its input, [..., points, inputs].
        a: its preactivations, [..., points, units].
        p: its probabilities F(a).
        s: its states, 0 or 1.
    """

    layer: BinaryLayer
    x: Tensor
    a: Tensor
    p: Tensor
    s: Tensor


def sample_path(network: StochasticBinaryNetwork, inputs: Tensor, randomness: Randomness) -> tuple[list[Step], Tensor]:
    """Sample the states of all layers.

    Args:
        network: the network.
        inputs: x⁰, [..., points, inputs].
        randomness: where the states come from.

    Returns:
        One step for each layer, and the last layer's x, [..., points, units].
    """
    x, steps = inputs, []
    for layer in network.layers:
        a = layer.preactivation(x)
        p = layer.probability(a)
        s = randomness.bernoulli(p)
        steps.append(Step(layer, x, a, p, s))
        x = layer.encode(s)
    return steps, x


def continue_path(layers: Iterable[BinaryLayer], x: Tensor, randomness: Randomness) -> Tensor:
    """Sample the states of some layers, each given those of the layer below.

    Args:
        layers: in their order.
        x: the input of the first of them, [..., points, inputs].
        randomness: where the states come from.

    Returns:
        The last one's x, [..., points, units]; the input where there are no layers.
    """
    for layer in layers:
        x = layer.encode(randomness.bernoulli(layer.probability(layer.preactivation(x))))
    return x


def one_unit(like: Float[Tensor, "*batch units"], randomness: Randomness) -> Float[Tensor, "*batch units"]:
    """Choose one unit at random, each with the same probability.

    Unit i = 1, 2, … of n is taken with probability 1/(n + 1 − i) unless one before it was: n − 1 Bernoulli variables,
    so that all choices can be enumerated.

    Args:
        like: has the shape, the precision and the device.
        randomness: where the choice comes from.

    Returns:
        1 at the unit and 0 at the others.

    Examples:
        >>> from gradeval.model.randomness import RandomDraws, generator
        >>> one_unit(torch.zeros(3, 4), RandomDraws(generator("cpu", "an example"))).sum(-1)
        tensor([1., 1., 1.])
    """
    chances = 1 / torch.arange(like.shape[-1], 1, -1, dtype=like.dtype, device=like.device)
    return first_taken(randomness.bernoulli(chances.expand(*like.shape[:-1], -1)))


def first_taken(taken: Float[Tensor, "*batch others"]) -> Float[Tensor, "*batch units"]:
    """The first unit that is taken; the last one where none before it is.

    Args:
        taken: 1 or 0 of every unit but the last, [..., units − 1].

    Returns:
        1 at that unit and 0 at the others, [..., units].

    Examples:
        >>> first_taken(torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))
        tensor([[0., 1., 0., 0.],
                [0., 0., 0., 1.]])
    """
    one = torch.ones_like(taken.sum(-1, keepdim=True))
    return torch.cat([taken, one], -1) * torch.cat([one, (1 - taken).cumprod(-1)], -1)


def mean_field(layers: Iterable[BinaryLayer], x: Tensor) -> Tensor:
    """As `continue_path`, with every state replaced by its mean lo + (hi − lo) F(a).

    Args:
        layers: in their order.
        x: the input of the first of them, [..., points, inputs].

    Returns:
        The last one's means, [..., points, units].
    """
    for layer in layers:
        x = layer.encode(layer.probability(layer.preactivation(x)))
    return x


def noise_given_state(layer: BinaryLayer, a: Tensor, s: Tensor, v: Tensor) -> Tensor:
    """Sample the injected noise z given the state s = 1[a ≥ z].

    Given s = 1 it is F⁻¹(v F(a)); given s = 0 it is −F⁻¹(v F(−a)), by the symmetry of F, exact in the upper tail.

    Args:
        layer: whose noise it is.
        a: preactivations, [..., units].
        s: states, 0 or 1, [..., units].
        v: uniform on (0, 1), [..., units].

    Returns:
        z, differentiable in a.
    """
    sign = 2 * s - 1
    return sign * layer.noise.icdf(v * layer.probability(sign * a))


def check_samples(name: str, samples: int, least: int) -> None:
    """Refuse too few samples.

    Args:
        name: of the estimator, for the message.
        samples: K.
        least: the fewest it takes.

    Raises:
        GradevalError: K is below it.
    """
    if samples < least:
        raise GradevalError(f"{name}: samples must be at least {least}, found {samples}.")


def check_temperature(name: str, temperature: float) -> None:
    """Refuse a temperature that is not positive.

    Args:
        name: of the estimator, for the message.
        temperature: τ.

    Raises:
        GradevalError: it is not positive.
    """
    if not temperature > 0:
        raise GradevalError(f"{name}: temperature must be positive, found {temperature}.")


def leave_one_out(f: Float[Tensor, "samples *rest"]) -> Float[Tensor, "samples *rest"]:
    """The difference of each sample from the mean of the others.

    Args:
        f: at least two samples, along the first axis.

    Returns:
        fᵢ − mean_{j≠i} fⱼ, in the shape of f.

    Examples:
        >>> leave_one_out(torch.tensor([1.0, 2.0, 6.0]))
        tensor([-3.0000, -1.5000,  4.5000])
    """
    samples = f.shape[0]
    return (f - f.mean(0)) * (samples / (samples - 1))


def linearise(function: PointLoss, x: Tensor) -> tuple[Tensor, Tensor]:
    """The values of a function and its gradient, as constants: no parameter gets a gradient.

    Args:
        function: from [..., points, units] to [..., points], each point alone.
        x: where, [..., points, units].

    Returns:
        The values, [..., points], and the gradient by x, [..., points, units].

    Examples:
        >>> linearise(lambda x: (x**2).sum(-1), torch.tensor([[1.0, 3.0]]))
        (tensor([10.]), tensor([[2., 6.]]))
    """

    def total(x: Tensor) -> tuple[Tensor, Tensor]:
        f = function(x)
        return f.sum(), f

    slope, f = torch.func.grad(total, has_aux=True)(x.detach())
    return f.detach(), slope.detach()
