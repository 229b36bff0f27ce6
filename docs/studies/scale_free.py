"""Do the intervals of the measures that no factor changes cover the truth? Replicate runs, as in coverage.py.

python docs/studies/scale_free.py        writes docs/studies/scale-free.md (two minutes on one core)
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import coverage as study  # docs/studies/coverage.py
import numpy as np
import torch
from statsmodels.stats.proportion import proportion_confint

from gradeval.analysis.measures import progress, rescaled_bias, signal_to_noise
from gradeval.analysis.run.estimates import accuracies_of, intervals
from gradeval.analysis.run.scale_free import SCALE_FREE, scale_free_intervals

DRAWS, NETS, LAYERS = 5000, study.NETS[:3], ("1", "all")  # nets without rare states, which make intervals longer


def truth(what: study.Draw) -> dict[str, float]:
    """The measures from the finite distribution."""
    mean, target = what.probabilities @ what.rows, what.exact[what.where]
    expected, norm = target + mean[what.where], what.norm
    variance = what.probabilities @ ((what.rows - mean)[:, what.where] ** 2).sum(1)
    along = float(expected @ target) / norm
    across = float(np.linalg.norm(expected - along * target / norm))
    length = float(np.linalg.norm(expected))
    return {
        "rescaled_bias": float(rescaled_bias(along, across if across > 1e-12 * norm else 0.0)),
        "signal_to_noise": signal_to_noise(length, variance**0.5),
        "progress": progress(along, np.hypot(length, variance**0.5)),
    }


def coverage(what: study.Draw, count: int) -> dict[str, tuple[float, np.ndarray]]:
    """Of every measure the truth, and how often it lies below and above the interval."""
    expected, beside = truth(what), {measure: np.zeros(2, dtype=int) for measure in SCALE_FREE}
    random = np.random.default_rng(len(what.probabilities))
    for moments in study.replicates(what, DRAWS, count, random):
        accuracy = accuracies_of(moments, what.exact, what.rare)[what.layer]
        scale = intervals(moments, what.exact, what.layer, accuracy)["scale"]
        for measure, found in scale_free_intervals(moments, what.exact, what.layer, accuracy, scale).items():
            slack = 1e-9 * max(abs(expected[measure]), 1e-3)  # rounding of what does not vary
            beside[measure] += (expected[measure] < found.low - slack, expected[measure] > found.high + slack)
    return {measure: (expected[measure], beside[measure]) for measure in SCALE_FREE}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    count, rows, near = arguments.replicates, [], 0
    for net, name, layer in itertools.product(NETS, study.ESTIMATORS, LAYERS):
        for measure, (value, beside) in coverage(study.draw(net.problem(), name, layer), count).items():
            covered = count - int(beside.sum())
            low, high = proportion_confint(covered, count, method="beta")
            near += low <= 0.96 and high >= 0.94
            rows.append(
                f"| {net.name} | {name} | {layer} | {measure} | {value:.4g} | {covered / count:.1%} "
                f"[{low:.1%}, {high:.1%}] | {beside[0] / count:.1%}, {beside[1] / count:.1%} |"
            )
    page = [
        "# Coverage of the measures that no factor changes\n",
        f"Written by `python docs/studies/scale_free.py --replicates {count}`: so many replicate runs of {DRAWS:,}",
        "draws in each setting, as in [the study of the other intervals](coverage.md). The truth is a sum over all",
        f"joint states. Of {len(rows)} settings, {near} cover 94–96 % to their binomial error (in brackets, 95 %). A",
        "rescaled bias of exactly zero can be missed on one side only.\n",
        "| net | estimator | layer | measure | truth | covers | truth below, above |",
        "|---|---|---|---|---:|---|---|",
        *rows,
        "",
    ]
    (arguments.out / "scale-free.md").write_text("\n".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()
