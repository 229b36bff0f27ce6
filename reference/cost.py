"""What an exact gradient costs: multiply–adds, bytes and seconds, said before they are spent."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gradeval.errors import GradevalError
from gradeval.model.problem import Problem
from gradeval.progress import duration_words
from gradeval.reference.layerwise import CHUNK_BYTES, GROUPED_POINTS, distinct_points
from gradeval.threads import AHEAD, MOST_THREADS, Crew

# Measured on one core of a server of 2021: multiply–adds of a matrix product, operations on single numbers, a second.
PRODUCT_RATE = 1e10
ELEMENT_RATE = 1e8
# Seconds that the calls themselves take for every layer and, with matrix products, for every distinct target.
LAYER_SECONDS = 5e-4
TARGET_SECONDS = 2e-5
# Below this many multiply–adds the rate above will do; beyond, the machine's own is measured (in some 10 ms).
MEASURE_FROM = 2**30


@dataclass(frozen=True)
class Cost:
    """What J and its gradient take.

    Attributes:
        method: "layerwise", "plain" or "joint".
        multiply_adds: of the matrix products, forward and backward; for the other methods, factors multiplied.
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
    seconds = products / rate + 2 * calls + TARGET_SECONDS * targets * len(widths)
    return {
        "layerwise": Cost("layerwise", products, shared + per_target, per_target, seconds),
        "plain": Cost("plain", factors, 4 * itemsize * factors, 0, factors / ELEMENT_RATE + calls),
        "joint": Cost("joint", joint, 2**29, 0, joint / ELEMENT_RATE + calls),
    }


def predicted_cost(problem: Problem, method: str = "auto") -> Cost:
    """What `exact_gradient` takes on a problem.

    The enumeration is counted, not the layers' maps: those are evaluated at 2^n states only.

    Args:
        problem: network, data and loss.
        method: "layerwise", "plain", "joint" or "auto", the one with the fewest predicted seconds.

    Returns:
        The cost; its seconds are a prediction.

    Raises:
        GradevalError: an unknown method.

    Examples:
        >>> from gradeval import load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> cost = predicted_cost(problem)
        >>> cost.method, cost.multiply_adds, cost.bytes
        ('plain', 64, 2048)
    """
    widths, points, targets, itemsize = _sizes(problem)
    found = method_costs(widths, points, targets, itemsize)
    if method not in (*found, "auto"):
        raise GradevalError(f"unknown method '{method}': use 'auto', {', '.join(map(repr, found))}.")
    if found["layerwise"].multiply_adds > MEASURE_FROM:
        found = method_costs(widths, points, targets, itemsize, _product_rate(problem))
    return min(found.values(), key=lambda cost: cost.seconds) if method == "auto" else found[method]


def check_affordable(problem: Problem, cost: Cost, memory: int, seconds: float) -> None:
    """Refuse a cost that exceeds a limit.

    Args:
        problem: what the cost is of.
        cost: as predicted.
        memory: the most bytes.
        seconds: the most seconds.

    Raises:
        GradevalError: the cost exceeds a limit; the message names the layers that are too wide, and what would fit.
    """
    if cost.seconds <= seconds and cost.bytes <= memory:
        return
    widths, points, targets, itemsize = _sizes(problem)
    rate = cost.multiply_adds / cost.seconds if cost.method == "layerwise" else PRODUCT_RATE
    narrower = list(widths)
    joint = cost.method == "joint"
    while max(narrower) > 1:
        # The wider layer of those with the most states, one unit at a time.
        narrower[max(_widest(narrower, joint), key=lambda k: narrower[k])] -= 1
        smaller = method_costs(narrower, points, targets, itemsize, rate)[cost.method]
        if smaller.seconds <= seconds and smaller.bytes <= memory:
            break
    wide = _widest(widths, joint)
    bits = sum(widths[k] for k in wide)
    named = " and ".join(f"layer {k + 1} ({widths[k]} units)" for k in wide)
    raise GradevalError(
        f"{cost.method} enumeration is too large: {named} {'has' if len(wide) == 1 else 'together have'} "
        f"2^{bits} = {2.0**bits:.3g} states; predicted {duration_words(cost.seconds)} and {_size(cost.bytes)} of "
        f"memory, the limits are {duration_words(seconds)} and {_size(memory)}. The smallest change that fits is "
        f"{'-'.join(map(str, widths))} to {'-'.join(map(str, narrower))}; from Python, "
        "exact_gradient(problem, seconds=…, memory=…) raises the limit."
    )


def _sizes(problem: Problem) -> tuple[list[int], int, int, int]:
    targets, _ = distinct_points(problem)
    return problem.widths, problem.points, len(targets), problem.network.dtype.itemsize


def _widest(widths: Sequence[int], joint: bool) -> range:
    """The numbers of the two layers in sequence (or the only one, or for joint states all) with the most states."""
    if joint:
        return range(len(widths))
    first = max(range(max(1, len(widths) - 1)), key=lambda k: sum(widths[k : k + 2]))
    return range(first, min(first + 2, len(widths)))


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
    for unit, power in (("TiB", 40), ("GiB", 30)):
        if size >= 2**power:
            return f"{size / 2**power:.3g} {unit}"
    return f"{size / 2**20:.3g} MiB"
