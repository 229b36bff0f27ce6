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
from gradeval.model.maps import Form
from gradeval.model.network import BinaryLayer
from gradeval.model.problem import Problem
from gradeval.model.randomness import EnumeratedStates, GivenUniforms, RandomDraws, generator
from gradeval.sampling.surrogates import Surrogate


def count_chance(problem: Problem, estimator: Callable[..., Tensor]) -> tuple[int, bool]:
    """The number of Bernoulli variables an estimator takes per data point, and whether it asks for any other chance."""
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
    """Raise GradevalError unless the surrogates of several points, and their gradients, are those of each point alone.

    An estimator that mixes points (a baseline from the batch, say) has other moments than its points one by one.
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
        raise GradevalError("it treats several data points together otherwise than one by one")


def probe(problem: Problem, estimator: Estimator) -> tuple[int, list[str]]:
    """One plain draw, watched: the uniform variables it takes, and notes.

    Raises:
        GradevalError: it raises, returns a wrong type or shape, NaN, or what has no gradient; it writes to the
            parameters or the data.
    """
    network, random_ = deepcopy(problem.network), generator(problem.network.device, "probe")
    inputs, targets = problem.inputs.clone(), problem.targets.clone()
    before = {name: p.detach().clone() for name, p in network.state_dict(keep_vars=True).items()}
    parameters = list(network.parameters())
    state = _global_state()

    def draw() -> tuple[Tensor, Tensor, GivenUniforms]:
        chance = GivenUniforms(torch.empty(0, dtype=network.dtype), random_.manual_seed(1), network.dtype)
        try:
            value = estimator(network, inputs, problem.loss_function(network, targets), chance)
        except GradevalError:
            raise
        except Exception as error:
            raise GradevalError(f"raises {describe(error)}") from error
        if not isinstance(value, Tensor):
            raise GradevalError(f"returns {type(value).__name__}, not a tensor of one number per point")
        if value.shape != (problem.points,):
            found = list(value.shape)
            raise GradevalError(
                f"returns the wrong shape: {found} where one number per point is needed (points = {problem.points})"
            )
        if not value.requires_grad:
            raise GradevalError("returns a value without a gradient: it was detached or made under no_grad")
        try:
            found_ = torch.autograd.grad(value.mean(), parameters, allow_unused=True, materialize_grads=True)
        except RuntimeError as error:
            raise GradevalError(f"has no gradient that autograd can take: {str(error).splitlines()[0]}") from error
        return torch.cat([g.flatten() for g in found_]), value.detach(), chance

    gradient, value, chance = draw()
    for name, old, new in (("inputs", problem.inputs, inputs), ("targets", problem.targets, targets)):
        if not torch.equal(old, new):
            raise GradevalError(f"writes to the data ({name})")
    for name, tensor in network.state_dict(keep_vars=True).items():
        if not torch.equal(tensor.detach(), before[name]):
            raise GradevalError(f"writes to the network's parameters ({name})")
    for what, numbers in (("gradients", gradient), ("values", value)):
        if not bool(torch.isfinite(numbers).all()):
            raise GradevalError(f"gives NaN or infinite {what}")
    notes = []
    if names := [name for name, old, new in zip(_GLOBAL, state, _global_state(), strict=True) if old != new]:
        notes.append(
            f"uses global randomness ({', '.join(names)}): draws do not follow from the seed; "
            "take chance from `randomness`"
        )
    else:
        gradient_, value_, _ = draw()
        if not (torch.equal(gradient, gradient_) and torch.equal(value, value_)):
            notes.append("gives other numbers for the same randomness: it keeps a state, or has randomness of its own")
    return chance.taken, notes


_GLOBAL = ("torch's", "numpy's")


def _global_state() -> tuple[bytes, bytes]:
    return (
        torch.get_rng_state().numpy().tobytes(),
        repr(np.random.get_state()).encode() + np.random.get_state()[1].tobytes(),  # type: ignore[index]
    )


def describe(error: BaseException) -> str:
    """Type, message and the line that raised."""
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

    def gaussian_moments(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        self.count += mean.shape[:-2].numel()
        return super().gaussian_moments(mean, variance)

    def form(self, x: Tensor) -> Form | None:
        form = super().form(x)
        self.count += x.shape[:-2].numel() * (x.shape[-1] if form is None else 1)
        return form


def count_evaluations(problem: Problem, estimator: Estimator) -> tuple[float, float]:
    """Evaluations of one layer, and of the loss, that one draw of an estimator costs per data point."""
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
