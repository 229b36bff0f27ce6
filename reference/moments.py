"""Exact mean and covariance of an estimator: run it on every joint state of its Bernoulli variables, weighted by P."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TypedDict, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.analysis import measures
from gradeval.arguments import whole, workers_of
from gradeval.errors import GradevalError, check_options
from gradeval.given import GivenProblem, given_estimator, given_problem
from gradeval.isolation import alone, in_company
from gradeval.model.precision import in_precision
from gradeval.model.problem import Problem
from gradeval.model.randomness import EnumeratedStates, derived_seed, generator
from gradeval.model.states import binary_digits
from gradeval.progress import Advance
from gradeval.reference.exact import exact_gradient
from gradeval.sampling.probes import check_pointwise, count_chance
from gradeval.sampling.surrogates import Surrogate, weighted_gradients
from gradeval.threads import one_thread, single_threads
from gradeval.torch_private import quiet_vmap

MAX_BITS = 18
"""The most Bernoulli variables per point that are enumerated: 2^18 joint states."""


@dataclass(frozen=True)
class ExactMoments:
    """Moments of one draw g of an estimator, the mean over points of independent draws, against g* = ∇J.

    Attributes:
        mean: E[g], flattened, [P].
        covariance: Cov(g), [P, P].
        value: E of the surrogate's value, an estimate of J.
        exact: g*, [P].
        slices: where each layer's parameters lie.
        standard_error: of every entry of ``mean``; zero where all chance was enumerated.
    """

    mean: Float[Tensor, " P"]
    covariance: Float[Tensor, "P P"]
    value: float
    exact: Float[Tensor, " P"]
    slices: dict[str, slice]
    standard_error: Float[Tensor, " P"]

    @property
    def bias(self) -> Float[Tensor, " P"]:
        """E[g] − g*."""
        return self.mean - self.exact

    @property
    def variance(self) -> Float[Tensor, " P"]:
        """Var(g) of every coordinate."""
        return self.covariance.diagonal()

    def relative_bias(self) -> dict[str, float]:
        """The bias of each layer relative to ‖g*‖.

        Returns:
            ‖E[g] − g*‖ / ‖g*‖ by layer.
        """
        return {k: float(measures.relative(self.bias[w].norm(), self.exact[w].norm())) for k, w in self.slices.items()}

    def relative_variance(self) -> dict[str, float]:
        """The variance of each layer relative to ‖g*‖².

        Returns:
            tr Cov(g) / ‖g*‖² by layer.
        """
        return {
            k: float(measures.relative_variance(self.variance[w].sum(), self.exact[w].norm()))
            for k, w in self.slices.items()
        }

    def relative_rmse(self, samples: int = 1) -> dict[str, float]:
        """The root mean squared error of the mean of M draws, relative to ‖g*‖.

        Args:
            samples: M.

        Returns:
            √(bias² + variance/M), both relative, by layer.
        """
        bias, variance = self.relative_bias(), self.relative_variance()
        return {k: float(measures.mean_square(bias[k], variance[k], samples) ** 0.5) for k in self.slices}

    def scale(self) -> dict[str, float]:
        """How long the mean gradient is along the exact one.

        Returns:
            ⟨E[g], g*⟩ / ‖g*‖² by layer: 1 for an unbiased estimator.
        """
        return {
            k: float(measures.scale(self.mean[w] @ self.exact[w], self.exact[w].norm() ** 2))
            for k, w in self.slices.items()
        }


class MomentsExecution(TypedDict, total=False):
    """How `exact_moments` goes about it; no number depends on it but for the precision. See there for each."""

    precision: str
    memory: int
    workers: int | None
    advance: Advance | None


def exact_moments(
    problem: GivenProblem,
    estimator: str | Callable[..., Tensor],
    *,
    samples: int = 64,
    seed: int = 0,
    **execution: Unpack[MomentsExecution],
) -> ExactMoments:
    """Exact mean and covariance of one draw of an estimator.

    Points are drawn independently: Cov(mean over points) = Σ_points Cov / N². Chance beyond Bernoulli states (noise,
    uniform or normal variables) is sampled within every joint state and leaves a standard error.

    Args:
        problem: network, data and loss, or the name or file of a problem.
        estimator: a spec ("psa"), or any surrogate that can be vectorised.
        samples: draws of the further chance in each joint state.
        seed: of those.
        precision: in which the estimator is run: "double", whatever the network's, or "network" for its own.
        memory: bytes that a chunk of states may take, about; 2²⁵ if not given.
        workers: threads; the result does not depend on it. Default: one per core.
        advance: a callback for progress; it is given the number of states done since its last call.

    Returns:
        The moments, beside the exact gradient.

    Raises:
        GradevalError: it takes more than 18 Bernoulli variables per point, mixes points, or cannot be vectorised.

    Examples:
        >>> from gradeval import load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> bias = exact_moments(problem, "st").relative_bias()
        >>> {layer: round(b, 3) for layer, b in bias.items()}
        {'1': 0.133, '2': 0.278, 'head': 0.0, 'all': 0.119}
    """
    check_options(exact_moments, execution, MomentsExecution)
    workers, advance = workers_of(execution.get("workers")), execution.get("advance")
    estimator, samples = given_estimator(estimator), whole("samples", samples, least=1)
    with one_thread():
        enumeration = _enumeration(given_problem(problem), estimator, samples, whole("seed", seed), execution)
        sums = _sums(enumeration, workers, advance or (lambda states: None))
    return enumeration.result(sums)


def _enumeration(
    problem: Problem, estimator: Callable[..., Tensor], samples: int, seed: int, execution: MomentsExecution
) -> _Enumeration:
    """All joint states of an estimator; refuses one whose states cannot be enumerated."""
    problem = in_precision(problem, execution.get("precision", "double"))
    intrudes = check_pointwise(problem, estimator).intrudes
    bits, continuous = count_chance(problem, estimator)
    if bits > MAX_BITS:
        raise GradevalError(
            f"the estimator takes {bits} Bernoulli variables per point, 2^{bits} joint states; "
            f"the limit is 2^{MAX_BITS}."
        )
    memory = execution.get("memory", 2**25)
    return _Enumeration(problem, estimator, bits, samples if continuous else 1, seed, memory, intrudes)


def _sums(enumeration: _Enumeration, workers: int, advance: Advance) -> list[Tensor]:
    """The sums over all joint states."""
    sums: list[Tensor] = []
    try:
        with closing(_in_threads(enumeration, workers)) as chunks:
            for parts in chunks:
                sums = [a + b for a, b in zip(sums, parts, strict=True)] if sums else list(parts)
                advance(enumeration.chunk)
    except RuntimeError as error:  # `.item()`, or a branch on a number
        reason = str(error).strip().partition("\n")[0]
        raise GradevalError(f"the estimator cannot be run on all joint states at once ({reason})") from error
    return sums


@dataclass(frozen=True)
class _Enumeration:
    """An estimator on all joint states of its ``bits`` Bernoulli variables, in chunks of states."""

    problem: Problem
    estimator: Callable[..., Tensor]
    bits: int
    samples: int  # draws of further chance in each state
    seed: int
    memory: int
    intrudes: bool  # whether the estimator changes the process, so that it must run alone
    _own: threading.local = field(default_factory=threading.local)

    @property
    def size(self) -> int:
        """P, the number of parameters."""
        return sum(p.numel() for p in self.problem.network.trainable().values())

    @property
    def chunk(self) -> int:
        """The number of states of a chunk."""
        row = self.problem.points * self.size * self.problem.network.dtype.itemsize
        return max(1, self.memory // (3 * row * self.samples))

    def sums(self, first: int) -> tuple[Tensor, ...]:
        """Sums over the states first..first+chunk−1 of mean, second moment, value, and variance within a state."""
        network, points, samples, size = self.problem.network, self.problem.points, self.samples, self.size
        last = min(first + self.chunk, 2**self.bits)
        numbers = torch.arange(first, last, device=network.device).repeat_interleave(samples)
        states = binary_digits(numbers, 0, self.bits).to(network.dtype)
        random = generator(network.device, "exact moments", self.seed, first)
        g, values, weights = self._run(states, random, first)
        roots = weights.expand(len(states), points).sqrt()
        if not bool((roots > 0).all()):
            g = torch.where(roots[..., None] > 0, g, 0.0)  # impossible states may have infinite scores
        mean = torch.bmm(roots.T[:, None, :], g.transpose(0, 1)).squeeze(1) / samples
        second = g.reshape(-1, size).T @ g.reshape(-1, size) / samples
        value = (roots * values).sum() / (points * samples)
        within = torch.zeros_like(mean)
        if samples > 1:
            # √P g has P times the variance of g within a joint state
            spread = g.reshape(-1, samples, points, size).var(1)
            within = (roots.reshape(-1, samples, points)[:, 0, :, None] ** 2 * spread / samples).sum(0)
        return mean, second, value, within

    def _run(self, states: Tensor, random: torch.Generator, first: int) -> tuple[Tensor, Tensor, Tensor]:
        """`weighted_gradients`; whatever the estimator raises is its failure."""
        surrogate = self._surrogate()
        try:
            with alone(derived_seed("exact moments", self.seed, first)) if self.intrudes else in_company():
                found = weighted_gradients(
                    surrogate, states, lambda state: EnumeratedStates(state, random, self.problem.network.dtype)
                )
            surrogate.check_untouched()
        except GradevalError as error:
            raise GradevalError(f"the estimator {error}") from error
        except Exception as error:
            raise GradevalError(f"the estimator raised {type(error).__name__}: {error}") from error
        return found[0].double(), found[1].double(), found[2].double()  # what is summed is not rounded again

    def _surrogate(self) -> Surrogate:
        """This thread's own: a functional call exchanges the parameters of the module it calls."""
        if not hasattr(self._own, "surrogate"):
            self._own.surrogate = Surrogate(self.problem, self.estimator)
        surrogate: Surrogate = self._own.surrogate
        return surrogate

    def result(self, sums: Sequence[Tensor]) -> ExactMoments:
        """The moments, from the sums over all states."""
        mean, second, value, within = sums
        if not all(bool(torch.isfinite(part).all()) for part in sums):
            raise GradevalError("the moments of the estimator's gradient are infinite or NaN")
        points = self.problem.points
        covariance = (second - mean.T @ mean) / points**2
        exact = exact_gradient(self.problem)  # in double precision, whatever the estimator's
        error = within.sum(0).sqrt() / points
        return ExactMoments(mean.mean(0), covariance, value.item(), exact.vector, exact.slices, error)


def _in_threads(enumeration: _Enumeration, workers: int) -> Generator[tuple[Tensor, ...]]:
    """The sums of all chunks, in their order."""
    first = range(0, 2**enumeration.bits, enumeration.chunk)
    with quiet_vmap(), single_threads(workers) as pool:
        yield from pool.map(enumeration.sums, first)
