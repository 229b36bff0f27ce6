"""Throughput of a Dask cluster on this machine with one and with two worker processes.

python docs/studies/cluster.py                   writes docs/studies/cluster.md; needs a quiet machine with two cores
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gradeval import evaluate, load_problem
from gradeval.workers.pools import dask_executor

if TYPE_CHECKING:
    from collections.abc import Iterator

ESTIMATORS = ["arm", "reinforce", "psa", "st"]
LEAST = 1.6


@contextmanager
def process(*arguments: str) -> Iterator[None]:
    command = [sys.executable, "-m", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
    running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        running.kill()
        running.wait()


def run(workers: int, draws: int, folder: Path) -> float:
    """Seconds of a run on a fresh cluster, once its workers are there and warm."""
    problem = load_problem("expclass", units="5-5-5", stage=0)
    file = folder / f"scheduler-{workers}-{draws}.json"
    with ExitStack() as stack:
        address = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
        stack.enter_context(process("distributed.cli.dask_scheduler", *address))
        while not file.exists():
            time.sleep(0.05)
        time.sleep(0.5)
        options = ("--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", "--no-dashboard")
        for _ in range(workers):
            options_here = (*options, "--local-directory", str(folder))
            stack.enter_context(process("distributed.cli.dask_worker", *options_here))
        executor, threads = stack.enter_context(
            dask_executor(json.loads(file.read_text())["address"], at_least=workers)
        )
        assert threads == workers
        common = {"exact": "never", "executor": executor, "workers": workers}
        evaluate(problem, ["st"], draws=20_000, **common)  # imports torch there
        began = time.monotonic()
        evaluation = evaluate(problem, ESTIMATORS, draws=draws, **common)
        seconds = time.monotonic() - began
        evaluation.save(folder / f"{workers}-{draws}")
        return seconds


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=90, help="of the run with one worker, about")
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        short = run(1, 20_000, Path(home))
        draws = max(20_000, int(20_000 * options.seconds / short / 10_000) * 10_000)
        one, two = (run(workers, draws, Path(home)) for workers in (1, 2))
        tables = [(Path(home) / f"{workers}-{draws}" / "summary.csv").read_bytes() for workers in (1, 2)]
    assert tables[0] == tables[1], "the tables differ"
    report = (
        "# Throughput of a cluster\n\n"
        f"`python docs/studies/cluster.py`: {', '.join(ESTIMATORS)} on the 5-5-5 task, {draws:,} draws each, on a Dask "
        f"scheduler with worker processes of one thread each on this machine ({os.cpu_count()} cores, the client on "
        "the same).\n\n"
        "| workers | seconds | throughput |\n|---|---|---|\n"
        f"| 1 | {one:.1f} | 1 |\n| 2 | {two:.1f} | {one / two:.2f} |\n\n"
        "The tables are the same, byte for byte.\n"
    )
    print(report)
    if one < 60 or one / two < LEAST:
        print(f"the run was too short, or two workers gave less than {LEAST}", file=sys.stderr)
        return 1
    if not options.no_write:
        Path(__file__).with_suffix(".md").write_text(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
