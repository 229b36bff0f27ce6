"""What one gradient estimate costs: evaluations, FLOPs, time and memory, beside one forward–backward pass.

The pass it is compared with is that of the same network with F(a) in the place of sampled states (`tanh`): ordinary
back-propagation. `Meter` counts: products by torch's formulas, elementwise operations, memory.
"""

from __future__ import annotations

import math
import statistics
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gradeval.estimators import Estimator, resolve
from gradeval.estimators.moments import MeanField
from gradeval.estimators.protocol import fit
from gradeval.isolation import alone
from gradeval.model.network import FlipCost, StochasticBinaryNetwork
from gradeval.model.objective import split_constant
from gradeval.model.problem import Problem
from gradeval.model.randomness import RandomDraws, generator
from gradeval.progress import Progress, Silent
from gradeval.sampling.probes import count_evaluations
from gradeval.sampling.sampler import compute_seconds
from gradeval.threads import one_thread
from gradeval.torch_private import TorchDispatchMode, flop_formula, storage_key

SCALING = ("st", "psa", "leg", "arm", "ram")
"""The estimators whose growth is measured unless others are given."""
MOST_ROUNDS = 10_000  # of timing, where a clock is too coarse to spend the budget
FUNCTION = 12  # elementary operations that a plain count takes an exponential, logarithm, … for

_FUNCTIONS = {
    *("exp", "expm1", "log", "log1p", "sigmoid", "tanh", "erf", "erfc", "erfinv", "special_erfcx", "atan2", "pow"),
    *("log_sigmoid_forward", "_log_softmax", "_softmax", "logit", "special_ndtri"),
}
_COPIES = {"clone", "copy", "_to_copy", "fill", "zeros_like", "ones_like", "empty_like"}
_REDUCTIONS = {"sum", "mean", "amax", "amin", "max", "min", "prod", "cumsum", "_log_softmax", "_softmax"}


class Meter(TorchDispatchMode):
    """Counts operations, and the memory of tensors made while it is on.

    Attributes:
        products: FLOPs of matrix products and convolutions, by torch's formulas.
        operations: elements made by elementwise operations and met by reductions; a function counts once.
        functions: those of them that are exponentials, logarithms, …
        current: bytes of the tensors made since that are still there.
        peak: the most that ``current`` was.

    Examples:
        >>> with Meter() as meter:
        ...     product = torch.ones(3, 4) @ torch.ones(4, 5)
        >>> meter.products, meter.peak  # 2·3·4·5 FLOPs; single precision: 4 · (12 + 20 + 15) bytes
        (120, 188)
    """

    def __init__(self) -> None:
        super().__init__()
        self.products = self.operations = self.functions = self.current = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_formula(func)
        if formula is not None:
            self.products += formula(*args, **(kwargs or {}), out_val=result)
        name = func.overloadpacket.__name__.rstrip("_") or func.overloadpacket.__name__
        made = [t for t in (result if isinstance(result, tuple | list) else [result]) if isinstance(t, Tensor)]
        counted = torch.Tag.pointwise in func.tags and name not in _COPIES
        if made and (counted or name in _REDUCTIONS | _FUNCTIONS):
            size = args[0].numel() if name in _REDUCTIONS and isinstance(args[0], Tensor) else made[0].numel()
            self.operations += size
            self.functions += size * (name in _FUNCTIONS)
        for tensor in made:
            self._hold(tensor)
        return result

    def _hold(self, tensor: Tensor) -> None:
        key, storage = storage_key(tensor)
        size = storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.current += size
        self.peak = max(self.peak, self.current)

        def freed() -> None:
            self._known.discard(key)
            self.current -= size

        weakref.finalize(storage, freed)


def one_gradient(problem: Problem, estimator: Estimator, seed: int = 0) -> Callable[[], list[Tensor]]:
    """Make a function that draws the gradient of all parameters once: forward and backward.

    Args:
        problem: network, data and loss.
        estimator: already fitted, if it is one that learns.
        seed: the draws follow from it.

    Returns:
        The function; each call is another draw, a tensor for each parameter of the network.

    Examples:
        >>> problem = linear_problem([3], inputs=2, points=4)
        >>> [tuple(gradient.shape) for gradient in one_gradient(problem, MeanField())()]
        [(3, 2), (3,), (1, 3), (1,)]
    """
    parameters = list(problem.network.trainable().values())
    randomness = RandomDraws(generator(problem.network.device, "cost", seed), problem.network.dtype)

    def draw() -> list[Tensor]:
        loss, constant = split_constant(problem.loss_function())
        value = estimator(problem.network, problem.inputs, loss, randomness)
        value = (value if constant is None else value + constant).mean()
        return list(torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True))

    return draw


def count_operations(function: Callable[[], object]) -> dict[str, int]:
    """Count what one call costs.

    Args:
        function: what is called, once.

    Returns:
        "product_flops"; "elementwise" operations, and "elementwise_plain" with 12 for every elementary function; the
        most "bytes" that new tensors take at once.

    Examples:
        >>> numbers = torch.ones(10)
        >>> count_operations(lambda: numbers.exp())
        {'product_flops': 0, 'elementwise': 10, 'elementwise_plain': 120, 'bytes': 40}
    """
    with Meter() as meter:
        function()
    return {
        "product_flops": meter.products,
        "elementwise": meter.operations,
        "elementwise_plain": meter.operations + (FUNCTION - 1) * meter.functions,
        "bytes": meter.peak,
    }


def seconds_in_turn(
    functions: Mapping[str, Callable[[], object]], device: torch.device, budget: float
) -> dict[str, list[float]]:
    """Time calls on one thread, of one function after the other, round by round.

    What slows the machine for a while slows all of a round, so their ratios keep. The first function is timed in every
    round, the others until their budget is spent.

    Args:
        functions: what is called, by name.
        device: that they compute on.
        budget: seconds for each function; there is at least one round.

    Returns:
        By name, the seconds of compute of each round: of those of the first function, the first ones.

    Examples:
        >>> found = seconds_in_turn({"a": lambda: None, "b": lambda: None}, torch.device("cpu"), budget=0.0)
        >>> {name: len(seconds) for name, seconds in found.items()}
        {'a': 1, 'b': 1}
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    first = next(iter(functions))
    with one_thread():
        while turn := [name for name in functions if not times[name] or sum(times[name]) <= budget]:
            if len(times[first]) >= MOST_ROUNDS or (turn == [first] and len(functions) > 1):
                break
            for name in dict.fromkeys([first, *turn]):
                began = compute_seconds(device)
                functions[name]()
                times[name].append(compute_seconds(device) - began)
    return times


def cost_table(
    problem: Problem,
    estimators: Sequence[str | Estimator],
    *,
    seed: int = 0,
    budget: float = 0.3,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Measure what one draw of each estimator's gradient costs, and the ratios to back-propagation.

    Args:
        problem: network, data and loss.
        estimators: specs or callables.
        seed: of the draws.
        budget: seconds for the timing of each estimator; they are timed in turn, on one thread.
        progress: receives the progress; a step is an estimator.

    Returns:
        One row per estimator, back-propagation first. Columns: estimator, layers, width (the widest layer), points;
        layer_evaluations, loss_evaluations and their sum evaluations (per point); product_flops, elementwise (an
        elementary function counts as one operation), elementwise_plain (as 12), flops and flops_plain (products and
        elementwise), bytes (the most that new tensors take at once), seconds (of the fastest call); relative_flops,
        relative_flops_plain, relative_bytes, relative_seconds (the median over pairs of calls that followed each
        other).

    Raises:
        GradevalError: an unusable estimator.

    Examples:
        >>> table = cost_table(linear_problem([3, 2], inputs=2, points=4), ["st"], budget=0.0)
        >>> table[["estimator", "evaluations", "product_flops"]].to_dict("list")
        {'estimator': ['back-propagation', 'st'], 'evaluations': [3.0, 3.0], 'product_flops': [288, 288]}
    """
    named: dict[str, Estimator] = {"back-propagation": MeanField(), **resolve(estimators)}
    task, progress = "cost of one draw", progress or Silent()
    progress.start(task, len(named))
    rows, draws = [], {}
    with warnings.catch_warnings(), one_thread():
        warnings.simplefilter("ignore", FlipCost)
        for name, estimator in named.items():
            fitted = fit(estimator, name, problem, seed).estimator
            draws[name] = one_gradient(problem, fitted, seed)
            rows.append(_cost_row(problem, name, fitted, draws[name]))
            progress.advance(task, 1)
        with alone():
            times = seconds_in_turn(draws, problem.network.device, budget)
    progress.finish(task)
    table = pd.DataFrame(rows)
    base = times["back-propagation"]
    table["seconds"] = [min(times[name]) for name in named]
    # of pairs in one round; rounds that a coarse clock gives no time tell nothing
    pairs = ([one / two for one, two in zip(times[name], base, strict=False) if two > 0] for name in named)
    table["relative_seconds"] = [statistics.median(found) if found else math.nan for found in pairs]
    table["evaluations"] = table["layer_evaluations"] + table["loss_evaluations"]
    table["flops"] = table["product_flops"] + table["elementwise"]
    table["flops_plain"] = table["product_flops"] + table["elementwise_plain"]
    for column in ("flops", "flops_plain", "bytes"):
        table[f"relative_{column}"] = table[column] / table[column][0]
    return table


def _cost_row(problem: Problem, name: str, estimator: Estimator, draw: Callable[[], list[Tensor]]) -> dict[str, Any]:
    layers, losses = count_evaluations(problem, estimator)
    with alone():
        operations = count_operations(draw)
    return {
        "estimator": name,
        "layers": len(problem.widths),
        "width": max(problem.widths),
        "points": problem.points,
        "layer_evaluations": layers,
        "loss_evaluations": losses,
        **operations,
    }


@dataclass(frozen=True)
class GrowingNets:
    """Linear nets of growing depth and width.

    Args:
        depths: numbers of layers, of ``width`` units each.
        widths: numbers of units a layer, of ``depth`` layers.
        width: of the nets that grow in depth.
        depth: of the nets that grow in width.
        points: of the data.
    """

    depths: Sequence[int] = (6, 8, 12, 16, 24, 32)
    widths: Sequence[int] = (96, 112, 128, 160, 192, 256)
    width: int = 8
    depth: int = 4
    points: int = 8

    def units(self) -> list[tuple[str, int, list[int]]]:
        """List the nets.

        Returns:
            For each net, what grows ("depth" or "width"), its size and the widths of its layers.

        Examples:
            >>> GrowingNets(depths=(2,), widths=(3,)).units()
            [('depth', 2, [8, 8]), ('width', 3, [3, 3, 3, 3])]
        """
        nets = [("depth", size, [self.width] * size) for size in self.depths]
        return nets + [("width", size, [size] * self.depth) for size in self.widths]


def scaling_table(
    estimators: Sequence[str | Estimator] = SCALING,
    nets: GrowingNets = GrowingNets(),
    *,
    seed: int = 0,
    budget: float = 0.05,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Measure how the cost of one draw grows with depth and width.

    Args:
        estimators: specs or callables.
        nets: on which it is measured.
        seed: of the nets and the draws.
        budget: seconds for the timing of each estimator on each net.
        progress: receives the progress; a step is a net.

    Returns:
        The rows of `cost_table` on all nets; the column ``axis`` says which of "depth" and "width" grows, ``size`` how
        large it is.

    Raises:
        GradevalError: an unusable estimator.

    Examples:
        >>> table = scaling_table(["st"], GrowingNets(depths=(2, 4), widths=()), budget=0.0)
        >>> table.loc[table["estimator"] == "st", ["size", "evaluations"]].to_dict("list")
        {'size': [2, 4], 'evaluations': [3.0, 5.0]}
    """
    task, progress = "growth with depth and width", progress or Silent()
    sizes, tables = nets.units(), []
    progress.start(task, len(sizes))
    for axis, size, units in sizes:
        problem = linear_problem(units, inputs=units[0], points=nets.points, seed=seed)
        tables.append(cost_table(problem, estimators, seed=seed, budget=budget).assign(axis=axis, size=size))
        progress.advance(task, 1)
    progress.finish(task)
    return pd.concat(tables, ignore_index=True)


def linear_problem(
    units: Sequence[int], *, inputs: int, points: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Problem:
    """Make a problem of linear layers with states ±1 and the logistic loss.

    Weights are uniform in ±0.1: what PSA costs depends on the largest.

    Args:
        units: widths of the binary layers.
        inputs: dimensions of the inputs.
        points: of the data, which are normal.
        seed: weights and data follow from it.
        dtype: precision of the network.

    Returns:
        The problem.

    Examples:
        >>> linear_problem([3, 2], inputs=2, points=4).widths
        [3, 2]
    """
    random = generator("cpu", "cost", seed)
    network = StochasticBinaryNetwork.linear(inputs, units, 1, states=(-1.0, 1.0), dtype=dtype)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-0.1, 0.1, generator=random)
    x = torch.randn(points, inputs, generator=random, dtype=dtype)
    return Problem(network, x, 2 * torch.randint(0, 2, (points,), generator=random) - 1)
