"""Do the intervals of the tables mean what they say? 10,000 replicate runs on small nets: a recorded study.

    python docs/studies/coverage.py            writes docs/studies/coverage.md and coverage.csv (about half an hour)

A draw of an estimator whose only chance is Bernoulli states takes finitely many values with known probabilities. So a
run of n draws is one multinomial count of those values, its moments are matrix products of the counts, and the truth is
a sum over the values. The intervals are those of `Evaluation.intervals`, which the tables print, for the moments of
every replicate.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from statsmodels.stats.proportion import proportion_confint
from torch import Tensor

from gradeval import Problem, StochasticBinaryNetwork
from gradeval.analysis.tables import Evaluation, Moments
from gradeval.estimators import get_estimator
from gradeval.randomness import EnumeratedStates, generator
from gradeval.reference import count_chance, exact_gradient, exact_moments
from gradeval.streaming import Scorer

MEASURES = ("relative_bias", "relative_variance", "cosine", "relative_rmse", "scale", "descent_probability")


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
            states.append((torch.cat([g.flatten() for g in flat]), value.item(), float(chance.weight)))
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
    outer = np.einsum("si,sj->sij", what.rows, what.rows).reshape(len(what.rows), -1)
    for start in range(0, count, 1000):
        drawn = random.multinomial(n, what.probabilities / what.probabilities.sum(), size=min(1000, count - start))
        means, descents = drawn @ what.rows / n, drawn @ what.descents
        seconds = (drawn @ outer / n).reshape(len(drawn), *2 * [what.rows.shape[1]])
        for mean, second, descent in zip(means, seconds, descents, strict=True):
            covariance = (second - np.outer(mean, mean)) * (n / (n - 1))
            yield Moments(n, mean, covariance, descent, deterministic=False)


def coverage(net: Net, name: str, draws: Sequence[int], count: int, layers: Sequence[str]) -> list[dict[str, object]]:
    """One row per layer, n and measure: how often the interval covers, lies above, lies below the truth."""
    what, rows = draw(net.problem(), name), []
    for n in draws:
        random = np.random.default_rng([n, *name.encode(), *net.name.encode()])
        moments = {str(i): m for i, m in enumerate(replicates(what, n, count, random))}
        run = Evaluation({}, what.exact, what.slices, moments, pd.DataFrame(), pd.DataFrame())
        for layer in layers:
            truth = what.truth(layer)
            sides = {measure: np.zeros(2, dtype=int) for measure in MEASURES}
            for replicate in moments:
                for measure, interval in run.intervals(replicate, layer).items():
                    slack = 1e-9 * max(abs(truth[measure]), 1e-3)
                    sides[measure] += (truth[measure] < interval.low - slack, truth[measure] > interval.high + slack)
            for measure, (below, above) in sides.items():
                covered = count - below - above
                low, high = proportion_confint(covered, count, method="beta")
                row = {"net": net.name, "estimator": name, "layer": layer, "draws": n, "measure": measure}
                row |= {"truth": truth[measure], "coverage": covered / count, "low": low, "high": high}
                rows.append(row | {"truth_below": below / count, "truth_above": above / count})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=10_000)
    parser.add_argument("--draws", type=int, nargs="+", default=[200, 5000])
    parser.add_argument("--layers", nargs="+", default=["1", "head", "all"])
    parser.add_argument("--nets", type=int, nargs="+", default=range(len(NETS)), help="numbers of the nets")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    rows = []
    for i in arguments.nets:
        for name in ESTIMATORS:
            rows += coverage(NETS[i], name, arguments.draws, arguments.replicates, arguments.layers)
            print(NETS[i].name, name, flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(arguments.out / "coverage.csv", index=False, float_format="%.6g")
    print(table[table["coverage"].sub(0.95).abs() > 0.01].to_string())


if __name__ == "__main__":
    main()
