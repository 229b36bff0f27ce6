"""The two-dimensional classification task of the PSA paper, and networks trained on it for some epochs.

Source: Shekhovtsov, Yanush & Flach, NeurIPS 2020, arXiv:2006.03143, appendix C.1, and the authors' response.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.arguments import whole, widths_of, widths_text
from gradeval.cache import KEY_DIGITS, cache_folder, cached_files, check_cached, keep
from gradeval.errors import GradevalError
from gradeval.estimators import get_estimator
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.noise import Noise, is_built_in
from gradeval.model.problem import Problem, problem_bytes
from gradeval.model.problem_file import MAX_FILE_BYTES
from gradeval.model.randomness import RandomDraws, derived_seed, generator
from gradeval.problems.tasks import Task
from gradeval.progress import Progress, Silent
from gradeval.threads import one_thread

PROTOCOL = "SGD momentum=0.9 rate=0.03 batch=10 estimator=reinforce version=1"
"""How networks are trained; it is a part of the name of a cached one."""
_RATE, _MOMENTUM, _BATCH = 0.03, 0.9, 10  # as `PROTOCOL` says
HELD_OUT_POINTS = 1000


def expclass_problem(
    units: str = "5-5-5",
    stage: int = 100,
    *,
    points: int = 200,
    seed: int = 0,
    noise: str | Noise = "logistic",
    states: tuple[float, float] = (0.0, 1.0),
    progress: Progress | None = None,
) -> Problem:
    """The task with a network of the given widths after ``stage`` epochs of training.

    Trained networks are cached, so that the same call trains once.

    Args:
        units: widths of the binary layers, "5-5-5" or (5, 5, 5).
        stage: epochs of training with REINFORCE (the paper: 1, 100 and 2000).
        points: number of data points, half of each class.
        seed: data, initial weights and training follow from it.
        noise, states: of the network.
        progress: told how the training goes; a step is an epoch.

    Returns:
        The problem.

    Raises:
        GradevalError: widths that are not positive numbers, fewer than 2 points, a negative stage.

    Examples:
        >>> problem = expclass_problem("3-3", stage=0)
        >>> problem.widths, problem.points
        ([3, 3], 200)
    """
    units, widths, stage = widths_text("units", units), widths_of("units", units), whole("stage", stage, least=0)
    inputs, targets = expclass_data(points, seed)
    network = StochasticBinaryNetwork.linear(2, widths, 1, noise, states)
    initialise_by_moments(network, inputs, seed)
    start = Problem(network, inputs, targets, "logistic", f"expclass {units}")
    key = hashlib.sha256(f"{PROTOCOL}|{start.fingerprint()}|{seed}|{stage}".encode()).hexdigest()[:KEY_DIGITS]
    label = f"expclass-{units[:40]}-{stage}"
    description = (
        f"2-D classification, {units} network after {stage} epoch{'s' * (stage != 1)} of training with REINFORCE"
    )
    problem = replace(start, description=description)
    for path in cached_files(label, key):
        try:
            check_cached(path, key, MAX_FILE_BYTES)
            return _as_asked(Problem.load(path), problem, path)
        except GradevalError as error:
            warnings.warn(f"the cached network is damaged and is trained again: {error}", stacklevel=2)
            path.unlink(missing_ok=True)
    fit_network(problem, stage, seed, progress)
    if not is_built_in(network.noise):  # no file holds it
        return problem
    try:
        keep(label, key, problem_bytes(problem))
    except OSError as error:
        warnings.warn(f"the trained network could not be cached in {cache_folder()}: {error.strerror}", stacklevel=2)
    return problem


def _as_asked(found: Problem, asked: Problem, path: Path) -> Problem:
    """A cached problem, refused unless it differs from the one that is to be trained in its parameters alone."""
    theirs, ours = (
        (p.widths, p.loss, p.network.noise.name, p.network.states, p.inputs.tolist(), p.targets.tolist())
        for p in (found, asked)
    )
    if theirs != ours:
        raise GradevalError(f"{path} holds another network than was asked for.")
    return found


def expclass_task(
    units: str = "5-5-5",
    *,
    points: int = 200,
    seed: int = 0,
    noise: str | Noise = "logistic",
    states: tuple[float, float] = (0.0, 1.0),
) -> Task:
    """The task to train on, with 1000 points each for validation and for test.

    Args:
        units: widths of the binary layers, "5-5-5".
        points: number of training points, half of each class.
        seed: of the data.
        noise, states: of the network.

    Returns:
        The task.

    Raises:
        GradevalError: widths that are not positive numbers, or fewer than 2 points.

    Examples:
        >>> task = expclass_task("3-3", points=20)
        >>> {name: problem.points for name, problem in task.splits.items()}
        {'train': 20, 'validation': 1000, 'test': 1000}
    """
    units = widths_text("units", units)
    network = StochasticBinaryNetwork.linear(2, widths_of("units", units), 1, noise, states)
    train = Problem(
        network, *expclass_data(points, seed), "logistic", f"expclass {units}", f"2-D classification, layers {units}"
    )

    def other(what: str) -> Problem:
        inputs, targets = expclass_data(HELD_OUT_POINTS, derived_seed(what, seed))
        return replace(train, inputs=inputs, targets=targets)

    return Task(train, other("validation"), other("test"), initialise_by_moments)


def expclass_data(points: int = 200, seed: int = 0) -> tuple[Float[Tensor, "points 2"], Float[Tensor, " points"]]:
    """Draw the data of the task.

    Class +1 is uniform on [−π/2, π/2] × [0, 1], class −1 on the region −1 ≤ y < cos x below the curve.

    Args:
        points: their number, half of each class.
        seed: they follow from it.

    Returns:
        The inputs, [points, 2], and the targets ±1, [points]; class +1 comes first.

    Raises:
        GradevalError: fewer than 2 points.

    Examples:
        >>> inputs, targets = expclass_data(4, seed=0)
        >>> targets.tolist()
        [1.0, 1.0, -1.0, -1.0]
    """
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


def initialise_by_moments(network: StochasticBinaryNetwork, inputs: Float[Tensor, "points inputs"], seed: int) -> None:
    """Set random directions, scaled so that propagated means and variances make every preactivation's 0 and 1.

    Independent inputs with means m and variances v give a = Wx + b the mean Wm + b and the variance Σᵢ Wⱼᵢ² vᵢ. Units
    are on with probability ½ then, whatever the symmetric noise: mean (lo + hi)/2 and variance (hi − lo)²/4 follow.

    Args:
        network: of linear maps; its parameters are set in place.
        inputs: the data, [points, inputs], whose means and variances are propagated.
        seed: the directions follow from it.
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


def fit_network(problem: Problem, epochs: int, seed: int, progress: Progress | None = None) -> None:
    """Train the problem's network in place with REINFORCE: SGD with momentum, one draw per point.

    Args:
        problem: whose network is trained.
        epochs: passes over its points.
        seed: the order of the points and the draws follow from it.
        progress: receives the progress; a step is an epoch.
    """
    task, progress = "training the network", progress or Silent()
    if epochs:
        progress.start(task, epochs)
    order = generator("cpu", "expclass order", seed)
    randomness = RandomDraws(generator("cpu", derived_seed("expclass draws", seed)), problem.network.dtype)
    reinforce = get_estimator("reinforce")
    optimiser = torch.optim.SGD(problem.network.trainable().values(), lr=_RATE, momentum=_MOMENTUM, foreach=True)
    with one_thread():
        for _ in range(epochs):
            for batch in torch.randperm(problem.points, generator=order).split(_BATCH):
                optimiser.zero_grad()
                loss = problem.loss_function(targets=problem.targets[batch], inputs=problem.inputs[batch])
                reinforce(problem.network, problem.inputs[batch], loss, randomness).mean().backward()
                optimiser.step()
            progress.advance(task, 1)
    if epochs:
        progress.finish(task)
