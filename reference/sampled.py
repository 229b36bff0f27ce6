"""∇J by sampling, where nothing exact is affordable: the mean of many draws of an unbiased estimator, and its error."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.analysis.high_dimension import trace_of_square
from gradeval.analysis.run.sampled import NUMBERS, SampledReference
from gradeval.errors import GradevalError
from gradeval.model.precision import in_precision
from gradeval.model.problem import Problem
from gradeval.progress import Progress, Silent
from gradeval.reference.exact import ExactGradient
from gradeval.sampling.extent import WORKING_MEMORY, BlockMeans, Extent
from gradeval.sampling.sampler import Sampler
from gradeval.sampling.streaming import Spread

SAMPLED_TASK = "sampled reference"
TARGET = 0.01  # relative standard error of a layer
SECONDS = 600.0
PILOT_DRAWS, FEWEST_PILOT_DRAWS, PILOT_BATCHES = 32, 4, 5  # of each candidate
PILOT_SHARE = 0.1  # of the seconds, that the pilots of all candidates may take, about
LEAST_DRAWS = 512  # whatever the seconds: from fewer, the reference's own error would not be known
CHUNK_OF_COVARIANCE, CHUNK_AT_SIZE = 1024, 128  # draws
MORE = 1.1  # how many times the draws that seem to be needed are made before it is looked at again


@dataclass(frozen=True)
class Precision:
    """When a reference is precise enough, and what it may cost.

    Args:
        target: relative standard error of every layer.
        seconds: of all draws, those of the pilot included; at least `LEAST_DRAWS` draws are made whatever they take.
        memory: bytes, as of `Extent`.

    Raises:
        GradevalError: one is not positive.
    """

    target: float = TARGET
    seconds: float = SECONDS
    memory: int = WORKING_MEMORY

    def __post_init__(self) -> None:
        for name in ("target", "seconds", "memory"):
            if not getattr(self, name) > 0:
                raise GradevalError(f"{name} of a sampled reference must be positive, found {getattr(self, name)}.")


def sampled_gradient(
    problem: Problem,
    candidates: Mapping[str, Any],
    *,
    limits: Precision | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> ExactGradient:
    """∇J as the mean of m draws of an unbiased estimator, with its covariance.

    A pilot draws every candidate. The one with the smallest product of seconds a draw and tr Σ (its geometric mean over
    layers) is drawn until √(tr Σ_r/m)/‖g*‖ of every layer is at the target, or the seconds are spent. The draws follow
    from the seed, and share nothing with those of an evaluation; only their number, and which candidate is taken,
    depend on the machine's speed.

    Args:
        problem: network, data and loss; it is drawn in double precision.
        candidates: unbiased estimators by their spec, such as `gradeval.evaluation.reference.candidates` gives.
        limits: precision and cost.
        seed: every draw follows from it and the problem.
        progress: gets the task "sampled reference", in percent of the draws that seem to be needed.

    Returns:
        r̄ in the place of ∇J: ``method`` is "sampled", ``error`` the standard error √(tr Σ_r/m) of each layer, and
        ``sampled`` what statistics of two samples take. Where the seconds were spent before the target was reached, its
        ``relative_error`` says so.

    Raises:
        GradevalError: no candidate can be drawn, or a draw fails.

    Examples:
        >>> from gradeval import load_problem
        >>> from gradeval.estimators import get_estimator
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> found = sampled_gradient(problem, {"ram": get_estimator("ram")}, limits=Precision(target=0.05))
        >>> found.method, found.sampled.estimator, found.sampled.relative_error("all") < 0.05
        ('sampled', 'ram', True)
    """
    limits, began = limits or Precision(), time.perf_counter()
    problem = in_precision(problem, "double")
    names = ("reference", seed, problem.fingerprint())
    progress = progress or Silent()
    progress.start(SAMPLED_TASK, 100)
    sampler = _best(problem, candidates, names, limits.seconds)
    draws = _draw(sampler, names, limits, began, progress)
    return as_gradient(problem, draws.reference(sampler.name), float(np.asarray(draws.values.mean)[0]))


def _draw(sampler: Sampler, names: tuple[object, ...], limits: Precision, began: float, progress: Progress) -> _Draws:
    """Draw until it is enough, or the seconds are spent."""
    draws = _Draws.of(sampler.problem, limits.memory)
    shown, index, needed, foreseen = 0, 0, float(LEAST_DRAWS), math.inf
    while True:
        draws.add(*sampler.chunk(draws.chunk, *names, index))
        spent = time.perf_counter() - began
        percent = min(99, int(100 * max(draws.count / foreseen, spent / limits.seconds)))
        progress.advance(SAMPLED_TASK, max(0, percent - shown))
        shown, index, late = max(shown, percent), index + 1, spent > limits.seconds
        if draws.count < needed and not (late and draws.count >= LEAST_DRAWS):
            continue
        needed = foreseen = draws.needed(limits.target)  # it is looked at when it may be enough
        if draws.count >= needed or late or sampler.deterministic:
            progress.finish(SAMPLED_TASK)
            return draws


def _best(problem: Problem, candidates: Mapping[str, Any], names: tuple[object, ...], seconds: float) -> Sampler:
    """The candidate that reaches a given precision soonest; raises the last one's error where none can be drawn."""
    scores: dict[str, float] = {}
    samplers: dict[str, Sampler] = {}
    why, slices = "", problem.network.layer_slices()
    for name, estimator in candidates.items():
        try:
            sampler = Sampler(problem, name, estimator)
            if sampler.own_chance:
                raise GradevalError(f"{name} has chance of its own.")
            if len(candidates) > 1:
                scores[name] = _score(sampler, slices, names, seconds * PILOT_SHARE / len(candidates))
        except GradevalError as error:
            why = str(error)
            continue
        samplers[name] = sampler
    if not samplers:
        raise GradevalError(f"no reference can be sampled: {why or 'there are no candidates.'}")
    return samplers[min(samplers, key=lambda name: scores.get(name, 0.0))]


def _score(sampler: Sampler, slices: Mapping[str, slice], names: tuple[object, ...], seconds: float) -> float:
    """Logarithm of seconds a draw times tr Σ, the mean over layers that vary."""
    rows, made_in, each = list[Tensor](), 0.0, 0.0
    while len(rows) < 2 or (len(rows) < PILOT_BATCHES and made_in < seconds):
        fitting = (seconds - made_in) / max(each, 1e-9)
        count = FEWEST_PILOT_DRAWS if not rows else int(min(max(fitting, FEWEST_PILOT_DRAWS), PILOT_DRAWS))
        began = time.perf_counter()
        rows.append(sampler.chunk(count, *names, "pilot", len(rows))[0])
        spent = time.perf_counter() - began
        each = spent / count
        made_in += spent if len(rows) > 1 else 0.0  # the first batch pays for what is made once
    made = torch.cat(rows)
    time_of_draw = made_in / (len(made) - len(rows[0]))
    variance = made.var(0)
    traces = [float(variance[where].sum()) for where in slices.values()]
    logs = [math.log(trace) for trace in traces if trace > 0]
    return math.log(max(time_of_draw, 1e-9)) + (sum(logs) / len(logs) if logs else -math.inf)


@dataclass
class _Draws:
    """The draws so far: their mean and spread, and fourth powers of their errors."""

    slices: dict[str, slice]
    whole: bool  # whether the covariance is kept; else means of blocks
    chunk: int
    blocks: BlockMeans
    spread: Spread = field(default_factory=Spread)
    values: Spread = field(default_factory=Spread)
    powers: Spread = field(default_factory=Spread)  # ‖r − c‖² and its square, by layer
    centre: Tensor | None = None

    @classmethod
    def of(cls, problem: Problem, memory: int) -> _Draws:
        slices = problem.network.layer_slices()
        size = sum(p.numel() for p in problem.network.trainable().values())
        extent = Extent.of(size, len(slices), memory)
        chunk = CHUNK_AT_SIZE if extent.blocks else CHUNK_OF_COVARIANCE
        while extent.blocks and chunk > 8 and chunk * size * 32 > memory:
            chunk //= 2
        return cls(slices, not extent.blocks, chunk, BlockMeans(extent.blocks))

    @property
    def count(self) -> int:
        return self.spread.count

    def add(self, gradients: Float[Tensor, "draws P"], values: Float[Tensor, " draws"]) -> None:
        gradients = gradients.double()
        if self.centre is None:
            self.centre = gradients.mean(0)
        errors = (gradients - self.centre) ** 2
        squares = torch.stack([errors[:, where].sum(1) for where in self.slices.values()], 1)
        self.spread.merge(Spread.of(gradients, outer=self.whole))
        self.values.merge(Spread.of(values.double()[:, None]))
        self.powers.merge(Spread.of(torch.cat([squares, squares**2], 1)))
        if not self.whole:  # a power of two, so that blocks of later chunks fit those of the first
            size = min(max(self.blocks.draws, 1), len(gradients))
            means = gradients.reshape(-1, size, gradients.shape[1]).mean(1).cpu().numpy().astype(np.float32)
            self.blocks.add(BlockMeans(self.blocks.most, size, means, np.zeros((len(means), 0))))

    def needed(self, target: float) -> float:
        """About how many draws reach the target in every layer; infinite where a norm is not told from zero."""
        reference = self.reference("")
        shares = [reference.relative_error(layer) / target for layer in self.slices]
        return MORE * self.count * max(share**2 for share in shares) if max(shares) > 1 else float(self.count)

    def reference(self, name: str) -> SampledReference:
        mean, m = np.asarray(self.spread.mean), self.count
        covariance = self.spread.variance / m if self.whole else None
        blocks = None if self.whole else self.blocks.errors - mean.astype(np.float32)
        numbers = np.zeros((len(self.slices), NUMBERS))
        for k, where in enumerate(self.slices.values()):
            part, second, fourth = mean[where], *np.asarray(self.powers.mean)[[k, k + len(self.slices)]]
            norm = float(np.linalg.norm(part)) or 1.0
            size = math.sqrt(fourth / second) if second > 0 else 0.0
            if covariance is not None:
                here = covariance[where, where]
                numbers[k] = np.trace(here), (here**2).sum(), part @ here @ part / norm**2, size
            else:
                assert blocks is not None
                trace, scale = float(self.spread.variance[where].sum()) / m, self.blocks.draws / m
                rows = blocks[:, where].astype(np.float64)
                centred = rows - rows.mean(0)
                square = trace_of_square(centred @ centred.T) * scale**2 if len(rows) > 3 else trace**2
                along = float((rows @ (part / norm)).var(ddof=1)) * scale
                numbers[k] = trace, min(max(square, trace**2 / len(part)), trace**2), along, size
        return SampledReference(name, m, mean, self.slices, numbers, covariance, blocks, self.blocks.draws)


def as_gradient(problem: Problem, reference: SampledReference, value: float) -> ExactGradient:
    """A sampled reference in the form of an exact gradient.

    Args:
        problem: whose parameters it is of.
        reference: r̄ and its error.
        value: J, as estimated.

    Returns:
        r̄ in the place of ∇J.
    """
    parameters, start, gradient = problem.network.trainable(), 0, {}
    mean = torch.from_numpy(reference.mean).to(problem.network.device)
    for name, parameter in parameters.items():
        gradient[name] = mean[start : start + parameter.numel()].reshape(parameter.shape)
        start += parameter.numel()
    error = {layer: math.sqrt(reference.trace(layer)) for layer in reference.slices}
    return ExactGradient(value, gradient, dict(reference.slices), "sampled", error, reference)
