"""Do the intervals of the tables mean what they say? 10,000 replicate runs on small nets: a recorded study.

    python docs/studies/coverage.py            writes docs/studies/coverage.md and coverage.csv (about half an hour)

A draw of an estimator whose only chance is Bernoulli states takes finitely many values with known probabilities. So a
run of n draws is one multinomial count of those values, its moments are matrix products of the counts, and the truth is
a sum over the values. The intervals are those that the tables print (`gradeval.analysis.run.estimates`), for the
moments of every replicate.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from statsmodels.stats.proportion import proportion_confint
from torch import Tensor

from gradeval import Problem, StochasticBinaryNetwork
from gradeval.analysis.run.estimates import intervals, unbiasedness
from gradeval.analysis.run.moments import Layout, Moments
from gradeval.estimators import get_estimator
from gradeval.model.randomness import EnumeratedStates, generator
from gradeval.reference import exact_gradient, exact_moments
from gradeval.sampling.probes import count_chance
from gradeval.sampling.streaming import Scorer

TEST_LEVEL = 0.01
MEASURES = ("relative_bias", "relative_variance", "cosine", "relative_rmse", "scale", "descent_probability")
TEST = "bias test"  # where the bias is exactly zero: how often it does not reject


@dataclass(frozen=True)
class Net:
    """A small net: widths, number of points, and the scale of its normal weights."""

    name: str
    units: tuple[int, ...]
    points: int
    scale: float = 1.0

    def problem(self) -> Problem:
        random = torch.Generator().manual_seed(0)
        network = StochasticBinaryNetwork.linear(2, self.units, 1)
        for parameter in network.parameters():
            parameter.data = self.scale * torch.randn(parameter.shape, generator=random, dtype=torch.float64)
        inputs = torch.randn(self.points, 2, generator=random, dtype=torch.float64)
        targets = 2.0 * torch.randint(0, 2, (self.points,), generator=random) - 1
        return Problem(network, inputs, targets, "logistic")


NETS = (
    Net("3 units, 1 point", (3,), 1),
    Net("2-2 units, 1 point", (2, 2), 1),
    Net("2-2 units, 2 points", (2, 2), 2),
    Net("3-2 units, 2 points", (3, 2), 2),
    Net("2-2 units, 1 point, weights × 3", (2, 2), 1, 3.0),
)
ESTIMATORS = ("reinforce", "psa", "st")


@dataclass(frozen=True)
class Draw:
    """All values that one draw can take: rows [g − g*, squared errors, cosines, value], descents, probabilities."""

    exact: np.ndarray
    slices: dict[str, slice]
    rows: np.ndarray
    descents: np.ndarray
    probabilities: np.ndarray

    def truth(self, layer: str) -> dict[str, float]:
        """What the intervals should cover, from the finite distribution."""
        k, where, p, layers = list(self.slices).index(layer), self.slices[layer], len(self.exact), len(self.slices)
        norm, mean = np.linalg.norm(self.exact[where]), self.probabilities @ self.rows
        bias = np.linalg.norm(mean[where])
        variance = self.probabilities @ ((self.rows - mean)[:, where] ** 2).sum(1)
        return {
            "relative_bias": 0.0 if bias < 1e-12 * norm else bias / norm,
            "relative_variance": variance / norm**2,
            "cosine": mean[p + layers + k],
            "relative_rmse": np.sqrt(mean[p + k]) / norm,
            "scale": 1 + mean[where] @ self.exact[where] / norm**2,
            "descent_probability": self.probabilities @ self.descents[:, k],
        }

    def skewness(self, layer: str) -> float:
        """The skewness of the squared error of one draw."""
        squares = self.rows[:, len(self.exact) + list(self.slices).index(layer)]
        centred = squares - self.probabilities @ squares
        variance = self.probabilities @ centred**2
        return float(self.probabilities @ centred**3 / variance**1.5) if variance > 0 else 0.0

    def constant(self, layer: str, measure: str) -> bool:
        """Whether all draws agree in the quantity of the interval."""
        k, p = list(self.slices).index(layer), len(self.exact)
        values = {"cosine": self.rows[:, p + len(self.slices) + k], "descent_probability": 1.0 * self.descents[:, k]}
        return measure in values and bool(np.ptp(values[measure][self.probabilities > 0]) < 1e-9)

    def unseen(self, layer: str, n: int) -> float:
        """Probability that a run never sees the value that makes most of the squared error's variance."""
        squares = self.rows[:, len(self.exact) + list(self.slices).index(layer)]
        largest = int(np.argmax(self.probabilities * (squares - self.probabilities @ squares) ** 2))
        return float((1 - self.probabilities[largest]) ** n)

    def thirds(self, shares: np.ndarray) -> np.ndarray:
        """Third moments, as `gradeval.sampling.streaming.reduce_chunk` computes them."""
        p, layers = len(self.exact), len(self.slices)
        gradients = self.rows[:, :p] - shares @ self.rows[:, :p]
        inner = self.rows[:, :p] * self.exact
        sums = [part[:, where].sum(1) for part in (gradients**2, inner) for where in self.slices.values()]
        scores = np.column_stack([self.rows[:, p : p + 2 * layers], *sums])
        return shares @ (scores - shares @ scores) ** 3


def draw(problem: Problem, name: str) -> Draw:
    """Every joint state of every point in turn; its moments are checked against `exact_moments`."""
    estimator, exact = get_estimator(name), exact_gradient(problem)
    bits, continuous = count_chance(problem, estimator)
    assert not continuous
    points: list[list[tuple[Tensor, float, float]]] = []
    for x, y in zip(problem.inputs, problem.targets, strict=True):
        states = []
        for digits in itertools.product((0.0, 1.0), repeat=bits):
            chance = EnumeratedStates(torch.tensor(digits, dtype=torch.float64), generator("cpu", "none"))
            value = estimator(problem.network, x[None], problem.loss_function(targets=y[None]), chance).sum()
            parameters = list(problem.network.parameters())
            found = torch.autograd.grad(value, parameters, allow_unused=True)
            flat = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
            states.append(
                (torch.cat([g.flatten() for g in flat]), value.item(), float(torch.as_tensor(chance.weight).detach()))
            )
        points.append(states)
    gradients, values, weights = [], [], []
    for together in itertools.product(*points):
        gradients.append(torch.stack([g for g, _, _ in together]).mean(0))
        values.append(np.mean([value for _, value, _ in together]))
        weights.append(np.prod([weight for _, _, weight in together]))
    stacked = torch.stack(gradients)
    squares, cosines, inner = Scorer(exact.vector, exact.slices)(stacked)
    rows = torch.cat((stacked - exact.vector, squares, cosines, torch.tensor(values)[:, None]), 1).numpy()
    probabilities = np.array(weights)
    known = exact_moments(problem, estimator)
    size = len(exact.vector)
    mean = probabilities @ rows[:, :size]
    centred = rows[:, :size] - mean
    np.testing.assert_allclose(mean, known.bias.numpy(), atol=1e-10)
    np.testing.assert_allclose((centred.T * probabilities) @ centred, known.covariance.numpy(), atol=1e-10)
    return Draw(exact.vector.numpy(), exact.slices, rows, (inner > 0).numpy(), probabilities)


def replicates(what: Draw, n: int, count: int, random: np.random.Generator) -> Iterator[Moments]:
    """Moments of ``count`` runs of n draws, as evaluation streams them."""
    layout = Layout(len(what.exact), what.slices)
    centre = what.probabilities @ what.rows
    centred = what.rows - centre
    outer = np.einsum("si,sj->sij", centred, centred).reshape(len(centred), -1)
    for start in range(0, count, 1000):
        drawn = random.multinomial(n, what.probabilities / what.probabilities.sum(), size=min(1000, count - start))
        steps, descents = drawn @ centred / n, drawn @ what.descents
        seconds = (drawn @ outer / n).reshape(len(drawn), *2 * [what.rows.shape[1]])
        for counts, step, second, descent in zip(drawn, steps, seconds, descents, strict=True):
            covariance = (second - np.outer(step, step)) * (n / (n - 1))
            np.fill_diagonal(covariance, np.maximum(covariance.diagonal(), 0.0))  # not below zero by rounding
            yield Moments(layout, n, centre + step, covariance, descent, what.thirds(counts / n), deterministic=False)


def coverage(net: Net, name: str, n: int, count: int, layer: str) -> list[dict[str, object]]:
    """One row per measure: how often the interval covers the truth, and how often the truth lies below and above it."""
    torch.set_num_threads(1)
    what = draw(net.problem(), name)
    random = np.random.default_rng([n, *name.encode(), *net.name.encode()])
    truth, beside = what.truth(layer), {measure: np.zeros(2, dtype=int) for measure in MEASURES}
    if truth["relative_bias"] == 0:
        truth[TEST], beside[TEST] = 0.0, np.zeros(2, dtype=int)
    for moments in replicates(what, n, count, random):
        for measure, interval in intervals(moments, what.exact, layer).items():
            slack = 1e-9 * max(abs(truth[measure]), 1e-3)  # rounding of what does not vary
            beside[measure] += (truth[measure] < interval.low - slack, truth[measure] > interval.high + slack)
        if TEST in beside:
            beside[TEST][0] += unbiasedness(moments, what.exact, layer, 1).pvalue < TEST_LEVEL
    rows = []
    for measure, (below, above) in beside.items():
        covered = count - below - above
        low, high = proportion_confint(covered, count, method="beta")
        row: dict[str, object] = {"net": net.name, "estimator": name, "layer": layer, "draws": n, "measure": measure}
        row |= {"truth": truth[measure], "coverage": covered / count, "low": low, "high": high}
        row |= {"truth_below": below / count, "truth_above": above / count, "constant": what.constant(layer, measure)}
        rows.append(row | {"skewness": what.skewness(layer), "unseen": what.unseen(layer, n)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=10_000)
    parser.add_argument("--draws", type=int, nargs="+", default=[200, 5000])
    parser.add_argument("--layers", nargs="+", default=["1", "all"])
    parser.add_argument("--nets", type=int, nargs="+", default=range(len(NETS)), help="numbers of the nets")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--page", action="store_true", help="only write the page again, from coverage.csv")
    arguments = parser.parse_args()
    if arguments.page:
        _write_page(pd.read_csv(arguments.out / "coverage.csv"), arguments)
        return
    tasks = [
        (NETS[i], name, n, arguments.replicates, layer)
        for i in arguments.nets
        for name in ESTIMATORS
        for n in arguments.draws
        for layer in arguments.layers
    ]
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        table = pd.DataFrame([row for rows in pool.starmap(coverage, tasks, chunksize=1) for row in rows])
    table.to_csv(arguments.out / "coverage.csv", index=False, float_format="%.6g")
    _write_page(table, arguments)


def _write_page(table: pd.DataFrame, arguments: argparse.Namespace) -> None:
    (arguments.out / "coverage.md").write_text(page(table, arguments.replicates), encoding="utf-8")


def page(table: pd.DataFrame, replicates: int) -> str:
    """The study in words and tables."""
    tests, table = table[table["measure"].eq(TEST)], table[table["measure"].ne(TEST)]
    bias, zero, always = table["measure"].eq("relative_bias"), table["truth"].eq(0), table["constant"]
    groups = {"bias, exactly zero": bias & zero, "bias, not zero": bias & ~zero}
    groups |= {measure: table["measure"].eq(measure) & ~always for measure in MEASURES[1:]}
    summary = ["| interval | draws | settings | lowest | median | highest | within 94–96 % |"]
    summary.append("|---|---:|---:|---:|---:|---:|---:|")
    for name, group in groups.items():
        for n, rows in table[group].groupby("draws"):
            share = rows["coverage"]
            cells = " | ".join(f"{value:.1%}" for value in (share.min(), share.median(), share.max()))
            within = int(share.between(0.94, 0.96).sum())
            summary.append(f"| {name} | {n} | {len(rows)} | {cells} | {within} |")
    outside = table[~always & ~table["coverage"].between(0.94, 0.96) & ~(bias & zero & table["coverage"].ge(0.945))]
    details = ["| net | estimator | layer | draws | interval | covers | truth below, above | skewness | unseen |"]
    details.append("|---|---|---|---:|---|---|---|---:|---:|")
    details += [
        f"| {row.net} | {row.estimator} | {row.layer} | {row.draws} | {row.measure} | {row.coverage:.2%} "
        f"[{row.low:.2%}, {row.high:.2%}] | {row.truth_below:.1%}, {row.truth_above:.1%} | {row.skewness:.1f} "
        f"| {row.unseen:.2g} |"
        for row in outside.sort_values("coverage").itertuples()
    ]
    nets = "; ".join(net.name for net in NETS)
    short = outside[outside["coverage"] < 0.95]
    unseen = short["unseen"].gt(0.05)
    lowest = short.loc[~unseen, "coverage"].min()
    rest = f"; the rest ({(~unseen).sum()}) cover {lowest:.2%} at least" if (~unseen).any() else ""
    near = int(((outside["low"] <= 0.96) & (outside["high"] >= 0.94)).sum())
    intervals = table[~always]
    return "\n".join(
        [
            "# Coverage of the intervals\n",
            f"Written by `python docs/studies/coverage.py`. {replicates:,} replicate runs in each setting, of",
            f"{', '.join(ESTIMATORS)} on: {nets}. Every interval is nominally one of 95 %. All settings are in",
            "coverage.csv, with the 95 % interval of each share (±0.43 points for 10,000 runs).\n",
            *summary,
            "\n## Outside 94–96 %\n",
            "A bias of exactly zero counts from 94.5 % upwards: its interval can miss on one side only. “Skewness” is",
            "that of the squared error of one draw; “unseen” is the probability that a run never sees the joint state",
            "that makes most of the squared error's variance. An interval knows nothing of what its run did not see;",
            "if draws may be of any size, none of finite length covers it (Bahadur & Savage, Ann. Math. Stat. 27,",
            "1956). A cosine is bounded; to cover what n draws did not show, an interval would be up to 7.4/n longer.",
            "Where all joint states can be enumerated, as in these nets, bias and variance are known exactly and the",
            "tables print them instead of intervals, unless `--exact never` is given.\n",
            f"Of {len(intervals)} settings (without those where no draw differs from another), {len(outside)} are",
            f"outside: {len(outside) - len(short)} cover too often (at most {outside['coverage'].max():.2%}),",
            f"{len(short)} too rarely. In {unseen.sum()} of the latter a run misses that state with a probability",
            f"above 5 %{rest}. Of",
            f"the {len(outside)}, {near} are within 94–96 % to the binomial error of {replicates:,} runs.\n",
            *details,
            "\n## The test of unbiasedness\n",
            f"Where the bias is exactly zero, the share of runs in which it is rejected at {TEST_LEVEL:.0%}.\n",
            "| net | estimator | layer | draws | rejected |",
            "|---|---|---|---:|---|",
            *(
                f"| {row.net} | {row.estimator} | {row.layer} | {row.draws} | {1 - row.coverage:.2%} "
                f"[{1 - row.high:.2%}, {1 - row.low:.2%}] |"
                for row in tests.itertuples()
            ),
            "",
        ]
    )


if __name__ == "__main__":
    main()
