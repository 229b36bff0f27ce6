"""What becomes of an estimator's draws: its moments, its curves, and the rows of its exact moments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from gradeval.analysis.run.curves import MIN_BLOCKS, Blocks, curve_rows
from gradeval.analysis.run.directions import Direction
from gradeval.analysis.run.estimates import Accuracy, within_bounds
from gradeval.analysis.run.moments import Moments
from gradeval.analysis.run.record import EXACT_COLUMNS
from gradeval.analysis.run.sampled import SampledReference, SecondSample
from gradeval.analysis.statistics import UNKNOWN, Interval, mean_interval
from gradeval.errors import GradevalError, unknown_name
from gradeval.progress import Progress
from gradeval.reference import MAX_BITS, ExactGradient, exact_moments
from gradeval.sampling.probes import check_pointwise, count_chance
from gradeval.sampling.sampler import Sampler
from gradeval.sampling.streaming import Level, Stream, tree
from gradeval.sampling.two_samples import with_reference

ENOUGH_BLOCKS = 100  # for Student's interval of a mean cosine, which is bounded and may be skewed
NORMAL = 50  # draws whose mean is nearly normal
CHOICES = ("auto", "always", "never")
MAX_COVARIANCE = 2**30  # bytes of an exact covariance
AUTO_ENTRIES = 2**30  # joint states × points × parameters that exact="auto" takes, about ten seconds


def check_choice(exact: str) -> None:
    """Raise GradevalError unless ``exact`` is "auto", "always" or "never".

    Args:
        exact: what the user chose.

    Raises:
        GradevalError: it is none of them; the message names near matches.
    """
    if exact not in CHOICES:
        raise unknown_name("choice of exact", exact, CHOICES)


def target_of(truth: ExactGradient) -> Tensor:
    """g* with layers whose gradient is nothing but rounding (states that do not matter) set to zero.

    Args:
        truth: the exact gradient.

    Returns:
        g*, flattened, [P].
    """
    vector = truth.vector.clone()
    rounding = 10 * np.finfo(str(vector.dtype).removeprefix("torch.")).eps
    for where in truth.slices.values():
        if vector[where].norm() < rounding * max(abs(truth.value), float(vector.norm())):
            vector[where] = 0
    return vector


def moments_of(stream: Stream, draws: int, deterministic: bool, reference: SampledReference | None = None) -> Moments:
    """The moments of all draws; of a deterministic estimator those of ``draws`` that are all the same.

    Args:
        stream: of the estimator's chunks.
        draws: their planned number.
        deterministic: whether all draws are the same by construction.
        reference: r̄, where g* was sampled.

    Returns:
        The moments of single draws.
    """
    moments = stream.moments()
    if not deterministic:
        return (
            moments if reference is None else with_reference(moments, reference, stream.directions, stream.block_means)
        )
    descents = (moments.descents > 0) * draws
    zeros = np.zeros_like(moments.covariance), np.zeros_like(moments.thirds)
    made = (moments.layout, draws, moments.mean, zeros[0], descents, zeros[1], moments.blocks[:0], True)
    found = Moments(*made, products=None if moments.products is None else moments.products.without_blocks())
    return found if reference is None else with_reference(found, reference, stream.directions)


def curves_of(
    name: str, stream: Stream, moments: Moments, exact: np.ndarray, accuracies: Mapping[str, Accuracy]
) -> list[dict[str, Any]]:
    """The rows of `Evaluation.curves` of one estimator: errors and cosines of the means of M draws.

    The errors follow from bias and variance. The cosine is the mean over blocks of M draws where there are at least
    `ENOUGH_BLOCKS`; else that of a normal mean where M is at least `NORMAL`; else it is not known.

    Args:
        name: of the estimator.
        stream: of its chunks.
        moments: of its draws.
        exact: g*, [P].
        accuracies: bias and variance of each layer.

    Returns:
        A row for each layer and each M with at least `MIN_BLOCKS` means.
    """
    rows: list[dict[str, Any]] = []
    layout, draws = moments.layout, moments.draws
    directions, second = dict[str, Direction](), moments.second
    norms = np.array([np.linalg.norm(exact[where]) for where in layout.slices.values()])
    if second is not None:
        norms = np.array([second.reference.norm(k).estimate * second.reference.measured(k) for k in layout.layers])

    def mean_of(samples: int, layer: str, level: Level, blocks: int) -> Interval:
        place = len(layout.layers) + layout.number(layer)
        cosine, error = np.asarray(level.spread.mean)[place], math.sqrt(level.spread.variance[place] / blocks)
        if second is not None:
            if not norms[layout.number(layer)]:
                return UNKNOWN
            cosine, error = _with_error_of(second, moments, layer, float(cosine), error)
            if moments.deterministic:
                return mean_interval(cosine, error, second.reference.draws).map(within_bounds)
        if moments.deterministic:
            return Interval(*(float(cosine),) * 3)
        if blocks >= ENOUGH_BLOCKS or math.isnan(cosine):
            return mean_interval(float(cosine), error, blocks).map(within_bounds)
        if samples < NORMAL:
            return UNKNOWN
        if layer not in directions:
            directions[layer] = Direction.of(moments, exact, layer, accuracies[layer].missing.mean)
        return directions[layer].cosine(samples)

    for samples, _ in tree(draws // MIN_BLOCKS):
        level = stream.levels[1 if moments.deterministic else samples]
        blocks = draws // samples if moments.deterministic else level.spread.count
        if blocks < MIN_BLOCKS:
            continue
        variance = level.spread.variance * (not moments.deterministic)
        assert level.sample is not None
        quantiles = np.quantile(level.sample, [0.15, 0.85], axis=0)
        mean = _without_error_of(second, np.asarray(level.spread.mean), layout.layers)
        found = Blocks(samples, blocks, mean, variance, quantiles)
        known = {
            layer: (_rmse(accuracies[layer], samples, second, layer), mean_of(samples, layer, level, blocks))
            for layer in layout.layers
        }
        rows += curve_rows(name, layout.layers, norms, found, known)
    return rows


def _rmse(accuracy: Accuracy, samples: int, second: SecondSample | None, layer: str) -> Interval:
    """The error of the mean of M draws; against a sampled reference with the error of ‖g*‖, which it is divided by."""
    found = accuracy.rmse(samples)
    if second is None:
        return found
    norm, shared = second.reference.norm(layer).estimate, second.relative(layer, found, found.estimate)
    return shared.map(lambda share: share * norm)


def _with_error_of(
    second: SecondSample, moments: Moments, layer: str, cosine: float, error: float
) -> tuple[float, float]:
    """A mean cosine with r̄ and its standard error as those of the cosine with g*."""
    own = 0.0 if moments.deterministic else second.reference.attenuation(layer) * error
    shared = second.cosine_error_of_mean(layer, cosine, second.scale(layer, moments.bias(layer)))
    return second.reference.attenuation(layer) * cosine, math.hypot(own, shared)


def _without_error_of(second: SecondSample | None, mean: np.ndarray, layers: list[str]) -> np.ndarray:
    """Mean squared errors, which come first, without what the error of r̄ adds to them."""
    if second is None:
        return mean
    traces = np.array([second.reference.trace(layer) for layer in layers])
    return np.concatenate([np.maximum(mean[: len(layers)] - traces, 0.0), mean[len(layers) :]])


def moments_task(name: str) -> str:
    """What the enumeration of an estimator's states is called in progress.

    Args:
        name: of the estimator.

    Returns:
        The task's name.
    """
    return f"{name} on all states"


def joint_states(sampler: Sampler, exact: str, parameters: int) -> int:
    """How many joint states are enumerated for the exact moments of an estimator.

    Args:
        sampler: of the estimator.
        exact: "auto" (where affordable), "always" or "never".
        parameters: their number.

    Returns:
        The number; 0 where exact moments are not wanted, or not to be had without sampling.

    Raises:
        GradevalError: the estimator does not return one number per point; ``exact`` is "always", and the covariance is
            too large.
    """
    if exact == "never" or not sampler.vectorised or sampler.own_chance:
        return 0
    bits, continuous = count_chance(sampler.problem, sampler.estimator)
    if 8 * parameters**2 > MAX_COVARIANCE:
        if exact == "always":
            raise GradevalError(f"the covariance of {parameters} parameters takes {8 * parameters**2 >> 30} GiB")
        return 0
    affordable = bits <= MAX_BITS and 2**bits * sampler.problem.points * parameters <= AUTO_ENTRIES
    return 0 if continuous or (exact == "auto" and not affordable) else 2**bits


def exact_rows(
    sampler: Sampler, exact: str, target: Tensor, pointwise: bool, workers: int, progress: Progress
) -> list[dict[str, Any]]:
    """Exact bias, variance and scale of each layer, where they are wanted and can be had without sampling.

    Args:
        sampler: of the estimator; notes why there are none are added to its notes.
        exact: "auto" (where affordable), "always" or "never".
        target: g*, [P].
        pointwise: whether it is known that the estimator does not mix points.
        workers: threads.
        progress: told of the states that are done.

    Returns:
        One row for each layer that has a gradient; none where they are not wanted, or not to be had.

    Raises:
        GradevalError: they cannot be had, and ``exact`` is "always".
    """
    problem, estimator = sampler.problem, sampler.estimator
    if exact == "never" or not sampler.vectorised or sampler.own_chance:
        return []
    try:
        if not pointwise:
            check_pointwise(problem, estimator)
        states = joint_states(sampler, exact, len(target))
        if not states:
            return []
        task = moments_task(sampler.name)
        progress.start(task, states)
        moments = exact_moments(problem, estimator, workers=workers, advance=partial(progress.advance, task))
        progress.finish(task)
    except GradevalError as error:
        if exact == "always":
            raise GradevalError(f"no exact moments of '{sampler.name}': {error}") from None
        sampler.notes.append(f"no exact moments: {error}")
        return []
    scale, variance, bias = moments.scale(), moments.relative_variance(), moments.relative_bias()
    return [
        dict(
            zip(EXACT_COLUMNS, (sampler.name, layer, bias[layer], max(0.0, variance[layer]), scale[layer]), strict=True)
        )
        for layer, where in moments.slices.items()
        if target[where].any()
    ]
