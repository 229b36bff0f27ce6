"""What keeping the chunks of a run costs: the same run with a folder and without, in turns.

python docs/studies/overhead.py                  writes docs/studies/overhead.md; needs a quiet machine
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from gradeval import evaluate, load_problem

RUNS = {  # the cheapest estimator has the smallest chunks of work
    "st": (["st"], 400_000),
    "the paper's": (["reinforce", "arm", "concrete:temperature=0.1", "concrete:temperature=1.0", "st", "psa"], 30_000),
}
LIMIT = 0.05


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    problem = load_problem("expclass", units="5-5-5", stage=0)
    lines = [
        "# The cost of keeping chunks",
        "",
        f"`python docs/studies/overhead.py`: the 5-5-5 task with 200 points, with a folder and without in turns, "
        f"{options.repeats} times each. The table shows medians, and the median of the ratios of neighbours. Both "
        "make the tables of a finished run.",
        "",
        "| estimators | draws of each | without | with | overhead | overhead in CPU time | chunks on disk |",
        "|---|---|---|---|---|---|---|",
    ]
    worst = 0.0
    for what, (estimators, draws) in RUNS.items():
        pairs, size = [], 0
        for _ in range(options.repeats):
            with tempfile.TemporaryDirectory() as home:
                times = []
                for folder in (None, Path(home) / "run"):
                    wall, cpu = time.perf_counter(), time.process_time()
                    evaluation = evaluate(problem, estimators, draws=draws, exact="never", folder=folder)
                    if folder is None:
                        evaluation.save(Path(home) / "without")
                    times.append((time.perf_counter() - wall, time.process_time() - cpu))
                pairs.append(times)
                size = sum(path.stat().st_size for path in Path(home).glob("run/chunks/*/*"))
        without, kept = (statistics.median(pair[k][0] for pair in pairs) for k in (0, 1))
        ratios = [statistics.median(pair[1][k] / pair[0][k] for pair in pairs) - 1 for k in (0, 1)]
        worst = max(worst, ratios[0])
        lines.append(
            f"| {what} | {draws:,} | {without:.1f} s | {kept:.1f} s | {ratios[0]:+.1%} | {ratios[1]:+.1%} | "
            f"{size / 1e6:.1f} MB |"
        )
    report = "\n".join(lines) + "\n"
    print(report)
    if worst > LIMIT:
        print(f"the overhead is above {LIMIT:.0%}", file=sys.stderr)
        return 1
    if not options.no_write:
        Path(__file__).with_suffix(".md").write_text(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
