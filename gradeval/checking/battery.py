"""The small problems that `gradeval check` runs an estimator on; the exact gradient of each is known.

`ROWS` are ordinary networks: one to three layers, widths 1 to 6, both usual encodings, five noises, three losses, one
data point and many, saturated units (|a| ≈ 40: their states never change and their gradients vanish). The facts that
could explain a wrong factor (widths, numbers of points, of layers, of inputs, δ = hi − lo) differ between the problems,
so that an explanation that fits all of them is the right one. Each is drawn from a seed and a scale of the weights.
These were chosen among several hundred so that the gradients stand out of the noise of REINFORCE and DisARM (by exact
moments), no state of a unit is rarer than 0.04 unless the unit is saturated, every unit has a share in the gradient,
and straight-through, or PSA, is biased. So a sampled estimator can be held to `Limits.detect` on each.

`EDGES` are what ordinary networks leave out: other states, rare states in every decade down to 10⁻⁶, ten units, five
layers, 5 and 7 points, four outputs, Bernoulli outputs, losses that are negative, have mean zero or are large, maps
without bias, inputs of zero, a convolution. Each is small enough to be enumerated. Where an estimator must be sampled,
a fault on them is found as far as `EDGE_DRAWS` draws go; what would have been found is stated, and does not keep a
claim undecided.

Estimators that are defined for a bound of K samples only have a battery of their own, `SAMPLE_BOUNDS`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradeval.model.elbo import MultiSampleBound
from gradeval.model.losses import Loss, cross_entropy, squared
from gradeval.model.maps import BernoulliDecoder, ImageMap
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.noise import get_noise
from gradeval.model.problem import Problem
from gradeval.model.randomness import RandomDraws, generator

SATURATED = 40.0


def negative(output: Tensor, target: Tensor) -> Tensor:
    """The cross-entropy less 3: negative nearly everywhere, as a log-likelihood ratio may be.

    Args:
        output: h, [..., points, outputs].
        target: class numbers, [points].

    Returns:
        One number per point, [..., points].
    """
    return cross_entropy(output, target) - 3.0


def reward(output: Tensor, target: Tensor) -> Tensor:
    """−Σ h y, of which the mean over points is about zero.

    Args:
        output: h, [..., points, outputs].
        target: y, [points, outputs].

    Returns:
        One number per point, [..., points].
    """
    return -(output * target).sum(-1)


def large(output: Tensor, target: Tensor) -> Tensor:
    """10⁴ times the squared error.

    Args:
        output: h, [..., points, outputs].
        target: y, [points, outputs].

    Returns:
        One number per point, [..., points].
    """
    return 1e4 * squared(output, target)


NAMED: dict[str, Loss | str] = {
    "logistic": "logistic",
    "squared": "squared",
    "cross-entropy": "cross-entropy",
    "bernoulli": "bernoulli",
    "negative": negative,
    "reward": reward,
    "large": large,
}
OUTPUTS = {"logistic": 1, "squared": 2, "cross-entropy": 3, "bernoulli": 3, "negative": 4, "reward": 2, "large": 2}


@dataclass(frozen=True)
class Row:
    """How a problem of the battery is made.

    Args:
        inputs: numbers of one data point.
        widths: units of each layer.
        noise: its name.
        states: lo and hi.
        loss: its name.
        points: number of data points.
        scale: standard deviation of the weights.
        seed: of weights, inputs and targets.
        saturated: whether the first unit of each layer gets a bias of ±40.
        rare: the probability, about, of the rarer state of every unit of the first layer; 0: what the weights give.
        bias: whether the maps have biases.
        zero: whether all inputs are zero.
        convolution: whether the layers are 2 × 2 convolutions: of 3 × 3 inputs, then of what the layer below gives.
    """

    inputs: int
    widths: tuple[int, ...]
    noise: str
    states: tuple[float, float]
    loss: str
    points: int
    scale: float
    seed: int
    saturated: bool = False
    rare: float = 0.0
    bias: bool = True
    zero: bool = False
    convolution: bool = False

    @property
    def name(self) -> str:
        """The name shown in tables."""
        lo, hi = self.states
        words = [
            "-".join(map(str, self.widths)) + " convolution" * self.convolution,
            self.noise,
            f"{{{lo:g},{hi:g}}}",
            self.loss,
            f"{self.points} point{'s' * (self.points > 1)}",
            "saturated" * self.saturated,
            f"rare {self.rare:.0e}" if self.rare else "",
            "" if self.bias else "no bias",
            "inputs 0" * self.zero,
        ]
        return " ".join(filter(None, words))


ZERO_ONE, SIGNS = (0.0, 1.0), (-1.0, 1.0)
ROWS = (
    Row(2, (2,), "logistic", ZERO_ONE, "logistic", 1, 2.5, 11),
    Row(3, (3,), "normal", SIGNS, "squared", 2, 0.5, 28),
    Row(2, (6,), "logistic", SIGNS, "logistic", 1, 1.2, 4),
    Row(2, (1,), "cauchy", ZERO_ONE, "cross-entropy", 3, 2.5, 16),
    Row(1, (2,), "uniform", SIGNS, "cross-entropy", 16, 0.5, 2),
    Row(2, (2, 2), "logistic", SIGNS, "cross-entropy", 1, 1.8, 40),
    Row(1, (1, 3), "normal", ZERO_ONE, "logistic", 2, 1.2, 297),
    Row(2, (3, 2), "laplace", ZERO_ONE, "squared", 1, 0.8, 144),
    Row(2, (1, 2, 1), "logistic", SIGNS, "logistic", 1, 2.5, 19),
    Row(1, (1, 1, 2), "normal", ZERO_ONE, "squared", 1, 1.8, 113),
    Row(2, (1, 1, 1), "cauchy", SIGNS, "cross-entropy", 2, 2.5, 241),
    Row(2, (2, 2), "logistic", SIGNS, "squared", 1, 0.8, 9, saturated=True),
)
ZERO_TWO, HALVES, ODD = (0.0, 2.0), (-0.5, 0.5), (-0.3, 1.2)
EDGES = (
    Row(2, (2,), "logistic", ZERO_TWO, "squared", 5, 1.2, 70),
    Row(2, (2, 1), "normal", HALVES, "cross-entropy", 7, 1.8, 61),
    Row(1, (2, 2), "laplace", ODD, "reward", 2, 1.2, 147),
    Row(2, (2,), "logistic", ZERO_ONE, "negative", 1, 0.8, 48),
    Row(1, (1, 2), "normal", SIGNS, "large", 1, 0.8, 7),
    Row(3, (3,), "logistic", ZERO_ONE, "bernoulli", 3, 1.8, 120),
    Row(1, (10,), "logistic", ZERO_ONE, "logistic", 1, 1.8, 24),
    Row(1, (1, 1, 1, 1, 1), "logistic", SIGNS, "squared", 1, 1.8, 69),
    Row(2, (2, 2), "logistic", ZERO_ONE, "logistic", 2, 1.2, 48, bias=False),
    Row(2, (2,), "normal", SIGNS, "squared", 1, 1.2, 67, zero=True),
    Row(9, (4, 1), "logistic", SIGNS, "logistic", 2, 0.8, 71, convolution=True),
    Row(1, (2,), "logistic", ZERO_ONE, "logistic", 1, 1.0, 103, rare=1e-1),
    Row(1, (1, 2), "normal", ZERO_ONE, "squared", 1, 1.0, 180, rare=1e-2),
    Row(1, (2,), "logistic", SIGNS, "cross-entropy", 2, 1.0, 66, rare=1e-3),
    Row(1, (2,), "normal", ZERO_ONE, "squared", 1, 1.0, 147, rare=1e-4),
    Row(1, (1, 1), "logistic", ZERO_ONE, "logistic", 1, 2.0, 138, rare=1e-5),
    Row(1, (2,), "logistic", SIGNS, "squared", 1, 1.0, 142, rare=1e-6),
)
SAMPLE_BOUNDS = (
    (2, Row(2, (2,), "logistic", ZERO_ONE, "bernoulli", 1, 1.2, 1)),
    (3, Row(3, (1,), "normal", SIGNS, "bernoulli", 2, 0.8, 2)),
    (4, Row(1, (2,), "logistic", SIGNS, "bernoulli", 1, 0.8, 3)),
)
"""K, and the encoder's and decoder's row."""


def make_problem(row: Row) -> Problem:
    """The problem of a row, with normal weights, inputs and targets from its seed.

    Args:
        row: how it is made.

    Returns:
        The problem, with the row's name.
    """
    chance = RandomDraws(generator("cpu", "battery", row.widths, row.noise, row.loss, row.seed))
    network, outputs = _network(row), OUTPUTS[row.loss]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(row.scale * chance.normal(parameter.shape))
        if row.saturated:
            for sign, layer in zip((1, -1, 1), network.layers, strict=False):
                bias: Tensor = layer.map.bias  # type: ignore[assignment]
                bias[0] = sign * SATURATED
        if row.rare:
            _make_rare(network, row.rare)
    inputs = chance.normal([row.points, row.inputs])
    uniform = chance.uniform([row.points])
    if row.loss == "logistic":
        targets = torch.where(uniform < 0.5, -1.0, 1.0)
    elif row.loss in ("cross-entropy", "negative"):
        targets = (uniform * outputs).floor()
    elif row.loss == "bernoulli":
        targets = chance.uniform([row.points, outputs])
    else:
        targets = chance.normal([row.points, outputs])
    return Problem(network, inputs * (not row.zero), targets, NAMED[row.loss], row.name)


def _network(row: Row) -> StochasticBinaryNetwork:
    """The row's network; its parameters are filled in by the caller."""
    network = StochasticBinaryNetwork.linear(row.inputs, row.widths, OUTPUTS[row.loss], row.noise, row.states)
    head, maps = network.head, [layer.map for layer in network.layers]
    if row.convolution:
        sides = [math.isqrt(n) for n in (row.inputs, *row.widths[:-1])]
        maps = [ImageMap((1, n, n), nn.Conv2d(1, 1, 2, dtype=network.dtype)) for n in sides]
    if not row.bias:
        for map in (*maps, head):
            map.bias = None  # type: ignore[assignment]
    return StochasticBinaryNetwork(maps, head, row.noise, row.states)


def _make_rare(network: StochasticBinaryNetwork, probability: float) -> None:
    """Let the first layer's units have a state of about this probability: the higher one, the lower one, and so on."""
    map, noise = network.layers[0].map, get_noise(network.noise.name)
    weight, bias = map.weight, map.bias
    assert isinstance(weight, Tensor)
    assert isinstance(bias, Tensor)
    signs = torch.tensor([1.0, -1.0], dtype=bias.dtype).repeat(len(bias))[: len(bias)]
    weight.mul_(0.2)
    bias.copy_(signs * noise.icdf(torch.full_like(bias, probability)))


def battery_problems() -> list[Problem]:
    """The battery's ordinary problems, in the order of `ROWS`."""
    return [make_problem(row) for row in ROWS]


def bound_problems() -> list[Problem]:
    """Bounds of K samples of small variational autoencoders, in the order of `SAMPLE_BOUNDS`."""
    problems = []
    for samples, row in SAMPLE_BOUNDS:
        vae, bound = make_problem(row), MultiSampleBound(samples)
        prior = torch.linspace(-0.5, 1.0, row.widths[0], dtype=vae.network.dtype)
        maps, head = [layer.map for layer in vae.network.layers], BernoulliDecoder(vae.network.head, prior)
        network = bound.network(StochasticBinaryNetwork(maps, head, row.noise, row.states))
        problems.append(Problem(network, vae.inputs, vae.targets, bound, f"{row.name}, bound of {samples} samples"))
    return problems


def edge_problems() -> list[Problem]:
    """What ordinary problems leave out, in the order of `EDGES`."""
    return [make_problem(row) for row in EDGES]
