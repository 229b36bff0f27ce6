"""The small problems that `gradeval check` runs an estimator on; the exact gradient of each is known.

One to three layers, widths 1 to 6, both encodings, five noises, three losses, one data point and many, saturated units
(|a| ≈ 40: their states never change and their gradients vanish). The facts that could explain a wrong factor (widths,
numbers of points, of layers, of inputs, δ = hi − lo) differ between the problems, so that an explanation that fits all
of them is the right one.

Each problem is drawn from a seed and a scale of the weights. These were chosen among several hundred so that the
gradients stand out of the noise of REINFORCE and DisARM (by exact moments), no state of a unit is rarer than 0.04
unless the unit is saturated (sampling sees rare states late), every unit has a share in the gradient, and
straight-through, or PSA, is biased.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.problem import Problem
from gradeval.model.randomness import RandomDraws, generator

SATURATED = 40.0


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

    @property
    def name(self) -> str:
        """The name shown in tables."""
        lo, hi = self.states
        points = f"{self.points} point{'s' * (self.points > 1)}"
        widths = "-".join(map(str, self.widths))
        return f"{widths} {self.noise} {{{lo:g},{hi:g}}} {self.loss} {points}{' saturated' * self.saturated}"


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


def make_problem(row: Row) -> Problem:
    """The problem of a row, with normal weights, inputs and targets from its seed.

    Args:
        row: how it is made.

    Returns:
        The problem, with the row's name.
    """
    chance = RandomDraws(generator("cpu", "battery", row.widths, row.noise, row.loss, row.seed))
    outputs = {"logistic": 1, "squared": 2, "cross-entropy": 3}[row.loss]
    network = StochasticBinaryNetwork.linear(row.inputs, row.widths, outputs, row.noise, row.states)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(row.scale * chance.normal(parameter.shape))
        if row.saturated:
            for sign, layer in zip((1, -1, 1), network.layers, strict=False):
                bias: Tensor = layer.map.bias  # type: ignore[assignment]
                bias[0] = sign * SATURATED
    inputs = chance.normal([row.points, row.inputs])
    uniform = chance.uniform([row.points])
    targets = {
        "logistic": torch.where(uniform < 0.5, -1.0, 1.0),
        "squared": chance.normal([row.points, outputs]),
        "cross-entropy": (uniform * outputs).floor(),
    }[row.loss]
    return Problem(network, inputs, targets, row.loss, row.name)


def battery_problems() -> list[Problem]:
    """The battery's problems, in the order of `ROWS`."""
    return [make_problem(row) for row in ROWS]
