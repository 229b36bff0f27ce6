"""Draws of one estimator's gradient, vectorised over draws where the estimator allows it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from gradeval.sampling.backward import OTHER_BACKWARD, agrees_with_backward, plain_draw
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
        trial = RandomDraws(generator(problem.network.device, "trial"), problem.network.dtype)
        with _flip_costs(self.notes):
            gradients = self._try(trial, loop or ("it owns its sampling" if owns_sampling(estimator) else ""))
        if self.vectorised and not agrees_with_backward(problem, estimator, self._vectorised):
            self.vectorised, self._afresh = False, True
            self.notes.append(OTHER_BACKWARD)
        self.deterministic = not trial.used and bool((gradients[0] == gradients[1]).all())
        self.own_chance = not trial.used and not self.deterministic
        if self.own_chance:
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
        return self._draw(torch.empty(count), lambda _: randomness, self.batch)

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
        return self._draw(uniforms, lambda row: GivenUniforms(row, random, dtype), 8 * self.batch)

    def _draw(self, rows: Tensor, chance: Callable[[Tensor], RandomDraws], batch: int) -> tuple[Tensor, Tensor]:
        draw = self._vectorised if self.vectorised else self._loop
        count = len(rows)
        try:
            parts = [draw(part, chance) for part in rows.split(batch)]
        except Exception as error:
            raise estimator_error(self.name, error) from error
        gradients, values = (torch.cat(part) for part in zip(*parts, strict=True))
        if not bool(torch.isfinite(gradients).all()):
            bad = int((~torch.isfinite(gradients).all(1)).sum())
            raise GradevalError(f"estimator '{self.name}' gave NaN or infinite gradients in {bad} of {count} draws.")
        return gradients, values

    def _surrogate(self) -> tuple[Surrogate, dict[str, Tensor]]:
        """This thread's own copy: a functional call exchanges the parameters of the module it calls."""
        if not hasattr(self._local, "surrogate"):
            surrogate = Surrogate(self.problem, self.estimator)
            self._local.surrogate = surrogate, {name: p.detach() for name, p in surrogate.named_parameters()}
        pair: tuple[Surrogate, dict[str, Tensor]] = self._local.surrogate
        return pair

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
        pairs = zip(gradients.values(), surrogate.parameters(), strict=True)  # backward() leaves frozen ones alone
        return torch.cat([(g if p.requires_grad else 0 * g).reshape(len(rows), -1) for g, p in pairs], 1), values

    def _loop(self, rows: Tensor, chance: Callable[[Tensor], RandomDraws]) -> tuple[Tensor, Tensor]:
        kept, _ = self._surrogate()
        surrogates = (Surrogate(self.problem, self.estimator) if self._afresh else kept for _ in rows)
        pairs = [plain_draw(surrogate, chance(row)) for surrogate, row in zip(surrogates, rows, strict=True)]
        return torch.stack([gradient for gradient, _ in pairs]), torch.stack([value for _, value in pairs])
