"""What the estimators' formulas share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.model.head_loss import HeadLoss, PointLoss
from gradeval.model.network import BinaryLayer, StochasticBinaryNetwork
from gradeval.model.randomness import Randomness


def carry(t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Zero in value, with the gradient of ``t``."""
    return t - t.detach()


def flipped_losses(
    loss: PointLoss, layer: BinaryLayer, s: Float[Tensor, "*batch points units"]
) -> Float[Tensor, "units *batch points"]:
    """f with every unit of the last layer flipped in turn; all at once where ``loss`` has a cheap form."""
    if isinstance(loss, HeadLoss):
        return loss.flipped(layer, s)
    return loss(layer.encode(layer.flip(s)))


class Step(NamedTuple):
    """One layer of a sampled path: its input x, preactivations a, probabilities p = F(a) and states s."""

    layer: BinaryLayer
    x: Tensor
    a: Tensor
    p: Tensor
    s: Tensor


def sample_path(network: StochasticBinaryNetwork, inputs: Tensor, randomness: Randomness) -> tuple[list[Step], Tensor]:
    """The steps of a path sampled from the network, and the last layer's x."""
    x, steps = inputs, []
    for layer in network.layers:
        a = layer.preactivation(x)
        p = layer.probability(a)
        s = randomness.bernoulli(p)
        steps.append(Step(layer, x, a, p, s))
        x = layer.encode(s)
    return steps, x


def continue_path(layers: Iterable[BinaryLayer], x: Tensor, randomness: Randomness) -> Tensor:
    """The last of ``layers``' states when the states of each are sampled given those below, from ``x`` on."""
    for layer in layers:
        x = layer.encode(randomness.bernoulli(layer.probability(layer.preactivation(x))))
    return x


def mean_field(layers: Iterable[BinaryLayer], x: Tensor) -> Tensor:
    """As `continue_path`, with every state replaced by its mean lo + (hi − lo) F(a)."""
    for layer in layers:
        x = layer.encode(layer.probability(layer.preactivation(x)))
    return x


def noise_given_state(layer: BinaryLayer, a: Tensor, s: Tensor, v: Tensor) -> Tensor:
    """The injected noise z given the state s = 1[a ≥ z], from v uniform on (0, 1).

    Given s = 1 it is F⁻¹(v F(a)); given s = 0 it is −F⁻¹(v F(−a)), by the symmetry of F, exact in the upper tail.
    """
    sign = 2 * s - 1
    return sign * layer.noise.icdf(v * layer.probability(sign * a))


def leave_one_out(f: Float[Tensor, "samples *rest"]) -> Float[Tensor, "samples *rest"]:
    """fᵢ − mean_{j≠i} fⱼ."""
    samples = f.shape[0]
    return (f - f.mean(0)) * (samples / (samples - 1))


def linearise(function: PointLoss, x: Tensor) -> tuple[Tensor, Tensor]:
    """The values of ``function`` at ``x`` and its gradient by ``x``, as constants: no parameter gets a gradient."""

    def total(x: Tensor) -> tuple[Tensor, Tensor]:
        f = function(x)
        return f.sum(), f

    slope, f = torch.func.grad(total, has_aux=True)(x.detach())
    return f.detach(), slope.detach()
