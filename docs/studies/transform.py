"""Time and memory of the exact gradient by transform, and how they grow.

python docs/studies/transform.py                 writes docs/studies/transform.md, .csv and .svg; needs a quiet machine

Every problem is measured in a process of its own; its gradient is checked first: along itself, by differences of the
exact value.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch

from gradeval import Problem, StochasticBinaryNetwork, exact_gradient
from gradeval.analysis.plotting import BLUE, paper_style, render
from gradeval.analysis.scaling import fit_exponents
from gradeval.problems.tasks import with_parameters

PAGE = Path(__file__).with_suffix(".md")
# name: inputs, units, outputs, points, loss, seconds and bytes that are aimed at
BARS = {
    "200 units, logistic, 200 points": (2, (200,), 1, 200, "logistic", 0.05, None),
    "12-500 units, logistic, 200 points": (2, (12, 500), 1, 200, "logistic", 2.0, None),
    "200 units, 64 outputs, 200 points": (64, (200,), 64, 200, "bernoulli", 4.0, None),
    "200 units, 784 outputs, 100 points": (784, (200,), 784, 100, "bernoulli", 15.0, 1.5e9),
}
BASE = {"units": 200, "outputs": 64, "points": 100}
FACTORS = (0.25, 0.5, 1, 2, 4)


def problem(inputs: int, units: tuple[int, ...], outputs: int, points: int, loss: str) -> Problem:
    """Normal weights of variance 1 over the inputs of a unit, times 4 for the head: as of a trained network."""
    random = torch.Generator().manual_seed(0)
    network = StochasticBinaryNetwork.linear(inputs, units, outputs)
    with torch.no_grad():
        for parameter in network.parameters():
            scale = 2 / parameter.shape[-1] ** 0.5 if parameter.ndim == 2 else 1.0
            parameter.copy_(scale * torch.randn(parameter.shape, generator=random, dtype=torch.float64))
    x = (torch.rand(points, inputs, generator=random) < 0.3).double()
    y = (torch.rand(points, outputs, generator=random) < 0.3).double()
    return Problem(network, x, 2 * y[:, 0] - 1 if loss == "logistic" else y, loss)


def measure(inputs: int, units: tuple[int, ...], outputs: int, points: int, loss: str) -> dict[str, float]:
    """Seconds (the best of some), bytes beyond torch's own, and the gradient's error along itself."""
    import resource

    task = problem(inputs, tuple(units), outputs, points, loss)
    torch.ones(64, 64) @ torch.ones(64, 64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times, began = list[float](), time.perf_counter()
    while not times or (len(times) < 20 and time.perf_counter() - began < 4):
        start = time.perf_counter()
        exact = exact_gradient(task, "transform")
        times.append(time.perf_counter() - start)
    memory = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    theta = torch.nn.utils.parameters_to_vector(task.network.parameters()).detach()
    norm = float(exact.vector.norm())
    ends = [
        exact_gradient(with_parameters(task, theta + step * exact.vector), "transform").value
        for step in (1e-4 / norm, -1e-4 / norm, 5e-5 / norm, -5e-5 / norm)
    ]
    slope = (4 * (ends[2] - ends[3]) / 1e-4 - (ends[0] - ends[1]) / 2e-4) / 3
    bound = exact.error["all"] / norm
    return {"seconds": min(times), "bytes": memory, "difference": abs(slope / norm - 1), "bound": bound}


def in_a_process(*sizes: object) -> dict[str, float]:
    """`measure` alone in a process."""
    command = [sys.executable, "-P", __file__, "--one", json.dumps(sizes)]
    found: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert found["difference"] < 1e-6, found
    return found


def growth() -> pd.DataFrame:
    """Seconds over units, outputs and points, each alone."""
    rows = []
    for axis, base in BASE.items():
        for factor in FACTORS:
            size = BASE | {axis: int(base * factor)}
            found = in_a_process(64, (size["units"],), size["outputs"], size["points"], "bernoulli")
            rows.append({"estimator": "transform", "axis": axis, "size": size[axis]} | found)
            print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, fits: pd.DataFrame) -> None:
    """Seconds on logarithmic axes, a panel for each size."""
    with paper_style():
        figure, panels = plt.subplots(1, 3, figsize=(7.2, 2.6), layout="constrained", sharey=True)
        for axes, (axis, rows) in zip(panels, table.groupby("axis", sort=False), strict=True):
            fit = fits[fits["axis"] == axis].iloc[0]
            axes.loglog(rows["size"], rows["seconds"], "o-", color=BLUE)
            axes.set_title(
                f"time ~ {axis}$^{{{fit['exponent']:.2f}}}$ [{fit['exponent_low']:.2f}, {fit['exponent_high']:.2f}]"
            )
            axes.set_xlabel(axis)
            axes.set_xticks(rows["size"], [str(size) for size in rows["size"]])
            axes.minorticks_off()
        panels[0].set_ylabel("seconds")
        panels[0].set_yticks([0.1, 0.3, 1, 3, 10], ["0.1", "0.3", "1", "3", "10"])
        panels[0].minorticks_off()
        PAGE.with_suffix(".svg").write_bytes(render(figure, "svg"))


def main() -> int:
    if "--one" in sys.argv:
        print(json.dumps(measure(*json.loads(sys.argv[-1]))))
        return 0
    lines = [
        "# The exact gradient by transform",
        "",
        f"`python docs/studies/transform.py`, {torch.get_num_threads()} threads, float64. Value and all of the "
        "gradient; the best of up to 20 in 4 s. The bound is the proven one of ‖error of ∇J‖, over ‖∇J‖; the "
        "difference is that of the slope along the gradient from differences of the exact value (their own error is "
        "some 1e-9).",
        "",
        "| problem | seconds | aimed at | memory | bound | difference |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, (*sizes, seconds, _) in BARS.items():
        found = in_a_process(*sizes)
        lines.append(
            f"| {name} | {found['seconds']:.3g} | {seconds:g} | {found['bytes'] / 2**20:.0f} MiB | "
            f"{found['bound']:.0e} | {found['difference']:.0e} |"
        )
        print(lines[-1], flush=True)
    table = growth()
    fits = fit_exponents(table, ["seconds"])
    table.to_csv(PAGE.with_suffix(".csv"), index=False)
    draw(table, fits)
    lines += [
        "",
        f"Growth from {BASE['units']} units, 64 inputs, {BASE['outputs']} outputs, {BASE['points']} points:",
        "",
    ]
    for _, fit in fits.iterrows():
        interval = f"[{fit['exponent_low']:.2f}, {fit['exponent_high']:.2f}]"
        lines.append(
            f"* time ~ {fit['axis']}^{fit['exponent']:.2f}, {interval} (95 %, least squares of the logarithms)"
        )
    lines += ["", "![seconds over units, outputs and points](transform.svg)", ""]
    PAGE.write_text("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
