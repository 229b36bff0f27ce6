"""Probes run an estimator once or twice and watch it: what chance it takes, what it costs, what it does wrong."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradeval.errors import GradevalError
from gradeval.estimators.protocol import Estimator
from gradeval.isolation import Footprint, alone, in_company
from gradeval.model.forms import Form
from gradeval.model.network import BinaryLayer
from gradeval.model.problem import Problem, own_copy
from gradeval.model.randomness import EnumeratedStates, GivenUniforms, RandomDraws, generator
from gradeval.sampling.surrogates import Surrogate


def count_chance(problem: Problem, estimator: Callable[..., Tensor]) -> tuple[int, bool]:
    """Count the Bernoulli variables that one draw of an estimator takes for each data point.

    Args:
        problem: the estimator is run on its first point.
        estimator: any surrogate.

    Returns:
        Their number, and whether the estimator asks for any other chance as well (uniform or normal variables, noise).

    Raises:
        GradevalError: the estimator does not return one number per point.

    Examples:
        >>> import gradeval
        >>> from gradeval.estimators import get_estimator
        >>> problem = gradeval.load_problem("expclass", units="2-3", stage=0)
        >>> count_chance(problem, get_estimator("reinforce"))
        (5, False)
        >>> count_chance(problem, get_estimator("concrete"))
        (0, True)
    """
    network = problem.network
    count = EnumeratedStates(None, generator(network.device, "count"), network.dtype)
    surrogate = Surrogate(problem, estimator)
    with alone(), torch.no_grad():
        surrogate(surrogate.inputs[:1], surrogate.targets[:1], count)
    return count.taken, count.continuous


class _FixedChance(RandomDraws):
    """Chance without chance: the same calls give the same numbers, whatever the number of points."""

    def uniform(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        return torch.full(tuple(shape), 0.37, dtype=self.dtype, device=self.generator.device)

    def bernoulli(self, probability: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (probability > 0.37).to(probability.dtype)

    def normal(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        return torch.full(tuple(shape), 0.37, dtype=self.dtype, device=self.generator.device)


def check_pointwise(problem: Problem, estimator: Callable[..., Tensor], points: int = 4) -> Footprint:
    """Refuse an estimator that mixes data points.

    Its surrogates of several points, and their gradients, must be those of each point alone. An estimator that mixes
    points (by a baseline from the batch, say) has other moments than the sum over its points.

    Args:
        problem: the estimator is run on its first points.
        estimator: any surrogate.
        points: how many points to run it on.

    Returns:
        What it has changed of the process.

    Raises:
        GradevalError: the estimator mixes points, cannot be run on one of them, has randomness of its own, or writes to
            the network or the data.
    """
    surrogate = Surrogate(problem, estimator)
    network, inputs, targets = surrogate.network, surrogate.inputs, surrogate.targets
    chance = _FixedChance(generator(network.device, "fixed"), network.dtype)
    parameters = list(network.trainable().values())
    # losses that differ from point to point: a mean over points of equal ones would not be noticed
    factors = 1 + 0.5 * torch.arange(problem.points, dtype=network.dtype, device=network.device)

    def run(some: slice) -> tuple[Tensor, ...]:
        loss = problem.loss_function(network, targets[some])
        value = estimator(network, inputs[some], lambda x: factors[some] * loss(x), chance)
        found = torch.autograd.grad(value.sum(), parameters, allow_unused=True, materialize_grads=True)
        return value.detach(), torch.cat([g.flatten() for g in found])

    def close(a: Tensor, b: Tensor) -> bool:
        double = network.dtype == torch.float64
        return torch.allclose(a, b, rtol=1e-8 if double else 1e-3, atol=1e-10 if double else 1e-4)

    points = min(points, problem.points)
    try:
        with alone() as footprint:
            values, gradient = run(slice(0, points))
            again = run(slice(0, points))
            each = [run(slice(i, i + 1)) for i in range(points)]
        try:
            surrogate.check_untouched()
        except GradevalError as error:
            raise GradevalError(f"the estimator {error}") from None
        if not all(map(torch.equal, (values, gradient), again)):
            raise GradevalError("the estimator has randomness of its own, which cannot be enumerated")
        agree = close(values, torch.cat([v for v, _ in each]))
        agree &= close(gradient, torch.stack([g for _, g in each]).sum(0))
    except GradevalError:
        raise
    except Exception as error:
        raise GradevalError(
            f"the estimator cannot be run on one data point alone ({type(error).__name__}: {error})"
        ) from None
    if not agree:
        raise GradevalError("what the estimator returns for one data point depends on the other points")
    return footprint


@dataclass(frozen=True)
class Behaviour:
    """What a watched draw of an estimator showed.

    Attributes:
        uniforms: the number of uniform variables that a draw takes; every other variable is a function of these.
        notes: what the user should know, such as a use of global randomness.
    """

    uniforms: int
    notes: list[str]


def probe(problem: Problem, estimator: Estimator) -> Behaviour:
    """Make one plain draw of an estimator, on copies of network and data, and watch what it does.

    The draw is repeated with the same randomness, to see whether it gives the same numbers.

    Args:
        problem: what the estimator is run on.
        estimator: any surrogate, fitted if it learns.

    Returns:
        What was seen.

    Raises:
        GradevalError: the estimator raises, returns a wrong type or shape, gives NaN or infinity, has no gradient, or
            writes to the parameters or the data.

    Examples:
        >>> import gradeval
        >>> from gradeval.estimators import get_estimator
        >>> problem = gradeval.load_problem("expclass", units="2-3", stage=0, points=10)
        >>> probe(problem, get_estimator("reinforce"))
        Behaviour(uniforms=50, notes=[])
    """
    trial = _Trial(Surrogate(problem, estimator))
    with alone() as footprint:
        gradient, value, uniforms = trial.draw()
    trial.surrogate.check_untouched()
    for what, numbers in (("gradients", gradient), ("values", value)):
        if not bool(torch.isfinite(numbers).all()):
            raise GradevalError(f"gives NaN or infinite {what}")
    if names := footprint.generators:
        note = f"uses global randomness ({', '.join(names)}): draws do not follow from the seed; take chance from"
        return Behaviour(uniforms, [f"{note} `randomness`", *footprint.notes])
    with alone():
        again = trial.draw()
    if torch.equal(gradient, again[0]) and torch.equal(value, again[1]):
        return Behaviour(uniforms, footprint.notes)
    note = "gives other numbers for the same randomness: it keeps a state, or has randomness of its own"
    return Behaviour(uniforms, [note, *footprint.notes])


@dataclass(frozen=True)
class _Trial:
    """An estimator is tried on a surrogate's copies of network and data."""

    surrogate: Surrogate

    def draw(self) -> tuple[Tensor, Tensor, int]:
        """Gradient, value of each point and the number of uniform variables of one draw, always of the same chance."""
        own = self.surrogate
        network, random = own.network, generator(own.network.device).manual_seed(1)
        chance = GivenUniforms(torch.empty(0, dtype=network.dtype), random, network.dtype)
        try:
            loss = own.problem.loss_function(network, own.targets)
            value = own.estimator(network, own.inputs, loss, chance)
        except GradevalError:
            raise
        except Exception as error:
            raise GradevalError(f"raises {describe(error)}") from error
        value = self.checked(value)
        try:
            found = torch.autograd.grad(
                value.mean(), list(network.trainable().values()), allow_unused=True, materialize_grads=True
            )
        except RuntimeError as error:
            raise GradevalError(f"has no gradient that autograd can take: {str(error).splitlines()[0]}") from error
        return torch.cat([g.flatten() for g in found]), value.detach(), chance.taken

    def checked(self, value: object) -> Tensor:
        """What an estimator returned, if it is one number per point and has a gradient."""
        if not isinstance(value, Tensor):
            raise GradevalError(f"returns {type(value).__name__}, not a tensor of one number per point")
        points = self.surrogate.problem.points
        if value.shape != (points,):
            raise GradevalError(
                f"returns the wrong shape: {list(value.shape)} where one number per point is needed (points = {points})"
            )
        if not value.requires_grad:
            raise GradevalError("returns a value without a gradient: it was detached or made under no_grad")
        return value


def describe(error: BaseException) -> str:
    """Describe an exception in one line.

    Args:
        error: that was raised and caught.

    Returns:
        Its type, the first line of its message, and the file and line that raised it.

    Examples:
        >>> try:
        ...     [][3]
        ... except IndexError as error:
        ...     print(describe(error).partition(" (")[0])
        IndexError: list index out of range
    """
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = "".join(f": {line}" for line in str(error).strip().splitlines()[:1])
    return f"{type(error).__name__}{text} ({Path(frame.filename).name}, line {frame.lineno})"


class _CountingLayer(BinaryLayer):
    """A layer that counts its evaluations for each point; all flips in closed form count as one."""

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
    """Count what one draw of an estimator evaluates for each data point.

    Args:
        problem: what the estimator is run on.
        estimator: any surrogate, fitted if it learns.

    Returns:
        The number of evaluations of a layer, and of the loss (head included). All flips of a layer's inputs that are
        made in closed form count as one evaluation of the layer.

    Examples:
        >>> import gradeval
        >>> from gradeval.estimators import get_estimator
        >>> problem = gradeval.load_problem("expclass", units="2-3", stage=0)
        >>> count_evaluations(problem, get_estimator("reinforce"))
        (2.0, 1.0)
    """
    own = own_copy(problem)
    network = own.network
    layers = [_CountingLayer(layer.map, layer.noise, network.states) for layer in network.layers]
    network.layers = nn.ModuleList(layers)  # type: ignore[assignment]
    loss, losses = own.loss_function(), 0.0

    def counted(x: Tensor) -> Tensor:
        nonlocal losses
        f = loss(x)
        losses += f.shape[:-1].numel()
        return f

    with in_company():
        estimator(network, own.inputs, counted, RandomDraws(generator(network.device, "count"), network.dtype))
    return sum(layer.count for layer in layers), losses
