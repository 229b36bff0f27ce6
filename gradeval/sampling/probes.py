"""Probes run an estimator once or twice and watch it: what chance it takes, what it costs, what it does wrong."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradeval.errors import GradevalError
from gradeval.estimators.protocol import Estimator
from gradeval.model.forms import Form
from gradeval.model.network import BinaryLayer, StochasticBinaryNetwork
from gradeval.model.problem import Problem
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
    """Refuse an estimator that mixes data points.

    Its surrogates of several points, and their gradients, must be those of each point alone. An estimator that mixes
    points (by a baseline from the batch, say) has other moments than the sum over its points.

    Args:
        problem: the estimator is run on its first points.
        estimator: any surrogate.
        points: how many points to run it on.

    Raises:
        GradevalError: the estimator mixes points, cannot be run on one of them, or has randomness of its own.
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
            raise GradevalError("the estimator has randomness of its own, which cannot be enumerated")
        alone = [run(slice(i, i + 1)) for i in range(points)]
        agree = torch.allclose(values, torch.cat([v for v, _ in alone]), rtol=1e-8, atol=1e-10)
        agree &= torch.allclose(gradient, torch.stack([g for _, g in alone]).sum(0), rtol=1e-8, atol=1e-10)
    except GradevalError:
        raise
    except Exception as error:
        raise GradevalError(
            f"the estimator cannot be run on one data point alone ({type(error).__name__}: {error})"
        ) from None
    if not agree:
        raise GradevalError("what the estimator returns for one data point depends on the other points")


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
    trial = _Trial(problem, deepcopy(problem.network), problem.inputs.clone(), problem.targets.clone())
    before = _global_states()
    gradient, value, uniforms = trial.draw(estimator)
    trial.check_untouched()
    for what, numbers in (("gradients", gradient), ("values", value)):
        if not bool(torch.isfinite(numbers).all()):
            raise GradevalError(f"gives NaN or infinite {what}")
    after = _global_states()
    if names := [name for name in before if before[name] != after[name]]:
        note = f"uses global randomness ({', '.join(names)}): draws do not follow from the seed; take chance from"
        return Behaviour(uniforms, [f"{note} `randomness`"])
    again = trial.draw(estimator)
    if torch.equal(gradient, again[0]) and torch.equal(value, again[1]):
        return Behaviour(uniforms, [])
    note = "gives other numbers for the same randomness: it keeps a state, or has randomness of its own"
    return Behaviour(uniforms, [note])


@dataclass(frozen=True)
class _Trial:
    """Copies of a problem's network and data, on which an estimator is tried."""

    problem: Problem
    network: StochasticBinaryNetwork
    inputs: Tensor
    targets: Tensor

    def draw(self, estimator: Estimator) -> tuple[Tensor, Tensor, int]:
        """Gradient, value of each point and the number of uniform variables of one draw, always of the same chance."""
        network, random = self.network, generator(self.network.device).manual_seed(1)
        chance = GivenUniforms(torch.empty(0, dtype=network.dtype), random, network.dtype)
        try:
            value = estimator(network, self.inputs, self.problem.loss_function(network, self.targets), chance)
        except GradevalError:
            raise
        except Exception as error:
            raise GradevalError(f"raises {describe(error)}") from error
        value = self.checked(value)
        try:
            found = torch.autograd.grad(
                value.mean(), list(network.parameters()), allow_unused=True, materialize_grads=True
            )
        except RuntimeError as error:
            raise GradevalError(f"has no gradient that autograd can take: {str(error).splitlines()[0]}") from error
        return torch.cat([g.flatten() for g in found]), value.detach(), chance.taken

    def checked(self, value: object) -> Tensor:
        """What an estimator returned, if it is one number per point and has a gradient."""
        if not isinstance(value, Tensor):
            raise GradevalError(f"returns {type(value).__name__}, not a tensor of one number per point")
        points = self.problem.points
        if value.shape != (points,):
            raise GradevalError(
                f"returns the wrong shape: {list(value.shape)} where one number per point is needed (points = {points})"
            )
        if not value.requires_grad:
            raise GradevalError("returns a value without a gradient: it was detached or made under no_grad")
        return value

    def check_untouched(self) -> None:
        """Raise GradevalError where an estimator wrote to the copies."""
        problem = self.problem
        for name, old, new in (("inputs", problem.inputs, self.inputs), ("targets", problem.targets, self.targets)):
            if not torch.equal(old, new):
                raise GradevalError(f"writes to the data ({name})")
        before = problem.network.state_dict()
        for name, tensor in self.network.state_dict().items():
            if not torch.equal(tensor, before[name]):
                raise GradevalError(f"writes to the network's parameters ({name})")


def _global_states() -> dict[str, bytes]:
    """The states of the process's own generators, by whose they are."""
    numbers = np.random.get_state()
    return {
        "torch's": torch.get_rng_state().numpy().tobytes(),
        "numpy's": repr(numbers).encode() + numbers[1].tobytes(),  # type: ignore[index]
    }


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
