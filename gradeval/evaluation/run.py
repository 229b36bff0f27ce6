"""REPORT: draw gradients with each estimator and stream their statistics against the exact gradient."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import pandas as pd
import torch

from gradeval.analysis.run.curves import CURVE_COLUMNS
from gradeval.analysis.run.estimates import accuracies_of
from gradeval.analysis.run.evaluation import Evaluation
from gradeval.analysis.run.moments import Moments
from gradeval.analysis.run.rare import RareStates
from gradeval.analysis.run.record import DETECT, EXACT_COLUMNS
from gradeval.analysis.run.times import time_of_draw, timing_entries
from gradeval.analysis.statistics import Interval
from gradeval.arguments import folder_path, listener, real, shown, workers_of
from gradeval.errors import GradevalError, Incomplete, check_options
from gradeval.estimators import Estimators, get_facts, resolve_with_specs
from gradeval.estimators.protocol import copied, learns
from gradeval.evaluation.chunks import ChunkMaker, Failure, Sent
from gradeval.evaluation.curves import curves_of, exact_rows, moments_of, moments_task, target_of
from gradeval.evaluation.forecast import seconds_of_draws, seconds_of_moments
from gradeval.evaluation.grid import mean_prediction
from gradeval.evaluation.introduction import Introduction, introductions
from gradeval.evaluation.manifest import estimator_facts, manifest_of, problem_facts, versions
from gradeval.evaluation.plan import Plan, Planned, with_digest
from gradeval.evaluation.reference import (
    is_sampled,
    made_reference,
    reference_bytes,
    reference_facts,
    reference_of,
    with_rare,
)
from gradeval.evaluation.request import Request
from gradeval.evaluation.sources import engine_hash, source_hash
from gradeval.evaluation.store import Store, kept_draws, kept_reference
from gradeval.given import GivenProblem, given_problem
from gradeval.model.network import FlipCost
from gradeval.model.precision import in_precision
from gradeval.progress import Progress, foretell
from gradeval.reference import ExactGradient, Precision
from gradeval.reference.rare import rare_states
from gradeval.sampling.extent import WORKING_MEMORY
from gradeval.sampling.streaming import ChunkStatistics, Scorer, Stream
from gradeval.threads import one_thread
from gradeval.torch_private import LAZILY_IMPORTED
from gradeval.workers.executors import Assignment, Lost, Workers
from gradeval.workers.processes import Allowance


class RunOptions(TypedDict, total=False):
    """How `evaluate` carries out a run and what it takes for decided. See `evaluate` for what each means."""

    workers: int | None
    executor: str | Executor
    timeout: float | None
    memory: int | None
    working_memory: int
    progress: Progress | bool | None
    arguments: Mapping[str, Any] | None
    detect: float
    precision: str
    reference: str | Precision


USUAL_SETTINGS: dict[str, Any] = {"detect": DETECT, "working_memory": WORKING_MEMORY, "reference": "auto"}


def evaluate(
    problem: GivenProblem,
    estimators: Estimators,
    *,
    draws: int = 20_000,
    seed: int = 0,
    exact: str = "auto",
    folder: str | Path | None = None,
    **options: Unpack[RunOptions],
) -> Evaluation:
    """Bias, variance and cosine similarity of gradient estimators against the exact gradient.

    Args:
        problem: network, data and loss, or the name or file of a problem; small enough for an exact gradient, unless
            the reference is sampled.
        estimators: specs ("concrete:temperature=0.1", "paper"), user's own ("module:name") or callables; one, a list,
            or a dictionary that names them.
        draws: number of draws of each estimator, at least 20.
        seed: every random number follows from it and the problem. All estimators take the same ones.
        exact: whether estimators whose only chance is Bernoulli states are also run on all joint states, for exact bias
            and variance: "auto" (where affordable), "always" (or refuse), "never".
        folder: keeps every finished chunk, and at the end the tables. Called again, only what is missing is done; more
            draws or estimators extend it.
        workers: how many chunks of draws are made at once. Default: one per core.
        executor: where chunks are made: "threads", "processes" of this machine, or any `concurrent.futures.Executor`
            (of Dask, MPI, Ray …). Processes are sent the problem and the estimators by pickle.
        timeout: seconds after which a process that makes a chunk counts as hung: its estimator fails, the process is
            replaced. Of a given executor, seconds without any finished chunk.
        memory: bytes that a process may take beyond its start; what an estimator asks for beyond it fails it. Default:
            its share of what is free, at least 1 GiB. Only Linux has such a limit.
        working_memory: bytes that an estimator's statistics, and a chunk of its draws, may take, about; default 2**30.
            Where a covariance takes more, or has more than 2048 rows, means of blocks of draws stand in its place.
        progress: told how far it is; True for bars in a notebook or a terminal.
        arguments: kept in the manifest.
        precision: of the draws: "double" (by default, whatever the network's) or "network" for the network's own. The
            exact gradient and exact moments are always in double precision.
        detect: the relative bias that must have been detectable before a claim of no bias holds; default 0.05.
        reference: "auto" or "exact": refuse where no exact method is affordable; "sampled", or its `Precision`.

    Returns:
        The evaluation: `Evaluation.summary` has one row per estimator and layer.

    Raises:
        GradevalError: unusable input, no estimator that can be drawn, a folder of another run or in use.
        Incomplete: an estimator failed (NaN gradients, an exception, writing to the data) and others did not, or
            Ctrl-C; it holds what had finished.
        CannotWrite: the folder cannot be written any more.

    Examples:
        >>> import gradeval
        >>> problem = gradeval.load_problem("expclass", units="2-2", stage=0, points=10)
        >>> evaluation = gradeval.evaluate(problem, ["reinforce", "psa"], draws=100, seed=0)
        >>> sorted(set(evaluation.summary["estimator"]))
        ['psa', 'reinforce']
    """
    check_options(evaluate, options, RunOptions)
    problem = in_precision(given_problem(problem), options.get("precision", "double"))
    resolved, specs = resolve_with_specs(estimators)
    own = {name: spec for name, spec in specs.items() if not get_facts(resolved[name]) and not learns(resolved[name])}
    return _carry_out(Request(problem, resolved, own, draws, seed, exact, *_settings(options)), folder, options)


def _settings(options: RunOptions) -> Any:
    """The arguments to keep, and what is settled where it is not given."""
    given: dict[str, Any] = USUAL_SETTINGS | dict(options)
    arguments = given.get("arguments") or {}
    if not isinstance(arguments, Mapping):
        raise GradevalError(f"arguments must be a dictionary, which the manifest keeps, found {shown(arguments)}.")
    return [dict(arguments), *(given[key] for key in USUAL_SETTINGS)]


def _carry_out(request: Request, folder: str | Path | None, options: RunOptions) -> Evaluation:
    workers, executor = workers_of(options.get("workers")), options.get("executor", "threads")
    timeout, memory = options.get("timeout"), options.get("memory")
    seconds = None if timeout is None else real("timeout", timeout)
    allowance = Allowance(seconds, None if memory is None else int(real("memory", memory)))
    folder = None if folder is None else folder_path(folder)
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", FlipCost)  # it is in the notes
        pool = stack.enter_context(Workers(executor, workers, allowance, [__name__, LAZILY_IMPORTED]))
        store = stack.enter_context(Store(folder)) if folder is not None else None
        run = _Run(request, listener(options.get("progress")), store)
        stopped = None
        try:
            run.prepare(pool, workers)
            with one_thread():
                run.sample(pool)
            run.enumerate(workers if executor == "threads" else torch.get_num_threads())
        except KeyboardInterrupt:
            stopped = "interrupted"
            pool.stop()
        evaluation = run.result()
        if store and evaluation:
            evaluation.rewrite(store.folder)
    if stopped or run.failures or evaluation is None:
        what = "; ".join(text.rstrip(".") for text in filter(None, [stopped, *run.failures.values()]))
        kept = f"kept: {', '.join(evaluation.moments)}" if evaluation else "no estimator had finished"
        raise Incomplete(f"{what}; {kept}.", exit_code=130 if stopped else 1, evaluation=evaluation)
    return evaluation


class _Run:
    """One evaluation: what it has found so far."""

    def __init__(self, request: Request, progress: Progress, store: Store | None) -> None:
        self.request, self.problem = request, request.problem
        self.progress, self.store = progress, store
        self.began = time.perf_counter()
        self.moments: dict[str, Moments] = {}
        self.curves: list[dict[str, Any]] = []
        self.exact_rows: list[dict[str, Any]] = []
        self.facts: dict[str, dict[str, Any]] = {}
        self.failures: dict[str, str] = {}
        self.times: dict[str, Interval] = {}

    def prepare(self, pool: Workers, workers: int) -> None:
        """The exact gradient, fits and first draws; then, unless it will take too long, the plan in the folder."""
        request, problem = self.request, self.problem
        self.truth = _reference_of_run(self)
        self.truth.check_size()
        self.reference_seconds = time.perf_counter() - self.began
        self.fingerprint = problem.fingerprint()
        target = target_of(self.truth)
        # before they are fitted: a fit is not written in a file
        sources = {name: source_hash(estimator) for name, estimator in request.estimators.items()} if self.store else {}
        self.known = self._introduced(pool)
        self.scorer = Scorer(target, self.truth.slices, request.extent, self.truth.sampled is not None)
        foretell(self.progress, lambda: _forecast(self, pool, workers))
        if self.store:
            planned = {
                name: Planned(sources[name], self._draws(name), known.probe) for name, known in self.known.items()
            }
            plan = _plan(request, self.fingerprint, self.truth.slices, target.tolist(), planned)
            plan, content = with_digest(plan, reference_bytes(self.truth), self.reference_seconds)
            # the g* of the run's beginning: another number of threads might round it otherwise
            target = torch.tensor(self.store.begin(plan, problem, content).exact, dtype=torch.float64).to(target)
            self.scorer = Scorer(target, self.truth.slices, request.extent, self.truth.sampled is not None)
        self.truth = with_rare(self.truth, problem)
        self.rare, self.own_rare = _rare_states(self)

    def _introduced(self, pool: Workers) -> dict[str, Introduction]:
        """Every estimator that can be fitted and drawn; raises the first one's error where none can."""
        found, first = dict[str, Introduction](), ""
        for name, known in introductions(self.request, pool, self.progress):
            if isinstance(known, Introduction):
                found[name] = known.without(self.problem, self.request.estimators[name])
                continue
            what = f"estimator '{name}', first draws: {known.message}." if isinstance(known, Lost) else known.message
            self.failures[name], first = what, first or what
        if not found:
            raise GradevalError(first)
        return found

    def _draws(self, name: str) -> int:
        return 2 if self.known[name].sampler.deterministic else self.request.draws

    def sample(self, pool: Workers) -> None:
        """All draws of all estimators; the chunks of each are merged in their order."""
        stream, times = Stream(self.scorer), list[np.ndarray]()
        for task, chunk in pool.in_order(self._tasks(pool), self._save):
            name, index, count = task.key
            if index == 0:
                stream, times = Stream(self.scorer), []
                self.progress.start(name, self.request.draws)
            if name in self.failures:
                continue
            if not isinstance(chunk, ChunkStatistics):
                self._fail(name, index, chunk)
                continue
            stream.add(chunk)
            times.append(chunk.times)
            self.progress.advance(name, count)
            if stream.joint.count == self._draws(name):
                self._finish(name, stream, time_of_draw(np.concatenate(times)))

    def _tasks(self, pool: Workers) -> Iterator[Assignment[ChunkStatistics | Failure]]:
        for name in self.known:
            maker = _maker(self, name)
            call = maker if pool.shares_memory else Sent(maker, self.request.spec(name))
            total = self._draws(name)
            length = self.scorer.extent.chunk
            for index in range(-(-total // length)):
                if name in self.failures:
                    break
                count = min(length, total - index * length)
                kept = self.store.read(name, index, count) if self.store else None
                yield Assignment((name, index, count), call, (index, count), kept, owner=name)

    def _save(self, task: Assignment[ChunkStatistics | Failure]) -> None:
        if self.store and isinstance(task.result, ChunkStatistics):
            name, index, count = task.key
            self.store.write(name, index, count, task.result)

    def _fail(self, name: str, index: int, failure: Failure | Lost) -> None:
        if isinstance(failure, Lost):
            failure = Failure(f"estimator '{name}', chunk {index}: {failure.message}.", "")
        self.failures[name] = failure.message
        if self.store:
            self.store.fail(name, f"{failure.message}\nin chunk {index}\n\n{failure.traceback}")

    def _finish(self, name: str, stream: Stream, seconds: Interval) -> None:
        known, draws = self.known[name], self.request.draws
        sampler = known.sampler
        if self.store:
            sampler.notes += self.store.notes.pop(name, [])
            self.store.succeed(name)
        self.progress.finish(name, "; ".join(sampler.notes))
        self.facts[name] = estimator_facts(sampler, known.evaluations, draws)
        if known.fit is not None:
            self.facts[name]["fit"] = known.fit
        self.times[name] = seconds
        moments = self.moments[name] = moments_of(stream, draws, sampler.deterministic, self.truth.sampled)
        target = self.scorer.exact.cpu().numpy()
        rare = self.own_rare.get(name, self.rare)
        self.curves += curves_of(name, stream, moments, target, accuracies_of(moments, target, rare))

    def enumerate(self, workers: int) -> None:
        """Exact moments, in this process; last, so that an interrupt keeps the draws."""
        exact = self.request.exact
        if self.truth.sampled is not None:
            _note_no_exact(self)
            return
        for name in self.moments:
            rows = self.store.read_exact(name) if self.store and exact != "never" else None
            if rows is None:
                try:
                    how = exact, self.scorer.exact, self.known[name].pointwise
                    rows = exact_rows(self.known[name].sampler, *how, workers, self.progress)
                except GradevalError as error:
                    self.failures[name] = str(error)
                    continue
                if self.store and rows:
                    self.store.write_exact(name, rows)
            self.exact_rows += rows

    def result(self) -> Evaluation | None:
        """What has been found; None if no estimator has finished."""
        if not self.moments:
            return None
        problem, truth, request = self.problem, self.truth, self.request
        spent = {"reference": self.reference_seconds, "total": time.perf_counter() - self.began}
        timings = spent | timing_entries(self.times)
        run = {"arguments": request.arguments, "seed": request.seed, "draws": request.draws}
        looks = len(self.store.plan.looks) if self.store and self.store.plan else 1
        run |= {"detect": request.detect, "looks": looks, "failures": self.failures, "timings": timings}
        facts = problem_facts(problem, truth, self.fingerprint), _facts_of_reference(self)
        manifest = manifest_of(problem, *facts, self.facts, run)
        curves = pd.DataFrame(self.curves, columns=CURVE_COLUMNS)
        exact = pd.DataFrame(self.exact_rows, columns=EXACT_COLUMNS)
        made = (manifest, self.scorer.exact.cpu().numpy(), truth.slices, self.moments, curves, exact)
        return Evaluation(*made, *mean_prediction(problem), self.rare, self.own_rare)


def _reference_of_run(run: _Run) -> ExactGradient:
    """The gradient to compare with: the sampled one that the run was begun with, or a new one."""
    asked, folder = run.request.reference, run.store.folder if run.store else None
    if folder and is_sampled(asked) and (content := kept_reference(folder)):
        return reference_of(content, run.problem)
    return made_reference(run.problem, asked, run.request.seed, run.progress, run.request.memory)


def _facts_of_reference(run: _Run) -> dict[str, Any]:
    """What the manifest says of the reference; one that was read from the folder took what it did when it was made."""
    plan = run.store.plan if run.store and run.truth.sampled is not None else None
    seconds = plan.reference_seconds if plan else run.reference_seconds
    return reference_facts(run.truth, run.request.reference, sum(run.problem.widths), seconds)


def _rare_states(run: _Run) -> tuple[RareStates | None, dict[str, RareStates]]:
    """What rare states could contribute: to any estimator, unless it is known of all, and the reference; to each."""
    own = {name: known.rare for name, known in run.known.items() if known.rare is not None}
    unknown = any(name not in own and not known.sampler.deterministic for name, known in run.known.items())
    unknown |= run.truth.sampled is not None and run.truth.sampled.rare is None
    return rare_states(run.problem) if unknown else None, own


def _note_no_exact(run: _Run) -> None:
    """Say that a bias against a sampled reference is not exact."""
    for name in run.moments if run.request.exact != "never" else []:
        run.known[name].sampler.notes.append("no exact moments: the reference is sampled")


def _maker(run: _Run, name: str) -> ChunkMaker:
    """What makes an estimator's chunks."""
    names, known = (run.request.seed, run.fingerprint), run.known[name]
    return ChunkMaker(known.sampler, run.scorer, names, known.pointwise, run.request.draws)


def _forecast(run: _Run, pool: Workers, workers: int) -> dict[str, float]:
    """Seconds of the draws that are still to be made, and of exact moments, by task."""
    seconds = {}
    exact = run.request.exact if run.truth.sampled is None else "never"
    for name, known in run.known.items():
        left = run._draws(name) - (kept_draws(run.store.folder, name) if run.store else 0)
        # one that hangs later must not hang this process, nor keep the others from their draws
        maker = None if pool.own_processes else _maker(run, name).with_estimator(copied(known.sampler.estimator))
        seconds[name] = seconds_of_draws(maker, left) / workers
        enumeration = seconds_of_moments(known.sampler, exact, len(run.truth.vector))
        seconds[moments_task(name)] = enumeration / workers
    return seconds


def _plan(
    request: Request,
    fingerprint: str,
    slices: Mapping[str, slice],
    target: list[float],
    planned: Mapping[str, Planned],
) -> Plan:
    network = request.problem.network
    return Plan(
        fingerprint,
        request.seed,
        str(network.device),
        "float64" if network.dtype == torch.float64 else "float32",
        engine_hash(request.problem),
        {layer: (where.start, where.stop) for layer, where in slices.items()},
        target,
        planned,
        [request.draws],
        request.arguments,
        versions(),
        memory=request.memory,
    )
