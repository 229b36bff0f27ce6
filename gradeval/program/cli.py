"""The program. Libraries are imported by the command that needs them, so that help answers at once."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradeval.errors import GradevalError, Incomplete

if TYPE_CHECKING:
    from gradeval.analysis.run.tables import Evaluation

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> bool:
    if wanted:
        from importlib.metadata import version

        print(version("gradeval"))
        raise typer.Exit
    return wanted


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """How accurate are gradient estimators for stochastic binary networks, against the exact gradient?"""


@app.command()
def run(
    context: typer.Context,
    problem: Annotated[
        str, typer.Argument(help="A registered problem (see `gradeval list`) or a problem file.")
    ] = "expclass",
    units: Annotated[str | None, typer.Option(help="Widths of the binary layers; 5-5-5 if not given.")] = None,
    stage: Annotated[
        int | None, typer.Option(help="Epochs of training before the evaluation; 100 if not given.")
    ] = None,
    noise: Annotated[str | None, typer.Option(help="Injected noise; logistic if not given.")] = None,
    points: Annotated[int | None, typer.Option(help="Number of data points; 200 if not given.")] = None,
    problem_seed: Annotated[
        int | None, typer.Option(help="Seed of data, weights and training; 0 if not given.")
    ] = None,
    estimators: Annotated[
        str,
        typer.Option(
            help="Comma-separated specs: names with hyper-parameters (concrete:temperature=0.1), your own as "
            "module:name or file.py:name (which runs that code), 'paper' or 'all'."
        ),
    ] = "paper",
    draws: Annotated[int, typer.Option(help="Draws of each estimator.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the results; a new ./gradeval-run-N if not given. The same command again does only what "
            "is missing there; more draws extend it."
        ),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder; of the rest, only --draws may be given.")
    ] = None,
    executor: Annotated[str, typer.Option(help="Where draws are made: threads or processes.")] = "threads",
    workers: Annotated[
        int | None,
        typer.Option(help="How many work at once; results do not depend on it. One per core if not given."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Address of a Dask scheduler whose workers make the draws (see docs/clusters.md)."),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(help="With processes: seconds without a finished chunk until they are replaced as hung."),
    ] = None,
    exact: Annotated[
        str, typer.Option(help="Exact bias and variance on all joint states: auto (where affordable), always, never.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="Where to draw: cpu, cuda, …")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
) -> None:
    """Evaluate estimators on a problem against its exact gradient and write a report."""
    from gradeval.program.terminal import TerminalProgress, training_progress

    arguments = {k: str(v) if isinstance(v, Path) else v for k, v in locals().items() if k in _RUN_ARGUMENTS}
    given = {"units": units, "stage": stage, "noise": noise, "points": points, "seed": problem_seed}
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    folder = resume or out or _free_folder()
    _check_output(folder)

    from gradeval.evaluation.run import evaluate
    from gradeval.evaluation.store import Plan
    from gradeval.problems.catalogue import load_problem
    from gradeval.workers.executors import dask_executor

    specs = _specs(estimators)
    if resume:
        subject, again = _begun(context, resume)
        specs = specs if _is_given(context, "estimators") else again["estimators"]
        draws = draws if _is_given(context, "draws") else again["draws"]
        seed, exact, device = again["seed"], again["exact"], again["device"]
        arguments = again["arguments"] | {"draws": draws}
    else:
        with training_progress() as on_epoch:
            if problem == "expclass":
                options["progress"] = on_epoch
            try:
                subject = load_problem(problem, **options)
            except KeyboardInterrupt:
                raise Incomplete("interrupted while making the problem; nothing was written.", exit_code=130) from None
    if (folder / "plan.json").exists() and (there := Plan.read(folder).draws) > draws:
        print(f"{folder} holds a run of {there:,} draws: this shows the first {draws:,}", file=sys.stderr)
    failure: Incomplete | None = None
    with ExitStack() as stack:
        stack.enter_context(_sigterm_as_ctrl_c())
        where: Any = executor
        if scheduler is not None:
            where, workers = stack.enter_context(dask_executor(scheduler))
        progress = stack.enter_context(TerminalProgress())
        try:
            evaluation = evaluate(
                _on_device(subject, device),
                specs,
                draws=draws,
                seed=seed,
                workers=workers,
                exact=exact,
                progress=progress,
                arguments=arguments,
                folder=folder,
                executor=where,
                timeout=timeout,
            )
        except Incomplete as error:
            failure = error
            if (folder / "plan.json").exists():
                print(f"to go on: the same command with --out {folder}", file=sys.stderr)
            if error.evaluation is None:
                raise
            evaluation = error.evaluation
    report_path = _build(evaluation, folder)
    _show(evaluation, report_path, as_json)
    if failure:
        raise failure


@app.command("train")
def train_(
    problem: Annotated[
        str, typer.Argument(help="A registered problem (see `gradeval list`) or a problem file.")
    ] = "expclass",
    estimators: Annotated[
        str, typer.Option(help="Comma-separated specs, as of `gradeval run`; 'paper' or 'all'.")
    ] = "paper",
    units: Annotated[str | None, typer.Option(help="Binary layers: widths 5-5-5, convolutions 16c-32c-64.")] = None,
    noise: Annotated[str | None, typer.Option(help="Injected noise; logistic if not given.")] = None,
    points: Annotated[int | None, typer.Option(help="Number of training points.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Images: digits, mnist, cifar10, … or a folder with one folder a class.")
    ] = None,
    root: Annotated[str | None, typer.Option(help="Where torchvision's data sets lie; nothing is downloaded.")] = None,
    problem_seed: Annotated[int | None, typer.Option(help="Seed of the data and their split; 0 if not given.")] = None,
    optimiser: Annotated[
        str | None, typer.Option(help="sgd (momentum 0.9) or adam; the problem's own if not given.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of every run; the problem's own if not given.")] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each estimator.")] = 5,
    batch: Annotated[int | None, typer.Option(help="Points of a step; the problem's own if not given.")] = None,
    rates: Annotated[
        str | None, typer.Option(help="Learning rates tried first, 0.01,0.03; one is taken without a search.")
    ] = None,
    tuning_epochs: Annotated[
        int | None, typer.Option(help="Epochs of a trial of a rate; a fifth of the epochs if not given.")
    ] = None,
    gradient_epochs: Annotated[
        str | None, typer.Option(help="When gradients are compared with the exact one: 1,100,2000; '' for never.")
    ] = None,
    ensemble: Annotated[int, typer.Option(help="Draws of the network averaged for a prediction.")] = 10,
    quick: Annotated[bool, typer.Option("--quick", help="A short look: 3 seeds, few epochs, three rates.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder; a training that was stopped there goes on. A new ./gradeval-train-N if not given."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; results do not depend on it. One per core if not given.")
    ] = None,
) -> None:
    """Train with each estimator under one protocol and write a report; a stopped training goes on where it was."""
    arguments = {k: str(v) if isinstance(v, Path) else v for k, v in locals().items()}
    folder = out or _free_folder("gradeval-train")
    specs = _specs(estimators)

    from gradeval.problems.catalogue import PROBLEMS, load_task
    from gradeval.program.terminal import show_training, training_table_progress
    from gradeval.training.trainer import Protocol, train

    given = {"units": units, "noise": noise, "points": points, "data": data, "root": root, "seed": problem_seed}
    task = load_task(problem, **{key: value for key, value in given.items() if value is not None})
    facts = PROBLEMS.get(problem)
    settings: dict[str, Any] = {
        "optimiser": optimiser or (facts.optimiser if facts else "sgd"),
        "epochs": epochs or (facts.epochs if facts else 2000),
        "batch": batch or (facts.batch if facts else 10),
        "seeds": seeds,
        "ensemble": ensemble,
        "tuning_epochs": tuning_epochs,
        "rates": _numbers("rates", rates, float) if rates else (),
    }
    if gradient_epochs is not None:
        settings["gradient_epochs"] = _numbers("gradient-epochs", gradient_epochs, int)
    if quick:
        few = {"epochs": 20, "seeds": 3, "tuning_epochs": 5, "checks": 10, "tuning_seeds": 1, "gradient_draws": 200}
        settings |= few | {"rates": settings["rates"] or (0.01, 0.03, 0.1), "gradient_epochs": (0, 20)}
    with training_table_progress() as progress:
        training = train(
            task,
            specs,
            Protocol(**settings),
            folder=folder,
            workers=workers or max(1, min(len(specs), os.cpu_count() or 1)),
            progress=progress,
            arguments=arguments,
        )
    from gradeval.analysis.training import build

    report_path = build(training, folder)
    show_training(training)
    print(f"report: {report_path.resolve()}")


@app.command()
def sweep(
    file: Annotated[
        Path, typer.Argument(help="A TOML file: [problem] with options, lists of which are crossed; [evaluate].")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder; what is done there is kept. The file's name without .toml if not given."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; results do not depend on it. One per core if not given.")
    ] = None,
) -> None:
    """Evaluate estimators on many networks; one table, regressions on width and depth, figures."""
    from gradeval.analysis.sweep import build
    from gradeval.program.terminal import show_regressions, training_table_progress
    from gradeval.studies.sweeps import run_sweep

    folder = out or Path(file.stem)
    with training_table_progress() as progress:
        found = run_sweep(file, folder, workers=workers or os.cpu_count() or 1, progress=progress)
    build(found, folder)
    show_regressions(found)
    print(f"tables: {(folder / 'sweep.csv').resolve()}")


def _numbers(name: str, text: str, kind: Any) -> tuple[Any, ...]:
    try:
        return tuple(kind(piece) for piece in text.split(",") if piece.strip())
    except ValueError:
        raise GradevalError(f"--{name} must be numbers joined by commas, found '{text}'.") from None


_RUN_ARGUMENTS = (
    *("problem", "units", "stage", "noise", "points", "problem_seed", "estimators", "draws", "seed", "workers"),
    *("device", "exact", "out"),
)
_WITH_RESUME = {"resume", "draws", "estimators", "workers", "executor", "scheduler", "timeout", "as_json"}


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """What has finished is kept after either."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _begun(context: typer.Context, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The problem and the settings of a run that was begun in a folder; nothing in it is executed."""
    import torch

    from gradeval.estimators import TABLE
    from gradeval.evaluation.store import Plan
    from gradeval.model.problem import Problem

    for name in context.params:
        if name not in _WITH_RESUME and _is_given(context, name):
            raise GradevalError(f"--resume goes on with what is in {folder}: leave out --{name.replace('_', '-')}.")
    if not (folder / "plan.json").exists():
        raise GradevalError(f"{folder} is not a run that was begun: it has no plan.json.")
    plan = Plan.read(folder)
    if not (folder / "problem.json").exists():
        raise GradevalError(f"{folder} does not hold its problem: repeat the command that began it, with --out.")
    own = [name for name in plan.estimators if name.partition(":")[0] not in TABLE]
    if own and not _is_given(context, "estimators"):
        raise GradevalError(
            f"{folder} has estimators of somebody's own ({', '.join(own)}), which are code: if you trust them, add "
            f"--estimators '{','.join(plan.estimators)}'."
        )
    exact = plan.arguments.get("exact", "auto")
    return Problem.load(folder / "problem.json", getattr(torch, plan.dtype)), {
        "estimators": list(plan.estimators),
        "draws": plan.draws,
        "seed": plan.seed,
        "exact": exact if isinstance(exact, str) else "auto",
        "device": plan.device,
        "arguments": dict(plan.arguments),
    }


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(help="The folder of a run, finished or not.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """What a run's folder holds: finished and damaged chunks, failures, and who is at work on it."""
    from gradeval.evaluation.store import status as status_of

    found = status_of(folder)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    from gradeval.program.terminal import show_status

    show_status(found)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a saved run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
) -> None:
    """Make tables, figures and report.html of a saved run anew, without sampling."""
    from gradeval.analysis.run.tables import Evaluation

    evaluation = Evaluation.load(folder)
    evaluation.rewrite(folder)
    _show(evaluation, _build(evaluation, folder), as_json)


@app.command()
def compare(
    old: Annotated[Path, typer.Argument(help="The folder of a run, or a baseline file.")],
    new: Annotated[Path, typer.Argument(help="The same, of the run to be judged.")],
    alpha: Annotated[float, typer.Option(help="Probability, at most, of any finding where nothing changed.")] = 0.001,
    tolerance: Annotated[
        float, typer.Option(help="Too small to matter: share of the exact gradient's norm, cosine, share of variance.")
    ] = 0.02,
    cost_factor: Annotated[float, typer.Option(help="By which the time may grow; inf compares no times.")] = 2.0,
    reference: Annotated[
        str | None, typer.Option(help="Estimator whose time is the unit; st, or the fastest, if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON on standard output.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a CI's summary.")] = False,
    junit: Annotated[Path | None, typer.Option(help="Also write JUnit XML to this file.")] = None,
) -> None:
    """What changed between two runs in bias, variance, cosine and cost; exit 1 on a regression."""
    if as_json and as_markdown:
        raise GradevalError("--json and --markdown exclude each other.")
    from gradeval.analysis.comparison.compare import Baseline
    from gradeval.analysis.comparison.compare import compare as compare_baselines

    comparison = compare_baselines(
        Baseline.read(old),
        Baseline.read(new),
        alpha=alpha,
        tolerance=tolerance,
        cost_factor=cost_factor,
        reference=reference,
    )
    if junit:
        try:
            junit.write_text(comparison.to_junit(), encoding="utf-8")
        except OSError as error:
            raise GradevalError(f"cannot write {junit}: {error.strerror}.") from None
    if as_json or as_markdown:
        print(comparison.to_json() if as_json else comparison.to_markdown(), end="\n" if as_json else "")
    else:
        from gradeval.program.terminal import show_comparison

        show_comparison(comparison)
    if len(comparison.regressions):
        raise typer.Exit(1)


@app.command()
def baseline(
    folder: Annotated[Path, typer.Argument(help="The folder of a saved run.")],
    out: Annotated[Path, typer.Option(help="The file; an older baseline there is replaced.")] = Path(
        "gradeval-baseline.json"
    ),
) -> None:
    """Write the few kilobytes of a run that `gradeval compare` needs, to be committed."""
    from gradeval.analysis.comparison.compare import Baseline

    path = Baseline.read(folder).save(out)
    print(f"{path}: {path.stat().st_size / 1000:.1f} kB")


@app.command()
def check(
    estimator: Annotated[
        str, typer.Argument(help="module:name or file.py:name (which runs that code), or the spec of a built-in one.")
    ],
    unbiased: Annotated[
        bool | None, typer.Option(help="Check that it is unbiased; by default where it claims to be.")
    ] = None,
    max_relative_bias: Annotated[float | None, typer.Option(help="Bound for the relative bias of a layer.")] = None,
    min_cosine: Annotated[float | None, typer.Option(help="Bound for the cosine of a layer's mean gradient.")] = None,
    max_relative_variance: Annotated[
        float | None, typer.Option(help="Bound for the relative variance of a layer's gradient, one draw.")
    ] = None,
    alpha: Annotated[float, typer.Option(help="False-alarm rate of all tests and looks together.")] = 1e-6,
    detect: Annotated[float, typer.Option(help="Relative bias of a layer that is found with probability 0.99.")] = 0.01,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    max_draws: Annotated[int | None, typer.Option(help="Most draws on one problem; 8,388,608 if not given.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Threads; results do not depend on it. One per core if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON on standard output.")] = False,
) -> None:
    """Check an estimator against exact gradients: exit 0 holds, 1 fails, 2 unusable input, 3 undecided."""
    from gradeval.program.terminal import check_progress, show_verdict

    with check_progress() as progress:
        from gradeval.checking.procedure import MAX_DRAWS
        from gradeval.checking.procedure import check as run_check

        verdict = run_check(
            estimator,
            unbiased=unbiased,
            max_relative_bias=max_relative_bias,
            min_cosine=min_cosine,
            max_relative_variance=max_relative_variance,
            alpha=alpha,
            detect=detect,
            seed=seed,
            max_draws=MAX_DRAWS if max_draws is None else max_draws,
            workers=workers,
            progress=progress,
        )
    if as_json:
        print(json.dumps(verdict.as_dict()))
    else:
        show_verdict(verdict)
    raise typer.Exit(verdict.exit_code)


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """Problems and estimators, with their facts and sources."""
    from gradeval.estimators import TABLE
    from gradeval.problems.catalogue import PROBLEMS

    if as_json:
        facts = {
            "problems": [asdict(row) for row in PROBLEMS.values()],
            "estimators": [asdict(row) for row in TABLE.values()],
        }
        print(json.dumps(facts, indent=1))
        return
    from gradeval.program.terminal import show_lists

    show_lists(PROBLEMS.values(), TABLE.values())


@app.command()
def cost(
    problem: Annotated[
        str, typer.Argument(help="A registered problem (see `gradeval list`) or a problem file.")
    ] = "expclass",
    estimators: Annotated[str, typer.Option(help="Comma-separated specs, 'paper' or 'all'.")] = "all",
    growing: Annotated[
        str, typer.Option(help="Specs whose growth with depth and width is measured; empty for none.")
    ] = "st,psa,leg,arm,ram",
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for tables and figure; none if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON on standard output.")] = False,
) -> None:
    """What one draw costs: evaluations, FLOPs, time and memory beside back-propagation, and how they grow."""
    if out:
        _check_output(out)
    specs, growing_specs = _specs(estimators), _specs(growing)

    from gradeval.analysis.cost import fit_exponents, save_scaling
    from gradeval.problems.catalogue import load_problem
    from gradeval.studies.costs import cost_table, scaling_table

    def progress(what: str) -> None:
        print(what, file=sys.stderr)

    tables = {"cost": cost_table(load_problem(problem), specs, seed=seed, progress=progress)}
    if growing_specs:
        tables["scaling"] = scaling_table(growing_specs, seed=seed, progress=progress)
        tables["exponents"] = fit_exponents(tables["scaling"])
    if out:
        out.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            table.to_csv(out / f"{name}.csv", index=False)
        if growing_specs:
            save_scaling(tables["scaling"], tables["exponents"], out)
    if as_json:
        print(json.dumps({name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}))
        return
    from gradeval.program.terminal import show_cost

    show_cost(tables["cost"], tables.get("exponents"))
    if out:
        print(f"tables and figure: {out.resolve()}")


@app.command()
def cache(clear: Annotated[bool, typer.Option("--clear", help="Remove the cached networks.")] = False) -> None:
    """Print the folder of cached trained networks ($GRADEVAL_CACHE sets it)."""
    from gradeval.cache import cache_folder, clear_cache

    print(cache_folder())
    if clear:
        print(f"removed {clear_cache()} files")


def _specs(text: str) -> list[str]:
    from gradeval.estimators import PAPER, TABLE, split_specs

    named = {"paper": list(PAPER), "all": list(TABLE)}
    specs = [spec for piece in split_specs(text) for spec in named.get(piece, [piece])]
    return list(dict.fromkeys(specs))


def _check_output(folder: Path) -> None:
    """Refuse a folder that results could not be written to, before they are computed."""
    from gradeval.evaluation.store import check_folder

    try:
        check_folder(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        within = folder if folder.exists() else folder.parent
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=within):
            pass
    except OSError as error:
        raise GradevalError(f"cannot write {folder}: {error.strerror}.") from None


def _free_folder(name: str = "gradeval-run") -> Path:
    number = 1
    while (folder := Path(f"{name}-{number}")).exists():
        number += 1
    return folder


def _on_device(problem: Any, device: str) -> Any:
    import torch

    if device == "cpu":
        return problem
    try:
        torch.ones(2, device=device).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise GradevalError(f"device '{device}' cannot be used: {str(error).splitlines()[0]}") from None
    return problem.to(device=device)


def _build(evaluation: Evaluation, folder: Path) -> Path:
    from gradeval.analysis.run.report import build

    return build(evaluation, folder)


def _show(evaluation: Evaluation, report_path: Path, as_json: bool) -> None:
    if as_json:
        rows = json.loads(evaluation.summary.to_json(orient="records"))
        failures = evaluation.manifest["failures"]
        print(json.dumps({"report": str(report_path.resolve()), "failures": failures, "summary": rows}))
        return
    from gradeval.program.terminal import show_summary

    show_summary(evaluation)
    print(f"report: {report_path.resolve()}")


def main() -> None:
    """Run the program: exit 0 done, 1 incomplete results or a regression, 2 unusable input, 130 interrupted."""
    began = time.perf_counter()
    try:
        app(standalone_mode=True)
    except GradevalError as error:
        print(f"gradeval: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 2))
    except KeyboardInterrupt:
        print(f"gradeval: interrupted after {time.perf_counter() - began:.0f} s; nothing was written.", file=sys.stderr)
        sys.exit(130)
