"""How often `gradeval run` refutes an unbiased estimator on saturated networks, and finds planted biases: a study.

    python docs/studies/saturated.py [--nets 500] [--draws 5000] [--workers 2]        writes docs/studies/saturated.md

Random 2-2 nets with normal weights of growing scale, four points. Nothing is exact, so every verdict is from draws.
One run is three unbiased estimators, and REINFORCE with its gradient stretched by 5 % and by 50 % in every layer, which
claims to be unbiased. The family-wise error rate of the verdicts is 1 %.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from gradeval import Problem, StochasticBinaryNetwork, evaluate, exact_moments
from gradeval.analysis.hypotheses import FAMILY_ALPHA
from gradeval.analysis.run.summary import BiasVerdict
from gradeval.estimators import get_estimator
from gradeval.estimators.surrogate import carry

SCALES = (1, 2, 3, 4, 6, 8)
UNBIASED = ("reinforce", "arm", "ram")


def problem(scale: float, seed: int) -> Problem:
    """A 2-2 net with normal weights of a scale, on four points."""
    random = torch.Generator().manual_seed(seed)
    network = StochasticBinaryNetwork.linear(2, (2, 2), 1)
    for parameter in network.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=random, dtype=torch.float64)
    inputs = torch.randn(4, 2, generator=random, dtype=torch.float64)
    return Problem(network, inputs, torch.tensor([1.0, -1, 1, -1]), "logistic", f"scale {scale}, net {seed}")


@dataclass(frozen=True)
class Stretched:
    """REINFORCE with every gradient times a factor; it claims to be unbiased."""

    factor: float = 1.0
    unbiased = True

    def __call__(self, network, inputs, loss, randomness):
        value = get_estimator("reinforce")(network, inputs, loss, randomness)
        return value.detach() + self.factor * carry(value)


@dataclass(frozen=True)
class By5(Stretched):
    """By 5 %."""

    factor: float = 1.05


@dataclass(frozen=True)
class By50(Stretched):
    """By 50 %."""

    factor: float = 1.5


def one(draws: int, task: tuple[float, int]) -> dict[str, object]:
    """The verdicts on one net: of the whole run of unbiased estimators, and by layer of the planted ones."""
    torch.set_num_threads(1)
    subject = problem(*task)
    estimators = [*UNBIASED, By5(), By50()]
    summary = evaluate(subject, estimators, draws=draws, seed=task[1], exact="never", workers=1).summary
    rows = summary[summary["estimator"].isin(UNBIASED)]
    found = {"scale": task[0], "refuted": (rows["verdict"] == BiasVerdict.REFUTED).any()}
    found["rows"] = Counter(BiasVerdict(verdict).short for verdict in rows["verdict"])
    for percent, planted in ((5, By5), (50, By50)):
        mine = summary["estimator"].str.endswith(planted.__name__)
        layers = summary[mine & (summary["layer"] != "all")]
        found[percent] = Counter(BiasVerdict(verdict).short for verdict in layers["verdict"])
        found[f"ideal {percent}"] = ideal_power(subject, percent / 100, draws, 2 * len(summary))
    return found


def ideal_power(subject: Problem, stretch: float, draws: int, comparisons: int) -> list[float]:
    """The power of Hotelling's test in each layer, were the covariance's rank known and no state rare.

    The noncentrality is n bᵀΣ⁻¹b with the exact bias and covariance; the level is that of one of the run's tests.
    """
    moments, powers = exact_moments(subject, get_estimator("reinforce")), []
    for layer, where in moments.slices.items():
        if layer == "all":
            continue
        bias = stretch * moments.exact[where].numpy()
        values, vectors = np.linalg.eigh((1 + stretch) ** 2 * moments.covariance[where, where].numpy())
        kept = values > 1e-12 * values.max()
        noncentrality = draws * float(((vectors.T @ bias)[kept] ** 2 / values[kept]).sum())
        rank = int(kept.sum())
        critical = stats.f.isf(FAMILY_ALPHA / comparisons, rank, draws - rank)
        powers.append(float(stats.ncf.sf(critical, rank, draws - rank, min(noncentrality, 1e4))))
    return powers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=int, default=500)
    parser.add_argument("--draws", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    began = time.perf_counter()
    tasks = [(scale, seed) for scale in SCALES for seed in range(arguments.nets)]
    with ProcessPoolExecutor(arguments.workers) as pool:
        found = list(pool.map(partial(one, arguments.draws), tasks, chunksize=10))
    lines = [
        "# Verdicts on saturated networks",
        "",
        f"By `python docs/studies/saturated.py --nets {arguments.nets}`: so many random 2-2 nets at each scale of the "
        f"weights, {arguments.draws:,} draws, {', '.join(UNBIASED)} (unbiased), nothing exact. "
        "A run refutes falsely if any of "
        "its rows does; at most 1 % may. Shares of rows (estimator × layer) that hold, or are undecided since states "
        "too rare to be drawn could hide a bias. Planted: REINFORCE × 1.05 and × 1.5, the share of layers in which the "
        "claim is refuted (in brackets: the power of the test were nothing rare and the covariance's rank known), and "
        "in which it holds (it must not).",
        "",
        "| scale | runs that refute falsely [95 %] | rows that hold | undecided | × 1.05: refuted, holds | "
        "× 1.5: refuted, holds |",
        "|---:|---|---:|---:|---|---|",
    ]
    for scale in SCALES:
        mine = [row for row in found if row["scale"] == scale]
        false = sum(bool(row["refuted"]) for row in mine)
        low, high = proportion_confint(false, len(mine), method="beta")
        rows = sum((row["rows"] for row in mine), Counter())
        cells = [f"{false} of {len(mine)} [{low:.1%}, {high:.1%}]"]
        cells += [f"{rows[key] / rows.total():.1%}" for key in ("holds", "undecided")]
        for percent in (5, 50):
            planted = sum((row[percent] for row in mine), Counter())
            ideal = np.mean([power for row in mine for power in row[f"ideal {percent}"]])
            shares = [planted[key] / planted.total() for key in ("refuted", "holds")]
            cells.append(f"{shares[0]:.1%} ({ideal:.1%}), {shares[1]:.1%}")
        lines.append(f"| {scale} | {' | '.join(cells)} |")
    lines += ["", f"{(time.perf_counter() - began) * arguments.workers / 60:.0f} core-minutes.", ""]
    (Path(__file__).parent / "saturated.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
