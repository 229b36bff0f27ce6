"""The problems of the atlas: what each is, and how it is made. Those of linear layers are kept as files, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.problem import Problem
from gradeval.problems.catalogue import load_problem
from gradeval.problems.image_tasks import binary_maps


@dataclass(frozen=True)
class AtlasProblem:
    """One problem of the atlas.

    Attributes:
        description: in a sentence.
        make: what makes the problem.
        source: where it is from; empty: ours.
    """

    description: str
    make: Callable[[], Problem]
    source: str = ""


class Tied(nn.Module):
    """One logit for every unit.

    Args:
        units: their number.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.units, self.logit = units, nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch units"]:
        """The preactivations.

        Args:
            x: of which the shape counts only.

        Returns:
            The logit, for every unit.
        """
        return self.logit.expand(*x.shape[:-1], self.units)


class Logits(Tied):
    """One logit for each unit.

    Args:
        units: their number.
    """

    def __init__(self, units: int) -> None:
        super().__init__(units)
        self.logit = nn.Parameter(torch.linspace(-1.0, 1.0, units, dtype=torch.float64))


def polynomial(output: Float[Tensor, "*batch units"], target: Float[Tensor, "points units"]) -> Float[Tensor, "*batch"]:
    """A polynomial of binary variables with neighbours multiplied: Σᵢ cᵢ sᵢ sᵢ₊₁ − 2 s₁s₂s₃.

    Args:
        output: the states s, [..., points, units].
        target: the coefficients c.

    Returns:
        One number per point.
    """
    pairs = (target[:, :-1] * output[..., :-1] * output[..., 1:]).sum(-1)
    return pairs - 2 * output[..., 0] * output[..., 1] * output[..., 2]


def random_net(
    units: Sequence[int],
    noise: str,
    states: tuple[float, float],
    loss: str,
    scale: float = 1.0,
    points: int = 3,
    seed: int = 1,
) -> Problem:
    """Two inputs, linear layers with normal weights, and targets that suit the loss.

    Args:
        units: of each layer.
        noise, states: of the network.
        loss: its name.
        scale: standard deviation of weights and biases.
        points: number of data points.
        seed: of every number.

    Returns:
        The problem.
    """
    random = torch.Generator().manual_seed(seed)
    outputs = {"logistic": 1, "squared": 2, "cross-entropy": 3, "bernoulli": 2}[loss]
    network = StochasticBinaryNetwork.linear(2, units, outputs, noise, states)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=random, dtype=torch.float64))
    inputs = torch.randn(points, 2, generator=random, dtype=torch.float64)
    labels = torch.randint(0, outputs + (loss == "logistic"), (points,), generator=random)
    targets = {
        "logistic": 2.0 * labels - 1,
        "squared": torch.randn(points, 2, generator=random, dtype=torch.float64),
        "cross-entropy": labels.double(),
        "bernoulli": torch.rand(points, 2, generator=random, dtype=torch.float64),
    }[loss]
    return Problem(network, inputs, targets, loss)


def _toy(map: nn.Module, target: Sequence[float], loss: object = "squared") -> Problem:
    """Units without input, and a loss of their states."""
    network = StochasticBinaryNetwork([map], nn.Identity())
    one = torch.ones(1, 1, dtype=torch.float64)
    return Problem(network, one, torch.tensor([target], dtype=torch.float64), loss)  # type: ignore[arg-type]


def _convolution() -> Problem:
    """Two images of 4×4, three classes; normal weights of all layers."""
    random = torch.Generator().manual_seed(1)
    maps, width = binary_maps((1, 4, 4), "1c-2c")
    network = StochasticBinaryNetwork(maps, nn.Linear(width, 3, dtype=torch.float64), "logistic", SPINS)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=random, dtype=torch.float64))
    images = torch.randn(2, 16, generator=random, dtype=torch.float64)
    return Problem(network, images, torch.tensor([0.0, 2.0], dtype=torch.float64), "cross-entropy")


BITS, SPINS = (0.0, 1.0), (-1.0, 1.0)

DEFINITIONS: dict[str, AtlasProblem] = {
    "toy": AtlasProblem(
        "E (s − 0.499)² of one unit with logit 0",
        lambda: _toy(Tied(1), [0.499]),
        "after Tucker et al. 2017, arXiv:1703.07370, sec. 5.1",
    ),
    "toy-200": AtlasProblem(
        "E Σ (sᵢ − 0.499)² of 200 units with logits from −1 to 1", lambda: _toy(Logits(200), [0.499] * 200)
    ),
    "tied-logit": AtlasProblem(
        "E Σ (sᵢ − tᵢ)² of three units with one common logit, t = (0.6, 0.51, 0.48)",
        lambda: _toy(Tied(3), [0.6, 0.51, 0.48]),
        "after Liu et al. 2019, arXiv:1810.04777",
    ),
    "polynomial": AtlasProblem(
        "a polynomial of six binary variables, with pairs and a triple", lambda: _toy(Logits(6), [1.0] * 6, polynomial)
    ),
    "one-layer-2": AtlasProblem("2 units", lambda: random_net([2], "logistic", BITS, "logistic")),
    "one-layer-4": AtlasProblem("4 units, normal noise", lambda: random_net([4], "normal", SPINS, "squared")),
    "one-layer-8": AtlasProblem("8 units, Laplace noise", lambda: random_net([8], "laplace", BITS, "cross-entropy")),
    "one-layer-10": AtlasProblem("10 units, two outputs", lambda: random_net([10], "logistic", SPINS, "bernoulli")),
    "two-layers-2-2": AtlasProblem(
        "2-2 units, uniform noise", lambda: random_net([2, 2], "uniform", SPINS, "squared", 0.4)
    ),
    "two-layers-3-3": AtlasProblem("3-3 units", lambda: random_net([3, 3], "logistic", SPINS, "logistic")),
    "two-layers-4-4": AtlasProblem(
        "4-4 units, triangular noise", lambda: random_net([4, 4], "triangular", BITS, "logistic", 0.4)
    ),
    "two-layers-16-16": AtlasProblem(
        "16-16 units: the exact gradient only", lambda: random_net([16, 16], "logistic", SPINS, "logistic", 0.3)
    ),
    "saturated": AtlasProblem(
        "3-3 units, weights × 3",
        lambda: random_net([3, 3], "logistic", BITS, "logistic", 3.0),
    ),
    "heavy-tails": AtlasProblem(
        "3-2 units, Cauchy noise", lambda: random_net([3, 2], "cauchy", SPINS, "cross-entropy")
    ),
    "three-layers": AtlasProblem("2-2-2 units", lambda: random_net([2, 2, 2], "logistic", SPINS, "cross-entropy")),
    "four-layers": AtlasProblem("2-2-2-2 units, normal noise", lambda: random_net([2] * 4, "normal", BITS, "logistic")),
    "five-layers": AtlasProblem("2-2-2-2-2 units", lambda: random_net([2] * 5, "logistic", SPINS, "squared")),
    "convolution": AtlasProblem(
        "4 units by a 3×3 convolution of 4×4 images, then 2 channels of 1 unit by another", _convolution
    ),
    "paper-start": AtlasProblem(
        "the task of the PSA paper, 3-3 units, before training",
        lambda: load_problem("expclass", units="3-3", stage=0, points=20),
        "Shekhovtsov, Yanush & Flach 2020, arXiv:2006.03143",
    ),
    "paper-trained": AtlasProblem(
        "the task of the PSA paper, 3-3 units, after 100 epochs",
        lambda: load_problem("expclass", units="3-3", stage=100, points=20),
        "Shekhovtsov, Yanush & Flach 2020, arXiv:2006.03143",
    ),
    "vae-6": AtlasProblem(
        "a binary variational autoencoder of 6 units on two digits, analytic KL",
        lambda: load_problem("vae", units=6, points=2, kl="analytic"),
    ),
    "vae-200": AtlasProblem(
        "a binary variational autoencoder of 200 units on ten digits, analytic KL: the exact gradient only",
        lambda: load_problem("vae", units=200, points=10, kl="analytic"),
    ),
}
"""By name."""
