"""What one gradient estimate costs: evaluations, FLOPs, time and memory, beside one forward–backward pass.

The pass it is compared with is that of the same network with F(a) in the place of sampled states (`tanh`): ordinary
back-propagation. `Meter` counts: products by torch's formulas, elementwise operations, memory.
"""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gradeval.estimators import Estimator, resolve
from gradeval.estimators.moments import MeanField
from gradeval.estimators.protocol import fit
from gradeval.model.network import FlipCost, StochasticBinaryNetwork
from gradeval.model.problem import Problem
from gradeval.model.randomness import RandomDraws, generator
from gradeval.sampling.probes import count_evaluations
from gradeval.torch_private import TorchDispatchMode, flop_formula, storage_key

SCALING = ("st", "psa", "leg", "arm", "ram")
DEPTHS, WIDTHS = (6, 8, 12, 16, 24, 32), (96, 112, 128, 160, 192, 256)
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
        peak: the most bytes that tensors made since took at once.
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
    """A function that draws the gradient of all parameters once: forward and backward."""
    parameters = list(problem.network.parameters())
    loss = problem.loss_function()
    randomness = RandomDraws(generator(problem.network.device, "cost", seed), problem.network.dtype)

    def draw() -> list[Tensor]:
        value = estimator(problem.network, problem.inputs, loss, randomness).mean()
        return list(torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True))

    return draw


def count_operations(function: Callable[[], object]) -> dict[str, int]:
    """FLOPs of products, elementwise operations (two counts) and peak bytes of new tensors, of one call."""
    with Meter() as meter:
        function()
    return {
        "product_flops": meter.products,
        "elementwise": meter.operations,
        "elementwise_plain": meter.operations + (FUNCTION - 1) * meter.functions,
        "bytes": meter.peak,
    }


def seconds_of(function: Callable[[], object], device: torch.device, budget: float) -> float:
    """The least time of a call, of those that fit into ``budget`` seconds."""
    best, spent = float("inf"), 0.0
    while spent <= budget:
        began = _now(device)
        function()
        taken = _now(device) - began
        best, spent = min(best, taken), spent + taken
    return best


def cost_table(
    problem: Problem,
    estimators: Sequence[str | Estimator],
    *,
    seed: int = 0,
    budget: float = 0.3,
    progress: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """One row per estimator: what one draw of its gradient on ``problem`` costs, and the ratios to back-propagation.

    Columns: estimator, layers, width (the widest layer), points; layer_evaluations, loss_evaluations and their sum
    evaluations (per point); product_flops, elementwise (an elementary function counts as one operation),
    elementwise_plain (as 12), flops and flops_plain (products and elementwise), bytes (the most that new tensors take
    at once), seconds (the least of some calls); relative_flops, relative_flops_plain, relative_bytes, relative_seconds.

    Raises:
        GradevalError: an unusable estimator.
    """
    rows = []
    device = problem.network.device
    named: dict[str, Estimator] = {"back-propagation": MeanField(), **resolve(estimators)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FlipCost)
        for name, estimator in named.items():
            if progress:
                progress(name)
            estimator = fit(estimator, name, problem, seed).estimator
            layers, losses = count_evaluations(problem, estimator)
            draw = one_gradient(problem, estimator, seed)
            rows.append(
                {
                    "estimator": name,
                    "layers": len(problem.widths),
                    "width": max(problem.widths),
                    "points": problem.points,
                    "layer_evaluations": layers,
                    "loss_evaluations": losses,
                    **count_operations(draw),
                    "seconds": seconds_of(draw, device, budget),
                }
            )
    table = pd.DataFrame(rows)
    table["evaluations"] = table["layer_evaluations"] + table["loss_evaluations"]
    table["flops"] = table["product_flops"] + table["elementwise"]
    table["flops_plain"] = table["product_flops"] + table["elementwise_plain"]
    for column in ("flops", "flops_plain", "bytes", "seconds"):
        table[f"relative_{column}"] = table[column] / table[column][0]
    return table


def scaling_table(
    estimators: Sequence[str | Estimator] = SCALING,
    *,
    depths: Sequence[int] = DEPTHS,
    widths: Sequence[int] = WIDTHS,
    width: int = 8,
    depth: int = 4,
    points: int = 8,
    seed: int = 0,
    budget: float = 0.05,
    progress: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """`cost_table` of linear nets of growing depth (``width`` units a layer) and width (``depth`` layers).

    The column ``axis`` says which of the two grows, ``size`` how large it is.
    """
    tables = []
    for axis, sizes in (("depth", depths), ("width", widths)):
        for size in sizes:
            layers, units = (size, width) if axis == "depth" else (depth, size)
            if progress:
                progress(f"{layers} layers of {units} units")
            problem = linear_problem([units] * layers, inputs=units, points=points, seed=seed)
            tables.append(cost_table(problem, estimators, seed=seed, budget=budget).assign(axis=axis, size=size))
    return pd.concat(tables, ignore_index=True)


def linear_problem(
    units: Sequence[int], *, inputs: int, points: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Problem:
    """Linear layers with weights uniform in ±0.1 (what PSA costs depends on the largest), states ±1, logistic loss."""
    random = generator("cpu", "cost", seed)
    network = StochasticBinaryNetwork.linear(inputs, units, 1, states=(-1.0, 1.0), dtype=dtype)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-0.1, 0.1, generator=random)
    x = torch.randn(points, inputs, generator=random, dtype=dtype)
    return Problem(network, x, 2 * torch.randint(0, 2, (points,), generator=random) - 1)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
