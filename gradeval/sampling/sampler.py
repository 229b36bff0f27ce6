"""Draws of one estimator's gradient, vectorised over draws where the estimator allows it."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from gradeval.errors import GradevalError, estimator_error
from gradeval.estimators.protocol import Estimator, owns_sampling
from gradeval.model.network import FlipCost
from gradeval.model.problem import Problem
from gradeval.model.randomness import GivenUniforms, RandomDraws, generator
from gradeval.sampling.streaming import CHUNK
from gradeval.sampling.surrogates import Surrogate
from gradeval.torch_private import quiet_vmap

OWN_CHANCE = "uses randomness of its own: draws do not follow from the seed"
BATCH_BYTES = 2**23  # one vectorised batch keeps its largest tensor about this small: it should stay in the cache


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one BLAS thread: several workers' threads would wait on each other, and change the rounding.

    The number of threads is put back at the end.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compute_seconds(device: torch.device) -> float:
    """Seconds of compute so far: of this thread on the CPU; of the wall clock on another device, when it is done.

    Args:
        device: that computes.

    Returns:
        Seconds since some fixed instant.

    Examples:
        >>> before = compute_seconds(torch.device("cpu"))
        >>> compute_seconds(torch.device("cpu")) >= before
        True
    """
    if device.type == "cpu":
        return time.thread_time()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def _flip_costs(notes: list[str]) -> Iterator[None]:
    """Warnings that flips are costly become notes; others are warned of as before."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FlipCost)
        yield
    for warning in caught:
        if issubclass(warning.category, FlipCost):
            notes.append(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _in_batches(
    draw: Callable[[Tensor], tuple[Tensor, Tensor]],
    batches: Sequence[Tensor],
    problem: Problem,
    times: list[tuple[int, float]],
) -> tuple[Tensor, Tensor]:
    """Gradients and values of all batches; the time of each is added to ``times``."""
    parts = []
    for rows in batches:
        began = compute_seconds(problem.network.device)
        parts.append(draw(rows))
        times.append((len(rows), compute_seconds(problem.network.device) - began))
    gradients, values = (torch.cat(part) for part in zip(*parts, strict=True))
    return gradients, values


def _check_finite(gradients: Tensor, name: str) -> None:
    bad = int((~torch.isfinite(gradients).all(1)).sum())
    if bad:
        raise GradevalError(f"estimator '{name}' gave NaN or infinite gradients in {bad} of {len(gradients)} draws.")


class Sampler:
    """Per-draw gradients and values of one estimator, vectorised over draws where the estimator allows it.

    Args:
        problem: network, data and loss.
        name: of the estimator, in messages.
        estimator: is run twice at once, to see how it can be drawn.

    Raises:
        GradevalError: the estimator cannot be run, or returns something else than one number per point.

    Attributes:
        vectorised: whether draws are made by `torch.func.vmap`, else by a loop.
        deterministic: whether the estimator asks for no randomness and all draws agree.
        own_chance: whether it asks for none and yet they differ.
        notes: what the user should know.
        batch: how many draws are made at once.

    Examples:
        >>> from gradeval import load_problem
        >>> from gradeval.estimators import get_estimator
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> sampler = Sampler(problem, "st", get_estimator("st"))
        >>> gradients, values = sampler.chunk(100, "an example")
        >>> sampler.vectorised, gradients.shape, values.shape
        (True, torch.Size([100, 15]), torch.Size([100]))
    """

    def __init__(self, problem: Problem, name: str, estimator: Estimator) -> None:
        self.name = name
        self.problem = problem
        self.estimator: Any = estimator
        self.notes: list[str] = []
        self.vectorised = True
        self._local = threading.local()
        widest = max(a * b for a, b in zip([1, *problem.widths], [*problem.widths, 1], strict=True))
        self.batch = max(1, min(CHUNK, BATCH_BYTES // (problem.points * widest * problem.network.dtype.itemsize)))
        with _flip_costs(self.notes):
            trial = RandomDraws(generator(problem.network.device, "trial"), problem.network.dtype)
            gradients = self._try(trial)
        self.deterministic = not trial.used and bool((gradients[0] == gradients[1]).all())
        self.own_chance = not trial.used and not self.deterministic
        if self.own_chance:
            self.notes.append(OWN_CHANCE)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _local=threading.local())

    def _try(self, trial: RandomDraws) -> Float[Tensor, "2 P"]:
        """The gradients of two draws; decides whether draws are vectorised."""
        pair = torch.empty(2)
        try:
            if owns_sampling(self.estimator):
                raise RuntimeError("it owns its sampling")
            return self._vectorised(pair, lambda _: trial)[0]
        except GradevalError as error:
            raise estimator_error(self.name, error) from None
        except Exception as error:
            self.vectorised = False
            try:
                gradients, _ = self._loop(pair, lambda _: trial)
            except Exception as plain:
                raise estimator_error(self.name, plain) from plain
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            self.notes.append(f"not vectorised, drawn in a loop ({reason})")
            return gradients

    def chunk(
        self, count: int, *names: object, times: list[tuple[int, float]] | None = None
    ) -> tuple[Float[Tensor, "draws P"], Float[Tensor, " draws"]]:
        """Make some draws.

        Args:
            count: how many.
            names: what their seed follows from.
            times: receives, of each batch of draws, how many they are and the seconds of compute.

        Returns:
            The gradients, flattened, [draws, P], and the values, [draws].

        Raises:
            GradevalError: the estimator raises, or gives NaN or infinite gradients.
        """
        randomness = RandomDraws(generator(self.problem.network.device, *names), self.problem.network.dtype)
        return self._draw(torch.empty(count), lambda _: randomness, self.batch, [] if times is None else times)

    def given(
        self, uniforms: Float[Tensor, "draws given"], random: torch.Generator
    ) -> tuple[Float[Tensor, "draws P"], Float[Tensor, " draws"]]:
        """Make draws from given uniform variables.

        Args:
            uniforms: a row for every draw, [draws, given].
            random: where a draw takes its chance from beyond its row.

        Returns:
            The gradients, flattened, [draws, P], and the values, [draws].

        Raises:
            GradevalError: the estimator raises, or gives NaN or infinite gradients.
        """
        dtype = self.problem.network.dtype
        return self._draw(uniforms, lambda row: GivenUniforms(row, random, dtype), 8 * self.batch, [])

    def _draw(
        self, rows: Tensor, chance: Callable[[Tensor], RandomDraws], batch: int, times: list[tuple[int, float]]
    ) -> tuple[Tensor, Tensor]:
        draw = self._vectorised if self.vectorised else self._loop
        try:
            self._surrogate()  # making it is no part of a draw
            gradients, values = _in_batches(partial(draw, chance=chance), rows.split(batch), self.problem, times)
        except Exception as error:
            raise estimator_error(self.name, error) from error
        _check_finite(gradients, self.name)
        return gradients, values

    def _surrogate(self) -> tuple[Surrogate, dict[str, Tensor]]:
        """This thread's own copy: a functional call exchanges the parameters of the module it calls."""
        if not hasattr(self._local, "surrogate"):
            surrogate = Surrogate(self.problem, self.estimator)
            self._local.surrogate = surrogate, {name: p.detach() for name, p in surrogate.named_parameters()}
        return self._local.surrogate

    def _vectorised(self, rows: Tensor, chance: Callable[[Tensor], RandomDraws]) -> tuple[Tensor, Tensor]:
        surrogate, parameters = self._surrogate()
        data = self.problem.inputs, self.problem.targets

        def draw(row: Tensor) -> tuple[dict[str, Tensor], Tensor]:
            result: tuple[dict[str, Tensor], Tensor] = grad_and_value(
                lambda parameters: functional_call(surrogate, parameters, (*data, chance(row))).mean()
            )(parameters)
            return result

        with quiet_vmap():
            gradients, values = vmap(draw, randomness="different")(rows)
        return torch.cat([g.reshape(len(rows), -1) for g in gradients.values()], 1), values

    def _loop(self, rows: Tensor, chance: Callable[[Tensor], RandomDraws]) -> tuple[Tensor, Tensor]:
        surrogate, _ = self._surrogate()
        parameters = list(surrogate.parameters())
        gradients, values = [], []
        for row in rows:
            value = surrogate(self.problem.inputs, self.problem.targets, chance(row)).mean()
            found = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
            gradients.append(torch.cat([g.flatten() for g in found]))
            values.append(value.detach())
        return torch.stack(gradients), torch.stack(values)
