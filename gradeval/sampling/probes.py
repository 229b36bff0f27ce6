"""Probes: an estimator is run once or twice and watched, to see what it asks of chance, costs and does wrong."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradeval.errors import GradevalError
from gradeval.estimators.protocol import Estimator
from gradeval.model.forms import Form
from gradeval.model.head_loss import PointLoss
from gradeval.model.network import BinaryLayer, StochasticBinaryNetwork
from gradeval.model.problem import Problem
from gradeval.model.randomness import EnumeratedStates, GivenUniforms, RandomDraws, Randomness, generator
from gradeval.sampling.surrogates import Surrogate


def count_chance(problem: Problem, estimator: Callable[..., Tensor]) -> tuple[int, bool]:
    """What an estimator asks of chance for one data point.

    Args:
        problem: any; its first point is used.
        estimator: that is watched.

    Returns:
        The number of Bernoulli variables it takes, and whether it asks for any other chance.
    """
    network = problem.network
    count = EnumeratedStates(None, generator(network.device, "count"), network.dtype)
    with torch.no_grad():
        Surrogate(problem, estimator)(problem.inputs[:1], problem.targets[:1], count)
    return count.taken, count.continuous


class _FixedChance(RandomDraws):
    """Chance without chance: the same calls give the same numbers, whatever the number of points."""

    def uniform(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        return torch.full(tuple(shape), 0.37, dtype=self.dtype, device=self.generator.device)

    def bernoulli(self, probability: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (probability > 0.37).to(probability.dtype)

    def normal(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        return torch.full(tuple(shape), 0.37, dtype=self.dtype, device=self.generator.device)


def check_pointwise(problem: Problem, estimator: Callable[..., Tensor], points: int = 4) -> None:
    """Raise GradevalError unless an estimator's surrogate of a point, and its gradient, do not depend on other points.

    An estimator that mixes points (a baseline from the batch, say) has other moments than its points one by one.

    Args:
        problem: any.
        estimator: that is watched.
        points: how many of the problem's points are compared.

    Raises:
        GradevalError: it depends on other points, has randomness of its own, or cannot be run on one point alone.
    """
    network = problem.network
    chance = _FixedChance(generator(network.device, "fixed"), network.dtype)
    parameters = list(network.parameters())
    # losses that differ from point to point: a mean over points of equal ones would not be noticed
    factors = 1 + 0.5 * torch.arange(problem.points, dtype=network.dtype, device=network.device)

    def run(some: slice) -> tuple[Tensor, ...]:
        loss = problem.loss_function(targets=problem.targets[some])
        surrogate = estimator(network, problem.inputs[some], lambda x: factors[some] * loss(x), chance)
        found = torch.autograd.grad(surrogate.sum(), parameters, allow_unused=True, materialize_grads=True)
        return surrogate.detach(), torch.cat([g.flatten() for g in found])

    points = min(points, problem.points)
    try:
        values, gradient = run(slice(0, points))
        if not all(map(torch.equal, (values, gradient), run(slice(0, points)))):
            raise GradevalError("it uses randomness of its own, which cannot be enumerated")
        alone = [run(slice(i, i + 1)) for i in range(points)]
        agree = torch.allclose(values, torch.cat([v for v, _ in alone]), rtol=1e-8, atol=1e-10)
        agree &= torch.allclose(gradient, torch.stack([g for _, g in alone]).sum(0), rtol=1e-8, atol=1e-10)
    except GradevalError:
        raise
    except Exception as error:
        raise GradevalError(f"it cannot be run on one data point alone ({type(error).__name__}: {error})") from None
    if not agree:
        raise GradevalError("what it returns for one data point depends on the other points")


def probe(problem: Problem, estimator: Estimator) -> tuple[int, list[str]]:
    """Draw once, plainly, and watch.

    Args:
        problem: any; the estimator gets copies of its network and data.
        estimator: that is watched.

    Returns:
        The number of uniform variables that the draw takes, and notes.

    Raises:
        GradevalError: the estimator raises, returns a wrong type or shape, NaN, or what has no gradient; it writes to
            the parameters or the data.
    """
    network, random = deepcopy(problem.network), generator(problem.network.device, "probe")
    data = problem.inputs.clone(), problem.targets.clone()
    before = {name: p.detach().clone() for name, p in network.state_dict(keep_vars=True).items()}
    state = _global_state()

    def draw() -> tuple[Tensor, Tensor, int]:
        chance = GivenUniforms(torch.empty(0, dtype=network.dtype), random.manual_seed(1), network.dtype)
        loss = problem.loss_function(network, data[1])
        gradient, value = _plain_draw(estimator, network, data[0], loss, chance)
        return gradient, value, chance.taken

    gradient, value, taken = draw()
    for name, old, new in (("inputs", problem.inputs, data[0]), ("targets", problem.targets, data[1])):
        if not torch.equal(old, new):
            raise GradevalError(f"writes to the data ({name})")
    for name, tensor in network.state_dict(keep_vars=True).items():
        if not torch.equal(tensor.detach(), before[name]):
            raise GradevalError(f"writes to the network's parameters ({name})")
    for what, numbers in (("gradients", gradient), ("values", value)):
        if not bool(torch.isfinite(numbers).all()):
            raise GradevalError(f"gives NaN or infinite {what}")
    names = [name for name, old, new in zip(_GLOBAL, state, _global_state(), strict=True) if old != new]
    if names:
        return taken, [
            f"uses global randomness ({', '.join(names)}): draws do not follow from the seed; "
            "take chance from `randomness`"
        ]
    again, value_again, _ = draw()
    if not (torch.equal(gradient, again) and torch.equal(value, value_again)):
        return taken, ["gives other numbers for the same randomness: it keeps a state, or has randomness of its own"]
    return taken, []


def _plain_draw(
    estimator: Estimator, network: StochasticBinaryNetwork, inputs: Tensor, loss: PointLoss, chance: Randomness
) -> tuple[Float[Tensor, " P"], Float[Tensor, " points"]]:
    """The gradient and the value of one draw, without any vectorisation."""
    try:
        value = estimator(network, inputs, loss, chance)
    except GradevalError:
        raise
    except Exception as error:
        raise GradevalError(f"raises {describe(error)}") from error
    if not isinstance(value, Tensor):
        raise GradevalError(f"returns {type(value).__name__}, not a tensor of one number per point")
    if value.shape != (len(inputs),):
        raise GradevalError(
            f"returns the wrong shape: {list(value.shape)} where one number per point is needed "
            f"(points = {len(inputs)})"
        )
    if not value.requires_grad:
        raise GradevalError("returns a value without a gradient: it was detached or made under no_grad")
    parameters = list(network.parameters())
    try:
        found = torch.autograd.grad(value.mean(), parameters, allow_unused=True, materialize_grads=True)
    except RuntimeError as error:
        raise GradevalError(f"has no gradient that autograd can take: {str(error).splitlines()[0]}") from error
    return torch.cat([g.flatten() for g in found]), value.detach()


_GLOBAL = ("torch's", "numpy's")


def _global_state() -> tuple[bytes, bytes]:
    return (
        torch.get_rng_state().numpy().tobytes(),
        repr(np.random.get_state()).encode() + np.random.get_state()[1].tobytes(),  # type: ignore[index]
    )


def describe(error: BaseException) -> str:
    """An exception in one line: its type, its message, and the file and line that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''} ({Path(frame.filename).name}, line {frame.lineno})"


class _CountingLayer(BinaryLayer):
    """A layer that counts how often it is evaluated, per point; all flips in closed form count as one evaluation."""

    count = 0.0

    def preactivation(self, x: Tensor) -> Tensor:
        a = super().preactivation(x)
        self.count += a.shape[:-2].numel()
        return a

    def form(self, x: Tensor) -> Form | None:
        form = super().form(x)
        self.count += x.shape[:-2].numel() * (x.shape[-1] if form is None else 1)
        return form


def count_evaluations(problem: Problem, estimator: Estimator) -> tuple[float, float]:
    """What one draw of an estimator costs per data point.

    Args:
        problem: any; a copy of its network counts.
        estimator: that is watched.

    Returns:
        The numbers of evaluations of one layer, and of the loss.

    Examples:
        >>> from gradeval import load_problem
        >>> from gradeval.estimators import get_estimator
        >>> problem = load_problem("expclass", units="2-3", stage=0, points=4)
        >>> count_evaluations(problem, get_estimator("reinforce"))
        (2.0, 1.0)
    """
    network = deepcopy(problem.network)
    layers = [_CountingLayer(layer.map, layer.noise, network.states) for layer in network.layers]
    network.layers = nn.ModuleList(layers)  # type: ignore[assignment]
    loss, losses = problem.loss_function(network), 0.0

    def counted(x: Tensor) -> Tensor:
        nonlocal losses
        f = loss(x)
        losses += f.shape[:-1].numel()
        return f

    estimator(network, problem.inputs, counted, RandomDraws(generator(network.device, "count"), network.dtype))
    return sum(layer.count for layer in layers), losses
