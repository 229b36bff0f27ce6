"""A busy machine: the same work quiet, and beside two processes of two threads each that multiply matrices.

python docs/studies/busy.py                      writes docs/studies/busy.md; needs a quiet machine, and git
python docs/studies/busy.py --rounds 1 --no-write

Measured in processes of their own, in turns: the code before small work ran on one thread (from git), the code now,
and the code now with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean

import numpy as np
import torch

from gradeval import evaluate
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.problem import Problem
from gradeval.reference import exact_gradient

BEFORE = "0de3b30"  # the last commit whose small work ran on all threads
WIDTHS = (5, 10, 12, 16)
RUN = "PSA on 5-5-5, 2000 draws"
SHARE = "a loop in Python"  # on one thread, without torch: the share that the system gives
CELLS = "a loop in numpy, 200 × 32 cells"  # the same, of work whose numbers are in the caches that others use, too
CONTROLS = (SHARE, CELLS)
LONG = "16-16-16"  # of the code before a minute a call, beside others
FAIR = 3.0
RIVALS = 2
RIVAL = """
import torch
torch.set_num_threads(2)
square = torch.randn(600, 600, dtype=torch.float64)
print("ready", flush=True)
while True:
    square @ square
"""
Times = dict[str, float]


def problem(n: int) -> Problem:
    """n-n-n with two inputs, 200 points and two labels."""
    random = torch.Generator().manual_seed(0)
    network = StochasticBinaryNetwork.linear(2, [n] * 3, 1, states=(-1.0, 1.0))
    for parameter in network.parameters():
        normal = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
        parameter.data = parameter.shape[-1] ** -0.5 * normal
    inputs = torch.randn(200, 2, generator=random)
    return Problem(network, inputs, 2 * torch.randint(0, 2, (200,), generator=random) - 1)


def work() -> Iterator[tuple[str, Callable[[], object]]]:
    """What is timed."""
    for n in WIDTHS:
        net = problem(n)
        yield f"{n}-{n}-{n}", lambda net=net: exact_gradient(net)  # type: ignore[misc]
    yield RUN, lambda: evaluate(problem(5), ["psa"], draws=2000, exact="never")
    yield SHARE, lambda: sum(range(100_000))
    cells = np.linspace(-1, 1, 200 * 32).reshape(200, 32)
    yield CELLS, lambda: [np.exp(cells).sum() for _ in range(40)]


def measure(seconds: float, leave_out: str) -> Times:
    """The mean time of a call of everything, in this process."""
    times = {}
    for name, call in work():
        if name == leave_out:
            continue
        if name != LONG:
            call()
        calls, began = 0, time.perf_counter()
        while calls == 0 or time.perf_counter() - began < seconds:
            call()
            calls += 1
        times[name] = (time.perf_counter() - began) / calls
    return times


@contextmanager
def rivals() -> Iterator[None]:
    command = [sys.executable, "-P", "-c", RIVAL]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(RIVALS)]
    try:
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        yield
    finally:
        for process in started:
            process.kill()
            process.communicate()


def sources_of(commit: str, folder: Path) -> None:
    """Lay the package of a commit out as it is installed."""
    command = ["git", "-C", str(Path(__file__).parents[2]), "archive", "--format=tar", commit]
    archive = subprocess.run([*command, "gradeval", "reference", "analysis"], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    for part in ("reference", "analysis"):
        (folder / part).rename(folder / "gradeval" / part)


def in_own_process(environment: dict[str, str], seconds: float, leave_out: str = "") -> Times:
    command = [sys.executable, "-P", __file__, "--measure", str(seconds), "--leave-out", leave_out]
    inherited = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    found = subprocess.run(command, env=inherited | environment, check=True, capture_output=True, text=True).stdout
    times: Times = json.loads(found)
    print(environment or "now", times, file=sys.stderr)
    return times


def rounds_of(codes: dict[str, dict[str, str]], rounds: int, seconds: float, busy: bool) -> dict[str, list[Times]]:
    """All codes in turn, round by round."""
    found: dict[str, list[Times]] = {name: [] for name in codes}
    for _ in range(rounds):
        for name, environment in codes.items():
            found[name].append(in_own_process(environment, seconds, LONG if busy and name == "before" else ""))
    return found


def milliseconds(times: list[Times], name: str, take: Callable[[list[float]], float]) -> float | None:
    found = [1e3 * time[name] for time in times if name in time]
    return take(found) if found else None


def table(quiet: dict[str, list[Times]], busy: dict[str, list[Times]]) -> tuple[list[str], float]:
    """The rows, and the largest ratio of the code now."""
    lines, worst = [], 0.0
    for name in [f"{n}-{n}-{n}" for n in WIDTHS] + [RUN, *CONTROLS]:
        # a round that something disturbed is not quiet; beside others every round counts
        still = {code: milliseconds(times, name, min) for code, times in quiet.items()}
        beside = {code: milliseconds(times, name, mean) for code, times in busy.items()}
        ratio = (beside["now"] or 0) / (still["now"] or 1)
        worst = max(worst, ratio if name not in CONTROLS else 0.0)
        cells = [still["before"], still["now"], still["one"], beside["before"], beside["now"], beside["one"]]
        shown = ["" if cell is None else f"{cell:.3g}" if cell < 1000 else f"{cell:.0f}" for cell in cells]
        lines.append(f"| {name} | {' | '.join(shown[:3])} | {' | '.join(shown[3:])} | {ratio:.1f} |")
    return lines, worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each kind of work in each round")
    parser.add_argument("--no-write", action="store_true")
    parser.add_argument("--measure", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--leave-out", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure, options.leave_out)))
        return 0
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        sources_of(BEFORE, Path(folder))
        codes = {"before": {"PYTHONPATH": folder}, "now": {}, "one": {"OMP_NUM_THREADS": "1"}}
        quiet = rounds_of(codes, options.rounds, options.seconds, busy=False)
        with rivals():
            busy = rounds_of(codes, options.rounds, options.seconds, busy=True)
    lines, worst = table(quiet, busy)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    report = "\n".join(
        [
            "# A busy machine",
            "",
            f"`python docs/studies/busy.py` ({machine}; load at the start {load:.1f}): milliseconds of the exact "
            "gradient of three layers with 200 points, and of a run of PSA, on a quiet machine and beside two "
            "processes of two threads each that multiply matrices. Means of the calls of a round; quiet: of the "
            f"fastest of {options.rounds} rounds. “Before” is commit {BEFORE}, “one thread” the code now with "
            "OMP_NUM_THREADS=1. A fair share of two cores is a ratio of 2.5 for work on one thread, of 3 for work on "
            "two; the two loops have no code of gradeval and one thread: they show what the system gave. "
            f"Before, {LONG} beside others took up to "
            "a minute; it is left out.",
            "",
            "| | quiet, before | quiet, now | quiet, one thread | busy, before | busy, now | busy, one thread "
            "| busy ÷ quiet, now |",
            "|---|---|---|---|---|---|---|---|",
            *lines,
            "",
        ]
    )
    print(report)
    if worst > FAIR:
        print(f"a ratio is above {FAIR:.0f}", file=sys.stderr)
    if not options.no_write:
        Path(__file__).with_suffix(".md").write_text(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
