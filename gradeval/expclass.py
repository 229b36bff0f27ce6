"""The two-dimensional classification task of the PSA paper, and networks trained on it for some epochs.

Source: Shekhovtsov, Yanush & Flach, NeurIPS 2020, arXiv:2006.03143, appendix C.1, and the authors' response.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.cache import cache_folder
from gradeval.errors import GradevalError
from gradeval.estimators import get_estimator
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.problem import Problem
from gradeval.model.randomness import RandomDraws, derived_seed, generator
from gradeval.problems.tasks import Task

PROTOCOL = "SGD momentum=0.9 rate=0.03 batch=10 estimator=reinforce version=1"
RATE, MOMENTUM, BATCH = 0.03, 0.9, 10
HELD_OUT = 1000


def expclass_problem(
    units: str = "5-5-5",
    stage: int = 100,
    *,
    points: int = 200,
    seed: int = 0,
    noise: str = "logistic",
    states: tuple[float, float] = (0.0, 1.0),
    progress: Callable[[int, int], None] | None = None,
) -> Problem:
    """The task with a network of the given widths after ``stage`` epochs of training, cached by content.

    Args:
        units: widths of the binary layers, "5-5-5".
        stage: epochs of training with REINFORCE (the paper: 1, 100 and 2000).
        points: number of data points, half of each class.
        seed: for data, initial weights and training.
        noise, states: of the network.
        progress: told (epochs done, epochs in all).

    Raises:
        GradevalError: widths that are not positive numbers, fewer than 2 points, a negative stage.
    """
    widths = _widths(units)
    if stage < 0:
        raise GradevalError(f"stage must be a number of epochs, at least 0; found {stage}.")
    inputs, targets = data(points, seed)
    network = StochasticBinaryNetwork.linear(2, widths, 1, noise, states)
    initialise(network, inputs, seed)
    start = Problem(network, inputs, targets, "logistic", f"expclass {units}")
    key = hashlib.sha256(f"{PROTOCOL}|{start.fingerprint()}|{seed}|{stage}".encode()).hexdigest()[:24]
    cached = cache_folder() / f"expclass-{units[:40]}-{stage}-{key}.json"
    description = (
        f"2-D classification, {units} network after {stage} epoch{'s' * (stage != 1)} of training with REINFORCE"
    )
    if cached.exists():
        try:
            return Problem.load(cached)
        except GradevalError as error:
            warnings.warn(f"cached network is damaged, training anew: {error}", stacklevel=2)
    problem = replace(start, description=description)
    train(problem, stage, seed, progress)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        problem.save(cached)
    except OSError as error:
        warnings.warn(f"the trained network could not be cached in {cached.parent}: {error.strerror}", stacklevel=2)
    return problem


def expclass_task(
    units: str = "5-5-5",
    *,
    points: int = 200,
    seed: int = 0,
    noise: str = "logistic",
    states: tuple[float, float] = (0.0, 1.0),
) -> Task:
    """The task to train on: ``points`` points, and 1000 others each for validation and for test.

    Args: as of `expclass_problem`; ``seed`` is that of the data.
    """
    network = StochasticBinaryNetwork.linear(2, _widths(units), 1, noise, states)
    train = Problem(
        network, *data(points, seed), "logistic", f"expclass {units}", f"2-D classification, layers {units}"
    )

    def other(what: str) -> Problem:
        inputs, targets = data(HELD_OUT, derived_seed(what, seed))
        return replace(train, inputs=inputs, targets=targets)

    return Task(train, other("validation"), other("test"), initialise)


def _widths(units: str) -> list[int]:
    try:
        return [int(width) for width in units.split("-")]
    except ValueError:
        raise GradevalError(f"units must be widths joined by '-', such as 5-5-5; found '{units}'.") from None


def data(points: int = 200, seed: int = 0) -> tuple[Float[Tensor, "points 2"], Float[Tensor, " points"]]:
    """Class +1 uniform on [−π/2, π/2] × [0, 1], then class −1 uniform on the region −1 ≤ y < cos x below the curve."""
    if points < 2:
        raise GradevalError(f"the task needs at least 2 points, one of each class; found {points}.")
    random = generator("cpu", "expclass data", seed)
    upper = points - points // 2
    box = torch.rand(upper + 8 * points + 64, 2, generator=random, dtype=torch.float64)
    box[:, 0] = math.pi * (box[:, 0] - 0.5)
    above, below = box[:upper], box[upper:].clone()
    below[:, 1] = 2 * below[:, 1] - 1
    below = below[below[:, 1] < below[:, 0].cos()][: points - upper]  # of 8 in 11 candidates; 8 times as many are drawn
    targets = torch.cat([torch.ones(upper), -torch.ones(len(below))]).to(torch.float64)
    return torch.cat([above, below]), targets


def initialise(network: StochasticBinaryNetwork, inputs: Float[Tensor, "points inputs"], seed: int) -> None:
    """Random directions, scaled so that mean and variance, propagated from the data, give a mean 0 and variance 1.

    Independent inputs with means m and variances v give a = Wx + b the mean Wm + b and the variance Σᵢ Wⱼᵢ² vᵢ. Units
    are on with probability ½ then, whatever the symmetric noise: mean (lo + hi)/2 and variance (hi − lo)²/4 follow.
    """
    random = generator("cpu", "expclass weights", seed)
    lo, hi = network.states
    mean, variance = inputs.mean(0), inputs.var(0)
    with torch.no_grad():
        for map in [*(layer.map for layer in network.layers), network.head]:
            assert isinstance(map, torch.nn.Linear)
            weight = 2 * torch.rand(map.weight.shape, generator=random, dtype=network.dtype) - 1
            weight /= torch.sqrt(weight**2 @ variance)[:, None]
            map.weight.copy_(weight)
            map.bias.copy_(-weight @ mean)
            mean = torch.full_like(map.bias, (lo + hi) / 2)
            variance = torch.full_like(map.bias, (hi - lo) ** 2 / 4)


def train(problem: Problem, epochs: int, seed: int, progress: Callable[[int, int], None] | None = None) -> None:
    """Train the problem's network in place with REINFORCE: SGD with momentum, one draw per point."""
    order = generator("cpu", "expclass order", seed)
    randomness = RandomDraws(generator("cpu", derived_seed("expclass draws", seed)), problem.network.dtype)
    reinforce = get_estimator("reinforce")
    optimiser = torch.optim.SGD(problem.network.parameters(), lr=RATE, momentum=MOMENTUM, foreach=True)
    for epoch in range(epochs):
        for batch in torch.randperm(problem.points, generator=order).split(BATCH):
            optimiser.zero_grad()
            loss = problem.loss_function(targets=problem.targets[batch])
            reinforce(problem.network, problem.inputs[batch], loss, randomness).mean().backward()
            optimiser.step()
        if progress:
            progress(epoch + 1, epochs)
