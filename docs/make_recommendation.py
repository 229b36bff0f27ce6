"""Which estimator when: python docs/make_recommendation.py writes docs/recommendation.md, .svg and two tables.

    python docs/make_recommendation.py            measures everything: some 6 minutes on two cores
    python docs/make_recommendation.py --page     the page and the figure only, from the tables: half a minute

Bias and variance of every estimator are regressed on what a user knows of a network. What is recommended by that is
tried on networks that took no part, beside rules that look at nothing but the budget.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from recommendation_study import (
    BUDGETS,
    DRAWS,
    FEATURES,
    FITTED,
    KEPT,
    LEVELS,
    REFITS,
    REGRESSION,
    SIMPLE,
    TIMES,
    UNBIASED,
    Nets,
    claims_no_bias,
    draws_in_time,
    in_time_words,
    measure,
    recommended,
    regrets,
    words,
)

from gradeval.analysis.drawing import USUAL, Look
from gradeval.analysis.plotting import log_axis, paper_style, render, shaded, tidy

DOCS = Path(__file__).parent
FILES = (DOCS / "recommendation.csv", DOCS / "recommendation-cost.csv")
SHOWN = ("tanh", "psa", "ram", "st", "disarm", "rloo:samples=2", "reinforce")

PAGE = """\
# Which estimator when

By `python docs/make_recommendation.py` (some 6 minutes on two cores), from the accuracy of {estimators} estimators on
small random nets.

**{headline}**

That estimator has the least RMSE on {fitted} random nets, on average; of resampled sets of these nets, {chosen} or more
choose the same. A budget is a number of draws, or the time of so many draws of `st`, in which dearer estimators have
fewer draws. On {kept} other nets, kept aside, the rule loses what the table says: its RMSE of all parameters over the
least that any estimator has on that net, geometric mean with a 95 % interval over nets; the share of nets where that is
at most 10 %; and the loss of the best estimator without bias.

{answer}

A regression on depth, width, saturation and the number of points chooses for every net anew. Its RMSE over that of the
rule, on the nets kept aside and on the [atlas](atlas.md):

{against}

{verdict}

The time of {least} draws of `st` pays for about {few} of `psa` on most nets. About there `tanh` gives way to `psa`,
sooner or later as the net is.

![what the regression recommends, and what each rule loses](recommendation.svg)

Above: what the regression recommends for layers of three units and two points, and the share of {refits} fits to
resampled nets that recommend the same.
{certain}
Below: what rules lose; dashed and hollow: biased.

One draw is a low bar. The RMSE of `tanh` relative to ‖∇J‖ has the median {tanh}; no gradient at all has 1, and `tanh`
is below that on {below} of the nets. Its bias does not average out, and an optimiser that averages over steps has
more than one draw.

## What simple rules lose

RMSE over the least on that net, on the nets kept aside. "The best" is chosen on the nets of the regression.

{regrets}

Of the gradient of the binary layers alone, without the head's, which `psa` averages over flips:

{binary}

On {on_atlas} problems of the [atlas](atlas.md), none of which took part:

{atlas}

At 200 units in one layer ([real size](real-size.md)), by estimates from draws, the RMSE of the best for the budget over
the least of the estimators there, in the worst of the epochs:
{real}. With one layer `psa` has no bias; the one that enters here is chance.

## In time instead of draws

{time}

What a draw costs, in draws of `st`, on one thread with 16 points. The log of it is regressed on the logs of depth and
width. See also [cost](cost.md), at larger sizes.

{costs}

## The regression

The logs of bias and variance of one draw, relative to ‖∇J‖, are each linear in the features, by least squares for each
estimator; then RMSE(M) = √(bias² + variance/M). What is zero on all nets (the bias of an unbiased estimator, that of
`psa` with one layer) is zero; what is zero on some only is fitted on the others. The factors by which bias and
variance change, with 95 % intervals (HC3), and the share R² of the scatter of the log that the features explain:

{coefficients}

## How it was made

- Random nets have 1 to 4 layers of 2 to 8 units, at most 12 in all, normal weights with standard deviations from 0.2 to
  4, two inputs, 1, 2, 4 or 8 points, any noise, loss and encoding. {fitted} are for the regression, {kept} kept aside;
  {left} more were left out, since some estimator has no error on them.
- Saturation is 1 − the mean of 4p(1 − p) over units, layers, points and paths: 0 where all units are coins, 1 without
  any chance.
- Bias and variance are exact where at most 12 Bernoulli variables a point are to be enumerated. Beyond, and for chance
  of other kinds, they are of {draws} draws; this concerns {drawn} estimators on some nets or all. The bias is 0 there
  if the estimator is proved to be unbiased.
- The features were chosen by cross-validation on the regression's own nets. No feature, estimator or rule was chosen on
  those kept aside.
- The intervals are over nets, with the regression and the costs as they are; they are not adjusted for their number.
- Tables: {{download}}`recommendation.csv`, {{download}}`recommendation-cost.csv`.

## What it cannot say

- The nets are small. Of wide ones there is only the look at 200 units in one layer, of convolutions only the atlas's.
- These nets have 1 to 8 points, not the hundreds of a batch.
- RMSE is not training. A bias does not average out over steps, and a wrong length may be made good by the step size.
- `rebar`, `relax`, `arm`, `arms`, `adf` and others with chance that cannot be enumerated took no part, nor did other
  temperatures or numbers of samples.
- Draws miss rare states, so the variances of estimators that are drawn may be too low on saturated nets.
- For a network of your own, [measure](tutorials/which.md).
"""


def draw(found: pd.DataFrame, cells: pd.DataFrame) -> Figure:
    """Maps of what is recommended, and the regret of rules along the budget."""
    claims = {name: claims_no_bias(name) for name in (*cells["estimator"], *SHOWN)}
    with paper_style():
        look = USUAL.look(claims, claims)
        figure = Figure(figsize=(5.2, 7.0), layout="constrained")
        upper, lower = figure.subfigures(2, 1, height_ratios=(1.25, 1.0))
        maps = upper.subplots(2, 2, sharex=True, sharey=True)
        for axes, (budget, some) in zip(maps.flat, cells.groupby("budget", sort=False), strict=True):
            draw_map(axes, some, look)
            axes.set_title(f"take, for {str(budget).replace('`', '')}")
        for axes in maps[1]:
            axes.set_xlabel("layers of binary units")
        for axes in maps[:, 0]:
            axes.set_ylabel("saturation")
        draw_regrets(lower.subplots(), found.loc["kept"], look)
    return figure


def draw_map(axes: Axes, cells: pd.DataFrame, look: Look) -> None:
    """A cell is the paler, the fewer of the resampled fits agree."""
    for cell in cells.itertuples():
        level = LEVELS.index(cell.saturation)
        colour = shaded(look.styles[cell.estimator].colour, 1 - 0.75 * max(0.2, cell.share))
        axes.add_patch(Rectangle((cell.depth - 0.5, level - 0.5), 1, 1, facecolor=colour, edgecolor="white"))
        text = f"{cell.estimator.partition(':')[0]}\n{100 * cell.share:.0f} %"
        ink = {"color": "white" if sum(to_rgb(colour)) < 1.6 else "black", "fontsize": 6}
        axes.text(cell.depth, level, text, ha="center", va="center", **ink)
    axes.set(xlim=(0.5, 4.5), ylim=(-0.5, len(LEVELS) - 0.5))
    axes.set_xticks([1, 2, 3, 4], list("1234"))
    axes.set_yticks(range(len(LEVELS)), [f"{level:g}" for level in LEVELS])
    axes.tick_params(length=0)
    sns.despine(ax=axes, left=True, bottom=True)


def draw_regrets(axes: Axes, found: pd.DataFrame, look: Look) -> None:
    """Regret against the number of draws, with intervals."""
    budgets, end = [words(draws) for draws in BUDGETS], {"textcoords": "offset points", "va": "center", "fontsize": 7}
    rows = found.xs(REGRESSION, level="rule").loc[budgets]
    axes.plot(BUDGETS, rows["regret"], color="0.82", linewidth=7, solid_capstyle="round")
    axes.annotate(REGRESSION, (BUDGETS[-1], rows["regret"].iloc[-1]), (9, -5), color="0.5", **end)
    for name in SHOWN:
        rows = found.xs(f"always `{name}`", level="rule").loc[budgets]
        ends = [rows["regret"] - rows["low"], rows["high"] - rows["regret"]]
        axes.errorbar(BUDGETS, rows["regret"], ends, elinewidth=0.8, **look.line(name))
        place = (9, 4 if name == "psa" else 0)
        label = f"always {name.partition(':')[0]}"
        axes.annotate(label, (BUDGETS[-1], rows["regret"].iloc[-1]), place, color=look.styles[name].colour, **end)
    log_axis(axes, "x", 0.8, 4500)
    axes.set_xticks(BUDGETS)
    log_axis(axes, "y", 0.93, 25)
    axes.set(xlabel="draws that are averaged", ylabel="RMSE ÷ the least on that net")
    axes.set_title("what each rule loses on nets kept aside: geometric mean, 95 % interval")
    tidy(axes)


def number(value: float) -> str:
    """A factor."""
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}"


def percent(share: float) -> str:
    """A share."""
    return f"{100 * share:.0f} %"


def factor(row: pd.Series, *ends: str | int) -> str:
    """A factor with its interval."""
    middle, low, high = (row[end] for end in ends or ("regret", "low", "high"))
    return "" if np.isnan(middle) else f"{number(middle)} [{number(low)}, {number(high)}]"


AGAINST = ("against", "against_low", "against_high")


def cell(row: pd.Series, rule: str) -> str:
    """What a rule loses, and what it takes where its name does not say so."""
    return factor(row) + (f" `{row['taken']}`" if rule in (SIMPLE, UNBIASED) else "")


def regret_lines(found: pd.DataFrame, kind: str, budgets: Iterable[str], rules: Iterable[str] = ()) -> list[str]:
    """A table of regrets: a row for each rule, a column for each budget."""
    some = found.loc[kind]
    rules, budgets = list(rules or some.index.unique("rule")), list(budgets)
    lines = [f"| rule | {' | '.join(budgets)} |", f"|---|{'---:|' * len(budgets)}"]
    cells = {rule: " | ".join(cell(some.loc[(budget, rule)], rule) for budget in budgets) for rule in rules}
    return [*lines, *(f"| {rule} | {text} |" for rule, text in cells.items())]


def answer_lines(found: pd.DataFrame) -> list[str]:
    """For every budget of draws: what to take, how sure that is, and what is lost."""
    lines = ["| budget | take | loss | at most 10 % | without bias | loss |", "|---|---|---:|---:|---|---:|"]
    for budget in found.loc["kept"].index.unique("budget"):
        simple, unbiased = (found.loc[("kept", budget, rule)] for rule in (SIMPLE, UNBIASED))
        row = [budget, f"`{simple['taken']}`", factor(simple), f"on {percent(simple['near'])}"]
        row += [f"`{unbiased['taken']}`", factor(unbiased)]
        lines.append(f"| {' | '.join(row)} |")
    return lines


def against_lines(found: pd.DataFrame) -> list[str]:
    """The RMSE of the regression's choice over that of the simple rule."""
    lines = ["| budget | nets kept aside | the atlas |", "|---|---:|---:|"]
    for budget in found.loc["kept"].index.unique("budget"):
        cells = [factor(found.loc[(kind, budget, REGRESSION)], *AGAINST) for kind in ("kept", "atlas")]
        lines.append(f"| {budget} | {' | '.join(cells)} |")
    return lines


def verdict(found: pd.DataFrame) -> str:
    """Where the regression is told apart from the rule, and what follows."""

    def at(budgets: list[str]) -> str:
        return " and ".join(f"at {budget}" for budget in budgets).replace("at time", "in the time") or "nowhere"

    parts, better = [], []
    for kind, where in (("kept", "on the nets kept aside"), ("atlas", "on the atlas")):
        rows = found.loc[kind].xs(REGRESSION, level="rule")
        better.append([budget for budget in rows.index if rows["against_high"][budget] < 1])
        worse = [budget for budget in rows.index if rows["against_low"][budget] > 1]
        parts.append(f"{where} it is better {at(better[-1])} and worse {at(worse)}")
    both = [budget for budget in better[0] if budget in better[1]]
    exception = f", but {at(both)} what the regression says" if both else ""
    return f"Told apart from the rule, {'; '.join(parts)}. **So the rule is the recommendation{exception}.**"


def coefficient_lines(fitted: Nets) -> list[str]:
    """By what factor bias and variance change with each feature; 95 % intervals that allow for unequal scatter."""
    lines = [f"| | {' | '.join(FEATURES.values())} | R² |", f"|---|{'---:|' * len(FEATURES)}---:|"]
    for name, what in (("tanh", "bias"), ("st", "bias"), ("psa", "bias"), ("psa", "variance"), ("ram", "variance")):
        robust = fitted.regressions[what][name].get_robustcov_results("HC3")
        ends = np.column_stack([robust.params, robust.conf_int()])[1:]
        ends[list(FEATURES).index("saturation")] *= 0.5
        cells = " | ".join(factor(pd.Series(three), 0, 1, 2) for three in np.exp(ends))
        lines.append(f"| {what} of `{name}` | {cells} | {robust.rsquared:.2f} |")
    return lines


def headline(found: pd.DataFrame) -> str:
    """The simple rules in words, neighbouring budgets of one estimator together."""

    def listed(rule: str) -> str:
        taken, groups = found.loc["kept"].xs(rule, level="rule")["taken"], {}
        for draws in BUDGETS:
            groups.setdefault(taken[words(draws)], []).append("one draw" if draws == 1 else f"{draws:,}")
        parts = [f"`{name}` for {', '.join(budgets)}" for name, budgets in groups.items()]
        return " and ".join(parts) if len(parts) > 1 else f"`{next(iter(groups))}`"

    return f"Take {listed(SIMPLE)} draws. Where no bias is allowed, take {listed(UNBIASED)}."


def at_real_size(found: pd.DataFrame) -> str:
    """The simple rule's error over the least on docs/real-size.csv, in the worst of the epochs."""
    table = pd.read_csv(DOCS / "real-size.csv").query("layer == '1'")
    bias, parts = table["relative_bias"].where(~table["unbiased_claim"].astype(bool), 0.0), []
    for draws in BUDGETS:
        name = found.loc[("kept", words(draws), SIMPLE), "taken"]
        errors = np.sqrt(bias**2 + table["relative_variance"] / draws)
        ratio = (errors / errors.groupby(table["epoch"]).transform("min"))[table["estimator"] == name]
        parts.append(f"{words(draws)}, `{name}`: {ratio.max():.2f}")
    return "; ".join(parts)


def certain_words(cells: pd.DataFrame) -> str:
    """How sure the maps are."""
    sure = cells[cells["share"] >= 0.95]
    pairs = cells[cells["rivals"].str.len() > 0].apply(lambda cell: {cell["estimator"], *cell["rivals"]}, axis=1)
    names = sorted(set().union(*pairs)) if len(pairs) else []
    return (
        f"{len(sure)} of {len(cells)} cells are the same in 95 % or more; in others, some of "
        f"{', '.join(f'`{name}`' for name in names)} are not told apart."
    )


def cost_lines(costs: pd.DataFrame) -> list[str]:
    """What a draw costs, in draws of `st`."""
    sizes = [(1, 4), (4, 4), (1, 64), (4, 64)]
    table = costs.set_index(["estimator", "depth", "width"])["cost"]
    heads = " | ".join(f"{depth} layer{'s' * (depth > 1)} of {width}" for depth, width in sizes)
    cells = {name: " | ".join(f"{table[(name, *size)]:.1f}" for size in sizes) for name in SHOWN}
    return [f"| | {heads} |", "|---|---:|---:|---:|---:|", *(f"| `{name}` | {text} |" for name, text in cells.items())]


def page(table: pd.DataFrame, costs: pd.DataFrame, found: pd.DataFrame, cells: pd.DataFrame) -> str:
    """The text of docs/recommendation.md."""
    fitted, kept, atlas = (Nets.of(table, kind) for kind in ("fit", "kept", "atlas"))
    few = [REGRESSION, SIMPLE, *(f"always `{name}`" for name in ("tanh", "psa", "ram", "st"))]
    in_draws, in_time = list(map(words, BUDGETS)), [in_time_words(time) for time in TIMES]
    parts = {
        "answer": answer_lines(found),
        "against": against_lines(found),
        "regrets": regret_lines(found, "kept", in_draws),
        "time": regret_lines(found, "kept", in_time, [*few, UNBIASED]),
        "binary": regret_lines(found, "binary_kept", in_draws, few),
        "atlas": regret_lines(found, "atlas", in_draws, few),
        "coefficients": coefficient_lines(fitted),
        "costs": cost_lines(costs),
    }
    one = np.exp(kept.log_errors(1.0))["tanh"]
    facts = {
        "headline": headline(found),
        "verdict": fill(verdict(found), 120),
        "chosen": percent(found.loc["kept"]["chosen"].min()),
        "fitted": len(fitted.facts),
        "kept": len(kept.facts),
        "on_atlas": len(atlas.facts),
        "left": FITTED + KEPT - len(fitted.facts) - len(kept.facts),
        "estimators": table["estimator"].nunique(),
        "drawn": table.loc[table["draws"] > 0, "estimator"].nunique(),
        "draws": f"{DRAWS:,}",
        "least": TIMES[0],
        "few": int(draws_in_time(costs, kept.facts, TIMES[0])["psa"].mode().iloc[0]),
        "tanh": f"{one.median():.2f}",
        "below": percent((one < 1).mean()),
        "certain": fill(certain_words(cells), 120),
        "real": at_real_size(found),
    }
    return PAGE.format(**{name: "\n".join(lines) for name, lines in parts.items()}, **facts, refits=REFITS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="measure nothing: take the figures from the tables")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that measure")
    options = parser.parse_args()
    if not options.page:
        for file, measured in zip(FILES, measure(options.workers), strict=True):
            measured.to_csv(file, index=False, float_format="%.4g", lineterminator="\n")
    table, costs = map(pd.read_csv, FILES)
    found, cells = regrets(table, costs), recommended(Nets.of(table, "fit"), costs)
    (DOCS / "recommendation.svg").write_bytes(render(draw(found, cells), "svg"))
    (DOCS / "recommendation.md").write_text(page(table, costs, found, cells))


if __name__ == "__main__":
    main()
