"""The answer that a run's report opens with: a few sentences, from its tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import pandas as pd

from gradeval.analysis.numbers import interval_cell, layer_title, listed, sentence, significant
from gradeval.analysis.run.summary import BiasVerdict
from gradeval.analysis.statistics import ENDS, LEVEL

if TYPE_CHECKING:
    from gradeval.analysis.run.evaluation import Evaluation

MOST_NAMED = 12  # estimators or layers in one sentence


def answer_sentences(run: Evaluation) -> list[str]:
    """Say in a few sentences which claims hold, and which estimator to take for one draw and for many.

    Args:
        run: its tables are read.

    Returns:
        The sentences, the most important first.
    """
    sentences = [_claims(run.summary)]
    single = run.best[run.best["layer"] == "all"].dropna(subset="relative_rmse")
    if not single.empty:
        sentences.append(f"From a single draw, {_best(single, run.pairs)}.")
    sentences += _dominated(run)
    curves = run.best_curves[run.best_curves["layer"] == "all"].dropna(subset="relative_rmse")
    estimators = curves.groupby("samples")["estimator"].nunique()
    many = max(estimators.index[estimators == estimators.max()], default=1)
    if many > 1:
        rows = curves[curves["samples"] == many]
        sentences.append(f"From the mean of {many:,} draws, {_best(rows)}{_later(run.breakeven, rows)}.")
    sentences += [f"Not evaluated: {name} ({why})." for name, why in run.manifest.get("failures", {}).items()]
    return sentences


def _dominated(run: Evaluation) -> list[str]:
    """Where one layer is most of the whole gradient: say so, and the best estimator of every other layer."""
    squares = {layer: norm**2 for layer, norm in run.norms.items() if layer != "all"}
    if not sum(squares.values()):
        return []
    largest = max(squares, key=squares.__getitem__)
    share = squares[largest] / sum(squares.values())
    rows = run.best.dropna(subset="relative_rmse")
    rows = rows[~rows["layer"].isin(["all", largest])]
    if share < 0.8 or rows.empty:
        return []
    best = rows.loc[rows.groupby("layer", sort=False)["relative_rmse"].idxmin()]
    by_name = best.groupby("estimator", sort=False)["layer"]
    others = "; ".join(f"{name} in {_named(map(layer_title, layers))}" for name, layers in by_name)
    largest_title = "the head" if largest == "head" else layer_title(largest)
    part = f"{largest_title} has {share:.0%} of the squared norm of the whole gradient"
    return [sentence(f"{part}; elsewhere the most accurate single draw is that of {others}")]


def _later(breakeven: pd.DataFrame, rows: pd.DataFrame) -> str:
    """Which unbiased estimator is the first to overtake the best of the rows at a yet larger number of draws."""
    best = rows.loc[rows["relative_rmse"].idxmin()]
    pairs = breakeven[(breakeven["layer"] == "all") & (breakeven["biased"] == best["estimator"])]
    pairs = pairs[(pairs["draws"] > best["samples"]) & (pairs["draws"] < math.inf)]
    if pairs.empty:
        return ""
    first = pairs.loc[pairs["draws"].idxmin()]
    estimate, low, high = (_rounded(first[f"draws{end}"]) for end in ENDS)
    if math.isinf(first["draws_high"]):
        return f"; {first.unbiased} may overtake it, from {low} draws on at the earliest, or never"
    interval = f" (95% interval [{low}, {high}])" if low != high else ""
    return f"; {first.unbiased} overtakes it at about {estimate} draws{interval}"


def _rounded(draws: float) -> str:
    return f"{float(f'{draws:.2g}'):,.0f}" if math.isfinite(draws) else "never"


def _claims(summary: pd.DataFrame) -> str:
    """Which claims to be unbiased hold and which fail, with the bias that could have been seen."""
    claimed = summary[summary["unbiased_claim"].astype(bool)]
    if claimed.empty:
        return "No estimator of this run claims to be unbiased."
    short = claimed["verdict"].map(lambda verdict: BiasVerdict(verdict).short)
    failing, open_ = claimed[short == "refuted"], claimed[short == "undecided"]
    failed = list(dict.fromkeys(failing["estimator"]))
    held = [
        name
        for name in dict.fromkeys(claimed["estimator"][short == "holds"])
        if name not in failed and name not in set(open_["estimator"])
    ]
    parts = []
    if held:
        sampled = claimed["verdict"] == BiasVerdict.HOLDS
        whole = claimed[sampled & claimed["estimator"].isin(held) & (claimed["layer"] == "all")]
        seen = whole["detectable_bias"].max()
        power = (
            f" (in the gradient of all layers, a relative bias of {significant(seen)} would have been seen with "
            "probability 95%)"
            if seen > 0
            else ""
        )
        parts.append(f"the claim to be unbiased holds for {_named(held)}{power}")
    layers = list(dict.fromkeys(summary["layer"]))
    fails = _by_layers(failing, layers)
    parts += [f"the claim to be unbiased fails for {names} ({where})" for names, where, _ in fails]
    for names, where, needed in _by_layers(open_, layers):
        least, most = (f"{number:,.0f}" for number in needed)
        how = f"; about {least if least == most else f'{least} to {most}'} draws would decide"
        how = how if math.isfinite(needed[1]) else ""
        parts.append(f"the claim to be unbiased is undecided for {names} ({where}{how})")
    told = {*held, *failed, *open_["estimator"]}
    untested = [name for name in dict.fromkeys(claimed["estimator"]) if name not in told]
    if untested:
        parts.append(f"the claim to be unbiased could not be tested for {_named(untested)}")
    return sentence("; ".join(parts))


def _named(words: Iterable[str]) -> str:
    """Words as in a sentence; of many the first, and how many more there are."""
    every = list(words)
    few, more = every[:MOST_NAMED], len(every) - MOST_NAMED
    return listed([*few, f"{more} more"] if more > 0 else every)


def _by_layers(rows: pd.DataFrame, every: list[str]) -> Iterator[tuple[str, str, tuple[float, float]]]:
    """The estimators of some rows, those with the same layers together; layers; least and most draws to decide."""
    groups: dict[tuple[tuple[str, ...], bool], dict[str, float]] = {}
    for name, own in rows.groupby("estimator", sort=False):
        needed = float(own["draws_to_decide"].max()) if "draws_to_decide" in own else math.nan
        groups.setdefault((tuple(own["layer"]), math.isfinite(needed)), {})[str(name)] = needed
    for (layers, _), draws in groups.items():
        where = "in every layer" if len(layers) == len(every) > 2 else _named(map(layer_title, layers))
        yield _named(draws), where, (min(draws.values()), max(draws.values()))


def _best(rows: pd.DataFrame, pairs: pd.DataFrame | None = None) -> str:
    """The estimator with the smallest error, and those that are not told apart from it.

    Single draws are compared in pairs, at a level of 5 % for all together; means of many draws by their intervals.
    """
    rows = rows.sort_values("relative_rmse", kind="stable")
    first = rows.iloc[0]
    error = interval_cell(first, "relative_rmse")
    size = f"relative RMSE {error.text}" + (f", 95% interval {error.interval}" if error.interval else ", exactly")
    if len(rows) == 1:
        return f"{first['estimator']}, the only estimator of this run, has {size}"
    others = rows.iloc[1:]
    if pairs is None:
        close = others["relative_rmse_low"] <= first["relative_rmse_high"]
        near = list(others["estimator"][close])
    else:
        name = first["estimator"]
        mine = pairs[(pairs["layer"] == "all") & ((pairs["one"] == name) | (pairs["two"] == name))]
        tied = mine[~(mine["pvalue_adjusted"] < 1 - LEVEL)]
        near = [other for other in others["estimator"] if ((tied["one"] == other) | (tied["two"] == other)).any()]
    how = "" if pairs is None else ", by tests at 5% for all pairs together"
    tie = f"; not told apart from it{how}: {_named(near)}" if near else ""
    return f"{first['estimator']} is the most accurate ({size}){tie}"
