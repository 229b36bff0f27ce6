"""The figures behind docs/recommendation.md: nets, the regression of bias and variance, recommendations and regret."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import pandas as pd
import statsmodels.api as sm
import torch

from gradeval.atlas import load
from gradeval.atlas import names as entries
from gradeval.atlas.definitions import BITS, SPINS, random_net
from gradeval.atlas.make import specs
from gradeval.errors import GradevalError
from gradeval.estimators import TABLE, get_estimator
from gradeval.estimators.protocol import fit
from gradeval.model.noise import NOISES
from gradeval.model.problem import Problem
from gradeval.model.randomness import RandomDraws, generator
from gradeval.reference import exact_gradient, exact_moments
from gradeval.sampling.probes import count_chance
from gradeval.sampling.sampler import Sampler
from gradeval.studies.costs import cost_table, linear_problem

FITTED, KEPT = 240, 120  # random nets: of the regression, and kept aside
SEEDS = {"fit": 1, "kept": 2}  # the features of the regression were chosen by cross-validation on the first
RELAXED = ("concrete:temperature=1.0", "st-gumbel:temperature=1.0", "gumbel-rao:temperature=1.0,samples=10")
MOST_UNITS, MOST_BITS, DRAWS = 12, 12, 4000  # of a net; Bernoulli variables that are enumerated; draws beyond
ROUNDING = 1e-9  # below, a relative error is that of the arithmetic
FEATURES = {"depth": "one more layer", "log2_width": "twice the width", "saturation": "saturation + 0.5"}
FEATURES |= {"log2_points": "twice the points"}
BUDGETS, TIMES = (1, 10, 100, 1000), (10, 100, 1000)  # draws; draws of `st` in whose time
MAPPED = (1, 10, 1000)  # draws that are mapped, and the least time
RESAMPLES, REFITS = 4000, 200
Draws: TypeAlias = float | pd.DataFrame  # M, the same for all or of each net and estimator
REGRESSION, SIMPLE, UNBIASED = "the regression", "the best for the budget", "the best without bias"  # rules
LEVELS = [0.1, 0.3, 0.5, 0.7, 0.9]  # of saturation


# --- what is measured -------------------------------------------------------------------------------------------------


def random_problem(seed: int, index: int) -> Problem:
    """A random small net: everything follows from the two numbers."""
    random = np.random.default_rng([seed, index])
    depth = int(random.integers(1, 5))
    units = [int(n) for n in random.integers(2, min(8, MOST_UNITS // depth) + 1, depth)]
    noise, states = str(random.choice(list(NOISES))), (BITS, SPINS)[random.integers(2)]
    loss = str(random.choice(["logistic", "squared", "cross-entropy", "bernoulli"]))
    scale, points = float(np.exp(random.uniform(np.log(0.2), np.log(4.0)))), int(2 ** random.integers(4))
    return random_net(units, noise, states, loss, scale, points, int(random.integers(2**31)))


def saturation(problem: Problem, draws: int = 1000) -> float:
    """1 − the mean of 4p(1 − p) over units, layers of equal weight, points and paths: 0 for coins, 1 for no chance."""
    chance = RandomDraws(generator("cpu", "saturation"), torch.float64)
    x, found = problem.inputs.double().expand(draws, *problem.inputs.shape), []
    with torch.no_grad():
        for layer in problem.network.layers:
            p = layer.probability(layer.preactivation(x))
            found.append(float((4 * p * (1 - p)).mean()))
            x = layer.encode(chance.bernoulli(p))
    return 1 - float(np.mean(found))


def moments(problem: Problem, spec: str) -> dict[str, float]:
    """Relative bias and variance of one draw, of all parameters and of those of the binary layers; draws: 0 if exact.

    The bias of an estimator that is drawn is 0 where it is proved to be unbiased, and else corrected for chance.
    """
    estimator = fit(get_estimator(spec), spec, problem, 0).estimator
    bits, continuous = count_chance(problem, estimator)
    exact = exact_gradient(problem)
    if continuous or bits > MOST_BITS:
        gradients, _ = Sampler(problem, spec, estimator).chunk(DRAWS, "recommendation", spec)
        off, draws = gradients - exact.vector, DRAWS
        unbiased = claims_no_bias(spec)
        variance = off.square().mean(0) if unbiased else off.var(0)
        square = torch.zeros_like(variance) if unbiased else off.mean(0).square() - variance / DRAWS
    else:
        found = exact_moments(problem, estimator, workers=1)
        square, variance, draws = found.bias.square(), found.variance, 0
    row: dict[str, float] = {"draws": draws}
    for kind, where in {"": slice(None), "binary_": slice(exact.slices.get("head", slice(None)).start)}.items():
        norm = float(exact.vector[where].norm())
        bias = max(0.0, float(square[where].sum())) ** 0.5 / norm if norm else np.nan
        share = max(0.0, float(variance[where].sum())) / norm**2 if norm else np.nan
        row[f"{kind}bias"] = 0.0 if bias < ROUNDING else bias
        row[f"{kind}variance"] = 0.0 if share < ROUNDING**2 else share
    return row


def candidates() -> list[str]:
    """All that the atlas holds, the best known of one unit at a time, and relaxations."""
    return [*specs(), "ram", *RELAXED]


def claims_no_bias(spec: str) -> bool:
    """Whether it claims to be unbiased, which the tests of the package check."""
    return TABLE[spec.partition(":")[0]].unbiased


def measured(net: str) -> list[dict[str, object]]:
    """A row for each estimator on a net, which is named "fit 7", "kept 7" or by the atlas."""
    torch.set_num_threads(1)
    kind, _, number = net.partition(" ")
    problem = load(number).problem if kind == "atlas" else random_problem(SEEDS[kind], int(number))
    facts = {
        "net": net,
        "depth": len(problem.widths),
        "width": float(np.exp(np.log(problem.widths).mean())),
        "points": problem.points,
        "saturation": saturation(problem),
    }
    rows: list[dict[str, object]] = []
    for spec in candidates():
        try:
            rows.append({**facts, "estimator": spec, **moments(problem, spec)})
        except GradevalError:  # not defined here
            continue
    return rows


def measure(workers: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All nets, and what a draw costs, in time of a draw of `st`."""
    atlas = [f"atlas {name}" for name in entries() if "psa" in load(name).results.accuracy]
    nets = [*(f"fit {k}" for k in range(FITTED)), *(f"kept {k}" for k in range(KEPT)), *atlas]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        rows = [row for found in pool.map(measured, nets) for row in found]
    costs = []
    for depth, width in [(depth, width) for depth in (1, 2, 3, 4) for width in (4, 16, 64)]:
        problem = linear_problem([width] * depth, inputs=width, points=16)
        seconds = cost_table(problem, candidates(), budget=0.1)["relative_seconds"][1:]  # the first is no estimator
        found = pd.DataFrame({"estimator": candidates(), "depth": depth, "width": width, "cost": seconds.to_numpy()})
        found["cost"] /= found.loc[found["estimator"] == "st", "cost"].item()
        costs.append(found)
    return pd.DataFrame(rows), pd.concat(costs, ignore_index=True)


# --- the regression ---------------------------------------------------------------------------------------------------


def design(facts: pd.DataFrame) -> pd.DataFrame:
    """The columns of the regression."""
    logs = {f"log2_{name}": np.log2(facts[name]) for name in ("width", "points")}
    return sm.add_constant(facts.assign(**logs)[list(FEATURES)].astype(float), has_constant="add")


@dataclass(frozen=True)
class Nets:
    """Nets and the accuracy of estimators on them: facts, bias and variance, a row for each net."""

    facts: pd.DataFrame
    bias: pd.DataFrame
    variance: pd.DataFrame

    @classmethod
    def of(cls, table: pd.DataFrame, kind: str, part: str = "") -> Nets:
        """Those of one kind: without those that some estimator solves without any error, or that have no gradient."""
        rows = table[table["net"].str.startswith(f"{kind} ")]
        bias, variance = (rows.pivot(index="net", columns="estimator", values=part + c) for c in ("bias", "variance"))
        well = (np.sqrt(bias**2 + variance) > ROUNDING).where(bias.notna(), True).all(axis=1) & bias.notna().any(axis=1)
        facts = rows.drop_duplicates("net").set_index("net")[["depth", "width", "points", "saturation"]]
        return cls(facts.loc[well[well].index], bias[well], variance[well])

    def take(self, nets: Iterable[str]) -> Nets:
        """Some of them, any of them several times."""
        return Nets(*(frame.loc[list(nets)] for frame in (self.facts, self.bias, self.variance)))

    def log_errors(self, draws: Draws) -> pd.DataFrame:
        """log RMSE(M) = ½ log(bias² + variance/M); NaN where less than one draw is affordable."""
        draws = pd.DataFrame(1.0, self.bias.index, self.bias.columns) * draws
        with np.errstate(divide="ignore"):
            return np.log(self.bias**2 + self.variance / draws.where(draws >= 1)) / 2

    @cached_property
    def regressions(self) -> dict[str, dict[str, sm.regression.linear_model.RegressionResultsWrapper]]:
        """Least squares of log bias and of log variance, by estimator, on the nets where they are not zero."""
        columns, found = design(self.facts), {}
        for what, frame in (("bias", self.bias), ("variance", self.variance)):
            seen = {name: frame[name] > 0 for name in frame}
            found[what] = {
                name: sm.OLS(np.log(frame.loc[some, name].to_numpy()), columns[some.to_numpy()].to_numpy()).fit()
                for name, some in seen.items()
                if some.sum() > 5 * len(FEATURES)
            }
        return found

    def predict(self, facts: pd.DataFrame) -> Nets:
        """What the regressions say of other nets; 0 is what has no regression, or no bias on any net of one layer."""
        columns, frames = design(facts).to_numpy(), []
        for what, known in (("bias", self.bias), ("variance", self.variance)):
            frame = pd.DataFrame(0.0, facts.index, known.columns)
            for name, found in self.regressions[what].items():
                frame[name] = np.exp(found.predict(columns))
                if not (known.loc[self.facts["depth"] == 1, name] > 0).any():
                    frame.loc[facts["depth"] == 1, name] = 0.0
            frames.append(frame)
        return Nets(facts, *frames)


def draws_in_time(costs: pd.DataFrame, facts: pd.DataFrame, time: float) -> pd.DataFrame:
    """How many draws of each estimator the time of so many draws of `st` pays for, by a regression of the log cost."""

    def columns(of: pd.DataFrame) -> np.ndarray:
        return sm.add_constant(np.log2(of[["depth", "width"]].to_numpy(float)), has_constant="add")

    found = {}
    for name, mine in costs.groupby("estimator"):
        fitted = sm.OLS(np.log(mine["cost"].to_numpy()), columns(mine)).fit()
        found[name] = np.floor(time / np.exp(fitted.predict(columns(facts))) + ROUNDING)
    return pd.DataFrame(found, facts.index)


# --- recommendations and their regret ---------------------------------------------------------------------------------


def regret(errors: pd.DataFrame, choice: pd.Series) -> pd.Series:
    """log(RMSE of the chosen estimator ÷ the least on that net); NaN where the chosen one is not affordable."""
    columns = errors.columns.get_indexer(choice.reindex(errors.index))
    chosen = errors.to_numpy()[np.arange(len(errors)), columns]
    return pd.Series(np.where(columns < 0, np.nan, chosen) - errors.min(axis=1).to_numpy(), errors.index)


def losses(fitted: Nets, kept: Nets, draws: Draws) -> pd.DataFrame:
    """log(RMSE ÷ the least on that net) on the nets of the fit, of estimators that all nets define and can afford."""
    known = fitted.log_errors(draws)
    known = known.loc[:, known.notna().all() & kept.bias.notna().all().reindex(known.columns, fill_value=False)]
    return known.sub(known.min(axis=1), axis=0)


def resampled(nets: int, seed: int) -> np.ndarray:
    """How often each net is in each of many samples of all nets, as shares: [samples, nets]."""
    return np.random.default_rng(seed).multinomial(nets, np.full(nets, 1 / nets), size=RESAMPLES) / nets


def choices(fitted: Nets, said: Nets, kept: Nets, draws: Mapping[str, Draws]) -> pd.DataFrame:
    """What each rule takes on each net that is kept aside, of which the regression said something.

    The numbers of draws are those on the nets of the "fit", and on those that are "kept" aside.
    """
    over = losses(fitted, kept, draws["fit"])
    unbiased = [name for name in over if claims_no_bias(name)]
    predicted = said.log_errors(draws["kept"])
    defined = kept.bias.notna().reindex(columns=predicted.columns, fill_value=False)
    by_depth = over.groupby(fitted.facts["depth"]).mean().idxmin(axis=1)
    depth = kept.facts["depth"].clip(upper=int(by_depth.index.max()))
    rules = {
        REGRESSION: predicted.where(defined).idxmin(axis=1),
        "the best for the depth": depth.map(by_depth),
        SIMPLE: pd.Series(over.mean().idxmin(), kept.bias.index),
        UNBIASED: pd.Series(over[unbiased].mean().idxmin(), kept.bias.index),
    }
    always = ("tanh", "psa", "sa", "ram", "leg", "st", "reinmax", "disarm", "rloo:samples=2", "reinforce")
    return pd.DataFrame(rules | {f"always `{name}`": pd.Series(name, kept.bias.index) for name in always})


def settings(fitted: Nets, kept: Nets, costs: pd.DataFrame) -> dict[str, dict[str, Draws]]:
    """By budget, how many draws of each estimator there are on the nets of the fit and on those that are kept."""
    sides = {"fit": fitted.facts, "kept": kept.facts}
    in_draws: dict[str, dict[str, Draws]] = {words(m): dict.fromkeys(sides, float(m)) for m in BUDGETS}
    in_time = {in_time_words(b): {k: draws_in_time(costs, facts, b) for k, facts in sides.items()} for b in TIMES}
    return in_draws | in_time


def words(draws: int) -> str:
    """A number of draws."""
    return f"{draws:,} draw{'s' * (draws > 1)}"


def in_time_words(draws: int) -> str:
    """The time of so many draws of `st`."""
    return f"time of {draws:,} `st`"


def contest(fitted: Nets, said: Nets, kept: Nets, draws: Mapping[str, Draws]) -> pd.DataFrame:
    """The regret of every rule on the nets that are kept aside, a factor, its 95 % interval over nets, and more.

    Columns: regret (geometric mean), low, high; near (the share of nets where it is at most 1.1); chosen (the share of
    resampled sets of nets of the fit whose best for the budget is the same); against, against_low, against_high: the
    rule's error ÷ that of the best for the budget, on the same nets.
    """
    errors, chosen = kept.log_errors(draws["kept"]), choices(fitted, said, kept, draws)
    found = pd.DataFrame({rule: regret(errors, chosen[rule]) for rule in chosen})
    means = pd.DataFrame(resampled(len(found), 0) @ found.to_numpy(), columns=found.columns)
    columns = {"regret": found.mean(skipna=False), "low": means.quantile(0.025), "high": means.quantile(0.975)}
    against = means.sub(means[SIMPLE], axis=0)
    columns["against"] = columns["regret"] - columns["regret"][SIMPLE]
    columns |= {"against_low": against.quantile(0.025), "against_high": against.quantile(0.975)}
    table = np.exp(pd.DataFrame(columns)).assign(taken=chosen.iloc[0])
    table["near"] = (found <= np.log(1.1)).mean().where(found.notna().all())
    over = losses(fitted, kept, draws["fit"])
    known = pd.DataFrame(resampled(len(over), 1) @ over.to_numpy(), columns=over.columns)
    table.loc[SIMPLE, "chosen"] = (known.idxmin(axis=1) == table.loc[SIMPLE, "taken"]).mean()
    return table


def contests(fitted: Nets, kept: Nets, budgets: Mapping[str, Mapping[str, Draws]], kind: str) -> pd.DataFrame:
    """`contest` for every budget; its rows by kind, budget and rule."""
    said = fitted.predict(kept.facts)
    found = {(kind, budget): contest(fitted, said, kept, draws) for budget, draws in budgets.items()}
    return pd.concat(found, names=["kind", "budget", "rule"])


def regrets(table: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """`contests` on the kept nets and on the atlas, and on the kept nets of the binary layers alone."""
    parts = []
    for kind, part in (("kept", ""), ("atlas", ""), ("kept", "binary_")):
        fitted, kept = Nets.of(table, "fit", part), Nets.of(table, kind, part)
        parts.append(contests(fitted, kept, settings(fitted, kept, costs), part + kind))
    return pd.concat(parts)


def recommended(fitted: Nets, costs: pd.DataFrame) -> pd.DataFrame:
    """What the regression recommends by budget, depth and saturation, for layers of three units and two points.

    Columns: budget, depth, saturation, estimator; share (of the fits to resampled nets that recommend the same), rivals
    (others that 5 % of them recommend, or more).
    """
    cells = [(depth, 3.0, 2, level) for depth in (1, 2, 3, 4) for level in LEVELS]
    grid = pd.DataFrame(cells, columns=["depth", "width", "points", "saturation"])
    random, nets = np.random.default_rng(2), fitted.facts.index.to_numpy()
    fits = [fitted, *(fitted.take(random.choice(nets, len(nets))) for _ in range(REFITS))]
    predictions, rows = [one.predict(grid) for one in fits], []
    budgets: dict[str, Draws] = {words(draws): float(draws) for draws in MAPPED}
    budgets[in_time_words(TIMES[0])] = draws_in_time(costs, grid, TIMES[0])
    for budget, draws in budgets.items():
        taken = pd.DataFrame([found.log_errors(draws).idxmin(axis=1) for found in predictions])
        for place, cell in grid.iterrows():
            first, shares = taken[place].iloc[0], taken[place].iloc[1:].value_counts(normalize=True)
            rivals = [name for name, share in shares.items() if share >= 0.05 and name != first]
            rows.append((budget, *cell[["depth", "saturation"]], first, shares.get(first, 0.0), rivals))
    return pd.DataFrame(rows, columns=["budget", "depth", "saturation", "estimator", "share", "rivals"])
