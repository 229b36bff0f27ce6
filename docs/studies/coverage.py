"""Do the intervals of the tables mean what they say? Replicate runs on small nets: a recorded study.

    python docs/studies/coverage.py        writes docs/studies/coverage.md and coverage.csv (half an hour on one core)

A draw of an estimator whose only chance is Bernoulli states takes finitely many values with known probabilities. So a
run of n draws is one multinomial count of those values, its moments are matrix products of the counts, and the truth is
a sum over the values. The intervals are those that the tables print (`gradeval.analysis.run.estimates`), for the
moments of every replicate, with what is known of states too rare to be drawn.
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
from gradeval.analysis.run.estimates import accuracies_of, intervals, unbiasedness
from gradeval.analysis.run.moments import Layout, Moments
from gradeval.analysis.run.rare import RareStates
from gradeval.estimators import get_estimator
from gradeval.model.randomness import EnumeratedStates, generator
from gradeval.reference import exact_gradient, exact_moments
from gradeval.reference.rare import rare_states
from gradeval.sampling.probes import count_chance
from gradeval.sampling.streaming import Scorer

TEST_LEVEL = 0.01
MEASURES = ("relative_bias", "relative_variance", "cosine", "relative_rmse", "scale", "descent_probability")
TEST = "bias test"  # where the bias is exactly zero: how often it does not reject
LONGER, LOOKED_AT = 1.05, 50  # rare states count where they make an interval longer by that, median of so many runs


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
    """All values that one draw can take, of one layer: their probabilities, and what a run keeps of each.

    Attributes:
        exact: g* of all layers, [P].
        slices: the layer, and where it lies.
        rows: g − g*, squared error, cosine, nothing yet, value, [values, P + 4].
        points: the gradient of every data point less its mean, [values, points, P].
        descents: whether ⟨g, g*⟩ > 0, [values, 1].
        probabilities: [values].
        rare: what is known of the problem's rare states.
    """

    exact: np.ndarray
    slices: dict[str, slice]
    rows: np.ndarray
    points: np.ndarray
    descents: np.ndarray
    probabilities: np.ndarray
    rare: RareStates

    @property
    def layer(self) -> str:
        return next(iter(self.slices))

    @property
    def where(self) -> slice:
        return self.slices[self.layer]

    @property
    def norm(self) -> float:
        return float(np.linalg.norm(self.exact[self.where]))

    def truth(self) -> dict[str, float]:
        """What the intervals should cover, from the finite distribution."""
        p, mean = len(self.exact), self.probabilities @ self.rows
        bias = np.linalg.norm(mean[self.where])
        variance = self.probabilities @ ((self.rows - mean)[:, self.where] ** 2).sum(1)
        return {
            "relative_bias": 0.0 if bias < 1e-12 * self.norm else bias / self.norm,
            "relative_variance": variance / self.norm**2,
            "cosine": mean[p + 1],
            "relative_rmse": np.sqrt(mean[p]) / self.norm,
            "scale": 1 + mean[self.where] @ self.exact[self.where] / self.norm**2,
            "descent_probability": self.probabilities @ self.descents[:, 0],
        }

    def skewness(self) -> float:
        """The skewness of the squared error of one draw."""
        squares = self.rows[:, len(self.exact)]
        centred = squares - self.probabilities @ squares
        variance = self.probabilities @ centred**2
        return float(self.probabilities @ centred**3 / variance**1.5) if variance > 0 else 0.0

    def constant(self, measure: str) -> bool:
        """Whether all draws agree in the quantity of the interval."""
        values = {"cosine": self.rows[:, len(self.exact) + 1], "descent_probability": 1.0 * self.descents[:, 0]}
        return measure in values and bool(np.ptp(values[measure][self.probabilities > 0]) < 1e-9)

    def unseen(self, n: int) -> float:
        """Probability that a run never sees the value that makes most of the squared error's variance."""
        squares = self.rows[:, len(self.exact)]
        largest = int(np.argmax(self.probabilities * (squares - self.probabilities @ squares) ** 2))
        return float((1 - self.probabilities[largest]) ** n)

    def missing(self, n: int, level: float) -> float:
        """What rare states may be missing in the mean of n draws, in the units of the gradient."""
        return self.rare.unseen(self.layer, n, level).mean

    def moments(self, counts: np.ndarray) -> Moments:
        """The moments of a run in which the values were drawn so often, as evaluation streams them."""
        n, p = int(counts.sum()), len(self.exact)
        shares, rows = counts / n, self.rows.copy()
        means = np.einsum("s,sip->ip", shares, self.points)
        deviations = ((self.points - means)[..., self.where] ** 2).sum((1, 2))
        rows[:, p + 2] = deviations * n / (n - 1) / self.points.shape[1] ** 2
        mean = shares @ rows
        centred = rows - mean
        covariance = (centred.T * shares) @ centred * (n / (n - 1))
        inner = (rows[:, :p] * self.exact)[:, self.where].sum(1, keepdims=True)
        scores = np.column_stack([rows[:, p : p + 3], inner])
        thirds = shares @ (scores - shares @ scores) ** 3
        return Moments(
            Layout(p, self.slices), n, mean, covariance, counts @ self.descents, thirds, np.zeros((0, 2)), False
        )


def draw(problem: Problem, name: str, layer: str) -> Draw:
    """Every joint state of every point in turn; its moments are checked against `exact_moments`."""
    estimator, exact = get_estimator(name), exact_gradient(problem)
    bits, continuous = count_chance(problem, estimator)
    assert not continuous
    states: list[list[tuple[Tensor, float, float]]] = []
    for x, y in zip(problem.inputs, problem.targets, strict=True):
        states.append([])
        for digits in itertools.product((0.0, 1.0), repeat=bits):
            chance = EnumeratedStates(torch.tensor(digits, dtype=torch.float64), generator("cpu", "none"))
            value = estimator(problem.network, x[None], problem.loss_function(targets=y[None]), chance).sum()
            parameters = list(problem.network.parameters())
            found = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
            weight = float(torch.as_tensor(chance.weight).detach())
            states[-1].append((torch.cat([g.flatten() for g in found]), value.item(), weight))
    together = list(itertools.product(*states))
    points = torch.stack([torch.stack([g for g, _, _ in row]) for row in together])
    values = torch.tensor([np.mean([value for _, value, _ in row]) for row in together])
    probabilities = np.array([np.prod([weight for _, _, weight in row]) for row in together])
    slices, gradients = {layer: exact.slices[layer]}, points.mean(1)
    squares, cosines, inner = Scorer(exact.vector, slices)(gradients)
    columns = (gradients - exact.vector, squares, cosines, torch.zeros_like(squares), values[:, None])
    rows, known, size = torch.cat(columns, 1).numpy(), exact_moments(problem, estimator), len(exact.vector)
    mean = probabilities @ rows[:, :size]
    centred = rows[:, :size] - mean
    np.testing.assert_allclose(mean, known.bias.numpy(), atol=1e-10)
    np.testing.assert_allclose((centred.T * probabilities) @ centred, known.covariance.numpy(), atol=1e-10)
    parts = points.numpy() - np.einsum("s,sip->ip", probabilities, points.numpy())
    return Draw(exact.vector.numpy(), slices, rows, parts, (inner > 0).numpy(), probabilities, rare_states(problem))


def replicates(what: Draw, n: int, count: int, random: np.random.Generator) -> Iterator[Moments]:
    """Moments of ``count`` runs of n draws."""
    for _ in range(count):
        yield what.moments(random.multinomial(n, what.probabilities / what.probabilities.sum()))


def coverage(net: Net, name: str, n: int, count: int, layer: str) -> list[dict[str, object]]:
    """One row per measure: how often the interval covers the truth, and how often the truth lies below and above it."""
    torch.set_num_threads(1)
    what = draw(net.problem(), name, layer)
    random = np.random.default_rng([n, *name.encode(), *net.name.encode()])
    truth, beside = what.truth(), {measure: np.zeros(2, dtype=int) for measure in MEASURES}
    if truth["relative_bias"] == 0:
        truth[TEST], beside[TEST] = 0.0, np.zeros(2, dtype=int)
    missing, longer = what.missing(n, TEST_LEVEL), {measure: list[float]() for measure in MEASURES}
    for number, moments in enumerate(replicates(what, n, count, random)):
        found = intervals(moments, what.exact, layer, accuracies_of(moments, what.exact, what.rare)[layer])
        if number < LOOKED_AT:
            seen = intervals(moments, what.exact, layer, accuracies_of(moments, what.exact, None)[layer])
            for measure, interval in found.items():
                length = seen[measure].high - seen[measure].low
                longer[measure].append((interval.high - interval.low) / length if length > 0 else 1.0)
        for measure, interval in found.items():
            slack = 1e-9 * max(abs(truth[measure]), 1e-3)  # rounding of what does not vary
            beside[measure] += (truth[measure] < interval.low - slack, truth[measure] > interval.high + slack)
        if TEST in beside:
            beside[TEST][0] += unbiasedness(moments, what.exact, layer, 1, missing).pvalue < TEST_LEVEL
    rows = []
    for measure, (below, above) in beside.items():
        covered = count - below - above
        low, high = proportion_confint(covered, count, method="beta")
        row: dict[str, object] = {"net": net.name, "estimator": name, "layer": layer, "draws": n, "measure": measure}
        row |= {"truth": truth[measure], "coverage": covered / count, "low": low, "high": high}
        row |= {"truth_below": below / count, "truth_above": above / count, "constant": what.constant(measure)}
        row |= {"rare": what.missing(n, 0.025) / what.norm, "longer": np.median(longer.get(measure, [1.0]))}
        rows.append(row | {"skewness": what.skewness(), "unseen": what.unseen(n)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=2500)
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
    reaching = table["longer"].gt(LONGER)
    groups = {"bias, exactly zero": bias & zero & ~reaching, "bias, not zero": bias & ~zero & ~reaching}
    groups |= {measure: table["measure"].eq(measure) & ~always & ~reaching for measure in MEASURES[1:]}
    groups |= {f"{measure}, rare states": table["measure"].eq(measure) & reaching for measure in MEASURES}
    summary = ["| interval | draws | settings | lowest | median | highest | within 94–96 % |"]
    summary.append("|---|---:|---:|---:|---:|---:|---:|")
    for name, group in groups.items():
        for n, rows in table[group].groupby("draws"):
            share = rows["coverage"]
            cells = " | ".join(f"{value:.1%}" for value in (share.min(), share.median(), share.max()))
            within = int(share.between(0.94, 0.96).sum())
            summary.append(f"| {name} | {n} | {len(rows)} | {cells} | {within} |")
    wide = reaching & table["coverage"].ge(0.94)  # they reach further than to 95 %
    outside = table[
        ~always & ~wide & ~table["coverage"].between(0.94, 0.96) & ~(bias & zero & table["coverage"].ge(0.945))
    ]
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
            f"Written by `python docs/studies/coverage.py --replicates {replicates}`: so many replicate runs in each",
            f"setting, of {', '.join(ESTIMATORS)} on: {nets}. Every interval is nominally one of 95 %. All settings",
            "are in coverage.csv, with the 95 % interval of each share",
            f"(±{1.96 * (0.95 * 0.05 / replicates) ** 0.5:.2%}).\n",
            *summary,
            "\nRows with “rare states”: states that are too rare for so few draws, as the network itself tells, make",
            f"the interval more than {LONGER - 1:.0%} longer (median of {LOOKED_AT} runs), since it reaches as far as",
            "these states could take it. Such intervals cover more than 95 %.",
            "\n## Outside 94–96 %\n",
            "A bias of exactly zero counts from 94.5 % upwards, for its interval can miss on one side only; where rare",
            "states are reckoned with, what covers more counts as within. “Skewness” is that of the squared error of",
            "one draw; “unseen” is the probability that a run never sees the joint state that makes most of the",
            "squared error's variance. A cosine is bounded; to cover what n draws did not show, an interval would be",
            "up to 7.4/n longer.\n",
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
