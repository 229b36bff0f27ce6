"""What PSA costs on large nets beside back-propagation, and how the cost of estimators grows: docs/cost.md.

    python docs/make_cost_study.py            writes docs/cost.md and docs/cost-scaling.svg (a few minutes, two threads)

The machine should be idle: times are ratios of minima, measured in turn.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import torch
from torch import nn

from gradeval.analysis.plotting import render
from gradeval.analysis.scaling import fit_exponents, scaling_figure
from gradeval.estimators import get_estimator
from gradeval.estimators.surrogate import sample_path
from gradeval.model import flips
from gradeval.model.flips import flip_differences
from gradeval.model.maps import ImageMap
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.problem import Problem
from gradeval.model.randomness import RandomDraws, generator
from gradeval.program.progress import TerminalProgress
from gradeval.studies.costs import FUNCTION, count_operations, one_gradient, scaling_table

CONVOLUTIONS = [  # channels, channels, size, stride
    *((3, 128, 32, 1), (128, 128, 32, 2), (128, 256, 16, 1), (256, 256, 16, 2)),
    *((256, 256, 8, 1), (256, 512, 8, 2), (512, 512, 4, 1), (512, 512, 4, 1)),
]
FORMS = {"direct": {"DIRECT_PAIR": 0}, "separable": {"DIRECT_PAIR": 10**9}}


def linear_net() -> Problem:
    network = StochasticBinaryNetwork([nn.Linear(512, 512) for _ in range(3)], nn.Linear(512, 10), states=(-1.0, 1.0))
    return Problem(network, torch.randn(128, 512), torch.randint(0, 10, (128,)), "cross-entropy")


def convolutional_net() -> Problem:
    maps = [ImageMap((c, n, n), nn.Conv2d(c, d, 3, stride, 1)) for c, d, n, stride in CONVOLUTIONS]
    network = StochasticBinaryNetwork(maps, nn.Linear(512 * 16, 10), states=(-1.0, 1.0))
    return Problem(network, torch.randn(8, 3 * 32 * 32), torch.randint(0, 10, (8,)), "cross-entropy")


NETS = {
    "3 × 512 linear, batch 128": (linear_net, 30),
    "8 convolutions 3×3, 128–512 channels, 32×32 inputs, batch 8": (convolutional_net, 6),
}


def best_in_turn(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The least time of each, called in turn."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(rounds):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - began)
    return best


def product_error(problem: Problem) -> tuple[float, str]:
    """The largest relative error of a layer's product on a path, against double precision; and the terms taken."""
    chance = RandomDraws(generator("cpu", "path"), torch.float32)
    errors, terms = [], set()
    with torch.no_grad():
        steps, _ = sample_path(problem.network, problem.inputs[:1], chance)
        for layer, x, a, _, _ in steps[1:]:
            all_flips, g = layer.flips(x), torch.randn(a.shape)
            assert all_flips is not None
            found = flip_differences(all_flips, a, g, method="separable")
            reach = layer.delta * float(all_flips.form.weight.abs().max())
            terms.add(flips.terms_needed(layer.noise, reach, flips.TOLERANCE[torch.float32]))
            layer.double()
            x, g = x.double(), g.double()
            all_flips = layer.flips(x)
            assert all_flips is not None
            right = flip_differences(all_flips, layer.preactivation(x), g, method="direct")
            layer.float()
            errors.append(float((found - right).norm() / right.norm()))
    return max(errors), ", ".join(f"{m} + {n}" for m, n in sorted(t for t in terms if t))


def study(name: str) -> str:
    make, rounds = NETS[name]
    torch.manual_seed(0)
    problem = make()
    error, terms = product_error(problem)
    draws = {e: one_gradient(problem, get_estimator(e)) for e in ("tanh", "st", "psa")}
    counts: dict[str, dict[str, int]] = {e: count_operations(draws[e]) for e in ("tanh", "st")}
    seconds = best_in_turn(draws, rounds)
    for form, constants in FORMS.items():
        with patch.multiple(flips, **constants):
            counts[f"psa, {form}"] = count_operations(draws["psa"])
            seconds[f"psa, {form}"] = best_in_turn({"psa": draws["psa"]}, 1 if form == "direct" else 3)["psa"]
    seconds["psa, separable"] = min(seconds["psa, separable"], seconds.pop("psa"))
    base = counts["tanh"]

    def flops(count: dict[str, int], elementwise: str) -> float:
        return (count["product_flops"] + count[elementwise]) / (base["product_flops"] + base[elementwise])

    lines = [
        f"## {name}\n",
        f"| | FLOPs of products | all FLOPs, a function as 1 | all FLOPs, a function as {FUNCTION} | time | memory |",
        "|---|---|---|---|---|---|",
    ]
    for row, count in counts.items():
        shown = (
            count["product_flops"] / base["product_flops"],
            flops(count, "elementwise"),
            flops(count, "elementwise_plain"),
            seconds[row] / seconds["tanh"],
            count["bytes"] / base["bytes"],
        )
        label = "back-propagation" if row == "tanh" else row
        lines.append(f"| {label} | " + " | ".join(f"{v:.2f}" for v in shown) + " |")
    lines.append(
        f"\nBack-propagation: {base['product_flops'] / 1e9:.3g} GFLOP of products, {1e3 * seconds['tanh']:.3g} ms, "
        f"{base['bytes'] / 2**20:.3g} MiB. Terms of the separable form (odd + even): {terms}; "
        f"largest relative error of a layer's product: {error:.1e}.\n"
    )
    return "\n".join(lines)


def exponents(table: pd.DataFrame) -> str:
    fits = fit_exponents(table)
    kinds = [(axis, quantity) for axis in ("depth", "width") for quantity in ("evaluations", "flops", "seconds")]
    lines = [
        "| | " + " | ".join(f"{quantity}, {axis}" for axis, quantity in kinds) + " |",
        "|---|" + "---|" * len(kinds),
    ]
    found = fits.set_index(["estimator", "axis", "quantity"])
    for name in fits["estimator"].unique():
        cells = [found.loc[(name, *kind)].round(3) + 0.0 for kind in kinds]
        lines.append(f"| {name} | " + " | ".join(f"{p:.2f} [{low:.2f}, {high:.2f}]" for p, low, high in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(2)
    folder = Path(__file__).parent
    parts = [study(name) for name in NETS]
    print("\n".join(parts), file=sys.stderr)
    with TerminalProgress() as progress:
        table = scaling_table(progress=progress)
    (folder / "cost-scaling.svg").write_bytes(render(scaling_figure(table, fit_exponents(table)).figure, "svg"))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, two threads, torch {torch.__version__}"
    (folder / "cost.md").write_text(
        f"# What estimates cost\n\nWritten by `python docs/make_cost_study.py` ({machine}).\n\n"
        "All flips of a layer are one product with F inside, Σⱼ gⱼ [F(aⱼ) − F(aⱼ − δσᵢMⱼᵢ)]. The direct form\n"
        "evaluates every pair (i, j). The separable one (`gradeval.model.flips`) is a few ordinary matrix products or\n"
        "transposed convolutions; how many follows from a bound of the error. The tables give the cost of one PSA\n"
        "gradient as multiples of one forward–backward pass of the same net with F(a) in the place of sampled states,\n"
        "in single precision with tolerance 1e-5, logistic noise, states ±1 and weights as torch initialises them.\n\n"
        "A FLOP is a multiplication, addition, division or comparison. An exponential, logarithm or F counts as 1,\n"
        f"as in the paper's complexity, or as the number of FLOPs that it takes, about {FUNCTION}. Memory is\n"
        "the most that tensors made during the pass take at once.\n\n"
        + "\n".join(parts)
        + "\n## Growth with depth and width\n\n"
        "The nets are linear, in double precision: 6 to 32 layers of 8 units, and 4 layers of 96 to 256 units, with\n"
        "batches of 8. The table has exponents p of cost ~ sizeᵖ. Counts have no noise: their fit has corrections in\n"
        "1/size, and its interval is widened by how much the last correction moved p. Times are fitted by log–log\n"
        "least squares, with 95 % intervals; at these sizes they are mostly the overhead of calls.\n\n"
        f"{exponents(table)}\n\n![Cost against depth and width](cost-scaling.svg)\n"
    )


if __name__ == "__main__":
    main()
