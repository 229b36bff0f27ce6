"""False alarms and power of `gradeval check`: writes false-alarms.md beside this file.

    python docs/studies/false_alarms.py [--seeds 200] [--power-seeds 500] [--workers 2]

Every verdict is kept in a cache file (false-alarms.jsonl in the system's temporary folder, or --cache): the same
command resumes an interrupted study.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

from statsmodels.stats.proportion import proportion_confint

HERE = Path(__file__).parent
ALPHA, DETECT = 0.05, 0.2
POWER_ALPHA, POWER_DETECT, SCALE = 1e-6, 0.02, 1.02
POWER_PROBLEMS = (0, 5)  # of the battery: one layer, and two


def scaled(layer: str):
    """ARM whose gradient is multiplied by 1.02 in one layer only."""
    from gradeval.estimators import get_estimator
    from gradeval.estimators.surrogate import carry

    def stretch(t):
        return t.detach() + SCALE * carry(t)

    def stretched(map):
        copied = copy.copy(map)
        copied.preactivation = lambda x: stretch(map.preactivation(x))
        return copied

    def estimator(network, inputs, loss, randomness):
        arm = get_estimator("arm")
        if layer == "head":
            return arm(network, inputs, lambda x: stretch(loss(x)), randomness)
        layers = [stretched(found) if str(k) == layer else found for k, found in enumerate(network.layers, 1)]
        return arm(SimpleNamespace(layers=layers), inputs, loss, randomness)

    return estimator


def one(task: tuple[str, str, int]) -> dict[str, object]:
    """Run one check of the study."""
    import torch

    from gradeval.checking.battery import ROWS, make_problem
    from gradeval.checking.procedure import check

    torch.set_num_threads(1)
    part, what, seed = task
    began = time.perf_counter()
    if part == "alarms":
        verdict = check(what, unbiased=True, alpha=ALPHA, detect=DETECT, seed=seed, workers=1)
    else:
        row, layer = what.split(":")
        problems = [make_problem(ROWS[int(row)])]
        verdict = check(
            scaled(layer),
            unbiased=True,
            alpha=POWER_ALPHA,
            detect=POWER_DETECT,
            seed=seed,
            workers=1,
            problems=problems,
        )
    table = verdict.table
    return {
        "task": list(task),
        "verdict": verdict.verdict,
        "sampled": int(table["problem"][table["method"] == "sampled"].nunique()),
        "draws": int(table.drop_duplicates("problem")["draws"].sum()),
        "seconds": time.perf_counter() - began,
    }


def tasks(seeds: int, power_seeds: int) -> list[tuple[str, str, int]]:
    """All verdicts of the study: those of estimators that are decided exactly do not depend on the seed."""
    from gradeval.checking.battery import ROWS
    from gradeval.estimators import TABLE

    sampled = [n for n, f in TABLE.items() if f.unbiased and (f.randomness == "continuous" or "samples" in f.defaults)]
    exact = [n for n, f in TABLE.items() if f.unbiased and n not in sampled]
    layers = [
        f"{i}:{layer}" for i in POWER_PROBLEMS for layer in (*map(str, range(1, len(ROWS[i].widths) + 1)), "head")
    ]
    return [
        *(("alarms", name, 0) for name in exact),
        *(("alarms", name, seed) for seed in range(seeds) for name in sampled),
        *(("power", layers[seed % len(layers)], seed) for seed in range(power_seeds)),
    ]


def share(count: int, total: int) -> str:
    """A share with its 95 % Clopper–Pearson interval."""
    low, high = proportion_confint(count, total, method="beta")
    return f"{100 * count / total:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def report(results: list[dict]) -> str:
    """Write the text of docs/studies/false-alarms.md."""
    alarms: dict[str, list[dict]] = {}
    power: dict[str, list[dict]] = {}
    for result in results:
        part, what, _ = result["task"]
        (alarms if part == "alarms" else power).setdefault(what, []).append(result)
    lines = [
        "# False alarms and power of `gradeval check`",
        "",
        "Made by `python docs/studies/false_alarms.py`.",
        "",
        f"## False alarms at α = {ALPHA}",
        "",
        "Every built-in unbiased estimator on the whole battery, one verdict for each seed, with "
        f"`--detect {DETECT}` (it decides how long a check takes, not how often a look errs). Estimators that are "
        "decided exactly on all problems do not depend on the seed and are run once. 95 % binomial intervals.",
        "",
        "| estimator | problems sampled | checks | failed | share | undecided | draws a check |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rows in alarms.items():
        failed = sum(r["verdict"] == "fails" for r in rows)
        undecided = sum(r["verdict"] == "undecided" for r in rows)
        draws = sum(r["draws"] for r in rows) / len(rows)
        sampled = rows[0]["sampled"]
        interval = share(failed, len(rows)) if sampled else "exact"
        lines.append(f"| {name} | {sampled} | {len(rows)} | {failed} | {interval} | {undecided} | {draws:,.0f} |")
    rows = [r for found in alarms.values() for r in found if r["sampled"]]
    failed = sum(r["verdict"] == "fails" for r in rows)
    lines += [
        f"| **all sampled** | | {len(rows)} | {failed} | {share(failed, len(rows))} | | |",
        "",
        f"## Power: ARM scaled by {SCALE} in one layer, `--detect {POWER_DETECT}`, α = {POWER_ALPHA:g}",
        "",
        "Promised: failed in at least 99 % of the seeds. There is one problem of the battery in a check, so "
        "one layer in which the fault can be found.",
        "",
        "| problem:layer | checks | failed | share |",
        "|---|---|---|---|",
    ]
    for what, rows in power.items():
        found = sum(r["verdict"] == "fails" for r in rows)
        lines.append(f"| {what} | {len(rows)} | {found} | {share(found, len(rows))} |")
    rows = [r for found in power.values() for r in found]
    found = sum(r["verdict"] == "fails" for r in rows)
    lines.append(f"| **all** | {len(rows)} | {found} | {share(found, len(rows))} |")
    seconds = sum(r["seconds"] for r in results)
    lines += ["", f"{len(results)} checks, {seconds / 60:.0f} minutes of one core.", ""]
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--power-seeds", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "false-alarms.jsonl")
    arguments = parser.parse_args()
    every = tasks(arguments.seeds, arguments.power_seeds)
    done = {}
    if arguments.cache.exists():
        for line in arguments.cache.read_text().splitlines():
            result = json.loads(line)
            done[tuple(result["task"])] = result
    missing = [task for task in every if task not in done]
    print(f"{len(every) - len(missing)} of {len(every)} verdicts are in {arguments.cache}")
    with ProcessPoolExecutor(arguments.workers) as pool, arguments.cache.open("a") as cache:
        for number, result in enumerate(pool.map(one, missing, chunksize=4), 1):
            done[tuple(result["task"])] = result
            print(json.dumps(result), file=cache, flush=True)
            if number % 50 == 0:
                print(f"{number} of {len(missing)}", flush=True)
    (HERE / "false-alarms.md").write_text(report([done[task] for task in every]))


if __name__ == "__main__":
    main()
