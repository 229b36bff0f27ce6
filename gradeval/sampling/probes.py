"""Probes run an estimator once or twice and watch it: what chance it takes, what it costs, what it does wrong."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gradeval.errors import GradevalError
from gradeval.estimators.protocol import Estimator, owns_sampling
from gradeval.isolation import Footprint, alone
from gradeval.model.elbo import SampleLosses
from gradeval.model.forms import Form
from gradeval.model.head_loss import PointLoss
from gradeval.model.network import BinaryLayer
from gradeval.model.objective import split_constant
from gradeval.model.problem import Problem, own_copy
from gradeval.model.randomness import EnumeratedStates, GivenUniforms, RandomDraws, generator
from gradeval.sampling.surrogates import Surrogate
from gradeval.torch_private import quiet_vmap

ALONE_ENTRIES = 2**22  # entries of the gradients of single points in memory


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
    """Chance without chance: the same calls give the same numbers, whatever the number of points.

    It keeps the probabilities that were asked for: of two that are different the states may be the same.
    """

    def __init__(self, random: torch.Generator, dtype: torch.dtype) -> None:
        super().__init__(random, dtype)
        self.asked: list[Tensor] = []

    def uniform(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        return torch.full(tuple(shape), 0.37, dtype=self.dtype, device=self.generator.device)

    def bernoulli(self, probability: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        self.asked.append(probability.detach())
        return (probability > 0.37).to(probability.dtype)

    def normal(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        return torch.full(tuple(shape), 0.37, dtype=self.dtype, device=self.generator.device)


def _altered(loss: PointLoss, change: Callable[[PointLoss], PointLoss]) -> PointLoss:
    """A loss with its function changed; of a bound of K samples that of one sample, which estimators ask for."""
    return replace(loss, one=change(loss.one)) if isinstance(loss, SampleLosses) else change(loss)


class _PointwiseRun:
    """An estimator on some points of a problem, with fixed chance.

    Losses differ from point to point: a mean over points of equal ones would not be noticed.
    """

    def __init__(self, problem: Problem, estimator: Callable[..., Tensor]) -> None:
        self.problem, self.estimator = problem, estimator
        self.surrogate = Surrogate(problem, estimator)
        self.parameters = {name: p.detach() for name, p in self.surrogate.trainable().items()}
        network = problem.network
        # one for all runs: what an estimator draws from it itself differs from run to run
        self.random = generator(network.device, "fixed")
        self.factors = 1 + 0.5 * torch.arange(problem.points, dtype=network.dtype, device=network.device)

    def __call__(self, x: Tensor, y: Tensor, factors: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Values, the sum of their gradients, flattened, and the probabilities asked for."""
        chance, scaled = _FixedChance(self.random, self.problem.network.dtype), Surrogate(self.problem, self.estimator)
        scaled.network = self.surrogate.network
        scaled.estimator = lambda network, x, loss, chance: self.estimator(
            network, x, _altered(loss, lambda f: lambda last: factors * f(last)), chance
        )

        def total(parameters: dict[str, Tensor]) -> tuple[Tensor, tuple[Tensor, list[Tensor]]]:
            values = functional_call(scaled, parameters, (x, y, chance))
            return values.sum(), (values, chance.asked)

        found, (values, asked) = grad(total, has_aux=True)(self.parameters)
        return values, torch.cat([g.flatten() for g in found.values()]), asked

    def together(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """All points at once."""
        return self(self.surrogate.inputs, self.surrogate.targets, self.factors)

    def alone(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Every point alone: values, sums of gradients, and the probabilities, [points, …].

        By vmap where the estimator allows it, else in a loop.
        """
        data = self.surrogate.inputs[:, None], self.surrogate.targets[:, None], self.factors[:, None]
        at_once = max(1, ALONE_ENTRIES // sum(p.numel() for p in self.parameters.values()))
        try:
            with quiet_vmap():
                parts = [vmap(self)(*some) for some in zip(*(part.split(at_once) for part in data), strict=True)]
        except Exception:  # the loop says what is wrong, if anything is
            each = [self(*some) for some in zip(*data, strict=True)]
            parts = [(v[None], g[None], [p[None] for p in asked]) for v, g, asked in each]
        values = torch.cat([v.flatten() for v, _, _ in parts])
        asked = [torch.cat(some) for some in zip(*(asked for _, _, asked in parts), strict=True)]
        return values, torch.stack([g.sum(0) for _, g, _ in parts]).sum(0), asked


def check_pointwise(problem: Problem, estimator: Callable[..., Tensor]) -> Footprint:
    """Refuse an estimator that mixes data points.

    Its surrogates of all points, their gradients, and the probabilities with which it draws states must be those of
    each point alone. An estimator that mixes points (by a baseline from the batch, say) has other moments than the sum
    over its points.

    Args:
        problem: the estimator is run on all its points together, then on each alone.
        estimator: any surrogate.

    Returns:
        What it has changed of the process.

    Raises:
        Coupled: the estimator mixes points, or they share chance.
        GradevalError: it cannot be run on one of them, has randomness of its own, or writes to the network or the data.
    """
    run = _PointwiseRun(problem, estimator)
    try:
        with alone() as footprint:
            values, gradient, asked = run.together()
            if not all(map(torch.equal, (values, gradient), run.together()[:2])):
                raise GradevalError("the estimator has randomness of its own, which cannot be enumerated")
            single = run.alone()
        try:
            run.surrogate.check_untouched()
        except GradevalError as error:
            raise GradevalError(f"the estimator {error}") from None
        agree = len(asked) == len(single[2]) and _close(values, single[0]) and _close(gradient, single[1])
        agree = agree and all(map(_asked_alone, asked, single[2]))
    except GradevalError:
        raise
    except Exception as error:
        raise GradevalError(
            f"the estimator cannot be run on one data point alone ({type(error).__name__}: {error})"
        ) from None
    if not agree:
        raise Coupled("what the estimator returns for one data point depends on the other points")
    if shares_chance(problem, estimator):
        raise Coupled("the estimator's data points share chance")
    return footprint


def _close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same but for rounding, on the scale of the largest entry."""
    if a.shape != b.shape:
        return False
    scale = float(a.abs().amax()) if a.numel() else 0.0
    return bool(torch.allclose(a, b, rtol=0, atol=scale * torch.finfo(a.dtype).eps ** 0.5))


def _asked_alone(together: Tensor, alone: Tensor) -> bool:
    """Whether the probabilities of all points are those of each alone, [points, …] with an axis of one point."""
    points = len(alone)
    axes = [k for k in range(together.ndim) if (together.shape[k], alone.shape[k + 1]) == (points, 1)]
    return any(_close(together, alone.squeeze(k + 1).movedim(0, k)) for k in axes)


def shares_chance(problem: Problem, estimator: Callable[..., Tensor]) -> bool:
    """Whether a draw takes other than so many uniform variables for every data point: points then share some.

    Args:
        problem: the estimator is run on all its points, and on the first alone.
        estimator: any surrogate.

    Returns:
        Whether the numbers of variables disagree; False where it cannot be run on one point.

    Examples:
        >>> import gradeval
        >>> from gradeval.estimators import get_estimator
        >>> problem = gradeval.load_problem("expclass", units="2-3", stage=0, points=4)
        >>> shares_chance(problem, get_estimator("reinforce"))
        False
    """
    try:
        taken = [uniforms_of(problem, estimator, some) for some in (slice(None), slice(0, 1))]
    except Exception:
        return False
    return taken[0] != problem.points * taken[1]


def uniforms_of(problem: Problem, estimator: Callable[..., Tensor], some: slice = slice(0, 1)) -> int:
    """Count the uniform variables that one draw takes; every other variable is a function of these.

    Args:
        problem: the estimator is run on some of its points.
        estimator: any surrogate.
        some: which; the first, by default.

    Returns:
        Their number.

    Examples:
        >>> import gradeval
        >>> from gradeval.estimators import get_estimator
        >>> problem = gradeval.load_problem("expclass", units="2-3", stage=0)
        >>> uniforms_of(problem, get_estimator("reinforce"))
        5
    """
    network = problem.network
    chance = GivenUniforms(torch.empty(0, dtype=network.dtype), generator(network.device, "count"), network.dtype)
    with torch.no_grad():
        Surrogate(problem, estimator)(problem.inputs[some], problem.targets[some], chance)
    return chance.taken


class Coupled(GradevalError):
    """What an estimator returns for one data point depends on the other points, or shares chance with them."""


@dataclass(frozen=True)
class Behaviour:
    """What a watched draw of an estimator showed.

    Attributes:
        uniforms: the number of uniform variables that a draw takes; every other variable is a function of these.
        notes: what the user should know, such as a use of global randomness.
        own_chance: whether it uses global randomness, or owns its sampling.
        stateful: whether it gives other numbers for the same randomness.
    """

    uniforms: int
    notes: list[str]
    own_chance: bool = False
    stateful: bool = False


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
        Behaviour(uniforms=50, notes=[], own_chance=False, stateful=False)
    """
    trial = _Trial(Surrogate(problem, estimator))
    with alone() as footprint:
        gradient, value, chance = trial.draw()
    uniforms = chance.taken
    trial.surrogate.check_untouched()
    for what, numbers in (("gradients", gradient), ("values", value)):
        if not bool(torch.isfinite(numbers).all()):
            raise GradevalError(f"gives NaN or infinite {what}")
    if names := footprint.generators:
        note = f"uses global randomness ({', '.join(names)}): draws do not follow from the seed; take chance from"
        return Behaviour(uniforms, [f"{note} `randomness`", *footprint.notes], own_chance=True)
    trial = _Trial(Surrogate(problem, estimator))  # a hook is kept by its parameter
    with alone():
        again = trial.draw()
    own = owns_sampling(estimator) and chance.used
    if torch.equal(gradient, again[0]) and torch.equal(value, again[1]):
        return Behaviour(uniforms, footprint.notes, own_chance=own)
    note = "gives other numbers for the same randomness: it keeps a state, or has randomness of its own"
    return Behaviour(uniforms, [note, *footprint.notes], own_chance=own, stateful=True)


@dataclass(frozen=True)
class _Trial:
    """An estimator is tried on a surrogate's copies of network and data."""

    surrogate: Surrogate

    def draw(self) -> tuple[Tensor, Tensor, GivenUniforms]:
        """Gradient, value of each point and the chance taken of one draw, always the same chance."""
        own = self.surrogate
        network, random = own.network, generator(own.network.device).manual_seed(1)
        parameters = list(own.trainable().values())
        for parameter in parameters:
            parameter.grad = None
        chance = GivenUniforms(torch.empty(0, dtype=network.dtype), random, network.dtype)
        try:
            loss, constant = split_constant(own.problem.loss_function(network, own.targets, own.inputs))
            value = own.estimator(network, own.inputs, loss, chance)
        except GradevalError:
            raise
        except Exception as error:
            raise GradevalError(f"raises {describe(error)}") from error
        value = self.checked(value) if constant is None else self.checked(value) + constant
        try:
            value.mean().backward()
        except RuntimeError as error:
            raise GradevalError(f"has no gradient that autograd can take: {str(error).splitlines()[0]}") from error
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        return torch.cat([g.flatten() for g in found]), value.detach(), chance

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
    parts = loss.samples if isinstance(loss, SampleLosses) else 1  # all K samples are one evaluation

    def counted(f: PointLoss) -> PointLoss:
        def evaluate(x: Tensor) -> Tensor:
            nonlocal losses
            found = f(x)
            losses += found.shape[:-1].numel() / parts
            return found

        return evaluate

    with alone():
        chance = RandomDraws(generator(network.device, "count"), network.dtype)
        estimator(network, own.inputs, _altered(loss, counted), chance)
    return sum(layer.count for layer in layers), losses
