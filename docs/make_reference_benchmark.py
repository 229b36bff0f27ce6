"""Time and peak memory of the exact gradient against width, depth and number of points: a table and a figure.

    python docs/make_reference_benchmark.py            writes docs/reference-benchmark.md and .svg (some minutes)

Every row is measured in a process of its own. The machine's own matrix products are timed in the same process: "of the
products" is the time divided by what the same number of multiply–adds takes in 1024 × 1024 products of the same type.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from matplotlib.figure import Figure
from torch import Tensor

from gradeval.analysis.plotting import BLUE, paper_style, render, tidy
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.problem import Problem
from gradeval.reference import exact_gradient, predicted_cost

WIDTHS = [[n] * 3 for n in (5, 8, 10, 12, 14, 16, 18)]
DEPTHS = [[10] * depth for depth in (1, 2, 4, 6, 8)]
POINTS = (200, 2000, 20_000)


@dataclass(frozen=True)
class Row:
    """What was measured of one net."""

    units: list[int]
    points: int
    method: str
    best: float
    median: float
    peak_bytes: int
    of_products: float | None


def problem(units: list[int], points: int, dtype: torch.dtype) -> Problem:
    """Two inputs, linear layers with normal weights, states ±1, and one of two labels for every point."""
    random = torch.Generator().manual_seed(0)
    network = StochasticBinaryNetwork.linear(2, units, 1, states=(-1.0, 1.0), dtype=dtype)
    for parameter in network.parameters():
        scale = parameter.shape[-1] ** -0.5
        parameter.data = scale * torch.randn(parameter.shape, generator=random, dtype=torch.float64).to(dtype)
    inputs = torch.randn(points, 2, generator=random)
    return Problem(network, inputs, 2 * torch.randint(0, 2, (points,), generator=random) - 1)


def seconds(function: Callable[[], object], budget: float) -> list[float]:
    """Times of single calls, after one to warm up: at least 3 unless the first takes over ``budget`` seconds."""
    times: list[float] = []
    function()
    began = time.perf_counter()
    while len(times) < 3 or (len(times) < 200 and time.perf_counter() - began < budget):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
        if times[0] > budget:
            break
    return times


def measure(units: list[int], points: int, dtype: torch.dtype) -> Row:
    """One row of the table, in this process."""
    task = problem(units, points, dtype)
    cost = predicted_cost(task)
    square = torch.ones(1024, 1024, dtype=dtype)
    product = min(seconds(lambda: square @ square, 1.0)) / 1024**3
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    exact: list[Tensor] = []
    times = seconds(lambda: exact.append(exact_gradient(task).vector), 5.0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB on Linux
    if predicted_cost(task, "plain").bytes < 2**28:  # never a time without its result checked where it can be
        torch.testing.assert_close(exact[0], exact_gradient(task, "plain").vector, rtol=1e-9, atol=1e-12)
    product = min(product, min(seconds(lambda: square @ square, 1.0)) / 1024**3)
    of_products = min(times) / (cost.multiply_adds * product) if cost.method == "layerwise" else None
    return Row(units, points, cost.method, min(times), median(times), peak * 2**10, of_products)


def in_own_process(units: list[int], points: int) -> Row:
    """`measure` in a fresh process, whose peak memory is this row's alone."""
    arguments = [sys.executable, __file__, "--measure", "-".join(map(str, units)), "--points", str(points)]
    row = Row(**json.loads(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout))
    print(row, file=sys.stderr)
    return row


def table(rows: Sequence[Row]) -> str:
    lines = [
        "| net | points | method | best | median | peak memory | of the products' time |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        times = " | ".join(f"{1e3 * t:.3g} ms" if t < 1 else f"{t:.3g} s" for t in (row.best, row.median))
        ratio = f"{row.of_products:.2f}" if row.of_products else ""
        net = "-".join(map(str, row.units))
        lines.append(f"| {net} | {row.points} | {row.method} | {times} | {row.peak_bytes / 2**20:.0f} MiB | {ratio} |")
    return "\n".join(lines)


def figure(widths: Sequence[Row], depths: Sequence[Row], points: Sequence[Row]) -> Figure:
    with paper_style():
        drawing = Figure(figsize=(7.2, 2.4), layout="constrained")
        panels = drawing.subplots(1, 3, sharey=True)
        for axes, rows, label, xs in (
            (panels[0], widths, "units in each of 3 layers", [row.units[0] for row in widths]),
            (panels[1], depths, "layers of 10 units", [len(row.units) for row in depths]),
            (panels[2], points, "points (12-12-12)", [row.points for row in points]),
        ):
            axes.plot(xs, [row.best for row in rows], "o-", color=BLUE)
            axes.set(xlabel=label, yscale="log")
            if label.startswith("points"):
                axes.set_xscale("log")
            axes.set_xticks(xs, [f"{x:,}" for x in xs])
            axes.minorticks_off()
            tidy(axes)
        panels[0].set(ylabel="seconds for J and its gradient")
    return drawing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", help="measure this net only, in this process, and print the row as JSON")
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--widest", type=int, default=18, help="leave out wider layers (18 takes minutes)")
    arguments = parser.parse_args()
    if arguments.measure:
        units = [int(n) for n in arguments.measure.split("-")]
        print(json.dumps(asdict(measure(units, arguments.points, torch.float64))))
        return
    widths = [in_own_process(units, 200) for units in WIDTHS if units[0] <= arguments.widest]
    depths = [in_own_process(units, 200) for units in DEPTHS]
    points = [in_own_process([12] * 3, n) for n in POINTS]
    folder = Path(__file__).parent
    (folder / "reference-benchmark.svg").write_bytes(render(figure(widths, depths, points), "svg"))
    processor = (
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    (folder / "reference-benchmark.md").write_text(
        f"# The exact gradient: time and memory\n\nWritten by `python docs/make_reference_benchmark.py` ({processor}). "
        "float64, two inputs, two labels; value and full gradient. Peak memory is beyond that of the imported "
        "library with its problem.\n\n![Time against width, depth and points](reference-benchmark.svg)\n\n"
        f"{table([*widths, *depths, *points])}\n\n"
        "“Of the products' time” is the best time divided by what the same multiply–adds take in square matrix\n"
        "products in the same process. There are three products for every pair of layers; none is computed twice.\n"
    )


if __name__ == "__main__":
    main()
