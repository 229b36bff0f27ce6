"""Published numbers beside ours: docs/published.md, .csv and .svg.

    python docs/make_published.py [FOLDER]

recomputes ours and compares them with what docs/published/numbers.csv holds of others: numbers that their code prints.
FOLDER holds the original study's network of 5-5-5 units (5-5-5-epoch-1.json and 5-5-5-epoch-1-exact.json, which are not
part of this repository; two minutes). Without it, the rows of that study stay as they are in docs/published.csv.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor

from gradeval import Problem, check, evaluate, exact_gradient, exact_moments
from gradeval.analysis.plotting import BLUE, log_axis, paper_style, render, styles, tidy
from gradeval.atlas import load, names
from gradeval.atlas.definitions import DEFINITIONS
from gradeval.estimators import PAPER
from gradeval.estimators.surrogate import carry
from gradeval.files import write_whole

HERE = Path(__file__).parent
NUMBERS = HERE / "published" / "numbers.csv"
COLUMNS = ["source", "quantity", "estimator", "layer", "samples", "published", "published_error"]
COLUMNS += ["ours", "ours_low", "ours_high", "z", "verdict"]
LEVEL = 0.01  # of all comparisons together
DRAWS = 20_000  # of the original study, and of ours where chance cannot be enumerated
ROUNDING = 1e-9


def numbers(source: str) -> pd.DataFrame:
    """What is published by one source."""
    table = pd.read_csv(NUMBERS, dtype={"estimator": str, "layer": str}, keep_default_na=False)
    table = table[table["source"] == source]
    return table.assign(value=pd.to_numeric(table["value"]), error=pd.to_numeric(table["error"], errors="coerce"))


# --- the PSA paper ----------------------------------------------------------------------------------------------------


def original(folder: Path) -> pd.DataFrame:
    """The original code's exact gradient and curves, and ours on the same network."""
    problem = Problem.load(folder / "5-5-5-epoch-1.json")
    exact, run = exact_gradient(problem), evaluate(problem, PAPER, draws=DRAWS, seed=1)
    theirs = json.loads((folder / "5-5-5-epoch-1-exact.json").read_text())["gradient"]
    furthest = max(
        float((exact.by_layer()[k] - torch.tensor(g, dtype=torch.float64)).norm() / np.linalg.norm(g))
        for k, g in theirs.items()
    )
    curves = run.curves.set_index(["estimator", "layer", "samples"])
    summary = run.summary.set_index(["estimator", "layer"])
    rows = []
    for row in numbers("psa").to_dict("records"):
        if row["quantity"] in ("relative_rmse", "cosine"):
            where = (row["estimator"], row["layer"], int(row["samples"]))
            ours, error = ours_of(curves.loc[where], summary.loc[where[:2]], row["quantity"], where[2])
        elif row["quantity"] == "value":
            ours, error = exact.value, 0.0
        else:
            ours, error = float(exact.by_layer()[row["layer"]].norm()), 0.0
        rows.append(compared(row, ours, error))
    largest = {"source": "psa", "quantity": "largest difference of a layer's gradient", "value": 0.0, "error": math.nan}
    return pd.DataFrame([*rows, compared(largest, furthest, 0.0, furthest < ROUNDING)])


def ours_of(curve: pd.Series, summary: pd.Series, quantity: str, draws: int) -> tuple[float, float]:
    """A figure and its standard error: exact where the moments are."""
    if quantity == "cosine":
        return float(curve["blocks_cosine"]), float(curve["blocks_cosine_se"])
    if not math.isnan(summary["exact_relative_bias"]):
        return math.sqrt(summary["exact_relative_bias"] ** 2 + summary["exact_relative_variance"] / draws), 0.0
    return float(curve["blocks_rmse"]), float(curve["blocks_rmse_se"])


def compared(row: dict, ours: float, error: float, agrees: bool | None = None) -> dict:
    """A row of the table; z where either side has chance, with the rounding of five digits."""
    theirs = row["error"]
    z = math.nan
    if not math.isnan(theirs):
        z = (ours - row["value"]) / math.sqrt(theirs**2 + error**2 + (5e-5 * ours) ** 2)
    elif agrees is None:
        agrees = abs(ours - row["value"]) <= ROUNDING * abs(row["value"])
    verdict = {True: "agrees", False: "differs", None: ""}[agrees]
    low, high = ours - 1.96 * error, ours + 1.96 * error
    found = {"published": row["value"], "published_error": theirs, "ours": ours, "ours_low": low, "ours_high": high}
    return {**{key: row.get(key, "") for key in COLUMNS[:5]}, **found, "z": z, "verdict": verdict}


# --- three Bernoullis -------------------------------------------------------------------------------------------------


def two_draws(network, inputs, loss, randomness) -> Tensor:
    """(f(s) − f(t)) ∇log p(s) for independent states s and t: the score with a baseline of a second draw."""
    (layer,) = network.layers
    probability = layer.probability(layer.preactivation(inputs))
    s, t = randomness.bernoulli(probability), randomness.bernoulli(probability)
    score = (s * probability.log() + (1 - s) * (1 - probability).log()).sum(-1)
    value = loss(layer.encode(s))
    return value + (value - loss(layer.encode(t))).detach() * carry(score)


@dataclass(frozen=True)
class Cumulants:
    """Of a random number with finitely many values: variance and fourth cumulant; sums of independent ones add them."""

    variance: float = 0.0
    fourth: float = 0.0

    @classmethod
    def of(cls, values: np.ndarray, weights: np.ndarray) -> Cumulants:
        """Of numbers with these probabilities."""
        deviations = values - weights @ values
        variance = float(weights @ deviations**2)
        return cls(variance, float(weights @ deviations**4) - 3 * variance**2)

    def __add__(self, other: Cumulants) -> Cumulants:
        return Cumulants(self.variance + other.variance, self.fourth + other.fourth)

    def error(self, draws: int) -> float:
        """The standard error of a variance that was measured with so many draws."""
        return math.sqrt((self.fourth + 2 * self.variance**2 * draws / (draws - 1)) / draws)


@functools.cache
def losses() -> tuple[np.ndarray, np.ndarray]:
    """Of the eight states: the loss f, and ∂/∂φ log p at φ = 0."""
    states = np.array(list(itertools.product([0.0, 1.0], repeat=3)))
    targets = load("tied-logit").problem.targets.numpy()[0]
    return ((states - targets) ** 2).sum(1), (states - 0.5).sum(1)


@functools.cache
def summed(states: tuple[int, ...]) -> Cumulants:
    """The estimator of Liu et al. at logit 0: these states summed, one of the others drawn, a baseline drawn for each.

    g = Σ_{j summed} p_j (f_j − f(t_j)) ∇log p_j + (1 − Σ p_j) (f_i − f(t)) ∇log p_i, with i ~ p outside the summed.
    """
    (f, score), p = losses(), np.full(8, 1 / 8)
    found = Cumulants()
    for j in states:
        found += Cumulants.of(-p[j] * score[j] * f, p)
    rest = [i for i in range(8) if i not in states]
    if rest:
        share = p[rest].sum()
        values = share * score[rest, None] * (f[rest, None] - f[None, :])
        found += Cumulants.of(values.ravel(), np.outer(p[rest] / share, p).ravel())
    return found


def bernoullis() -> pd.DataFrame:
    """The variances of Liu et al.; all states have the same probability, so any of them may have been summed first."""
    problem = load("tied-logit").problem
    drawn = float(exact_moments(problem, two_draws).variance)
    assert abs(drawn - summed(()).variance) < 1e-12, "the formula for no summed state is the estimator that is run"
    table, slope = numbers("liu"), float(exact_gradient(problem).vector)
    measured = table[table["quantity"] == "variance"].set_index(["estimator", "layer"])["value"]
    rows = []
    for row in table.to_dict("records"):
        if row["quantity"] == "variance":
            choices = [summed(chosen) for chosen in itertools.combinations(range(8), int(row["layer"]))]
            nearest = min(choices, key=lambda found: abs(found.variance - row["value"]))
            row["error"] = nearest.error(int(row["samples"]))
            low, high = (pick(found.variance for found in choices) for pick in (min, max))
            rows.append(compared(row, nearest.variance, 0.0) | {"ours_low": low, "ours_high": high})
        elif row["quantity"] == "mean":
            row["error"] = math.sqrt(measured[row["estimator"], row["layer"]] / int(row["samples"]))
            rows.append(compared(row, slope, 0.0))
        else:
            at = {"loss at 0": -50.0, "loss at 1": 50.0}
            ours = value_at("tied-logit", at[row["quantity"]]) if row["quantity"] in at else slope
            rows.append(compared(row, ours, 0.0, abs(ours - row["value"]) < 0.5e-4))  # four digits are printed
    return pd.DataFrame(rows)


def at_logit(name: str, logit: float, target: float | None = None) -> Problem:
    """A toy of the atlas with every logit at one number."""
    problem = load(name).problem
    with torch.no_grad():
        problem.network.layers[0].map.logit.fill_(logit)
        if target is not None:
            problem.targets.fill_(target)
    return problem


def value_at(name: str, logit: float, target: float | None = None) -> float:
    """J there."""
    return exact_gradient(at_logit(name, logit, target)).value


# --- statements -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Statement:
    """What a paper says, a number of ours that would refute it, and where that number would have to lie.

    Attributes:
        words: of ours.
        source: key of `SOURCES`.
        measured: what the number is.
        number: of ours.
        most: the largest that the statement allows, but for rounding.
        exact: whether a larger number refutes it; else it leaves it undecided, as an end of an interval does.
    """

    words: str
    source: str
    measured: str
    number: float
    most: float
    exact: bool = True

    def row(self) -> dict:
        """Of the table."""
        verdict = "holds" if self.number <= self.most + ROUNDING else "refuted" if self.exact else "undecided"
        published = {"source": self.source, "quantity": self.words, "estimator": self.measured, "layer": ""}
        found = {"published": self.most, "ours": float(f"{self.number:.9g}"), "z": math.nan, "verdict": verdict}
        return dict.fromkeys(COLUMNS, math.nan) | published | {"samples": ""} | found


def one_layer() -> dict[str, Problem]:
    """Problems of one layer on which all that is compared can be enumerated; two have nearly deterministic units."""
    found = {name: load(name).problem for name in ("tied-logit", "polynomial", "one-layer-2", "one-layer-4")}
    for scale in (4.0, 10.0):
        problem = DEFINITIONS["polynomial"].make()
        with torch.no_grad():
            problem.network.layers[0].map.logit.mul_(scale)
        found[f"polynomial, logits × {scale:g}"] = problem
    return found


def largest_ratio(above: str, below: str) -> float:
    """The largest ratio of the exact variances of two estimators, over parameters and problems."""
    ratios = []
    for problem in one_layer().values():
        first, second = (exact_moments(problem, name).variance for name in (above, below))
        kept = second > 1e-14 * second.max()
        ratios.append(float((first[kept] / second[kept]).max()))
    return max(ratios)


def largest_error(above: str, below: str, figure: str) -> float:
    """The largest ratio, over problems, of the upper end of one estimator's interval and the lower end of another's."""
    ratios = []
    for name in ("polynomial", "one-layer-2", "one-layer-4"):
        table = evaluate(load(name).problem, [above, below], draws=DRAWS, seed=1).summary
        rows = table[table["layer"] == "all"].set_index("estimator")
        ratios.append(float(rows.loc[above, f"{figure}_high"] / rows.loc[below, f"{figure}_low"]))
    return max(ratios)


def largest_slope() -> float:
    """The largest −∂J/∂θ of E (b − t)², t = 0.45 and 0.499, over θ: negative if J is least at θ = 0."""
    return max(
        -float(exact_gradient(at_logit("toy", logit, target)).vector) / (p * (1 - p))
        for target in (0.45, 0.499)
        for p in (0.001, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999)
        for logit in [math.log(p / (1 - p))]
    )


def formula_error() -> float:
    """How far ∂J/∂logit of E (b − 0.49)² is from (1 − 2 · 0.49) p (1 − p), relatively."""
    found = []
    for p in np.linspace(0.05, 0.95, 19):
        slope = float(exact_gradient(at_logit("toy", math.log(p / (1 - p)), 0.49)).vector)
        found.append(abs(slope / ((1 - 2 * 0.49) * p * (1 - p)) - 1))
    return max(found)


def psa_ratio(psa: pd.DataFrame) -> float:
    """The largest ratio, over layers, of PSA's error of one draw to the lesser one of REINFORCE's and ARM's."""
    rows = psa[(psa["quantity"] == "relative_rmse") & (psa["samples"].astype(str) == "1")].set_index("estimator")
    layers = [rows[rows["layer"] == layer] for layer in rows["layer"].unique()]
    return max(float(at.loc["psa", "ours_high"] / at.loc[["reinforce", "arm"], "ours_low"].min()) for at in layers)


def against_disarm(name: str) -> list[float]:
    """Variances relative to DisARM's on the problems of the atlas where this is not 0, of all parameters."""
    found = []
    for problem in names():
        table = load(problem).accuracy
        variances = table[table["layer"] == "all"].set_index("estimator")["relative_variance"]
        if {name, "disarm"} <= set(variances.index) and variances["disarm"] > ROUNDING:
            found.append(float(variances[name] / variances["disarm"]))
    return sorted(found)


def statements(psa: pd.DataFrame) -> Iterator[Statement]:
    """Those that can be refuted by numbers of ours.

    Args:
        psa: the rows of the PSA paper.
    """
    ratio, draws = "largest ratio of variances, over parameters and six problems", f"of {DRAWS:,} draws"
    yield Statement(
        "PSA varies less than unbiased estimators, at the price of a small bias",
        "psa-paper",
        "largest ratio, over layers, of its RMSE of one draw to that of `reinforce` or `arm`, on the paper's network",
        psa_ratio(psa),
        1.0,
        exact=False,
    )
    yield Statement(
        "E (b − t)² is least at θ = 0, for t = 0.45 and for t = 0.499", "relax", "largest −∂J/∂θ", largest_slope(), 0.0
    )
    yield Statement(
        "its gradient in the logit for t = 0.49 is (1 − 2t) p (1 − p)",
        "arms-code",
        "largest relative difference, 19 values of p",
        formula_error(),
        0.0,
    )
    yield Statement(
        "DisARM varies less than ARM",
        "disarm",
        f"largest ratio of the ends of their intervals, three problems {draws}",
        largest_error("disarm", "arm", "relative_variance"),
        1.0,
        exact=False,
    )
    yield Statement("UGC varies no more than DisARM", "ugc", ratio, largest_ratio("ugc", "disarm"), 1.0)
    verdict = check("arms:samples=2", equals="disarm", problems=[load("one-layer-2").problem])
    yield Statement(
        "ARMS with two samples is DisARM",
        "arms",
        "exit code of `gradeval check arms:samples=2 --equals disarm`: 0 if mean and variance are equal",
        float(verdict.exit_code),
        0.0,
        exact=verdict.verdict != "undecided",
    )
    yield Statement(
        "the unordered set estimator varies no more than sum-and-sample, of which it is the Rao–Blackwellisation",
        "kool",
        ratio,
        largest_ratio("unordered-set", "sum-and-sample"),
        1.0,
    )
    relaxed = "temperature=0.5"
    yield Statement(
        "Gumbel–Rao has a smaller mean squared error than straight-through Gumbel-softmax",
        "gumbel-rao",
        f"largest ratio of the ends of their intervals, three problems {draws}",
        largest_error(f"gumbel-rao:{relaxed},samples=10", f"st-gumbel:{relaxed}", "relative_rmse"),
        1.0,
        exact=False,
    )
    yield Statement(
        "ZGR (`reinmax`) has no bias where f is quadratic",
        "zgr",
        "relative bias on one-layer-4, of squared error",
        exact_moments(load("one-layer-4").problem, "reinmax").relative_bias()["all"],
        0.0,
    )


# --- page and figure --------------------------------------------------------------------------------------------------


def draw(table: pd.DataFrame) -> Figure:
    """Above: the original code's errors (markers) on ours (lines), by layer; below: variances of three Bernoullis."""
    psa = table[(table["source"] == "psa") & (table["quantity"] == "relative_rmse")]
    looks = styles(PAPER)
    with paper_style():
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        panels = figure.subplots(2, 3).ravel()
        for axes, layer in zip(panels, ("1", "2", "3", "head"), strict=False):
            for name in PAPER:
                rows = psa[(psa["layer"] == layer) & (psa["estimator"] == name)]
                draws, look = rows["samples"].astype(int), looks[name]
                axes.plot(draws, rows["ours"], color=look.colour, linewidth=1)
                axes.plot(draws, rows["published"], look.marker, color=look.colour, markersize=4, label=name)
            log_axis(axes, "x", 0.8, 700)
            errors = psa.loc[psa["layer"] == layer, "ours"]
            log_axis(axes, "y", 0.8 * errors.min(), 1.25 * errors.max())
            axes.set(title="head" if layer == "head" else f"layer {layer}", xlabel="draws")
            tidy(axes)
        for axes in (panels[0], panels[3]):
            axes.set_ylabel("relative RMSE")
        handles, labels = panels[0].get_legend_handles_labels()
        liu = table[(table["source"] == "liu") & (table["quantity"] == "variance")]
        axes = panels[4]
        exact = liu.drop_duplicates("layer")
        summed_states = exact["layer"].astype(int)
        axes.fill_between(summed_states, exact["ours_low"], exact["ours_high"], color=BLUE, alpha=0.2, linewidth=0)
        axes.plot(liu["layer"].astype(int), liu["published"], "x", color=BLUE, markersize=4)
        axes.set(title="three Bernoullis", xlabel="states summed", ylabel="variance", xlim=(-0.3, 8.3))
        tidy(axes)
        panels[5].axis("off")
        panels[5].legend(handles, labels, frameon=False, loc="center", fontsize=7)
    return figure


def cell(number: float, digits: int = 4) -> str:
    """A number of the page; what is rounding is 0."""
    return "" if math.isnan(number) else "0" if abs(number) < ROUNDING else f"{number:.{digits}g}"


def lines_of(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that can be sorted, numbers on the right."""
    align = "|".join(["---:" if row.lstrip("+-0").replace(".", "").isdigit() else "---" for row in rows[0]])
    body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(["::::{div} sortable", "", f"| {' | '.join(heads)} |", f"|{align}|", *body, "", "::::"])


def critical(table: pd.DataFrame) -> float:
    """|z| beyond which a number differs: all comparisons together are wrong with probability `LEVEL`."""
    return float(stats.norm.isf(LEVEL / 2 / table["z"].count()))


def page(table: pd.DataFrame) -> str:
    """The text of docs/published.md: docs/published/page.md.in with the numbers of the table in it."""
    numeric, limit = table[table["z"].notna()], critical(table)
    verdicts = table["verdict"].value_counts()
    sources = pd.read_csv(HERE / "published" / "sources.csv").set_index("source")["where"]
    held = [
        [r["quantity"], sources[r["source"]], r["estimator"], f"≤ {r['published']:g}", cell(r["ours"]), r["verdict"]]
        for r in table[table["verdict"].isin(["holds", "refuted", "undecided"])].to_dict("records")
    ]
    heads = ["statement", "where", "what of ours could refute it", "allowed", "ours", "verdict"]
    found = {
        "drawn": len(numeric),
        "drawn_agree": int((numeric["z"].abs() <= limit).sum()),
        "largest_z": f"{numeric['z'].abs().max():.2f}",
        "limit": f"{limit:.2f}",
        "exact": int(verdicts.reindex(["agrees", "differs"]).sum()),
        "exact_agree": int(verdicts.get("agrees", 0)),
        "statements": len(held),
        **{word: int(verdicts.get(word, 0)) for word in ("holds", "refuted", "undecided")},
        "psa": psa_lines(table[table["source"] == "psa"]),
        "bernoullis": bernoulli_lines(table[table["source"] == "liu"]),
        "held": lines_of(heads, held),
        **{f"{name}_disarm": ratios_in_words(against_disarm(f"{name}:samples=2")) for name in ("rodeo", "rloo")},
    }
    return Template((HERE / "published" / "page.md.in").read_text()).substitute(found)


def ratios_in_words(ratios: Sequence[float]) -> str:
    """Where they lie, and how many are below 1."""
    below = sum(ratio < 1 for ratio in ratios)
    return f"{ratios[0]:.2g} to {ratios[-1]:.2g} times as much (less on {below} of {len(ratios)})"


def psa_lines(table: pd.DataFrame) -> str:
    """Errors and cosines of 1 and of 100 draws, by estimator and layer."""
    shown = table[table["samples"].isin(["1", "100"])].set_index(["estimator", "layer", "quantity", "samples"])
    heads, rows = ["estimator, layer"], []
    columns = [(q, m) for q in ("relative_rmse", "cosine") for m in ("1", "100")]
    for quantity, draws in columns:
        heads += [f"{'RMSE' if quantity == 'relative_rmse' else 'cosine'}, {draws}: theirs", "ours", "z"]
    for name in PAPER:
        for layer in ("1", "2", "3", "head"):
            row = [f"`{name}`, {layer}"]
            for quantity, draws in columns:
                found = shown.loc[(name, layer, quantity, draws)]
                row += [cell(found["published"], 5), cell(found["ours"], 5), f"{found['z']:+.1f}"]
            rows.append(row)
    return lines_of(heads, rows)


def bernoulli_lines(table: pd.DataFrame) -> str:
    """Variances by the number of states summed, two runs of theirs."""
    rows = []
    for count in map(str, range(9)):
        one, two = (
            table[(table["quantity"] == "variance") & (table["layer"] == count) & (table["estimator"] == run)].iloc[0]
            for run in ("run 1", "run 2")
        )
        low, high = cell(one["ours_low"], 5), cell(one["ours_high"], 5)
        ours = low if low == high else f"{low} to {high}"
        nearest = "" if low == high else cell(one["ours"], 5)
        runs = [text for run in (one, two) for text in (cell(run["published"], 5), f"{run['z']:+.1f}")]
        rows.append([count, *runs, ours, nearest])
    return lines_of(["states summed", "first run", "z", "second run", "z", "ours", "nearest"], rows)


def csv(table: pd.DataFrame) -> str:
    """The text of docs/published.csv."""
    return table[COLUMNS].to_csv(index=False, float_format="%.12g", lineterminator="\n")


def read() -> pd.DataFrame:
    """What docs/published.csv holds."""
    text = dict.fromkeys(("source", "quantity", "estimator", "layer", "samples", "verdict"), str)
    table = pd.read_csv(HERE / "published.csv", dtype=text)
    return table.fillna(dict.fromkeys(text, ""))


def main() -> None:
    kept = original(Path(sys.argv[1])) if len(sys.argv) > 1 else read().query("source == 'psa'")
    made = pd.concat([kept, bernoullis(), pd.DataFrame([found.row() for found in statements(kept)])], ignore_index=True)
    write_whole(HERE / "published.csv", csv(made).encode())
    table = read()
    write_whole(HERE / "published.svg", render(draw(table), "svg"))
    write_whole(HERE / "published.md", page(table).encode())


if __name__ == "__main__":
    main()
