"""Draw gradients with each estimator and stream their statistics against the exact gradient."""

from __future__ import annotations

import pickle
import platform
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gradeval.analysis.run.moments import Moments
from gradeval.analysis.run.tables import CURVE_COLUMNS, EXACT_COLUMNS, FORMAT, MIN_BLOCKS, Evaluation, curve_rows
from gradeval.errors import GradevalError, Incomplete, unknown_name
from gradeval.estimators import Estimator, claims_unbiased, get_estimator, get_facts, resolve
from gradeval.estimators.protocol import fit, learns
from gradeval.evaluation.sources import engine_hash, source_hash
from gradeval.evaluation.store import MAX_PARAMETERS, Plan, Planned, Store
from gradeval.model.network import FlipCost, StochasticBinaryNetwork
from gradeval.model.problem import Problem
from gradeval.progress import Progress, Silent
from gradeval.reference import MAX_BITS, ExactGradient, exact_gradient, exact_moments, layerwise_values
from gradeval.sampling.probes import check_pointwise, count_chance, count_evaluations
from gradeval.sampling.sampler import Sampler, one_thread
from gradeval.sampling.streaming import CHUNK, ChunkStatistics, Scorer, Stream, reduce_chunk, tree
from gradeval.workers.executors import Assignment, Lost, Workers

EXACT = ("auto", "always", "never")
EXACT_ENTRIES = 2**30  # joint states × points × parameters that exact="auto" takes, about ten seconds


def evaluate(
    problem: Problem,
    estimators: Sequence[str | Estimator],
    *,
    draws: int = 20_000,
    seed: int = 0,
    workers: int | None = None,
    exact: str = "auto",
    progress: Progress | None = None,
    arguments: dict[str, Any] | None = None,
    folder: str | Path | None = None,
    executor: str | Executor = "threads",
    timeout: float | None = None,
) -> Evaluation:
    """Bias, variance and cosine similarity of gradient estimators against the exact gradient.

    Args:
        problem: network, data and loss; small enough to enumerate.
        estimators: specs ("concrete:temperature=0.1"), user's own ("module:name") or callables.
        draws: number of draws of each estimator, at least 20.
        seed: every random number follows from it, the problem and the estimator's name.
        workers: how many chunks of draws are made at once; the result does not depend on it. Default: one per core.
        exact: whether estimators whose only chance is Bernoulli states are also run on all joint states, for exact bias
            and variance: "auto" (where affordable), "always" (or refuse), "never".
        progress: told how far it is.
        arguments: kept in the manifest.
        folder: every finished chunk is kept there, and at the end the tables. Called again with the same folder, only
            what is missing is done; more draws or estimators extend it.
        executor: where chunks are made: "threads", "processes" of this machine, or any `concurrent.futures.Executor`
            (of Dask, MPI, Ray …). Processes are sent the problem and the estimators by pickle.
        timeout: seconds without any finished chunk after which workers count as hung; processes are then replaced.

    Raises:
        GradevalError: unusable input, an estimator that raises or returns a wrong shape at its first draw, a folder of
            another run or in use.
        Incomplete: an estimator failed later (NaN gradients, an exception), or Ctrl-C; it holds what had finished.
        CannotWrite: the folder cannot be written any more.
    """
    if draws < MIN_BLOCKS:
        raise GradevalError(f"draws must be at least {MIN_BLOCKS}, found {draws}.")
    if workers is not None and workers < 1:
        raise GradevalError(f"workers must be at least 1, found {workers}.")
    if exact not in EXACT:
        raise unknown_name("choice of exact", exact, EXACT)
    resolved = resolve(estimators)
    parameters = sum(p.numel() for p in problem.network.parameters())
    if parameters > MAX_PARAMETERS:
        raise GradevalError(f"the network has {parameters} parameters; evaluation takes at most {MAX_PARAMETERS}.")
    workers = workers or torch.get_num_threads()
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", FlipCost)  # it is in the notes
        pool = stack.enter_context(Workers(executor, workers, timeout, [__name__]))
        store = stack.enter_context(Store(folder)) if folder is not None else None
        specs = {given for given in estimators if isinstance(given, str)}
        own = {name for name, e in resolved.items() if name in specs and not get_facts(e) and not learns(e)}
        run = _Run(problem, resolved, own, draws, seed, progress or Silent(), arguments or {}, store)
        stopped = None
        try:
            run.prepare()
            run.sample(pool)
            run.enumerate(exact, workers if executor == "threads" else torch.get_num_threads())
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

    def __init__(
        self,
        problem: Problem,
        estimators: dict[str, Estimator],
        specs: set[str],
        draws: int,
        seed: int,
        progress: Progress,
        arguments: dict[str, Any],
        store: Store | None,
    ) -> None:
        self.problem, self.estimators, self.specs, self.draws, self.seed = problem, estimators, specs, draws, seed
        self.progress, self.arguments, self.store = progress, arguments, store
        self.began = time.perf_counter()
        self.moments: dict[str, Moments] = {}
        self.curves: list[dict[str, Any]] = []
        self.exact_rows: list[dict[str, Any]] = []
        self.facts: dict[str, dict[str, Any]] = {}
        self.failures: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    def prepare(self) -> None:
        """The exact gradient, fits and first draws; then the plan in the folder."""
        problem = self.problem
        self.truth = exact_gradient(problem)
        self.reference_seconds = time.perf_counter() - self.began
        self.fingerprint = problem.fingerprint()
        self.target = _without_rounding(self.truth)
        sources = {name: source_hash(estimator) for name, estimator in self.estimators.items()} if self.store else {}
        self.fits: dict[str, dict[str, Any]] = {}
        fitted = dict(self.estimators)
        for name, estimator in self.estimators.items():
            if learns(estimator):
                fitted[name], self.fits[name] = _fit(problem, name, estimator, self.seed, self.progress)
        self.samplers = {name: Sampler(problem, name, estimator) for name, estimator in fitted.items()}
        if self.store:
            plan = Plan(
                self.fingerprint,
                self.seed,
                str(problem.network.device),
                str(problem.network.dtype).removeprefix("torch."),
                engine_hash(),
                list(self.truth.slices),
                self.target.tolist(),
                {
                    name: Planned(sources[name], self._total(name), self._probe(sampler))
                    for name, sampler in self.samplers.items()
                },
                self.arguments,
                _versions(),
            )
            # the g* of the run's beginning: another number of threads might round it otherwise
            self.target = torch.tensor(self.store.begin(plan, problem).exact, dtype=torch.float64).to(self.target)
        self.scorer = Scorer(self.target, self.truth.slices)

    def _probe(self, sampler: Sampler) -> list[float]:
        """A few numbers of one draw, by which a change of the estimator or of what it builds on is noticed."""
        if sampler.own_chance:
            return []
        try:
            with one_thread():
                gradients, values = sampler.chunk(1, "probe", self.fingerprint, sampler.name)
        except GradevalError:  # it may do better in the chunks
            return []
        return [*gradients[0, :32].tolist(), *values.tolist()]

    def _total(self, name: str) -> int:
        return 2 if self.samplers[name].deterministic else self.draws

    def sample(self, pool: Workers) -> None:
        """All draws of all estimators; the chunks of each are merged in their order."""
        stream, seconds = Stream(self.scorer), 0.0
        for task, chunk in pool.in_order(self._tasks(pool), self._save):
            name, index, count = task.key
            if index == 0:
                stream, seconds = Stream(self.scorer), 0.0
                self.progress.start(name, self.draws)
            if name in self.failures:
                continue
            if not isinstance(chunk, ChunkStatistics):
                self._fail(name, index, chunk)
                continue
            stream.add(chunk)
            seconds += chunk.seconds
            self.progress.advance(name, count)
            if stream.joint.count == self._total(name):
                self._finish(name, stream, seconds / self._total(name))

    def _tasks(self, pool: Workers) -> Iterator[Assignment[ChunkStatistics | Failure]]:
        for name, sampler in self.samplers.items():
            work = _Work(sampler, self.scorer, (self.seed, self.fingerprint, name))
            call = work if pool.shares_memory else _Sent(work, name if name in self.specs else None)
            total = self._total(name)
            for index in range(-(-total // CHUNK)):
                if name in self.failures:
                    break
                count = min(CHUNK, total - index * CHUNK)
                known = self.store.read(name, index, count) if self.store else None
                yield Assignment((name, index, count), call, (index, count), known)

    def _save(self, task: Assignment[ChunkStatistics | Failure]) -> None:
        if self.store and isinstance(task.result, ChunkStatistics):
            name, index, count = task.key
            self.store.write(name, index, count, task.result)

    def _fail(self, name: str, index: int, failure: Failure | Lost) -> None:
        if isinstance(failure, Lost):
            failure = Failure(f"estimator '{name}': its chunk {index} was {failure.message}.", "")
        self.failures[name] = failure.message
        if self.store:
            self.store.fail(name, f"{failure.message}\nin chunk {index}\n\n{failure.traceback}")

    def _finish(self, name: str, stream: Stream, seconds: float) -> None:
        sampler = self.samplers[name]
        if self.store:
            sampler.notes += self.store.notes.pop(name, [])
            self.store.succeed(name)
        self.progress.finish(name, "; ".join(sampler.notes))
        self.facts[name] = _estimator_facts(self.problem, name, sampler, self.draws)
        if name in self.fits:
            self.facts[name]["fit"] = self.fits[name]
        self.curves += _curves(name, stream, self.scorer, self.draws, sampler.deterministic)
        self.seconds[name] = seconds
        self.moments[name] = _moments(stream, self.draws, sampler.deterministic)

    def enumerate(self, exact: str, workers: int) -> None:
        """Exact moments, in this process; last, so that an interrupt keeps the draws."""
        for name in self.moments:
            known = self.store.read_exact(name) if self.store and exact != "never" else None
            if known is not None:
                self.exact_rows += known
                continue
            try:
                rows = _exact_rows(name, self.samplers[name], exact, self.target, workers, self.progress)
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
        problem, truth = self.problem, self.truth
        manifest = _manifest(problem, truth, self.fingerprint, self.draws, self.seed, self.facts, self.arguments)
        manifest["failures"] = self.failures
        total = time.perf_counter() - self.began
        manifest["timings"] = {
            "reference": self.reference_seconds,
            "total": total,
            "seconds_per_draw": self.seconds,
        }
        points, prediction = mean_prediction(problem)
        curves = pd.DataFrame(self.curves, columns=CURVE_COLUMNS)
        exact = pd.DataFrame(self.exact_rows, columns=EXACT_COLUMNS)
        target = self.target.cpu().numpy()
        return Evaluation(manifest, target, truth.slices, self.moments, curves, exact, points, prediction)


@dataclass(frozen=True)
class Failure:
    """In place of a chunk: what an estimator did wrong."""

    message: str
    traceback: str


@dataclass(frozen=True)
class _Work:
    """Makes and reduces chunks of one estimator's draws, on one thread."""

    sampler: Sampler
    scorer: Scorer
    names: tuple[object, ...]

    def __call__(self, index: int, count: int) -> ChunkStatistics | Failure:
        try:
            with one_thread():
                began = _clock(self.sampler.problem)
                gradients, values = self.sampler.chunk(count, *self.names, index)
                seconds = _clock(self.sampler.problem) - began
                statistics = reduce_chunk(self.scorer, gradients, values, index)
        except GradevalError as error:
            return Failure(str(error), traceback.format_exc())
        statistics.seconds = seconds
        return statistics


class _Sent:
    """The same for a worker in another process: sends the work as bytes, which are unpickled once there.

    Args:
        spec: of a user's own estimator, which the worker imports itself; None sends the estimator.

    Raises:
        GradevalError: the problem or the estimator cannot be pickled.
    """

    def __init__(self, work: _Work, spec: str | None) -> None:
        self.name = work.sampler.name
        self.spec = spec
        sampler = copy(work.sampler)
        if spec is not None:
            module, _, name = spec.rpartition(":")
            self.spec = f"{Path(module).resolve()}:{name}" if module.endswith(".py") else spec
            sampler.estimator = None
        try:
            self.content = _pickle(replace(work, sampler=sampler))
        except Exception as error:
            raise GradevalError(
                f"estimator '{self.name}' cannot be sent to another process ({error}): define it, and a loss of your "
                "own, at the top level of a module, or use threads."
            ) from None

    def __call__(self, index: int, count: int) -> ChunkStatistics | Failure:
        try:
            work = _received(self.content, self.spec)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            return Failure(f"estimator '{self.name}' cannot be loaded by a worker ({what}).", traceback.format_exc())
        return work(index, count)


def _pickle(work: _Work) -> bytes:
    try:
        from cloudpickle import dumps  # comes with Dask; also takes what is defined in the main program
    except ImportError:
        from pickle import dumps
    content: bytes = dumps(work)
    return content


@lru_cache(maxsize=32)
def _received(content: bytes, spec: str | None) -> _Work:
    work: _Work = pickle.loads(content)  # from our own client, not from a file
    if spec is not None:
        work.sampler.estimator = get_estimator(spec)
    return work


def _fit(
    problem: Problem, name: str, estimator: Any, seed: int, progress: Progress
) -> tuple[Estimator, dict[str, Any]]:
    """The estimator fitted to the problem, then frozen; what was learned and the seconds of compute it cost."""
    task = f"fitting {name}"
    progress.start(task, estimator.budget)
    with one_thread():
        began = _clock(problem)
        fitted = fit(estimator, name, problem, seed, advance=partial(progress.advance, task))
        cost = _clock(problem) - began
    progress.finish(task)
    return fitted.estimator, {"learned": fitted.learned, "seconds": cost}


def _without_rounding(exact: ExactGradient) -> Tensor:
    """g* with layers whose gradient is nothing but rounding (states that do not matter) set to zero."""
    vector = exact.vector.clone()
    eps = torch.finfo(vector.dtype).eps
    for where in exact.slices.values():
        if vector[where].norm() < 10 * eps * max(abs(exact.value), float(vector.norm())):
            vector[where] = 0
    return vector


def _clock(problem: Problem) -> float:
    """Seconds of compute: this thread's on the CPU; the wall's on a device, when it is done."""
    device = problem.network.device
    if device.type == "cpu":
        return time.thread_time()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _moments(stream: Stream, draws: int, deterministic: bool) -> Moments:
    moments = stream.moments()
    if not deterministic:
        return moments
    descents = (moments.descents > 0) * draws
    zeros = np.zeros_like(moments.covariance), np.zeros_like(moments.thirds)
    return Moments(moments.layout, draws, moments.mean, zeros[0], descents, zeros[1], True)


def _curves(name: str, stream: Stream, scorer: Scorer, draws: int, deterministic: bool) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    norms = scorer.norms.cpu().numpy()
    for samples, _ in tree(draws // MIN_BLOCKS):
        level = stream.levels[1 if deterministic else samples]
        blocks = draws // samples if deterministic else level.spread.count
        if blocks < MIN_BLOCKS:
            continue
        variance = level.spread.variance * (not deterministic)
        assert level.sample is not None
        quantiles = np.quantile(level.sample, [0.15, 0.85], axis=0)
        rows += curve_rows(
            name, scorer.layers, samples, blocks, np.asarray(level.spread.mean), variance, quantiles, norms
        )
    return rows


def _exact_rows(
    name: str, sampler: Sampler, exact: str, target: Tensor, workers: int, progress: Progress
) -> list[dict[str, Any]]:
    """Exact bias, variance and scale of each layer, where they are wanted and can be had without sampling."""
    problem, estimator = sampler.problem, sampler.estimator
    if exact == "never" or not sampler.vectorised or sampler.own_chance:
        return []
    try:
        check_pointwise(problem, estimator)
        bits, continuous = count_chance(problem, estimator)
        if continuous:
            return []
        if exact == "auto" and (bits > MAX_BITS or 2**bits * problem.points * len(target) > EXACT_ENTRIES):
            return []
        task = f"{name} on all states"
        progress.start(task, 2**bits)
        moments = exact_moments(problem, estimator, workers=workers, advance=partial(progress.advance, task))
    except GradevalError as error:
        if exact == "always":
            raise GradevalError(f"no exact moments of '{name}': {error}") from None
        sampler.notes.append(f"no exact moments: {error}")
        return []
    progress.finish(task)
    scale, variance, bias = moments.scale(), moments.relative_variance(), moments.relative_bias()
    return [
        dict(zip(EXACT_COLUMNS, (name, layer, bias[layer], max(0.0, variance[layer]), scale[layer]), strict=True))
        for layer, where in moments.slices.items()
        if target[where].any()
    ]


def _estimator_facts(problem: Problem, name: str, sampler: Sampler, draws: int) -> dict[str, Any]:
    estimator = sampler.estimator
    layers, losses = count_evaluations(problem, estimator)
    facts = get_facts(estimator)
    return {
        "source": facts.source if facts else f"the user's own, {name}",
        "unbiased_claim": claims_unbiased(estimator),
        "deterministic": sampler.deterministic,
        "vectorised": sampler.vectorised,
        "draws": draws,
        "layer_evaluations": layers,
        "loss_evaluations": losses,
        "notes": sampler.notes,
    }


def mean_prediction(problem: Problem, side: int = 61) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    """For two-dimensional inputs and the logistic loss: the data, and E[σ(head(x^L))] exactly on a grid."""
    if problem.loss != "logistic" or problem.inputs.shape[1:] != (2,):
        return None, None
    x = problem.inputs.cpu().numpy()
    points = pd.DataFrame({"x": x[:, 0], "y": x[:, 1], "target": problem.targets.cpu().numpy()})
    low, high = x.min(0), x.max(0)
    margin = 0.05 * np.maximum(high - low, 1e-9)
    axes = [np.linspace(a - m, b + m, side) for a, b, m in zip(low, high, margin, strict=True)]
    grid = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)

    def probability(output: Tensor, target: Tensor) -> Tensor:
        return torch.sigmoid(output.squeeze(-1)) + 0 * target

    on_grid = Problem(problem.network, torch.as_tensor(grid), torch.zeros(len(grid)), probability)
    with torch.no_grad():
        values = layerwise_values(on_grid).cpu().numpy()
    return points, pd.DataFrame({"x": grid[:, 0], "y": grid[:, 1], "prediction": values})


def _manifest(
    problem: Problem,
    exact: ExactGradient,
    fingerprint: str,
    draws: int,
    seed: int,
    facts: dict[str, dict[str, Any]],
    arguments: dict[str, Any],
) -> dict[str, Any]:
    network: StochasticBinaryNetwork = problem.network
    return {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "arguments": arguments,
        "seed": seed,
        "draws": draws,
        "versions": _versions(),
        "device": str(network.device),
        "dtype": str(network.dtype).removeprefix("torch."),
        "problem": {
            "name": problem.name,
            "description": problem.description,
            "fingerprint": fingerprint,
            "points": problem.points,
            "widths": problem.widths,
            "noise": network.noise.name,
            "states": list(network.states),
            "loss": problem.loss if isinstance(problem.loss, str) else getattr(problem.loss, "__name__", "callable"),
            "parameters": len(exact.vector),
            "exact_value": exact.value,
            "gradient_norms": {layer: float(g.norm()) for layer, g in exact.by_layer().items()},
            "slices": {layer: [where.start, where.stop] for layer, where in exact.slices.items()},
        },
        "estimators": facts,
    }


def _versions() -> dict[str, str]:
    packages = ("gradeval", "torch", "numpy", "scipy", "pandas", "statsmodels", "seaborn", "matplotlib")
    return {"python": platform.python_version()} | {package: version(package) for package in packages}
