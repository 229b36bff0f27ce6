"""Draws of one estimator's gradient, vectorised over draws where the estimator allows it."""

from __future__ import annotations

import ctypes
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.errors import GradevalError, estimator_error
from gradeval.estimators.protocol import Estimator, owns_sampling
from gradeval.isolation import alone, in_company
from gradeval.model.network import FlipCost
from gradeval.model.problem import Problem
from gradeval.model.randomness import GivenUniforms, RandomDraws, derived_seed, generator
from gradeval.sampling.extent import CHUNK
from gradeval.sampling.gradients import RowChance, all_at_once, as_backward, one_by_one
from gradeval.sampling.streaming import LARGEST_GRADIENT
from gradeval.sampling.surrogates import Surrogate
from gradeval.threads import one_thread

OWN_CHANCE = "uses randomness of its own: draws do not follow from the seed"
OTHER_BACKWARD = (
    "not vectorised, drawn in a loop: plain backward() on the network's own parameters gives another gradient than "
    "torch.func.grad (by hooks, .data, in-place writes, or tests of leaves or requires_grad?), and backward() counts"
)
MANY_PARAMETERS = 10_000  # beyond, a batch is small enough for its gradients and outputs
LARGE_BATCH_BYTES = 2**25
GIVE_BACK = 16  # draws that fill a batch alone, after which free memory is given back
BATCH_BYTES = 2**23  # one vectorised batch keeps its largest tensor about this small: it should stay in the cache


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


def refuse_infinite(name: str, gradients: Float[Tensor, "draws P"]) -> None:
    """Raise GradevalError where a gradient is NaN, infinite or so large that its square might be.

    Args:
        name: of the estimator.
        gradients: of some of its draws.

    Raises:
        GradevalError: one of them is not finite.
    """
    finite = torch.isfinite(gradients).all(1)
    if not bool(finite.all()):
        bad = int((~finite).sum())
        raise GradevalError(f"estimator '{name}' gave NaN or infinite gradients in {bad} of {len(finite)} draws.")
    if (largest := float(gradients.abs().max())) > LARGEST_GRADIENT:
        raise GradevalError(f"estimator '{name}' gave gradients of {largest:.0e}, beyond {LARGEST_GRADIENT:.0e}.")


Times = list[tuple[int, float]]  # of batches of draws, how many they are and the seconds of compute


def _in_batches(
    draw: Callable[[Tensor], tuple[Tensor, Tensor]],
    batches: Sequence[Tensor],
    problem: Problem,
    times: Times | None,
) -> tuple[Tensor, Tensor]:
    """Gradients and values of all batches; the time of each is added to ``times``, if given."""
    parts: list[tuple[Tensor, Tensor]] = []
    for rows in batches:
        if len(rows) == 1:
            give_back_memory(len(parts))
        began = compute_seconds(problem.network.device)
        parts.append(draw(rows))
        if times is not None:
            times.append((len(rows), compute_seconds(problem.network.device) - began))
    gradients, values = (torch.cat(part) for part in zip(*parts, strict=True))
    return gradients, values


def give_back_memory(draws: int) -> None:
    """Have C's allocator return what is free: with 100,000 points it kept some MB more with every draw.

    Args:
        draws: that were made so far, each as large as a batch; it is done at every `GIVE_BACK` of them.
    """
    if draws % GIVE_BACK == GIVE_BACK - 1:
        with suppress(OSError, AttributeError, TypeError):  # it is glibc's
            ctypes.CDLL(None).malloc_trim(0)


def turn_of(sampler: Sampler, *names: object) -> AbstractContextManager[object]:
    """When an estimator may run: beside others, or alone where it has been seen to change the process.

    Args:
        sampler: of the estimator.
        names: what the process's own generators are seeded by, where it runs alone.

    Returns:
        A context manager to run it in.
    """
    return alone(derived_seed(sampler.name, *names, "the process")) if sampler.intrudes else in_company()


def _batch_at_size(problem: Problem) -> int:
    """How many draws are made at once at most: with many parameters, gradients and outputs of all flips are large."""
    network = problem.network
    parameters = sum(p.numel() for p in network.trainable().values())
    if parameters <= MANY_PARAMETERS:
        return CHUNK
    units = problem.widths[-1]
    with torch.no_grad():
        outputs = network.head(torch.zeros(1, units, dtype=network.dtype, device=network.device)).numel()
    return max(1, LARGE_BATCH_BYTES // (max(parameters, units * problem.points * outputs) * network.dtype.itemsize))


class Sampler:
    """Per-draw gradients and values of one estimator, vectorised over draws where the estimator allows it.

    Draws are made on one thread: on several, a batch that is small enough for the cache would mostly wait.

    Args:
        problem: network, data and loss.
        name: of the estimator, in messages.
        estimator: is run twice at once, to see how it can be drawn.
        loop: why it must be drawn in a loop; by default it need not.

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

    def __init__(self, problem: Problem, name: str, estimator: Estimator, loop: str = "") -> None:
        self.name = name
        self.problem = problem
        self.estimator: Any = estimator
        self.notes: list[str] = []
        self.vectorised = True
        self._afresh = False  # whether every draw of the loop has a copy of the network of its own
        self._local = threading.local()
        widest = max(a * b for a, b in zip([1, *problem.widths], [*problem.widths, 1], strict=True))
        self.batch = max(1, min(CHUNK, BATCH_BYTES // (problem.points * widest * problem.network.dtype.itemsize)))
        self.batch = min(self.batch, _batch_at_size(problem))
        trial = RandomDraws(generator(problem.network.device, "trial"), problem.network.dtype)
        reason = loop or ("it owns its sampling" if owns_sampling(estimator) else "")
        try:
            with one_thread(), alone() as footprint, _flip_costs(self.notes):
                gradients = self._try(trial, reason)
                if self.vectorised and not as_backward(problem, estimator):
                    self.vectorised, self._afresh = False, True
                    self.notes.append(OTHER_BACKWARD)
        except Exception as error:
            raise estimator_error(name, error) from error
        self.intrudes, self.notes = footprint.intrudes, self.notes + footprint.notes
        del self._local.surrogate  # an estimator that writes to it is failed by its first chunk
        self.deterministic = not trial.used and bool((gradients[0] == gradients[1]).all())
        self.own_chance = not trial.used and not self.deterministic
        if self.own_chance:
            self.intrudes = True  # its draws follow from the seed where its chance is the process's
            self.notes.append(OWN_CHANCE)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _local=threading.local())

    def _try(self, trial: RandomDraws, loop: str) -> Float[Tensor, "2 P"]:
        """The gradients of two draws; decides whether draws are vectorised."""
        pair = torch.empty(2)
        try:
            if loop:
                raise RuntimeError(loop)
            return self._vectorised(pair, lambda _: trial)[0]
        except GradevalError:
            raise
        except Exception as error:
            self.vectorised = False
            gradients, _ = self._loop(pair, lambda _: trial)
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            self.notes.append(f"not vectorised, drawn in a loop ({reason})")
            return gradients

    def chunk(
        self, count: int, *names: object, times: Times | None = None
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
        return self._draw(torch.empty(count), lambda _: randomness, self.batch, names, times)

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
        names: list[object] = [torch.randint(2**62, [1], generator=random).item()] if self.intrudes else []
        return self._draw(uniforms, lambda row: GivenUniforms(row, random, dtype), 8 * self.batch, names)

    @one_thread()
    def _draw(
        self, rows: Tensor, chance: RowChance, batch: int, names: Sequence[object], times: Times | None = None
    ) -> tuple[Tensor, Tensor]:
        draw = self._vectorised if self.vectorised else self._loop
        try:
            self._surrogate()  # making it is no part of a draw
            with turn_of(self, *names):
                gradients, values = _in_batches(partial(draw, chance=chance), rows.split(batch), self.problem, times)
            self._surrogate()[0].check_untouched()
        except Exception as error:
            self._local = threading.local()  # whatever was written to the copies goes with them
            raise estimator_error(self.name, error) from error
        refuse_infinite(self.name, gradients)
        return gradients, values

    def _surrogate(self) -> tuple[Surrogate, dict[str, Tensor]]:
        """This thread's own copy: a functional call exchanges the parameters of the module it calls."""
        if not hasattr(self._local, "surrogate"):
            surrogate = Surrogate(self.problem, self.estimator)
            self._local.surrogate = surrogate, {name: p.detach() for name, p in surrogate.trainable().items()}
        pair: tuple[Surrogate, dict[str, Tensor]] = self._local.surrogate
        return pair

    def _vectorised(self, rows: Tensor, chance: RowChance) -> tuple[Tensor, Tensor]:
        return all_at_once(*self._surrogate(), rows, chance)

    def _loop(self, rows: Tensor, chance: RowChance) -> tuple[Tensor, Tensor]:
        kept, _ = self._surrogate()
        return one_by_one(lambda: Surrogate(self.problem, self.estimator) if self._afresh else kept, rows, chance)
