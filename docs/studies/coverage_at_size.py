"""Do the intervals mean what they say where there are 26,000 parameters and few draws? A recorded study.

    python docs/studies/coverage_at_size.py     writes coverage-at-size.md and .csv beside it (an hour on two cores)

Draws come from a `Source`, go through the same reduction as those of an evaluation, and the intervals are those that
the tables print. The sources here are made up, so that the truth is known: errors with a power-law spectrum, a random
common length, and one direction in which they are skewed, as REINFORCE's are by the loss. A second, cheaper part looks
at the test's false alarms at small levels, with 400 parameters and no states reckoned as missing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from statsmodels.stats.proportion import proportion_confint

from gradeval.analysis.high_dimension import MeanNorm
from gradeval.analysis.run.estimates import accuracies_of, intervals, mean_norm, unbiasedness
from gradeval.analysis.run.moments import Moments
from gradeval.sampling.extent import Extent
from gradeval.sampling.streaming import Scorer, Stream, reduce_chunk

LEVELS = (0.01, 0.001, 0.0001)
BIASES = {"zero": 0.0, "small": 1.5, "large": 15.0}  # of the root of the noise of ‖b̂‖²
SPECTRA = {"wide": 0.5, "narrow": 1.5, "one direction": 3.0}  # λᵢ ∝ i^−exponent


class Source(Protocol):
    """Where draws come from, and what is true of them. A problem and an estimator can stand in its place."""

    name: str
    exact: np.ndarray
    slices: dict[str, slice]

    def draws(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Gradients of some draws, [count, P]."""

    def truth(self, layer: str) -> dict[str, float]:
        """Relative bias, variance, RMSE and scale; what is missing is taken from all replicates together."""


@dataclass
class MadeUp:
    """g = g* + b + ρ √λ z + (c − 1) d, z normal, ρ² ~ Γ(4)/4, c exponential, d a direction of its own."""

    spectrum: str
    bias_name: str
    parameters: int
    draws_of_run: int

    def __post_init__(self) -> None:
        self.name = f"{self.spectrum}, bias {self.bias_name}"
        random = np.random.default_rng(0)
        half = self.parameters // 2
        self.slices = {"1": slice(0, half), "head": slice(half, self.parameters), "all": slice(0, self.parameters)}
        self.exact = random.standard_normal(self.parameters) / self.parameters**0.5
        values = np.arange(1, half + 1) ** -SPECTRA[self.spectrum]
        values = random.permutation(np.concatenate([values, values[: self.parameters - half]]))
        self.values = 50 * values / values.sum()
        self.skewed = random.standard_normal(self.parameters) * (0.1 * self.values.sum() / self.parameters) ** 0.5
        trace_square = float((self.values**2).sum()) + float((self.skewed**2).sum()) ** 2
        direction = random.standard_normal(self.parameters)
        noise = (2 * trace_square) ** 0.25 / self.draws_of_run**0.5
        self.bias = BIASES[self.bias_name] * noise * direction / np.linalg.norm(direction)

    def draws(self, count: int, random: np.random.Generator) -> np.ndarray:
        length = np.sqrt(random.gamma(4, 0.25, size=(count, 1)))
        errors = length * random.standard_normal((count, self.parameters), dtype=np.float32) * np.sqrt(self.values)
        return self.exact + self.bias + errors + (random.exponential(size=(count, 1)) - 1) * self.skewed

    def truth(self, layer: str) -> dict[str, float]:
        where = self.slices[layer]
        norm = float(np.linalg.norm(self.exact[where]))
        bias = float(np.linalg.norm(self.bias[where])) / norm
        variance = float(self.values[where].sum() + (self.skewed[where] ** 2).sum()) / norm**2
        scale = 1 + float(self.bias[where] @ self.exact[where]) / norm**2
        rmse = (bias**2 + variance) ** 0.5
        return {"relative_bias": bias, "relative_variance": variance, "relative_rmse": rmse, "scale": scale}


def moments_of(source: Source, draws: int, random: np.random.Generator) -> Moments:
    """The moments of a run, reduced chunk by chunk as in an evaluation at size."""
    extent = Extent.of(len(source.exact), len(source.slices))
    scorer = Scorer(torch.from_numpy(source.exact), source.slices, extent)
    stream = Stream(scorer)
    for index, start in enumerate(range(0, draws, extent.chunk)):
        gradients = torch.from_numpy(source.draws(min(extent.chunk, draws - start), random))
        stream.add(reduce_chunk(scorer, gradients, gradients.new_zeros(len(gradients)), index))
    return stream.moments()


def replicate(source: Source, draws: int, seed: int) -> list[dict[str, object]]:
    """One run: by layer the ends of every interval, and the p-values."""
    moments = moments_of(source, draws, np.random.default_rng([seed, draws, *source.name.encode()]))
    accuracies = accuracies_of(moments, source.exact, None)
    rows = []
    for layer in source.slices:
        found = intervals(moments, source.exact, layer, accuracies[layer])
        row: dict[str, object] = {"source": source.name, "layer": layer, "draws": draws}
        for measure, interval in found.items():
            row |= interval.columns(measure)
        row["pvalue"] = unbiasedness(moments, source.exact, layer, 1).pvalue
        row["pvalue_plain"] = mean_norm(moments, layer).test(0.0, 1.0, 1).pvalue
        rows.append(row)
    return rows


def runs(spectrum: str, bias: str, parameters: int, draws: int, seeds: range) -> list[dict[str, object]]:
    """Some replicates of one source."""
    torch.set_num_threads(1)
    source = MadeUp(spectrum, bias, parameters, draws)
    return [row for seed in seeds for row in replicate(source, draws, seed)]


def coverage_of(table: pd.DataFrame, sources: dict[str, Source]) -> pd.DataFrame:
    """One row per source, layer and interval."""
    rows = []
    for (name, layer, draws), group in table.groupby(["source", "layer", "draws"], sort=False):
        truth, setting = sources[name].truth(layer), {"source": name, "layer": layer, "draws": draws}
        for measure in [key.removesuffix("_low") for key in group if key.endswith("_low")]:
            true = truth.get(measure, group[measure].mean())
            slack = 1e-9 * max(abs(true), 1e-3)
            low, high = group[f"{measure}_low"] - slack, group[f"{measure}_high"] + slack
            below, above = (low > true).sum(), (high < true).sum()
            covered, count = len(group) - below - above, len(group)
            low, high = proportion_confint(covered, count, method="beta")
            row = setting | {"measure": measure, "truth": true, "replicates": count, "coverage": covered / count}
            rows.append(row | {"low": low, "high": high, "truth_below": below / count, "truth_above": above / count})
        if truth["relative_bias"] == 0:
            for key, what in (("pvalue", "test"), ("pvalue_plain", "test, nothing missing")):
                hits, count = int((group[key] < LEVELS[0]).sum()), len(group)
                low, high = proportion_confint(count - hits, count, method="beta")
                row = setting | {"measure": what, "truth": 0.0, "replicates": count, "coverage": 1 - hits / count}
                rows.append(row | {"low": low, "high": high, "truth_below": hits / count, "truth_above": 0.0})
    return pd.DataFrame(rows)


def false_alarms(spectrum: str, draws: int, blocks: int, replicates: int, parameters: int = 400) -> dict[str, object]:
    """How often the test rejects at small levels where there is no bias, for normal draws."""
    random = np.random.default_rng([draws, blocks, *spectrum.encode()])
    values = np.arange(1.0, parameters + 1) ** -SPECTRA[spectrum]
    pvalues = []
    for _ in range(replicates):
        errors = random.standard_normal((draws, parameters)) * np.sqrt(values)
        mean = errors.mean(0)
        numbers = float((errors**2).sum(1).mean()), float(((errors - mean) ** 2).sum()) / (draws - 1)
        rows = np.vstack([errors.reshape(blocks, -1, parameters).mean(1), mean])
        found = MeanNorm.of(rows @ rows.T, draws // blocks, draws, numbers, parameters)
        pvalues.append(found.test(0.0, 1.0, 1).pvalue)
    shares = {f"rejected at {level:g}": float(np.mean(np.array(pvalues) < level)) for level in LEVELS}
    return {"spectrum": spectrum, "draws": draws, "blocks": blocks, "replicates": replicates, **shares}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=500)
    parser.add_argument("--alarms", type=int, default=10_000, help="replicates of the test at small levels")
    parser.add_argument("--parameters", type=int, default=26_000)
    parser.add_argument("--draws", type=int, nargs="+", default=[200])
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    settings = [(s, b, arguments.parameters, n) for n in arguments.draws for s in SPECTRA for b in BIASES]
    tasks = [
        (*one, range(start, min(start + 25, arguments.replicates)))
        for one in settings
        for start in range(0, arguments.replicates, 25)
    ]
    alarms = [(s, n, b, arguments.alarms) for s in SPECTRA for n, b in ((20, 20), (200, 100))]
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        found = [row for rows in pool.starmap(runs, tasks, chunksize=1) for row in rows]
        small = pd.DataFrame(pool.starmap(false_alarms, alarms, chunksize=1))
    sources: dict[str, Source] = {}
    for one in settings:
        source = MadeUp(*one)
        sources[source.name] = source
    table = coverage_of(pd.DataFrame(found), sources)
    table.to_csv(arguments.out / "coverage-at-size.csv", index=False, float_format="%.6g")
    (arguments.out / "coverage-at-size.md").write_text(page(table, small, arguments), encoding="utf-8")


def page(table: pd.DataFrame, small: pd.DataFrame, arguments: argparse.Namespace) -> str:
    """The study in words and tables."""
    lines = [
        "# Coverage of the intervals with many parameters\n",
        f"Written by `python docs/studies/coverage_at_size.py --replicates {arguments.replicates}`:",
        f"so many runs of {', '.join(map(str, arguments.draws))} draws with {arguments.parameters:,} parameters",
        "in each setting. The draws are made up: errors with eigenvalues λᵢ ∝ i^−½ (wide), i^−1.5 (narrow) or",
        "i^−3 (one direction), a random common length, and a skewed direction. Every interval is nominally one of",
        "95 %; where the bias is zero its interval can miss on one side only.",
        f"The binomial error of a share is ±{1.96 * (0.95 * 0.05 / arguments.replicates) ** 0.5:.1%}. All are in",
        "coverage-at-size.csv. Cosine and descent probability are held against the mean of all runs.\n",
        "| source | interval | layer 1 | head | all |",
        "|---|---|---:|---:|---:|",
    ]
    for (draws, source, measure), rows in table.groupby(["draws", "source", "measure"], sort=False):
        cells = " | ".join(f"{share:.1%}" for share in rows.set_index("layer")["coverage"][["1", "head", "all"]])
        lines.append(f"| {source}, {draws} draws | {measure} | {cells} |")
    lines += [
        "\nOf the tests at 1 % the share of runs without an alarm stands there; “nothing missing” is the test without",
        "what rare states may be missing, which an evaluation always reckons with.\n",
        "## False alarms at small levels\n",
        "400 parameters, normal draws without a bias, nothing reckoned as missing.\n",
        "| spectrum | draws | blocks | runs | " + " | ".join(f"at {level:g}" for level in LEVELS) + " |",
        "|---|---:|---:|---:|" + "---:|" * len(LEVELS),
    ]
    for row in small.to_dict("records"):
        shares = " | ".join(f"{row[f'rejected at {level:g}']:.5f}" for level in LEVELS)
        lines.append(f"| {row['spectrum']} | {row['draws']} | {row['blocks']} | {row['replicates']:,} | {shares} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
