"""What an exact gradient costs: multiply–adds, bytes and seconds, said before they are spent."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gradeval.errors import GradevalError, unknown_name
from gradeval.model.problem import Problem
from gradeval.progress import duration_words
from gradeval.reference.characteristic import KEPT_BYTES, MULTIPLY_ADDS
from gradeval.reference.layerwise import CHUNK_BYTES, GROUPED_POINTS, distinct_points
from gradeval.reference.transform import output_terms, why_not
from gradeval.threads import AHEAD, MOST_THREADS, Crew

# Measured on one core of a server of 2021: multiply–adds of a matrix product, operations on single numbers, a second.
PRODUCT_RATE = 1e10
ELEMENT_RATE = 1e8
# Seconds that the calls themselves take for every layer and, with matrix products, for every distinct target.
LAYER_SECONDS = 5e-4
TARGET_SECONDS = 2e-5
CALL_SECONDS = 1e-4  # of the transform, for every unit
# Enumeration that is predicted to take no longer is always preferred: it has no error of its own.
ENUMERATED_SECONDS = 0.5
# Outside this range of multiply–adds the rate above will do; inside, the machine's own is measured (in some 10 ms).
MEASURE_FROM, MEASURE_TO = 2**30, 2**50  # which takes a day on any machine
METHODS = ("auto", "layerwise", "plain", "joint", "transform")


class TooLarge(GradevalError):
    """A problem too large for an exact method. The message names the layers that are too wide, and what would fit."""


@dataclass(frozen=True)
class Cost:
    """What J and its gradient take.

    Attributes:
        method: "layerwise", "plain", "joint" or "transform".
        multiply_adds: of the matrix products, forward and backward, or what takes as long; for "plain" and "joint",
            factors multiplied.
        bytes: peak memory beyond the problem's own with one target at a time in memory.
        bytes_per_target: what every further target in memory adds.
        seconds: a prediction from this machine's rate.
    """

    method: str
    multiply_adds: int
    bytes: int
    bytes_per_target: int
    seconds: float


def method_costs(
    widths: Sequence[int], points: int, targets: int, itemsize: int = 8, rate: float = PRODUCT_RATE
) -> dict[str, Cost]:
    """The cost of every method.

    Args:
        widths: the number of units of each layer.
        points: the number of data points.
        targets: how many of the points' targets are distinct.
        itemsize: bytes of a number.
        rate: multiply–adds a second of a matrix product.

    Returns:
        The cost by the method's name.
    """
    pairs = list(itertools.pairwise(widths))
    calls = LAYER_SECONDS * len(widths)
    # Three products of targets × 2^(nₖ₋₁+nₖ) for every pair of layers, and of points × 2^n₁ for the first, where
    # small groups of equal targets share a product.
    shared_by = min(targets, max(1, GROUPED_POINTS * targets // points))
    products = 3 * (targets * sum(2 ** (a + b) for a, b in pairs) + points * shared_by * 2 ** widths[0])
    # Digits, states and probabilities of every layer, with their gradients; of every thread the chunk in work and the
    # tables that wait for it. Those of most threads are counted: what is kept in memory decides the order of sums.
    shared = itemsize * (6 * sum(2**n * n for n in widths) + 8 * points * widths[0])
    shared += MOST_THREADS * (8 * CHUNK_BYTES + (AHEAD + 1) * itemsize * 2 ** max(widths))
    # The tables with their gradients, and the slopes (units × rows).
    per_target = itemsize * (4 * sum(2**n for n in widths) + sum(2**a * b for a, b in pairs))
    # One probability for every pair of states, the product of as many factors as there are units.
    factors = sum(rows * 2**n * n for rows, n in zip([points, *(2**n for n in widths)], widths, strict=False))
    joint = points * 2 ** sum(widths) * sum(widths)
    seconds = _seconds(products, rate) + 2 * calls + TARGET_SECONDS * targets * len(widths)
    return {
        "layerwise": Cost("layerwise", products, shared + per_target, per_target, seconds),
        "plain": Cost("plain", factors, 4 * itemsize * factors, 0, _seconds(factors, ELEMENT_RATE) + calls),
        "joint": Cost("joint", joint, 2**29, 0, _seconds(joint, ELEMENT_RATE) + calls),
    }


def transform_cost(
    widths: Sequence[int], points: int, targets: int, outputs: int, terms: int, rate: float = PRODUCT_RATE
) -> Cost:
    """The cost of the method "transform".

    Args:
        widths: the number of units of each layer.
        points: the number of data points.
        targets: how many of the points' targets are distinct.
        outputs: the number of outputs of the head.
        terms: the number of cosines of all outputs together; 0 of squares.
        rate: multiply–adds a second of a matrix product.

    Returns:
        The cost.
    """
    rows = 2 ** widths[-2] if len(widths) > 1 else points
    below = method_costs(widths[:-1], points, targets)["layerwise"] if len(widths) > 1 else None
    work = rows * widths[-1] * (MULTIPLY_ADDS * terms + 6 * outputs) + (targets * rows * outputs if below else 0)
    memory = 8 * rows * (4 * widths[-1] + 6 * outputs) + min(KEPT_BYTES, 16 * rows * terms) + 2**27
    seconds = _seconds(work, rate) + LAYER_SECONDS + CALL_SECONDS * widths[-1]
    if below is None:
        return Cost("transform", work, memory, 0, seconds)
    memory += below.bytes + (targets - 1) * below.bytes_per_target
    return Cost("transform", work + below.multiply_adds, memory, 0, seconds + below.seconds)


def _seconds(work: int, rate: float) -> float:
    """Work over a rate; infinite where the work is no floating-point number."""
    return work / rate if work < 2**1000 else math.inf


def predicted_cost(problem: Problem, method: str = "auto") -> Cost:
    """What `exact_gradient` takes on a problem.

    The enumeration is counted, not the layers' maps: those are evaluated at 2^n states only.

    Args:
        problem: network, data and loss.
        method: "layerwise", "plain", "joint", "transform" or "auto": the enumeration with the fewest predicted seconds,
            or the transform where that is much faster and a second counts.

    Returns:
        The cost; its seconds are a prediction.

    Raises:
        GradevalError: an unknown method, or "transform" where it does not apply.

    Examples:
        >>> from gradeval import load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> cost = predicted_cost(problem)
        >>> cost.method, cost.multiply_adds, cost.bytes
        ('plain', 64, 2048)
    """
    widths, points, targets, itemsize = _sizes(problem)
    found = method_costs(widths, points, targets, itemsize)
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    if method in ("auto", "layerwise") and MEASURE_FROM < found["layerwise"].multiply_adds < MEASURE_TO:
        found = method_costs(widths, points, targets, itemsize, _product_rate(problem))
    if method in found:
        return found[method]
    enumeration = min(found.values(), key=lambda cost: cost.seconds)
    if method == "auto" and enumeration.seconds <= ENUMERATED_SECONDS:
        return enumeration
    try:
        sizes = output_terms(problem)
    except GradevalError:  # it does not apply, or needs too many terms
        if method == "auto":
            return enumeration
        raise
    transform = transform_cost(widths, points, targets, *sizes, PRODUCT_RATE * _threads(problem))
    return enumeration if method == "auto" and enumeration.seconds <= 2 * transform.seconds else transform


def check_affordable(problem: Problem, cost: Cost, memory: int, seconds: float) -> None:
    """Refuse a cost that exceeds a limit.

    Args:
        problem: what the cost is of.
        cost: as predicted.
        memory: the most bytes.
        seconds: the most seconds.

    Raises:
        TooLarge: the cost exceeds a limit; the message names the layers that are too wide, and what would fit.
    """
    if cost.seconds <= seconds and cost.bytes <= memory:
        return
    widths, points, targets, itemsize = _sizes(problem)
    measured = cost.method == "layerwise" and cost.seconds < math.inf
    rate = cost.multiply_adds / cost.seconds if measured else PRODUCT_RATE
    narrower = list(widths)
    transform = output_terms(problem) if cost.method == "transform" else None
    while max(narrower) > 1:
        # The wider layer of those with the most states, one unit at a time.
        narrower[max(_widest(narrower, cost.method), key=lambda k: narrower[k])] -= 1
        if transform:
            smaller = transform_cost(narrower, points, targets, *transform)
        else:
            smaller = method_costs(narrower, points, targets, itemsize, rate)[cost.method]
        if smaller.seconds <= seconds and smaller.bytes <= memory:
            break
    wide = _widest(widths, cost.method)
    bits = sum(widths[k] for k in wide)
    named = " and ".join(f"layer {k + 1} ({widths[k]} units)" for k in wide)
    raise TooLarge(
        f"{cost.method} enumeration is too large: {named} {'has' if len(wide) == 1 else 'together have'} "
        f"2^{bits}{f' = {2.0**bits:.3g}' if bits < 1000 else ''} states; predicted "
        f"{duration_words(cost.seconds)} and {_size(cost.bytes)} of memory, the limits are {duration_words(seconds)} "
        f"and {_size(memory)}. The smallest change that fits is "
        f"{'-'.join(map(str, widths))} to {'-'.join(map(str, narrower))}; from Python, "
        f"exact_gradient(problem, seconds=…, memory=…) raises the limit.{_why_no_transform(problem, cost)}"
    )


def _why_no_transform(problem: Problem, cost: Cost) -> str:
    reason = why_not(problem) if cost.method != "transform" else ""
    return f" (The transform, which takes any width of the last layer, does not apply: {reason}.)" if reason else ""


def _sizes(problem: Problem) -> tuple[list[int], int, int, int]:
    targets, _ = distinct_points(problem)
    return problem.widths, problem.points, len(targets), problem.network.dtype.itemsize


def _widest(widths: Sequence[int], method: str) -> range:
    """The numbers of the two layers in sequence (or the only one, or for joint states all) with the most states."""
    if method == "joint":
        return range(len(widths))
    if method == "transform":  # does not enumerate the last
        widths = widths[:-1] or widths
    first = max(range(max(1, len(widths) - 1)), key=lambda k: sum(widths[k : k + 2]))
    return range(first, min(first + 2, len(widths)))


def _threads(problem: Problem) -> int:
    return Crew(problem.network.device).threads


def _product_rate(problem: Problem) -> float:
    """Multiply–adds a second of matrix products of the problem's type, one on each thread, on its device."""
    a = torch.ones(512, 512, dtype=problem.network.dtype, device=problem.network.device)
    crew, times = Crew(a.device), []
    with crew.at_work():
        for _ in range(3):
            start = time.perf_counter()
            (a @ a)[0, 0].item()  # the item waits for a device that works asynchronously
            times.append(time.perf_counter() - start)
    return crew.threads * 512**3 / min(times)


def _size(size: int) -> str:
    if size >= 2**100:
        return f"2^{size.bit_length() - 1} bytes"
    for unit, power in (("TiB", 40), ("GiB", 30)):
        if size >= 2**power:
            return f"{size / 2**power:.3g} {unit}"
    return f"{size / 2**20:.3g} MiB"
