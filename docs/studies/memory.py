"""Memory of a run of ten million draws of a problem with ten parameters, and of one with a hundred thousand points.

What is freed is given back to the system before each look (malloc_trim): C's allocator keeps some of it, 100 MiB and
more, which says nothing of what the run holds.

python docs/studies/memory.py                    writes docs/studies/memory.md and .svg
python docs/studies/memory.py --draws 1000000 --no-write
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from gradeval import Problem, evaluate
from gradeval.model.network import StochasticBinaryNetwork

LIMIT = 16 * 2**20  # growth from a tenth of the draws on
EVERY = 20  # chunks between two looks
POINTS, DRAWS_OF_POINTS = 100_000, (100, 400)


def problem() -> Problem:
    """One input, three units, ten parameters, four points."""
    network = StochasticBinaryNetwork.linear(1, (3,), 1)
    numbers = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=numbers, dtype=torch.float64))
    inputs = torch.randn(4, 1, generator=numbers, dtype=torch.float64)
    return Problem(network, inputs, torch.tensor([1.0, -1.0, 1.0, 1.0]), "logistic")


def resident() -> int:
    """Bytes of this process in memory (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


class Trace:
    """Progress that notes the memory."""

    def __init__(self) -> None:
        self.done = self.chunks = self.kept = 0
        self.points: list[tuple[int, int]] = []
        self.trim = ctypes.CDLL("libc.so.6").malloc_trim

    def start(self, estimator: str, draws: int) -> None:
        pass

    def advance(self, task: str, draws: int) -> None:
        self.done += draws
        self.chunks += 1
        if self.chunks % EVERY == 1:
            before = resident()
            self.trim(0)
            self.points.append((self.done, resident()))
            self.kept = max(self.kept, before - self.points[-1][1])

    def finish(self, task: str, note: str = "") -> None:
        pass


def many_points(draws: int, folder: Path) -> tuple[float, float, float]:
    """5-5-5 with `POINTS` points, ST: peak memory and size of the folder, in MB, and of its report."""
    random = torch.Generator().manual_seed(0)
    network = StochasticBinaryNetwork.linear(2, [5] * 3, 1, states=(-1.0, 1.0))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64))
    targets = 2 * torch.randint(0, 2, (POINTS,), generator=random) - 1
    large = Problem(network, torch.randn(POINTS, 2, generator=random), targets)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    evaluation = evaluate(large, ["st"], draws=draws, exact="never", folder=folder)
    (peak,) = (line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    report = evaluation.report(folder / "report.html")
    kept = sum(path.stat().st_size for path in folder.glob("chunks/*/*"))
    return int(peak) * 1024 / 1e6, kept / 1e6, Path(report).stat().st_size / 1e6


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=10_000_000)
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    trace = Trace()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        run = Path(home) / "run"
        evaluate(problem(), ["reinforce"], draws=options.draws, exact="never", progress=trace, folder=run)
        size = sum(path.stat().st_size for path in run.glob("chunks/*/*"))
        files = sum(1 for _ in run.glob("chunks/*/*"))
        large = {draws: many_points(draws, Path(home) / str(draws)) for draws in DRAWS_OF_POINTS}
    seconds = time.monotonic() - began
    tenth = [memory for done, memory in trace.points if done <= options.draws / 10][-1]
    growth = max(memory for done, memory in trace.points if done >= options.draws / 10) - tenth
    lines = [
        "# Memory",
        "",
        f"`python docs/studies/memory.py`: {options.draws:,} draws of REINFORCE on a problem of 10 parameters and 4 "
        f"points, kept in a folder, in {seconds:.0f} s. From a tenth of the draws on, the process grew by "
        f"{growth / 2**20:.1f} MiB at most; between two looks the allocator kept up to {trace.kept / 2**20:.0f} MiB "
        f"that were free. The folder holds {files:,} chunks, {size / 1e6:.0f} MB.",
        "",
        "![resident memory over draws](memory.svg)",
        "",
        "| draws | resident memory |",
        "|---|---|",
    ]
    for k in range(11):
        done, memory = min(trace.points, key=lambda point: abs(point[0] - k * options.draws / 10))
        lines.append(f"| {done:,} | {memory / 2**20:.1f} MiB |")
    lines += [
        "",
        f"{POINTS:,} points, 5-5-5, ST, one run after the other in one process (a draw is of all points at once):",
        "",
    ]
    lines += ["| draws | peak of the process | chunks on disk | report |", "|---|---|---|---|"]
    lines += [f"| {n:,} | {a:.0f} MB | {b:.2f} MB | {c:.2f} MB |" for n, (a, b, c) in large.items()]
    report = "\n".join(lines) + "\n"
    print(report)
    if growth > LIMIT:
        print(f"memory grew by more than {LIMIT / 2**20:.0f} MiB", file=sys.stderr)
        return 1
    if not options.no_write:
        figure, axes = plt.subplots(figsize=(5.2, 2.8), layout="constrained")
        axes.plot([done / 1e6 for done, _ in trace.points], [memory / 2**20 for _, memory in trace.points])
        axes.set(xlabel="million draws", ylabel="resident memory (MiB)", ylim=(0, None))
        plt.rcParams["svg.hashsalt"] = "gradeval"
        figure.savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None})
        Path(__file__).with_suffix(".md").write_text(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
