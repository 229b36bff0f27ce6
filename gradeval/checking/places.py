"""The facts of a problem that may explain what is wrong with an estimator."""

from __future__ import annotations

from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradeval.checking.findings import Finding, Place
from gradeval.estimators import Estimator
from gradeval.estimators.protocol import samples_of
from gradeval.model.noise import NOISES, Noise
from gradeval.model.objective import loss_title
from gradeval.model.problem import Problem
from gradeval.model.randomness import RandomDraws, generator
from gradeval.reference import ExactGradient, exact_gradient, predicted_cost

SATURATION = 1e-8  # a unit whose rarer state is less likely than this, for all points, is saturated
PATHS, PATH_POINTS = 32, 2**16  # sampled paths, and points of these, on which rare states are looked for
DENSITY_SECONDS = 1.0  # what a gradient with another density is worth for the diagnosis


def place_of(problem: Problem, estimator: Estimator) -> Place:
    """The facts of a problem and of an estimator.

    Args:
        problem: any.
        estimator: asked for its number of samples.

    Returns:
        The facts.
    """
    with torch.no_grad():
        outputs = problem.network.head(torch.zeros(1, problem.widths[-1], dtype=problem.network.dtype)).shape[-1]
    return Place(
        problem.name,
        problem.inputs[0].numel(),
        tuple(problem.widths),
        outputs,
        problem.network.noise.name,
        problem.network.states,
        loss_title(problem.loss),
        problem.points,
        samples_of(estimator),
        is_saturated(problem),
        rarest_state(problem),
        _traits(problem),
    )


def _sampled_path(problem: Problem) -> tuple[list[Tensor], Tensor]:
    """On some sampled paths, the probability of every unit's rarer state, [paths, points, units], and the losses."""
    chance = RandomDraws(generator(problem.network.device, "saturation"), problem.network.dtype)
    paths = max(1, min(PATHS, PATH_POINTS // problem.points))
    x, found = problem.inputs.expand(paths, *problem.inputs.shape), []
    with torch.no_grad():
        for layer in problem.network.layers:
            p = layer.probability(layer.preactivation(x))
            found.append(torch.minimum(p, 1 - p))
            x = layer.encode(chance.bernoulli(p))
        return found, problem.loss_function()(x)


def is_saturated(problem: Problem) -> bool:
    """Whether some unit is on, or off, with a probability above 1 − 10⁻⁸ for every point of some sampled paths.

    Args:
        problem: network and inputs.

    Returns:
        Whether there is such a unit.
    """
    return any(bool((p.amax((0, 1)) < SATURATION).any()) for p in _sampled_path(problem)[0])


def rarest_state(problem: Problem) -> float:
    """The probability of the rarest state of a unit, on some sampled paths; states rarer than 10⁻⁸ do not count.

    Args:
        problem: network and inputs.

    Returns:
        At most ½.
    """
    found = torch.cat([p.flatten() for p in _sampled_path(problem)[0]])
    return float(torch.where(found >= SATURATION, found, 0.5).amin())


def _traits(problem: Problem) -> frozenset[str]:
    """What may set a problem apart, in words."""
    maps = [*(layer.map for layer in problem.network.layers), problem.network.head]
    tests = {
        "a loss is negative": bool((_sampled_path(problem)[1] < 0).any()),
        "the inputs are zero": not problem.inputs.any(),
        "a map has no bias": any(isinstance(map, nn.Linear) and map.bias is None for map in maps),
        "a layer is not linear": not all(isinstance(map, nn.Linear) for map in maps),
    }
    return frozenset(text for text, holds in tests.items() if holds)


def shape_of(problem: Problem, layer: str) -> tuple[int, int] | None:
    """The shape of a layer's weight, where the layer is a weight and a bias.

    Args:
        problem: with the layer.
        layer: "1".."L" or "head".

    Returns:
        Units and inputs of the layer; None where its map is anything else.
    """
    network = problem.network
    map = network.head if layer == "head" else network.layers[int(layer) - 1].map
    if not isinstance(map, nn.Linear) or map.bias is None:
        return None
    return map.out_features, map.in_features


class _OtherDensity(Noise):
    """F of one noise, whose derivative is the density of another: the gradient by F' on all states uses that."""

    def __init__(self, truth: Noise, other: Noise) -> None:
        self.name, self.truth, self.other = truth.name, truth, other

    def cdf(self, a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        other = self.other.cdf(a)
        return self.truth.cdf(a).detach() + (other - other.detach())


def add_densities(problem: Problem, truth: ExactGradient, findings: list[Finding]) -> None:
    """Add to findings the mean gradients with another noise's density in place of F', for the diagnosis.

    Args:
        problem: the findings are of it.
        truth: its exact gradient.
        findings: whose ``others`` are filled in, where one of them is wrong and the gradients are cheap.
    """
    affordable = predicted_cost(problem, "joint").seconds <= DENSITY_SECONDS
    if not affordable or not any(f.unequal for f in findings):
        return
    for name, noise in NOISES.items():
        if name == problem.network.noise.name:
            continue
        network = deepcopy(problem.network)
        for layer in network.layers:
            layer.noise = _OtherDensity(problem.network.noise, noise)
        vector = exact_gradient(Problem(network, problem.inputs, problem.targets, problem.loss), "joint").vector
        for finding in findings:
            where = truth.slices[finding.layer]
            finding.others[name] = (vector[where] / truth.vector[where].norm()).cpu().numpy()
