"""Bias, variance and cosine of estimators at 200 binary units, exactly referenced, along training: docs/real-size.md.

python docs/make_real_size.py                    some 20 minutes on two cores

A linear binary VAE of binarised digits (2^200 joint states) is trained with its exact gradient; at some epochs every
estimator is compared with that gradient.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.lines import Line2D

from gradeval import Problem, evaluate, exact_gradient, load_problem
from gradeval.analysis.legends import add_legend
from gradeval.analysis.plotting import paper_style, render, styles
from gradeval.model.randomness import generator
from gradeval.problems.tasks import with_parameters

DOCS = Path(__file__).parent
EPOCHS, BATCH, RATE = (0, 1, 10, 100), 20, 0.01
BIASED = ["st", "reinmax", "psa", "identity-st", "tanh"]
BIASED += [f"{name}:temperature=0.5" for name in ("st-gumbel", "gumbel-rao", "concrete")]
UNBIASED = ["reinforce", "rloo:samples=4", "disarm", "ram"]
COLUMNS = {"relative_bias": "bias", "relative_variance": "variance", "cosine": "cosine"}


def trained(problem: Problem) -> dict[int, Problem]:
    """The problem at each epoch: Adam on exact gradients of batches, in an order that follows from a seed."""
    theta = torch.nn.utils.parameters_to_vector(problem.network.trainable().values()).detach().clone()
    theta.requires_grad_()
    adam, order = torch.optim.Adam([theta], lr=RATE), generator("cpu", "real size")
    found = {}
    for epoch in range(max(EPOCHS) + 1):
        if epoch in EPOCHS:
            found[epoch] = with_parameters(problem, theta.detach().clone())
        for some in torch.randperm(problem.points, generator=order).split(BATCH):
            now = with_parameters(problem, theta.detach().clone())
            batch = replace(now, inputs=now.inputs[some], targets=now.targets[some])
            theta.grad = exact_gradient(batch, "transform").vector
            adam.step()
    return found


def table(summary: pd.DataFrame, epoch: int, value: float, layer: str = "1") -> list[str]:
    """One epoch as a table of the encoder's gradient."""
    lines = [
        f"## After {epoch} epoch{'s' * (epoch != 1)}: J = {value:.2f} nats",
        "",
        "| estimator | bias | 95 % | variance | cosine of a draw | claim of no bias |",
        "|---|---:|---|---:|---:|---|",
    ]
    for _, row in summary[summary["layer"] == layer].iterrows():
        lines.append(
            f"| `{row['estimator']}` | {row['relative_bias']:.3f} | "
            f"[{row['relative_bias_low']:.3f}, {row['relative_bias_high']:.3f}] | {row['relative_variance']:.3g} | "
            f"{row['cosine']:.3f} | {row['verdict']} |"
        )
    return [*lines, ""]


def draw(found: pd.DataFrame) -> None:
    """Bias, variance and cosine of the encoder's gradient along training."""
    rows = found[found["layer"] == "1"]
    names = list(dict.fromkeys(rows["estimator"]))
    looks = styles(names)
    with paper_style():
        figure, panels = plt.subplots(1, 3, figsize=(7.2, 3.4), layout="constrained")
        for axes, (column, label) in zip(panels, COLUMNS.items(), strict=True):
            for name, mine in rows.groupby("estimator", sort=False):
                if column == "relative_bias" and name in UNBIASED:
                    continue  # what is seen of it is noise
                look = looks[name]
                axes.plot(range(len(mine)), mine[column], color=look.colour, marker=look.marker, markersize=4)
            axes.set_xticks(range(len(EPOCHS)), [str(epoch) for epoch in EPOCHS])
            axes.set_xlabel("epoch")
            axes.set_ylabel(f"{label} of the encoder's gradient")
        panels[0].set_yscale("symlog", linthresh=0.1)
        panels[0].set_ylim(0, 1.3 * float(rows["relative_bias"].max()))
        panels[0].set_yticks([0, 0.05, 0.1, 0.3, 1, 3], ["0", "0.05", "0.1", "0.3", "1", "3"])
        panels[0].minorticks_off()
        panels[1].set_yscale("log")
        add_legend(figure, {n: Line2D([], [], color=looks[n].colour, marker=looks[n].marker) for n in names})
        (DOCS / "real-size.svg").write_bytes(render(figure, "svg"))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--units", type=int, default=200)
    options = parser.parse_args()
    began, problem = time.monotonic(), load_problem("vae", units=options.units, kl="analytic")
    page, found, bounds = list[str](), list[pd.DataFrame](), list[float]()
    for epoch, now in trained(problem).items():
        exact = exact_gradient(now, "transform")
        bounds.append(max(exact.error[layer] / float(part.norm()) for layer, part in exact.by_layer().items()))
        evaluation = evaluate(now, [*BIASED, *UNBIASED], draws=options.draws, exact="never")
        found.append(evaluation.summary.assign(epoch=epoch))
        page += table(evaluation.summary, epoch, exact.value)
        print(*page[-20:], sep="\n", flush=True)
    rows = pd.concat(found)
    rows.to_csv(DOCS / "real-size.csv", index=False)
    draw(rows)
    head = [
        "# Estimators at 200 binary units",
        "",
        f"`python docs/make_real_size.py --draws {options.draws}`, {(time.monotonic() - began) / 60:.0f} minutes. "
        "A binary variational autoencoder of 100 binarised 8×8 digits: linear encoder, "
        f"{options.units} Bernoulli units, linear decoder, learned prior, analytic KL; 2^{options.units} joint states. "
        f"The exact gradient is had by transform, with a proven error of at most {max(bounds):.0e} of its norm in "
        f"every layer. The network is trained with it (Adam, rate {RATE}, batches of {BATCH}), so no estimator is "
        "favoured by where it leads to.",
        "",
        f"Of the encoder's gradient, relative to the norm of the exact one; {options.draws} draws of the gradient of "
        "all 100 points. The 95 % interval of a bias reaches as far as states that were not drawn could take it: "
        "the estimator itself is run on such states. All layers are in real-size.csv.",
        "",
        "![bias, variance and cosine along training](real-size.svg)",
        "",
    ]
    (DOCS / "real-size.md").write_text("\n".join([*head, *page]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
