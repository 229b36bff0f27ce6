"""Do the intervals mean what they say on a real network of 26,000 parameters? A recorded study.

    python docs/studies/coverage_vae.py     writes coverage-vae.md and .csv beside it (half an hour on two cores)

A binary VAE of digits with 200 units, whose gradient is exact by the transform. Each replicate is a run of few draws
with a seed of its own; its draws are made, reduced and turned into intervals by the functions of an evaluation. The
truth of a bias that is not zero, and of every variance, is had from the draws of all replicates together.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parent))  # before the package of the same name

from coverage_at_size import coverage_of

from gradeval import exact_gradient, load_problem
from gradeval.analysis.run.estimates import accuracies_of, intervals, mean_norm, unbiasedness
from gradeval.analysis.run.rare import RareStates
from gradeval.estimators import get_estimator
from gradeval.evaluation.chunks import ChunkMaker, Failure
from gradeval.model.problem import Problem
from gradeval.reference import ExactGradient
from gradeval.reference.own_rare import own_rare_states
from gradeval.sampling.extent import Extent
from gradeval.sampling.independence import independent_points
from gradeval.sampling.sampler import Sampler
from gradeval.sampling.streaming import Scorer, Stream

UNITS = 200
BIASES = {"zero": ["disarm", "rloo"], "small": ["st", "reinmax"], "large": ["st-gumbel", "identity-st"]}
UNBIASED = BIASES["zero"]
ALLOWANCE, ALONE = "", ", nothing missing"  # intervals as printed, and without what rare states may be missing


@dataclass(frozen=True)
class Setting:
    """The problem and its exact gradient."""

    problem: Problem
    truth: ExactGradient

    @property
    def slices(self) -> dict[str, slice]:
        """Where the layers lie."""
        return dict(self.truth.slices)


@lru_cache(maxsize=1)
def setting(points: int) -> Setting:
    """The VAE at its beginning, on so many digits."""
    problem = load_problem("vae", units=UNITS, points=points, kl="analytic")
    return Setting(problem, exact_gradient(problem, "transform"))


@lru_cache(maxsize=1)
def rare_of(points: int, name: str) -> RareStates:
    """What the estimator's draws may miss."""
    return own_rare_states(Sampler(setting(points).problem, name, get_estimator(name)))


def replicate(points: int, name: str, draws: int, seed: int) -> tuple[list[dict[str, object]], np.ndarray]:
    """One run: by layer the ends of every interval, and the p-values; and the mean of its errors."""
    here = setting(points)
    exact, estimator = here.truth.vector.numpy(), get_estimator(name)
    scorer = Scorer(here.truth.vector, here.slices, Extent.of(len(exact), len(here.slices)))
    pointwise = independent_points(here.problem, estimator)
    maker = ChunkMaker(Sampler(here.problem, name, estimator), scorer, ("coverage", seed), pointwise, draws)
    stream = Stream(scorer)
    for index, start in enumerate(range(0, draws, scorer.extent.chunk)):
        chunk = maker(index, min(scorer.extent.chunk, draws - start))
        if isinstance(chunk, Failure):
            raise SystemExit(chunk.message)
        stream.add(chunk)
    moments, rows = stream.moments(), []
    for what, rare in ((ALLOWANCE, rare_of(points, name)), (ALONE, None)):
        accuracies = accuracies_of(moments, exact, rare)
        for layer, where in here.slices.items():
            found = intervals(moments, exact, layer, accuracies[layer])
            row: dict[str, object] = {"source": f"{name}{what}", "layer": layer, "draws": draws}
            for measure, interval in found.items():
                row |= interval.columns(measure)
            row["variance"] = accuracies[layer].variance.estimate / float(np.linalg.norm(exact[where])) ** 2
            row["pvalue"] = unbiasedness(moments, exact, layer, 1, accuracies[layer].missing.mean).pvalue
            row["pvalue_plain"] = mean_norm(moments, layer).test(0.0, 1.0, 1).pvalue
            rows.append(row)
    return rows, moments.mean_error


def runs(points: int, name: str, draws: int, seeds: range) -> tuple[str, list[dict[str, object]], np.ndarray]:
    """Some replicates of one estimator, and the means of their errors, [replicates, P]."""
    torch.set_num_threads(1)
    found = [replicate(points, name, draws, seed) for seed in seeds]
    return name, [row for rows, _ in found for row in rows], np.stack([bias for _, bias in found])


@dataclass(frozen=True)
class Pooled:
    """What is true of an estimator, as far as all replicates together know it."""

    name: str
    table: pd.DataFrame
    errors: np.ndarray
    setting: Setting

    def truth(self, layer: str) -> dict[str, float]:
        """Relative bias (its square without bias: products of different replicates), variance, RMSE and scale."""
        where, exact = self.setting.slices[layer], self.setting.truth.vector.numpy()
        norm, errors = float(np.linalg.norm(exact[where])), self.errors[:, where]
        count, mean = len(errors), errors.mean(0)
        square = float(mean @ mean - (errors - mean).var(0, ddof=1).sum() / count) / norm**2
        unbiased = self.name in UNBIASED
        bias = 0.0 if unbiased else max(square, 1e-12) ** 0.5
        scale = 1.0 if unbiased else 1 + float(mean @ exact[where]) / norm**2
        variance = float(self.table.loc[self.table["layer"] == layer, "variance"].mean())
        return {
            "relative_bias": bias,
            "relative_variance": variance,
            "relative_rmse": (bias**2 + variance) ** 0.5,
            "scale": scale,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=300)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--points", type=int, default=10)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    names = [name for group in BIASES.values() for name in group]
    tasks = [
        (options.points, name, options.draws, range(start, min(start + 50, options.replicates)))
        for name in names
        for start in range(0, options.replicates, 50)
    ]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        found = pool.starmap(runs, tasks, chunksize=1)
    table = pd.DataFrame([row for _, rows, _ in found for row in rows])
    pooled: dict[str, Pooled] = {}
    for name in names:
        errors = np.concatenate([bias for one, _, bias in found if one == name])
        for what in (ALLOWANCE, ALONE):
            source = f"{name}{what}"
            pooled[source] = Pooled(name, table[table["source"] == source], errors, setting(options.points))
    result = coverage_of(table.drop(columns="variance"), pooled)
    result.to_csv(options.out / "coverage-vae.csv", index=False, float_format="%.6g")
    (options.out / "coverage-vae.md").write_text(page(result, names, options), encoding="utf-8")


def page(result: pd.DataFrame, names: list[str], options: argparse.Namespace) -> str:
    """The study in words and tables."""
    parameters = len(setting(options.points).truth.vector)
    lines = [
        "# Coverage on a network with many parameters\n",
        f"Written by `python docs/studies/coverage_vae.py --replicates {options.replicates}`: so many runs of",
        f"{options.draws} draws of each estimator on a binary VAE of {options.points} digits with {UNITS} units and",
        f"{parameters:,} parameters at its beginning, whose gradient is exact (transform). Every interval is nominally",
        "one of 95 %; where the bias is zero its interval can miss on one side only. A bias that is not zero, and",
        "every variance, are known from all runs together; cosine and descent probability are held against the mean",
        f"of all runs. The binomial error of a share is ±{1.96 * (0.95 * 0.05 / options.replicates) ** 0.5:.1%}.",
        "All layers are in coverage-vae.csv.\n",
        "“As printed” reaches as far as states that were not drawn could take bias and variance; “nothing missing” is",
        "the same without that, and shows the statistics alone.\n",
        "| estimator | bias | interval | as printed: layer 1 | head | all | nothing missing: layer 1 | head | all |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    shares = result.set_index(["source", "measure", "layer"])
    for name in names:
        bias = shares.loc[(name, "relative_bias", "all"), "truth"]
        for measure in dict.fromkeys(result.loc[result["source"] == name, "measure"]):
            if measure == "test, nothing missing":
                continue
            cells = " | ".join(
                f"{shares.loc[(f'{name}{what}', measure, layer), 'coverage']:.1%}"
                for what in (ALLOWANCE, ALONE)
                for layer in ("1", "head", "all")
            )
            lines.append(f"| {name} | {bias:.3g} | {measure} | {cells} |")
    return "\n".join([*lines, "\nOf the tests at 1 % the share of runs without an alarm stands there.", ""])


if __name__ == "__main__":
    main()
