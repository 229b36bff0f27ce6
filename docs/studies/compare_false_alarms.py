"""How often `gradeval compare` finds a change between two runs of the same code: a recorded study.

    python docs/studies/compare_false_alarms.py            writes docs/studies/compare-false-alarms.md (some minutes)

Every pair is two runs with different seeds; the older one goes through a baseline file. Nothing is exact and the
tolerance is the smallest there is, so that every finding is a false alarm of a test. Then the same pairs with one
planted change, to show that a gate with this rate is awake.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from statsmodels.stats.proportion import proportion_confint

from gradeval import Problem, StochasticBinaryNetwork, evaluate
from gradeval.analysis.comparison.baseline import SMALLEST_TOLERANCE, Baseline
from gradeval.analysis.comparison.changes import compare

ESTIMATORS = ("st", "psa", "reinforce", "arm", "concrete:temperature=0.5")
ALPHAS = (0.5, 0.2, 0.05, 0.001)


def problem() -> Problem:
    """A 2-2 net with normal weights on four points."""
    random = torch.Generator().manual_seed(0)
    network = StochasticBinaryNetwork.linear(2, (2, 2), 1)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
    inputs = torch.randn(4, 2, generator=random, dtype=torch.float64)
    return Problem(network, inputs, torch.tensor([1.0, -1, 1, -1]), "logistic")


def planted(run: Baseline) -> Baseline:
    """PSA's variance in the head is 1.5 times what it was."""
    psa = run.estimators["psa"]
    head = replace(psa.layers["head"], variance=1.5 * psa.layers["head"].variance)
    return replace(run, estimators={**run.estimators, "psa": replace(psa, layers={**psa.layers, "head": head})})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--draws", type=int, nargs="+", default=[200, 2000])
    arguments = parser.parse_args()
    subject = problem()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for draws in arguments.draws:
            alarms = dict.fromkeys(ALPHAS, 0)
            default = timed = caught = comparisons = 0
            for pair in range(arguments.pairs):
                seeds = (2 * pair, 2 * pair + 1)
                runs = [evaluate(subject, ESTIMATORS, draws=draws, seed=seed, exact="never") for seed in seeds]
                old, new = (Baseline.of(run) for run in runs)
                old = Baseline.read(old.save(Path(folder) / f"{draws}-{pair}.json"))
                found = compare(old, new, tolerance=SMALLEST_TOLERANCE, cost_factor=math.inf)
                for alpha in ALPHAS:  # a test finds a change where its adjusted p-value is below
                    alarms[alpha] += bool((found.table["pvalue_adjusted"] < alpha).any())
                comparisons = int(found.table["pvalue"].notna().sum())
                usual = compare(old, new)
                default += bool((usual.changed["measure"] != "time").any())
                timed += bool((usual.regressions["measure"] == "time").any())
                regressions = compare(old, planted(new)).regressions
                caught += bool(((regressions["estimator"] == "psa") & (regressions["layer"] == "head")).any())
            for alpha, count in alarms.items():
                lines.append(
                    _row(draws, f"false alarms at α = {alpha}, tolerance 0.0001", count, arguments.pairs, f"≤ {alpha}")
                )
            lines.append(_row(draws, "false alarms at the defaults", default, arguments.pairs, "≤ 0.001"))
            lines.append(_row(draws, "a time beyond the factor 2", timed, arguments.pairs, "not stated"))
            lines.append(_row(draws, "planted: variance of psa's head × 1.5 is found", caught, arguments.pairs, ""))
    table = "\n".join(["| draws | what | pairs | share (95 % interval) | stated |", "|---:|---|---:|---|---|", *lines])
    Path(__file__).with_name("compare-false-alarms.md").write_text(
        "# False alarms of `gradeval compare`\n\nWritten by `python docs/studies/compare_false_alarms.py`. "
        f"{arguments.pairs} pairs of runs of the same code with different seeds, on a 2-2 net with four points; "
        f"{', '.join(ESTIMATORS)}: {comparisons} tests a pair (bias, variance, cosine in each layer). No figure "
        "is exact; the older run goes through its baseline file. A pair counts when any test finds a change, "
        f"for the better or the worse.\n\n{table}\n\n"
        "“Stated” is the highest rate that `--alpha` allows. It states none for times: they are measured, not drawn, "
        "and the machine was busy.\n"
    )
    print(table)


def _row(draws: int, what: str, count: int, pairs: int, stated: str) -> str:
    low, high = proportion_confint(count, pairs, method="beta")
    return f"| {draws} | {what} | {count} of {pairs} | {count / pairs:.3f} [{low:.3f}, {high:.3f}] | {stated} |"


if __name__ == "__main__":
    main()
