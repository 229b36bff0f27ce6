"""`gradeval run`: evaluate estimators on a problem and show the ranked table."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from gradeval.errors import GradevalError, Incomplete
from gradeval.program.budget import Budget, MaxSeconds, Yes
from gradeval.program.options import (
    BoundSamples,
    ImageData,
    ImageRoot,
    KLForm,
    RealDecoder,
    RealEncoder,
    check_output,
    free_folder,
    is_given,
    sigterm_as_ctrl_c,
    whole_number,
)
from gradeval.program.report import show_run
from gradeval.program.terminal import say


def run_command(
    context: typer.Context,
    problem: Annotated[
        str,
        typer.Argument(
            help="A registered problem (see `gradeval list`), a problem file, or a network of a training, "
            "FOLDER:ESTIMATOR@EPOCH."
        ),
    ] = "expclass",
    units: Annotated[
        str | None, typer.Option(help="Widths of the binary layers; 5-5-5 if not given (vae: one layer, 200).")
    ] = None,
    stage: Annotated[
        int | None, typer.Option(help="Epochs of training before the evaluation; 100 if not given.")
    ] = None,
    noise: Annotated[str | None, typer.Option(help="Injected noise; logistic if not given.")] = None,
    points: Annotated[
        int | None, typer.Option(help="Number of data points; 200 if not given (vae: 100; other images: all).")
    ] = None,
    data: ImageData = None,
    root: ImageRoot = None,
    encoder: RealEncoder = None,
    decoder: RealDecoder = None,
    kl: KLForm = None,
    samples: BoundSamples = None,
    problem_seed: Annotated[
        int | None, typer.Option(help="Seed of data, weights and training; 0 if not given.")
    ] = None,
    estimators: Annotated[
        str,
        typer.Option(
            help="Comma-separated specs: names with hyper-parameters (concrete:temperature=0.1), your own as "
            "module:name or file.py:name (which runs that code), 'paper' or 'all' (but `exact`)."
        ),
    ] = "paper",
    draws: Annotated[
        int, typer.Option(parser=whole_number, metavar="INTEGER", help="Draws of each estimator: 20000, or 2e4.")
    ] = 20_000,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the results; a new ./gradeval-run-N if not given. The same command again does only what "
            "is missing there; more draws extend it."
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Continue the run in this folder; of the other options, only --draws may be given."),
    ] = None,
    executor: Annotated[str, typer.Option(help="Where draws are made: threads or processes.")] = "threads",
    workers: Annotated[
        int | None,
        typer.Option(help="How many work at once; results do not depend on it. One per core by default."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Address of a Dask scheduler whose workers make the draws (see docs/clusters.md)."),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            help="With processes: seconds for a chunk of 5000 draws, after which its estimator fails as hung."
        ),
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(help="With processes, on Linux: GiB that each may take; its share of what is free if not given."),
    ] = None,
    working_memory: Annotated[
        float,
        typer.Option(
            help="GiB that the statistics and a chunk of draws may take, about: where a covariance of all parameters "
            "would take more, or there are more than 2048, means of blocks of draws stand in its place. A run keeps "
            "what it began with."
        ),
    ] = 1.0,
    exact: Annotated[
        str, typer.Option(help="Exact bias and variance on all joint states: auto (where affordable), always, never.")
    ] = "auto",
    reference: Annotated[
        str,
        typer.Option(
            help="What estimators are compared with: an exact gradient (auto, exact: or refuse), or the mean of many "
            "draws of an unbiased estimator (sampled), whose error is in every figure."
        ),
    ] = "auto",
    reference_error: Annotated[
        float, typer.Option(help="Of a sampled reference: the relative standard error to reach in every layer.")
    ] = 0.01,
    reference_seconds: Annotated[
        float, typer.Option(help="Of a sampled reference: the seconds after which it stops short of that.")
    ] = 600.0,
    detect: Annotated[
        float,
        typer.Option(help="Relative bias of a layer that must have been detectable before a claim of no bias holds."),
    ] = 0.05,
    device: Annotated[str, typer.Option(help="Where to draw: cpu, cuda, …")] = "cpu",
    report: Annotated[
        bool, typer.Option(help="Draw the figures and write report.html; `gradeval report` does so later.")
    ] = True,
    yes: Yes = False,
    max_seconds: MaxSeconds = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
) -> None:
    """Evaluate estimators on a problem against its exact gradient and write a report."""
    arguments = {k: str(v) if isinstance(v, Path) else v for k, v in locals().items() if k in _RUN_ARGUMENTS}
    if reference != "sampled":
        arguments = {key: value for key, value in arguments.items() if not key.startswith("reference")}
    given = {"units": units, "stage": stage, "noise": noise, "points": points, "seed": problem_seed}
    given |= {"data": data, "root": root, "encoder": encoder, "decoder": decoder, "kl": kl, "samples": samples}
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    folder = resume or out or free_folder()
    check_output(folder)

    from gradeval.estimators import specs_of
    from gradeval.evaluation.plan import PLAN_FILE, Plan
    from gradeval.evaluation.run import evaluate
    from gradeval.folder_lock import FolderLock
    from gradeval.problems.catalogue import load_problem
    from gradeval.program.progress import TerminalProgress
    from gradeval.workers.pools import dask_executor

    specs, budget = (
        specs_of(estimators),
        Budget(yes, max_seconds, "fewer --draws, --points or --estimators, or a smaller network"),
    )
    if resume:
        subject, again = _begun(context, resume)
        specs = specs if is_given(context, "estimators") else again["estimators"]
        draws = draws if is_given(context, "draws") else again["draws"]
        seed, exact, device, working_memory = (again[key] for key in ("seed", "exact", "device", "working_memory"))
        reference, reference_error = again["reference"], again["reference_error"]
        arguments = again["arguments"] | {"draws": draws}
    else:
        with TerminalProgress(budget=budget) as progress:
            try:
                subject = load_problem(problem, progress=progress, **options)
            except KeyboardInterrupt:
                raise Incomplete("interrupted while making the problem; nothing was written.", exit_code=130) from None
    if (folder / "plan.json").exists() and (there := Plan.read(folder).draws) > draws:
        say(f"{folder} holds a run of {there:,} draws: this shows the first {draws:,}", sys.stderr)
    failure: Incomplete | None = None
    with ExitStack() as stack:
        stack.enter_context(sigterm_as_ctrl_c())
        where: Any = executor
        if scheduler is not None:
            where, workers = stack.enter_context(dask_executor(scheduler))
        progress = stack.enter_context(TerminalProgress(unit="draw", budget=budget))
        try:
            evaluation = evaluate(
                on_device(subject, device),
                specs,
                draws=draws,
                seed=seed,
                workers=workers,
                exact=exact,
                reference=precision_of(reference, reference_error, reference_seconds),
                detect=detect,
                progress=progress,
                arguments=arguments,
                folder=folder,
                executor=where,
                timeout=timeout,
                memory=None if memory is None else int(memory * 2**30),
                working_memory=int(working_memory * 2**30),
                precision="network",  # what a file or a run was begun with is kept
            )
        except Incomplete as error:
            failure = error
            if (folder / "plan.json").exists():
                say(f"to resume, repeat the command with --out {folder}", sys.stderr)
            if error.evaluation is None:
                raise
            evaluation = error.evaluation
    with FolderLock(folder, PLAN_FILE):
        show_run(evaluation, folder, report, as_json)
    if failure:
        raise failure


_RUN_ARGUMENTS = (
    *("problem", "units", "stage", "noise", "points", "problem_seed", "estimators", "draws", "seed", "workers"),
    *("device", "exact", "detect", "out", "data", "root", "encoder", "decoder", "kl", "samples"),
    *("reference", "reference_error", "reference_seconds"),
)
_WITH_RESUME = {
    *("resume", "draws", "detect", "estimators", "workers", "executor", "scheduler", "timeout"),
    *("memory", "report", "as_json", "yes", "max_seconds"),
}


def _begun(context: typer.Context, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The problem and the settings of a run that was begun in a folder; nothing in it is executed."""
    import torch

    from gradeval.estimators import BUILT_IN
    from gradeval.estimators.specs import names_code
    from gradeval.evaluation.plan import PROBLEM_FILE, Plan, check_problem
    from gradeval.model.problem import Problem

    for name in context.params:
        if name not in _WITH_RESUME and is_given(context, name):
            raise GradevalError(f"--resume continues what is in {folder}: leave out --{name.replace('_', '-')}.")
    if not (folder / "plan.json").exists():
        raise GradevalError(f"{folder} holds no run: it has no plan.json.")
    plan = Plan.read(folder)
    if not plan.problem:
        raise GradevalError(f"{folder} does not hold its problem: repeat the command that began it, with --out.")
    check_problem(folder, plan)
    own = [name for name in plan.estimators if name.partition(":")[0] not in BUILT_IN]
    if own and not is_given(context, "estimators"):
        if unknown := [name for name in own if not names_code(name)]:
            raise GradevalError(
                f"{folder} has estimators that were made in Python ({', '.join(unknown)}), which no command can name: "
                f"repeat the call of gradeval.evaluate there, with folder='{folder}'."
            )
        raise GradevalError(
            f"{folder} has estimators that are code ({', '.join(own)}): if you trust it, add "
            f"--estimators '{','.join(plan.estimators)}'."
        )
    exact = plan.arguments.get("exact", "auto")
    return Problem.load(folder / PROBLEM_FILE, getattr(torch, plan.dtype)), {
        "estimators": list(plan.estimators),
        "draws": plan.draws,
        "seed": plan.seed,
        "exact": exact if isinstance(exact, str) else "auto",
        "reference": "sampled" if plan.reference else "auto",
        "reference_error": target if isinstance(target := plan.arguments.get("reference_error"), float) else 0.01,
        "device": plan.device,
        "working_memory": plan.memory / 2**30,
        "arguments": dict(plan.arguments),
    }


def precision_of(reference: str, error: float, seconds: float) -> Any:
    """What `evaluate` takes for a reference: how precise a sampled one is to be."""
    from gradeval.reference import Precision

    return Precision(error, seconds) if reference == "sampled" else reference


def on_device(problem: Any, device: str) -> Any:
    """The problem on a device. Raises GradevalError where that cannot be used."""
    import torch

    if device == "cpu":
        return problem
    try:
        torch.ones(2, device=device).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise GradevalError(f"device '{device}' cannot be used: {str(error).splitlines()[0]}") from None
    return problem.to(device=device)
