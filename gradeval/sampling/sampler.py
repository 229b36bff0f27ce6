"""Draws of one estimator's gradient, vectorised over draws where the estimator allows it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from gradeval.errors import GradevalError, estimator_error
from gradeval.estimators.protocol import Estimator, owns_sampling
from gradeval.isolation import alone, in_company
from gradeval.model.network import FlipCost
from gradeval.model.problem import Problem
from gradeval.model.randomness import GivenUniforms, RandomDraws, derived_seed, generator
from gradeval.sampling.streaming import CHUNK, TOO_LARGE
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
        trial = RandomDraws(generator(problem.network.device, "trial"), problem.network.dtype)
        try:
            with alone() as footprint, _flip_costs(self.notes):
                gradients = self._try(trial)
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

    def _try(self, trial: RandomDraws) -> Float[Tensor, "2 P"]:
        """The gradients of two draws; decides whether draws are vectorised."""
        pair = torch.empty(2)
        try:
            if owns_sampling(self.estimator):
                raise RuntimeError("it owns its sampling")
            return self._vectorised(pair, lambda _: trial)[0]
        except GradevalError:
            raise
        except Exception as error:
            self.vectorised = False
            gradients, _ = self._loop(pair, lambda _: trial)
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            self.notes.append(f"not vectorised, drawn in a loop ({reason})")
            return gradients

    def chunk(self, count: int, *names: object) -> tuple[Float[Tensor, "draws P"], Float[Tensor, " draws"]]:
        """Make some draws.

        Args:
            count: how many.
            names: what their seed follows from.

        Returns:
            The gradients, flattened, [draws, P], and the values, [draws].

        Raises:
            GradevalError: the estimator raises, or gives NaN or infinite gradients.
        """
        randomness = RandomDraws(generator(self.problem.network.device, *names), self.problem.network.dtype)
        return self._draw(torch.empty(count), lambda _: randomness, self.batch, names)

    def turn(self, *names: object) -> AbstractContextManager[object]:
        """A context manager to run the estimator in: beside others, or alone where it changes the process.

        Args:
            names: what the process's own generators are seeded by, where it runs alone.
        """
        return alone(derived_seed(self.name, *names, "the process")) if self.intrudes else in_company()

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

    def _draw(
        self, rows: Tensor, chance: Callable[[Tensor], RandomDraws], batch: int, names: Sequence[object]
    ) -> tuple[Tensor, Tensor]:
        draw = self._vectorised if self.vectorised else self._loop
        count = len(rows)
        try:
            with self.turn(*names):
                parts = [draw(part, chance) for part in rows.split(batch)]
            self._surrogate()[0].check_untouched()
        except Exception as error:
            self._local = threading.local()  # whatever was written to the copies goes with them
            raise estimator_error(self.name, error) from error
        gradients, values = (torch.cat(part) for part in zip(*parts, strict=True))
        if not bool(torch.isfinite(gradients).all()):
            bad = int((~torch.isfinite(gradients).all(1)).sum())
            raise GradevalError(f"estimator '{self.name}' gave NaN or infinite gradients in {bad} of {count} draws.")
        if (largest := float(gradients.abs().max())) > TOO_LARGE:
            raise GradevalError(f"estimator '{self.name}' gave gradients of {largest:.0e}, beyond {TOO_LARGE:.0e}.")
        return gradients, values

    def _surrogate(self) -> tuple[Surrogate, dict[str, Tensor]]:
        """This thread's own copy: a functional call exchanges the parameters of the module it calls."""
        if not hasattr(self._local, "surrogate"):
            surrogate = Surrogate(self.problem, self.estimator)
            self._local.surrogate = surrogate, {name: p.detach() for name, p in surrogate.trainable().items()}
        pair: tuple[Surrogate, dict[str, Tensor]] = self._local.surrogate
        return pair

    def _vectorised(self, rows: Tensor, chance: Callable[[Tensor], RandomDraws]) -> tuple[Tensor, Tensor]:
        return _all_at_once(*self._surrogate(), rows, chance)

    def _loop(self, rows: Tensor, chance: Callable[[Tensor], RandomDraws]) -> tuple[Tensor, Tensor]:
        return _one_by_one(self._surrogate()[0], rows, chance)


def _all_at_once(
    surrogate: Surrogate, parameters: dict[str, Tensor], rows: Tensor, chance: Callable[[Tensor], RandomDraws]
) -> tuple[Tensor, Tensor]:
    """Gradients and values of draws by one vectorised call."""
    data = surrogate.inputs, surrogate.targets

    def draw(row: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        result: tuple[dict[str, Tensor], Tensor] = grad_and_value(
            lambda parameters: functional_call(surrogate, parameters, (*data, chance(row))).mean()
        )(parameters)
        return result

    with quiet_vmap():
        gradients, values = vmap(draw, randomness="different")(rows)
    return torch.cat([g.reshape(len(rows), -1) for g in gradients.values()], 1), values


def _one_by_one(surrogate: Surrogate, rows: Tensor, chance: Callable[[Tensor], RandomDraws]) -> tuple[Tensor, Tensor]:
    """Gradients and values of draws, each by a plain backward pass."""
    parameters = list(surrogate.trainable().values())
    gradients, values = [], []
    for row in rows:
        value = surrogate(surrogate.inputs, surrogate.targets, chance(row)).mean()
        found = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        gradients.append(torch.cat([g.flatten() for g in found]))
        values.append(value.detach())
    return torch.stack(gradients), torch.stack(values)
