"""`gradeval train`: train with each estimator under one protocol."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradeval.errors import Incomplete
from gradeval.program.budget import Budget, MaxSeconds, Yes
from gradeval.program.options import (
    BoundSamples,
    ImageData,
    ImageRoot,
    KLForm,
    RealDecoder,
    RealEncoder,
    free_folder,
    numbers_of,
    sigterm_as_ctrl_c,
)
from gradeval.program.tables import Cell, show_table
from gradeval.program.terminal import safe, say

if TYPE_CHECKING:
    from gradeval.analysis.training import Training


def train_command(
    problem: Annotated[
        str, typer.Argument(help="A registered problem (see `gradeval list`) or a problem file.")
    ] = "expclass",
    estimators: Annotated[
        str, typer.Option(help="Comma-separated specs, as for `gradeval run`; 'paper' or 'all' (but `exact`).")
    ] = "paper",
    units: Annotated[str | None, typer.Option(help="Binary layers: widths 5-5-5, convolutions 16c-32c-64.")] = None,
    noise: Annotated[str | None, typer.Option(help="Injected noise; logistic if not given.")] = None,
    points: Annotated[int | None, typer.Option(help="Number of training points.")] = None,
    data: ImageData = None,
    root: ImageRoot = None,
    encoder: RealEncoder = None,
    decoder: RealDecoder = None,
    kl: KLForm = None,
    samples: BoundSamples = None,
    problem_seed: Annotated[int | None, typer.Option(help="Seed of the data and their split; 0 if not given.")] = None,
    optimiser: Annotated[
        str | None,
        typer.Option(help="sgd or nesterov (momentum 0.9), adam, amsgrad, rprop; the problem's own if not given."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of every run; the problem's own if not given.")] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each estimator.")] = 5,
    batch: Annotated[int | None, typer.Option(help="Points in a step; the problem's own if not given.")] = None,
    rates: Annotated[
        str | None, typer.Option(help="Learning rates to try first: 0.01,0.03. A single one is used without a search.")
    ] = None,
    tuning_epochs: Annotated[
        int | None, typer.Option(help="Epochs for which a rate is tried; a fifth of --epochs if not given.")
    ] = None,
    gradient_epochs: Annotated[
        str | None,
        typer.Option(help="Epochs at which gradients are compared with the exact one: 1,100,2000; '' for none."),
    ] = None,
    ensemble: Annotated[int, typer.Option(help="Draws of the network's states averaged for a prediction.")] = 10,
    quick: Annotated[bool, typer.Option("--quick", help="A short look: 3 seeds, few epochs, three rates.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the results; a training that was stopped there is resumed. A new ./gradeval-train-N if "
            "not given."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; results do not depend on it. One per core if not given.")
    ] = None,
    yes: Yes = False,
    max_seconds: MaxSeconds = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
) -> None:
    """Train with each estimator under one protocol and write a report; a stopped training is resumed."""
    arguments = {
        k: str(v) if isinstance(v, Path) else v
        for k, v in locals().items()
        if k not in ("yes", "max_seconds", "as_json")
    }
    folder = out or free_folder("gradeval-train")
    from gradeval.estimators import specs_of

    specs = specs_of(estimators)

    from gradeval.problems.catalogue import PROBLEMS, load_task
    from gradeval.program.progress import Lines, TerminalProgress
    from gradeval.training.protocol import Protocol
    from gradeval.training.trainer import train

    given = {"units": units, "noise": noise, "points": points, "data": data, "root": root, "seed": problem_seed}
    given |= {"encoder": encoder, "decoder": decoder, "kl": kl, "samples": samples}
    task = load_task(problem, **{key: value for key, value in given.items() if value is not None})
    facts = PROBLEMS.get(problem)
    settings: dict[str, Any] = {
        "optimiser": optimiser or (facts.optimiser if facts else "sgd"),
        "epochs": (facts.epochs if facts else 2000) if epochs is None else epochs,
        "batch": (facts.batch if facts else 10) if batch is None else batch,
        "seeds": seeds,
        "ensemble": ensemble,
        "tuning_epochs": tuning_epochs,
        "rates": numbers_of("rates", rates, float) if rates else (),
    }
    if gradient_epochs is not None:
        settings["gradient_epochs"] = numbers_of("gradient-epochs", gradient_epochs, int)
    if quick:
        few = {"epochs": 20, "seeds": 3, "tuning_epochs": 5, "checks": 10, "tuning_seeds": 1, "gradient_draws": 200}
        settings |= few | {"rates": settings["rates"] or (0.01, 0.03, 0.1), "gradient_epochs": (0, 20)}
    failure: Incomplete | None = None
    budget = Budget(yes, max_seconds, "fewer --epochs, --seeds or --estimators")
    with sigterm_as_ctrl_c(), TerminalProgress(lines=Lines.AT_START, budget=budget) as progress:
        try:
            train(
                task,
                specs,
                Protocol(**settings),
                folder=folder,
                workers=workers or max(1, min(len(specs), os.cpu_count() or 1)),
                progress=progress,
                arguments=arguments,
            )
        except Incomplete as error:
            failure = Incomplete(
                f"{error} Repeat the command with --out {folder} to resume.", exit_code=error.exit_code
            )
            if error.exit_code == 130 or not _has_tables(folder):
                raise failure from None
    with sigterm_as_ctrl_c():
        report_training(folder, as_json)
    if failure:
        raise failure


def _has_tables(folder: Path) -> bool:
    from gradeval.analysis.training_manifest import read_training_manifest

    return bool(read_training_manifest(folder).get("estimators"))


def report_training(folder: Path, as_json: bool = False) -> None:
    """Make figures and report of a saved training, without training, and show them."""
    from gradeval.analysis.training import Training
    from gradeval.analysis.training_manifest import TRAINING_FILE
    from gradeval.analysis.training_report import build_training_report
    from gradeval.folder_lock import FolderLock

    try:
        with FolderLock(folder, TRAINING_FILE):
            training = Training.load(folder)
            training.save(folder)
            report_path = build_training_report(training, folder)
    except KeyboardInterrupt:
        message = f"interrupted; the tables are kept in {folder}. `gradeval report {folder}` makes the report."
        raise Incomplete(message, exit_code=130) from None
    if as_json:
        rows = json.loads(training.summary.to_json(orient="records"))
        pairs = json.loads(training.pairs.to_json(orient="records"))
        failures = training.manifest["failures"]
        print(json.dumps({"report": str(report_path.resolve()), "failures": failures, "summary": rows, "pairs": pairs}))
        return

    show_training(training)
    say(f"report: {report_path.resolve()}")


def show_training(training: Training) -> None:
    """Objective and test scores (of ensembles) of the trained networks, means over seeds with 95 % intervals."""
    from rich.console import Console

    from gradeval.analysis.training_report import training_answer

    summary = training.summary
    headings = ("rate", "training objective", "test loss", "test accuracy")
    columns: dict[str, Cell] = {"estimator": Cell.NAME} | dict.fromkeys(headings, Cell.NUMBER)

    def cell(name: str, split: str, predictor: str, key: str, digits: int) -> str:
        mine = (summary["estimator"] == name) & (summary["split"] == split) & (summary["predictor"] == predictor)
        rows = summary[mine].dropna(subset=key)
        if rows.empty:
            return "–"
        value, low, high = (float(rows[f"{key}{end}"].iloc[0]) for end in ("", "_low", "_high"))
        return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    final = summary[(summary["split"] == "train") & (summary["predictor"] == "expected")].sort_values("loss")
    rows = [
        (
            row.estimator,
            f"{row.rate:.2g}",
            cell(row.estimator, "train", "expected", "loss", 4),
            cell(row.estimator, "test", "ensemble", "loss", 4),
            cell(row.estimator, "test", "ensemble", "accuracy", 3),
        )
        for row in final.itertuples()
    ]
    show_table("Means over seeds [95 % intervals]; on test data, of predictions averaged over draws", columns, rows)
    for sentence in training_answer(training)[:1]:
        Console().print(safe(sentence), highlight=False)


def show_training_status(found: dict[str, Any]) -> None:
    """What `training_status` found in the folder of a training."""
    parts = {"search": "search for the rate", "runs": "training", "gradients": "gradients", "done": "done"}
    title = f"{found['folder']}, training on {found['problem']}, {found['bytes'] / 1e6:.1f} MB"
    columns: dict[str, Cell] = {"estimator": Cell.NAME, "part": Cell.WORD, "epochs": Cell.NUMBER, "rate": Cell.NUMBER}
    rows = [
        (
            row["estimator"],
            parts[row["phase"]],
            f"{row['epoch']:,}/{row['epochs']:,}",
            "" if row["rate"] is None else f"{row['rate']:.2g}",
            row["damaged"] or row["failure"] or "",
        )
        for row in found["estimators"]
    ]
    show_table(title, columns | {"failure, or damaged checkpoint": Cell.PROSE}, rows)
    at_work = f"in use by {found['holder']}" if found["holder"] else "nobody is at work on it"
    say(f"{'complete' if found['complete'] else 'not complete'}; {at_work}")
