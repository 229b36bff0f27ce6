"""Puts the claims of the authors' response to the test: docs/claims.md and docs/claims/*.svg.

    python docs/make_claims.py [RESULTS]

makes what is missing in the folder RESULTS (default: ./claims-results; 20 minutes on two cores) and renders everything
from the tables there: sweeps (docs/claims/*.toml), trainings and a search for networks that mislead; the costs are
those of docs/cost.md. A claim is supported or refuted if its whole 95 % interval lies on one side of the threshold
given with it; otherwise it is undecided. Nets of one seed have the same data, so that a seed is one observation.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.proportion import proportion_confint
from statsmodels.tools import add_constant

from gradeval.analysis.plotting import paper_style, render, styles
from gradeval.analysis.statistics import Interval
from gradeval.analysis.sweep import Sweep, geometric_mean, regress, trend_figure
from gradeval.analysis.training import Training
from gradeval.analysis.training_figures import objective_figure
from gradeval.estimators import TABLE, get_estimator
from gradeval.files import write_whole
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.noise import NOISES
from gradeval.model.problem import Problem
from gradeval.model.randomness import generator
from gradeval.problems.catalogue import load_problem, load_task
from gradeval.reference import exact_moments
from gradeval.studies.sweeps import run_sweep
from gradeval.training.protocol import Protocol
from gradeval.training.trainer import train

HERE = Path(__file__).parent
FIGURES = HERE / "claims"
ESTIMATORS = ["reinforce", "arm", "concrete:temperature=0.1", "concrete:temperature=1.0", "tanh", "muprop", "st", "psa"]
DATA_SETS = range(1, 13)  # data seeds of claim (f); a pilot took the data of seed 0, which is not among them
SEEDS = 3  # runs of claim (f) on each of them
SPLITS = 12  # data seeds of claim (g)
SCALES = (0.5, 1.0, 2.0, 4.0, 8.0)
NETS = 40  # random nets at each scale of claim (j)
STEPS = 1500  # of the search for a net that misleads
UNBIASED = 1e-9
MARGIN = 1.1  # of claim (i): less than 10 % more variance is made up for by 10 % more draws
BY_CONSTRUCTION = "by construction"


@dataclass(frozen=True)
class Claim:
    """A claim, what was measured, and what follows.

    Attributes:
        letter, statement: which claim.
        measured: in words, with the interval.
        verdict: "supported", "refuted", "undecided" or "by construction".
        figure: name of a figure.
        source: the tables it was made from.
        theirs: whether the authors' response says it; else it is an addition of ours.
    """

    letter: str
    statement: str
    measured: str
    verdict: str
    figure: str
    source: str
    theirs: bool


def above(interval: Interval, threshold: float = 0.0) -> str:
    """The verdict on "the true value is above the threshold"."""
    if interval.low > threshold:
        return "supported"
    return "refuted" if interval.high < threshold else "undecided"


def below(interval: Interval, threshold: float = 0.0) -> str:
    """The verdict on "the true value is below the threshold"."""
    return above(Interval(-interval.estimate, -interval.high, -interval.low), -threshold)


def every(verdicts: list[str]) -> str:
    """The verdict on several statements together, each with a simultaneous interval."""
    if "refuted" in verdicts:
        return "refuted"
    return "undecided" if "undecided" in verdicts else "supported"


def decisive(rivals: dict[str, Interval]) -> str:
    """The rival whose interval decides: the lowest of those below 0, if there are any, else of all."""
    return min(rivals, key=lambda rival: (rivals[rival].high >= 0, rivals[rival].low))


def mean(values: pd.Series, comparisons: int = 1) -> Interval:
    """Student's interval of a mean; with Bonferroni's level for several."""
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]  # a net whose gradient vanishes, or where nothing is random, compares nothing
    n = len(known)
    half = stats.t.ppf(1 - 0.025 / comparisons, n - 1) * known.std(ddof=1) / math.sqrt(n)
    return Interval(known.mean(), known.mean() - half, known.mean() + half)


def shown(interval: Interval, unit: str = "") -> str:
    """1.23 [1.10, 1.36]"""
    return f"{interval.estimate:.3g}{unit} [{interval.low:.3g}, {interval.high:.3g}]"


# --- measurements -----------------------------------------------------------------------------------------------------


def measure(results: Path) -> None:
    """Run the sweeps, trainings and searches that the folder lacks."""
    workers = os.cpu_count() or 1
    for name in ("width", "depth", "noise"):
        run_sweep(HERE / "claims" / f"{name}.toml", results / name, workers=workers)
        print(f"{name}: done", file=sys.stderr, flush=True)
    for seed in DATA_SETS:
        protocol = Protocol(epochs=500, seeds=SEEDS, gradient_epochs=())
        folder = results / "training" / str(seed)
        train(load_task("expclass", seed=seed), ESTIMATORS, protocol, folder=folder, workers=workers)
    print("training: done", file=sys.stderr, flush=True)
    for seed in range(SPLITS):
        protocol = Protocol(epochs=60, seeds=2, rates=(0.03, 0.1, 0.3), gradient_epochs=(), checks=2)
        task = load_task("expclass", units="4-4", points=50, seed=seed)
        train(task, ["psa"], protocol, folder=results / "splits" / str(seed))
    print("splits: done", file=sys.stderr, flush=True)
    for name, make in (("scales", random_nets), ("search", search)):
        path = results / f"{name}.csv"
        if not path.exists():
            write_whole(path, make().to_csv(index=False).encode())
    print("nets that mislead: done", file=sys.stderr, flush=True)


def small_net(theta: torch.Tensor, inputs: torch.Tensor, targets: torch.Tensor) -> Problem:
    """Two layers of three units on four points, with these parameters."""
    network = StochasticBinaryNetwork.linear(2, [3, 3], 1)
    torch.nn.utils.vector_to_parameters(theta, network.trainable().values())
    return Problem(network, inputs, targets)


def points() -> tuple[torch.Tensor, torch.Tensor]:
    """The four points and targets of the small nets."""
    return (
        torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64),
        torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64),
    )


def alignment(problem: Problem, name: str) -> dict[str, float]:
    """Cosine of E g with g*, relative bias, and relative variance in the first layer, by enumeration: no sampling."""
    found = exact_moments(problem, get_estimator(name), workers=1)
    where = found.slices["1"]
    g, exact = found.mean[where], found.exact[where]
    return {
        "cosine": float(g @ exact / (g.norm() * exact.norm()).clamp(min=1e-300)),
        "relative_bias": float((g - exact).norm() / exact.norm().clamp(min=1e-300)),
        "gradient_norm": float(exact.norm()),
    }


def random_nets() -> pd.DataFrame:
    """Claim (j): nets with normal weights of several scales."""
    rows = []
    inputs, targets = points()
    size = sum(p.numel() for p in StochasticBinaryNetwork.linear(2, [3, 3], 1).parameters())
    for scale in SCALES:
        for net in range(NETS):
            random = generator("cpu", "claim j", scale, net)
            theta = scale * torch.randn(size, generator=random, dtype=torch.float64)
            problem = small_net(theta, inputs, targets)
            rows += [{"scale": scale, "net": net, "estimator": e} | alignment(problem, e) for e in ("st", "psa")]
    return pd.DataFrame(rows)


def search() -> pd.DataFrame:
    """Claim (j): from the worst of random nets, random steps that lower the cosine of E g with g* in the first layer.

    Nets whose gradient has a norm below 1e-3 are skipped: their cosine says nothing.
    """
    rows = []
    inputs, targets = points()
    size = sum(p.numel() for p in StochasticBinaryNetwork.linear(2, [3, 3], 1).parameters())
    for name in ("st", "psa"):
        random = generator("cpu", "claim j search", name)

        def cosine(theta: torch.Tensor, name: str = name) -> float:
            found = alignment(small_net(theta, inputs, targets), name)
            return found["cosine"] if found["gradient_norm"] > 1e-3 else 1.0

        starts = [3 * torch.randn(size, generator=random, dtype=torch.float64) for _ in range(200)]
        best = min(starts, key=cosine)
        value, step = cosine(best), 1.0
        for _ in range(STEPS):
            other = best + step * torch.randn(size, generator=random, dtype=torch.float64)
            found = cosine(other)
            step = min(3.0, step * 1.5) if found < value else max(0.01, step * 0.93)
            if found < value:
                best, value = other, found
        problem = small_net(best, inputs, targets)
        row = {"estimator": name} | alignment(problem, name) | {"largest_weight": float(best.abs().max())}
        rows.append(row | {"parameters": " ".join(f"{v:.6g}" for v in best.tolist())})
    return pd.DataFrame(rows)


# --- claims -----------------------------------------------------------------------------------------------------------


def slope(sweep: Sweep, measure: str, estimator: str, term: str, layer: str = "all") -> tuple[Interval, int]:
    """The factor that the slope of log₁₀ of a measure stands for, and the number of seeds, which are the clusters."""
    found = regress(sweep.table, measure, sweep.options, layer, clusters=["seed"])
    row = found[(found["estimator"] == estimator) & (found["term"] == term)].iloc[0]
    interval = Interval(row["slope"], row["slope_low"], row["slope_high"])
    return interval.map(lambda v: 10**v), int(row["nets"])


def whole(sweep: Sweep) -> pd.DataFrame:
    """The rows of all layers together."""
    return sweep.table[sweep.table["layer"] == "all"]


def widths(results: Path) -> list[Claim]:
    """Put claim (a) to the test."""
    sweep = Sweep.load(results / "width")
    source = "docs/claims/width.toml"
    claims = []
    for name, measure, words, verdict in (
        ("arm", "relative_rmse", "RMSE of one draw of ARM", above),
        ("st", "relative_rmse", "RMSE of one draw of ST", below),
        ("st", "relative_bias", "Bias of ST", below),
    ):
        found, seeds = slope(sweep, measure, name, "log2_width")
        first, _ = slope(sweep, measure, name, "log2_width", "1")
        side = "above" if verdict is above else "below"
        claims.append(
            Claim(
                "a",
                f"With fewer units {name.upper()} gets {'more' if name == 'arm' else 'less'} accurate"
                f"{', by its bias alone' if measure == 'relative_bias' else ''}.",
                f"{words} for twice the units: × {shown(found)} of all parameters, × {shown(first)} of layer 1 "
                f"(clusters: {seeds} seeds; supported if both are {side} 1).",
                every([verdict(found, 1.0), verdict(first, 1.0)]),
                "width",
                source,
                measure == "relative_rmse",
            )
        )
    table = whole(sweep).pivot_table("relative_rmse", "net", "estimator")
    shape = whole(sweep).groupby("net")["units"].first()
    typical = np.log(table[shape[table.index] == "5-5-5"]).mean()
    others = np.log(table[shape[table.index] != "5-5-5"])
    agreement = others.apply(lambda row: stats.spearmanr(row, typical).statistic, axis=1)
    seed_of = whole(sweep).groupby("net")["seed"].first()
    # stages and shapes share a seed's data: their mean is one observation
    found = mean(agreement.groupby(seed_of[others.index]).mean())
    return [
        *claims,
        Claim(
            "a",
            "The overall picture stays.",
            "Spearman's correlation of the seven estimators' order, by RMSE of one draw, with the order on 5-5-5, over "
            f"smaller nets: {shown(found)} (supported above 0.7).",
            above(found, 0.7),
            "width",
            source,
            True,
        ),
    ]


def depths(results: Path) -> list[Claim]:
    """Put claims (b), (c), (i) to the test."""
    sweep = Sweep.load(results / "depth")
    table = whole(sweep)
    source = "docs/claims/depth.toml"
    claims = []
    for name, letter in (("reinforce", "b"), ("arm", "b"), ("muprop", "b"), ("ram", "b")):
        found, seeds = slope(sweep, "relative_variance", name, "depth")
        first, _ = slope(sweep, "relative_variance", name, "depth", "1")
        claims.append(
            Claim(
                letter,
                f"Deeper nets make the variance of unbiased estimators grow: {name}.",
                f"Relative variance for one layer more: × {shown(found)} of all parameters, × {shown(first)} of layer "
                f"1 (clusters: {seeds} seeds; supported if both are above 1).",
                every([above(found, 1.0), above(first, 1.0)]),
                "depth",
                source,
                False,
            )
        )
    deepest = table[table["depth"] == table["depth"].max()]
    arm = geometric_mean(by_seed(deepest, "arm", "relative_variance"))
    claims.append(
        Claim(
            "i",
            "ARM has high variance in deep nets.",
            f"Relative variance of one draw of ARM in nets of {deepest['depth'].max()} layers: {shown(arm)} (geometric "
            "mean; supported above 1, where noise is more than signal).",
            above(arm, 1.0),
            "depth",
            source,
            True,
        )
    )
    ratio = geometric_mean(
        by_seed(deepest, "arm", "relative_variance") / by_seed(deepest, "muprop", "relative_variance")
    )
    claims.append(
        Claim(
            "i",
            "ARM's variance in deep nets is higher than MuProp's, by a tenth or more.",
            f"Ratio of the variances in nets of {deepest['depth'].max()} layers: {shown(ratio)} (supported above "
            f"{MARGIN:g}: less is made up for by as many more draws).",
            above(ratio, MARGIN),
            "depth",
            source,
            False,
        )
    )
    return claims


def by_seed(table: pd.DataFrame, estimator: str, measure: str) -> pd.Series:
    """A geometric mean over stages and shapes for every seed."""
    rows = table[table["estimator"] == estimator]
    return np.exp(np.log(rows[measure]).groupby(rows["seed"]).mean())


def single_layer(results: Path) -> list[Claim]:
    """Put claim (c) to the test."""
    noise, depth = Sweep.load(results / "noise"), Sweep.load(results / "depth")
    table = pd.concat([whole(noise), whole(depth)])
    one = table[(table["depth"] == 1) & (table["estimator"] == "psa")]
    largest = float(one["exact_relative_bias"].max())
    st = depth.table[depth.table["estimator"] == "st"]
    ratios = []
    for layer in ("all", "1"):
        one_layer, three = (
            by_seed(st[(st["layer"] == layer) & (st["depth"] == d)], "st", "relative_bias") for d in (1, 3)
        )
        ratios.append(geometric_mean(three / one_layer))
    nets = [
        load_problem("expclass", units="3", stage=1, points=30, noise=n, seed=seed) for n in NOISES for seed in (0, 1)
    ]
    differences = [linearisation_error(problem) for problem in nets]
    return [
        Claim(
            "c",
            "In a single layer, which the response calls well covered, PSA "
            "sums out every unit exactly and has no bias.",
            f"Largest relative bias of PSA over {one['net'].nunique()} nets of one layer under six noises: "
            f"{largest:.1e} (exact; supported below 1e-9, which is rounding).",
            "supported" if largest < UNBIASED else "refuted",
            "depth",
            "docs/claims/noise.toml, docs/claims/depth.toml",
            False,
        ),
        Claim(
            "c",
            "In one layer ST is RAM with the loss linearised at the sample (Tokui & Sato, sec. 6.4).",
            f"Difference between the means of the two, over {len(nets)} nets of one layer under six noises, relative: "
            f"at most {max(differences):.1e} (exact; supported below 1e-9).",
            "supported" if max(differences) < UNBIASED else "refuted",
            "depth",
            "docs/make_claims.py, linearisation_error",
            True,
        ),
        Claim(
            "c",
            "ST's bias is larger in three layers than in one.",
            f"Ratio of the relative biases of ST: {shown(ratios[0])} of all parameters (the head's gradient has no "
            f"bias), {shown(ratios[1])} of layer 1 (supported if both are above 1).",
            every([above(ratio, 1.0) for ratio in ratios]),
            "depth",
            "docs/claims/depth.toml",
            False,
        ),
    ]


def linearisation_error(problem: Problem) -> float:
    """Relative distance of ST's mean from that of F'(aᵢ) (hi − lo) ∂f/∂xᵢ, by enumeration of the only layer."""
    (layer,) = problem.network.layers
    loss = problem.loss_function()
    a = layer.preactivation(problem.inputs)
    mean_slope = torch.zeros_like(a)
    for state in itertools.product((0.0, 1.0), repeat=a.shape[1]):
        s = torch.tensor(state, dtype=a.dtype).expand_as(a)
        x = layer.encode(s).clone().requires_grad_()
        (slopes,) = torch.autograd.grad(loss(x).sum(), x)
        mean_slope += layer.log_prob(s, a).exp().detach()[:, None] * slopes
    surrogate = (layer.probability(a) * layer.delta * mean_slope).sum(1).mean()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(surrogate, list(layer.parameters()))])
    found = exact_moments(problem, get_estimator("st"), workers=1)
    return float((found.mean[found.slices["1"]] - expected).norm() / expected.norm())


def interval_of(cell: str) -> Interval:
    """1.00 [0.99, 1.01] of a page."""
    return Interval(*(float(number) for number in re.findall(r"-?[\d.]+", cell)))


def measured_costs(text: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What docs/cost.md says: of whole gradients relative to back-propagation, and the exponents of growth.

    The first table has one row per net × estimator, the second one per estimator; counts are of FLOPs.
    """
    nets, growth = [], []
    for section in text.split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        lines = [line for line in body.splitlines() if line.startswith("| ")]
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        if cells and cells[0][-1] == "memory":
            names = ["estimator", "products", "flops", "flops_of_functions", "time", "memory"]
            nets += [dict(zip(names, row, strict=True)) | {"net": title} for row in cells[1:]]
        elif cells:
            header = ["estimator", *cells[0][1:]]
            growth += [dict(zip(header, row, strict=True)) for row in cells[1:]]
    table = pd.DataFrame(nets)
    return table.astype({"flops": float, "time": float}), pd.DataFrame(growth).set_index("estimator")


def costs(_results: Path) -> list[Claim]:
    """Put claims (d), (e) to the test, by the operations and seconds of docs/cost.md."""
    nets, growth = measured_costs((HERE / "cost.md").read_text())
    psa = nets[nets["estimator"] == "psa, separable"]
    claims = []
    for what, words, theirs in (("flops", "FLOPs", True), ("time", "seconds", False)):
        low, high = psa[what].min(), psa[what].max()
        claims.append(
            Claim(
                "d",
                f"A gradient of PSA, with all its flips, takes no more than twice the {words} of back-propagation.",
                f"{words.capitalize() if not theirs else words} of one gradient relative to one forward–backward pass: "
                f"{low:.3g} to {high:.3g} in {len(psa)} nets ({'a function counts as one' if theirs else 'CPU'}; "
                "supported up to 2).",
                "supported" if high <= 2 else "refuted" if low > 2 else "undecided",
                "cost",
                "docs/cost.md",
                theirs,
            )
        )
    grown = {which: interval_of(growth.loc["psa", f"flops, {which}"]) for which in ("depth", "width")}
    plain = {which: interval_of(growth.loc["back-propagation", f"flops, {which}"]) for which in ("depth", "width")}
    same = all(abs(grown[w].estimate - plain[w].estimate) < 0.1 for w in grown)
    claims.append(
        Claim(
            "d",
            "All flips of a network have the complexity of a forward pass.",
            f"FLOPs of a gradient grow with depth to the power {shown(grown['depth'])}, with width to the power "
            f"{shown(grown['width'])}, as those of back-propagation do ({shown(plain['depth'])}, "
            f"{shown(plain['width'])}; supported within 0.1). Seconds, with depth: "
            f"{growth.loc['psa', 'seconds, depth']}.",
            "supported" if same else "refuted",
            "cost",
            "docs/cost.md",
            True,
        )
    )
    for key, words, theirs in (("flops, depth", "FLOPs", True), ("seconds, depth", "seconds", False)):
        found = interval_of(growth.loc["ram", key])
        inside, outside = found.low > 1.9 and found.high < 2.1, found.low > 2.1 or found.high < 1.9
        claims.append(
            Claim(
                "e",
                f"RAM's cost is quadratic in the number of variables: in {words}, as layers are added.",
                f"Exponent of the {words} of one draw in the number of layers of the same width: {shown(found)} "
                f"({'counted while it runs' if theirs else 'small nets: mostly the overhead of calls'}; supported "
                "within 1.9 and 2.1).",
                "supported" if inside else "refuted" if outside else "undecided",
                "cost",
                "docs/cost.md",
                theirs,
            )
        )
    return claims


def trained(results: Path) -> list[Claim]:
    """Put claim (f) to the test: a data set is one observation, the mean over its runs."""
    runs = {seed: Training.load(results / "training" / str(seed)) for seed in DATA_SETS}
    return training_claims({seed: training.tables["curves"] for seed, training in runs.items()})


def training_claims(curves: dict[int, pd.DataFrame]) -> list[Claim]:
    """Claim (f), from the curves on each data set."""
    final = pd.DataFrame({seed: last_objective(table) for seed, table in curves.items()}).T
    runs = max(table["seed"].nunique() for table in curves.values())
    source = f"gradeval train expclass --epochs 500 --seeds {runs}, data seeds {min(curves)} to {max(curves)}"
    claims = []
    others = [name for name in final.columns if name not in ("psa", "st")]
    how = f"paired over {len(final)} data sets; Bonferroni's level for {len(others)} rivals"
    for name in ("psa", "st"):
        rivals = {rival: mean(final[rival] - final[name], len(others)) for rival in others}
        worst = decisive(rivals)
        claims.append(
            Claim(
                "f",
                f"Under the same protocol {name.upper()} reaches a better training objective than all but PSA and ST.",
                f"Final objective {final[name].mean():.4f}. Nearest rival {worst}: higher by {shown(rivals[worst])} "
                f"({how}; supported above 0 for all).",
                every([above(interval) for interval in rivals.values()]),
                "training",
                source,
                name == "psa",
            )
        )
        for which, level in (("worst", final.max(axis=1)), ("median", final.median(axis=1))):
            logs = pd.DataFrame(
                {seed: np.log2(epochs_to(table, float(level[seed]))).mean() for seed, table in curves.items()}
            ).T
            rivals = {rival: mean(logs[rival] - logs[name], len(others)) for rival in others}
            worst = decisive(rivals)
            claims.append(
                Claim(
                    "f",
                    f"{name.upper()} converges fastest in iterations, to the objective that the {which} estimator ends "
                    "with.",
                    f"Epochs: {2 ** logs[name].mean():.3g}. Nearest rival {worst}: × "
                    f"{shown(rivals[worst].map(lambda v: 2**v))} (geometric means; {how}; a run that does not get "
                    "there counts as twice its epochs; supported above 1 for all rivals).",
                    every([above(interval) for interval in rivals.values()]),
                    "training",
                    source,
                    name == "psa",
                )
            )
    return claims


def last_objective(curves: pd.DataFrame) -> pd.Series:
    """The objective at the end, the mean over runs, by estimator."""
    return curves[curves["epoch"] == curves["epoch"].max()].groupby("estimator")["objective"].mean()


def epochs_to(curves: pd.DataFrame, level: float) -> pd.DataFrame:
    """Epochs until the objective is as low as the level, at least 1; seed × estimator."""
    reached = curves[curves["objective"] <= level].groupby(["seed", "estimator"])["epoch"].min().unstack()
    every_run = curves.groupby(["seed", "estimator"])["epoch"].max().unstack()
    return reached.reindex_like(every_run).fillna(2 * every_run).clip(lower=1).astype(float)


def validated(results: Path) -> list[Claim]:
    """Put claim (g) to the test."""
    rows = []
    for seed in range(SPLITS):
        found = Training.load(results / "splits" / str(seed)).tables["predictions"]
        loss = found[found["predictor"] == "expected"].groupby("split")["loss"].mean()
        rows.append({"seed": seed, **loss})
    table = pd.DataFrame(rows)
    gap = mean((table["validation"] - table["test"]) / table["test"])
    optimism = mean((table["test"] - table["train"]) / table["test"])
    return [
        Claim(
            "g",
            "With all tuning on the training set, the validation set gives an unbiased estimate of the test error.",
            "This holds by construction, and no measurement could refute it: validation and test points are drawn "
            "alike, and nothing is chosen by either (tests/training/test_trainer.py exchanges both: no run changes). "
            f"How close they come: validation less test loss, relative, over {SPLITS} data sets: {shown(gap)}; the "
            f"training loss, on which the rate was tuned, is lower than the test loss by {shown(optimism)}.",
            BY_CONSTRUCTION,
            "splits",
            "gradeval train expclass --units 4-4 --points 50 --epochs 60, data seeds 0 to 11",
            True,
        )
    ]


def noises(results: Path) -> list[Claim]:
    """Put claim (h) to the test."""
    sweep = Sweep.load(results / "noise")
    table = whole(sweep)[whole(sweep)["depth"] == 3]
    claims = []
    for name in ("psa", "st"):
        found = {}
        for noise, rows in table.groupby("noise", sort=False):
            for rival in ("reinforce", "arm"):
                logs = np.log(by_seed(rows, rival, "relative_rmse")) - np.log(by_seed(rows, name, "relative_rmse"))
                found[noise, rival] = mean(logs, 12).map(math.exp)
        worst = min(found, key=lambda key: found[key].low)
        claims.append(
            Claim(
                "h",
                f"All applies to any noise: {name.upper()} is more accurate than REINFORCE and ARM under each of six.",
                f"Smallest ratio of RMSEs of one draw, {worst[1]} under {worst[0]} noise: {shown(found[worst])} "
                "(Bonferroni's level for 12 comparisons; supported above 1 for all).",
                every([above(interval, 1.0) for interval in found.values()]),
                "noise",
                "docs/claims/noise.toml",
                False,
            )
        )
    unbiased = whole(sweep)[whole(sweep)["estimator"] == "reinforce"]["exact_relative_bias"].max()
    claims.append(
        Claim(
            "h",
            "REINFORCE, the yardstick, is unbiased under each of six noises.",
            f"Largest relative bias over {whole(sweep)['net'].nunique()} nets: {unbiased:.1e} (exact; supported below "
            "1e-9).",
            "supported" if unbiased < UNBIASED else "refuted",
            "noise",
            "docs/claims/noise.toml",
            False,
        )
    )
    return claims


def limits(results: Path) -> list[Claim]:
    """Put claim (j) to the test."""
    found = pd.read_csv(results / "search.csv").set_index("estimator")
    table = pd.read_csv(results / "scales.csv")
    claims = []
    for name in ("st", "psa"):
        rows = table[table["estimator"] == name]
        seen = rows[rows["relative_bias"] > 1e-9]  # below, saturated nets are left with rounding
        # robust to unequal spread: nets with large weights differ by more
        fit = OLS(np.log10(seen["relative_bias"]), add_constant(np.log2(seen["scale"]))).fit(cov_type="HC3", use_t=True)
        slope, (low, high) = fit.params["scale"], fit.conf_int().loc["scale"]
        growth = Interval(slope, low, high).map(lambda v: 10**v)
        worst = found.loc[name]
        uphill, count = int((rows["cosine"] < 0).sum()), len(rows)
        share = Interval(uphill / count, *proportion_confint(uphill, count, method="beta"))
        claims.append(
            Claim(
                "j",
                f"There are nets where the mean of {name.upper()} points uphill: its bias misleads.",
                f"Cosine of E g with the exact gradient of layer 1 in the worst net found: {worst['cosine']:.3f}, bias "
                f"{worst['relative_bias']:.3g} (both exact, no interval; supported below 0; largest weight "
                f"{worst['largest_weight']:.2g}). Of {count} random nets {uphill} point uphill, a share of "
                f"{shown(share)}; there, weights twice as large: bias × {shown(growth)}.",
                "supported" if worst["cosine"] < 0 else "undecided",
                "limits",
                "docs/make_claims.py, random_nets and search",
                False,
            )
        )
    return claims


CLAIMS: tuple[Callable[[Path], list[Claim]], ...] = (
    *(widths, depths, single_layer, costs, trained, validated, noises, limits),
)


# --- figures ----------------------------------------------------------------------------------------------------------


def figures(results: Path) -> dict[str, Figure]:
    """All figures by name."""
    width, depth = Sweep.load(results / "width").table, Sweep.load(results / "depth").table
    drawn = {"width": trend_figure(width, "width").figure, "depth": trend_figure(depth, "depth").figure}
    drawn["training"] = objective_figure(Training.load(results / "training" / str(DATA_SETS[0]))).figure
    drawn["noise"] = noise_figure(Sweep.load(results / "noise"))
    drawn["cost"], drawn["limits"] = cost_figure(), limits_figure(results)
    drawn["splits"] = splits_figure(results)
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _axes(width: float = 3.4, label: tuple[str, str] = ("", "")) -> tuple[Figure, object]:
    figure = Figure(figsize=(width, 2.6), layout="constrained")
    ax = figure.subplots()
    ax.set(xlabel=label[0], ylabel=label[1])
    ax.grid(color="0.92", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    return figure, ax


def noise_figure(sweep: Sweep) -> Figure:
    """RMSE under every noise."""
    table = whole(sweep)[whole(sweep)["depth"] == 3]
    names = list(table["estimator"].unique())
    with paper_style():
        figure, ax = _axes(4.2, ("noise", "relative RMSE of one draw"))
        for k, name in enumerate(names):
            found = {
                noise: geometric_mean(by_seed(rows, name, "relative_rmse"))
                for noise, rows in table.groupby("noise", sort=False)
            }
            x = np.arange(len(found)) + 0.12 * (k - (len(names) - 1) / 2)
            y = np.array([i.estimate for i in found.values()])
            error = np.array([[i.estimate - i.low, i.high - i.estimate] for i in found.values()]).T
            look = styles(names)[name]
            ax.errorbar(x, y, error, color=look.colour, marker=look.marker, markersize=4, linestyle="none", label=name)
        ax.set_xticks(range(len(found)), list(found))
        ax.set_yscale("log")
        figure.legend(loc="outside upper center", ncols=len(names), frameon=False)
    return figure


def cost_figure() -> Figure:
    """Units evaluated by one draw, against the number of units."""
    depths = 2 ** np.arange(0, 8)
    with paper_style():
        figure, ax = _axes(label=("binary units", "units evaluated by one draw"))
        for name in ("st", "psa", "arm", "ram"):
            work = [5 * TABLE[name].evaluations([5] * depth)[0] for depth in depths]
            look = styles([name])[name]
            ax.plot(5 * depths, work, color=look.colour, marker=look.marker, markersize=4, label=name)
        ax.set(xscale="log", yscale="log", title="layers of 5 units")
        figure.legend(loc="outside right center", frameon=False)
    return figure


def limits_figure(results: Path) -> Figure:
    """Cosine of the mean with the exact gradient on random nets, and the worst net found."""
    table, found = pd.read_csv(results / "scales.csv"), pd.read_csv(results / "search.csv")
    with paper_style():
        figure, ax = _axes(label=("standard deviation of the weights", "cosine of E g with g*, layer 1"))
        for name, rows in table.groupby("estimator"):
            look = styles([name])[name]
            ax.scatter(
                rows["scale"] * (1.04 if name == "psa" else 0.96),
                rows["cosine"],
                s=6,
                color=look.colour,
                alpha=0.4,
                linewidth=0,
            )
            middle = rows.groupby("scale")["cosine"].median()
            ax.plot(middle.index, middle, color=look.colour, marker=look.marker, markersize=4, label=f"{name}, median")
        for row in found.itertuples():
            look = styles([row.estimator])[row.estimator]
            ax.axhline(row.cosine, color=look.colour, linestyle=":", linewidth=1, label=f"{row.estimator}, worst found")
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        figure.legend(loc="outside right center", frameon=False)
    return figure


def splits_figure(results: Path) -> Figure:
    """Training, validation and test loss on every data set."""
    with paper_style():
        figure, ax = _axes(label=("test loss", "loss"))
        every_split = []
        for seed in range(SPLITS):
            found = Training.load(results / "splits" / str(seed)).tables["predictions"]
            every_split.append(found[found["predictor"] == "expected"].groupby("split")["loss"].mean())
        table = pd.DataFrame(every_split)
        ax.plot(table["test"], table["validation"], "o", color="#0072B2", markersize=4, label="validation")
        ax.plot(table["test"], table["train"], "s", color="#D55E00", markersize=4, label="training")
        ax.axline((table["test"].mean(), table["test"].mean()), slope=1, color="0.5", linewidth=0.8)
        figure.legend(loc="outside right center", frameon=False)
    return figure


CAPTIONS = {
    "width": "Accuracy against the width of nets of three layers; geometric means over nets with 95 % intervals.",
    "depth": "Accuracy against the depth of nets of three units a layer; geometric means over nets, 95 % intervals.",
    "training": "Objective along training on one data set of expclass 5-5-5; means over runs with 95 % intervals.",
    "noise": "RMSE of one draw in nets of three layers under six noises; geometric means with 95 % intervals.",
    "cost": "Units that one draw evaluates per data point.",
    "limits": "Random small nets: the mean of ST and PSA against the exact gradient, by enumeration.",
    "splits": "Training and validation loss against test loss of nets trained on twelve data sets.",
}


def page(claims: list[Claim], drawn: dict[str, Figure]) -> str:
    """Write the text of docs/claims.md."""
    lines = [
        "# The claims of the authors' response, put to the test",
        "",
        "Made by `python docs/make_claims.py` in 20 minutes. `gradeval sweep docs/claims/width.toml` makes the nets of",
        "one claim, with tables and figures. Intervals are 95 %. A claim is supported or refuted if its whole",
        "interval lies on one side of the threshold given with it; otherwise it is undecided. Bias, variance and RMSE",
        "are exact for estimators whose only chance is Bernoulli states; for the others they come from 2000 draws.",
        "Nets of one seed have the same data: a seed is one observation (or cluster). The verdicts are not corrected",
        "for their number. “Ours” marks what the response does not say, and what puts a number to words of it.",
        "",
        "| | claim | whose | verdict |",
        "|---|---|---|---|",
        *(
            f"| ({c.letter}) | {c.statement} | {'response' if c.theirs else 'ours'} | **{c.verdict}** |"
            for c in sorted(claims, key=lambda c: c.letter)
        ),
    ]
    for letter in sorted({claim.letter for claim in claims}):
        mine = [claim for claim in claims if claim.letter == letter]
        lines += ["", f"## ({letter})", ""]
        for claim in mine:
            ours = "" if claim.theirs else "(Ours.) "
            lines += [
                f"{ours}{claim.statement} **{claim.verdict.capitalize()}.** {claim.measured} From: {claim.source}.",
                "",
            ]
        for name in dict.fromkeys(claim.figure for claim in mine):
            lines += [f"![{CAPTIONS[name]}](claims/{name}.svg)", "", f"*{CAPTIONS[name]}*"]
    return "\n".join(lines) + "\n"


def main(results: Path) -> None:
    """Measure what is missing, then write the page and its figures."""
    torch.set_num_threads(1)
    results.mkdir(parents=True, exist_ok=True)
    measure(results)
    claims = [claim for make in CLAIMS for claim in make(results)]
    drawn = figures(results)
    for name, figure in drawn.items():
        write_whole(FIGURES / f"{name}.svg", render(figure, "svg"))
    write_whole(HERE / "claims.md", page(claims, drawn).encode())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "claims-results"))
