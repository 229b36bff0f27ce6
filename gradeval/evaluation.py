"""Draw gradients with each estimator and stream their statistics against the exact gradient."""

from __future__ import annotations

import importlib
import inspect
import pickle
import platform
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from gradeval.analysis.tables import CURVE_COLUMNS, EXACT_COLUMNS, FORMAT, MIN_BLOCKS, Evaluation, Moments, curve_rows
from gradeval.errors import GradevalError, unknown_name
from gradeval.estimators import Estimator, claims_unbiased, get_estimator, get_facts, resolve
from gradeval.execution import Lost, Task, Workers
from gradeval.maps import Form
from gradeval.network import BinaryLayer, FlipCost, StochasticBinaryNetwork
from gradeval.problem import Problem
from gradeval.randomness import GivenUniforms, RandomDraws, Randomness, derived_seed, generator
from gradeval.reference import (
    MAX_BITS,
    ExactGradient,
    check_pointwise,
    count_chance,
    exact_gradient,
    exact_moments,
    layerwise_values,
)
from gradeval.store import MAX_PARAMETERS, Plan, Planned, Store, source_hash, text_hash
from gradeval.streaming import CHUNK, ChunkStatistics, Scorer, Stream, reduce_chunk, tree

EXACT = ("auto", "always", "never")
EXACT_ENTRIES = 2**30  # joint states × points × parameters that exact="auto" takes, about ten seconds
BATCH_BYTES = 2**23  # one vectorised batch keeps its largest tensor about this small: it should stay in the cache


@runtime_checkable
class Progress(Protocol):
    """What `evaluate` tells of its progress."""

    def start(self, estimator: str, draws: int) -> None:
        """An estimator begins."""

    def advance(self, draws: int) -> None:
        """More draws are done."""

    def finish(self, note: str) -> None:
        """It has ended."""


class Incomplete(GradevalError):
    """Some estimators failed, or Ctrl-C: ``evaluation`` holds those that had finished, None where none had."""

    def __init__(self, message: str, evaluation: Evaluation | None, exit_code: int) -> None:
        kept = ", ".join(evaluation.moments) if evaluation else "nothing"
        super().__init__(f"{message}; kept: {kept}.")
        self.evaluation = evaluation
        self.exit_code = exit_code


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
        own = {name for name, e in resolved.items() if name in specs and not get_facts(e) and not hasattr(e, "fit")}
        run = _Run(problem, resolved, own, draws, seed, progress, arguments or {}, store)
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
        message = "; ".join(filter(None, [stopped, *run.failures.values()]))
        raise Incomplete(message, evaluation, exit_code=130 if stopped else 1)
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
        progress: Progress | None,
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
            if hasattr(estimator, "fit"):
                seeds = (self.seed, self.fingerprint, name, "fit")
                fitted[name], self.fits[name] = _fit(problem, name, estimator, derived_seed(*seeds), self.progress)
        self.samplers = {name: Sampler(problem, name, estimator) for name, estimator in fitted.items()}
        if self.store:
            plan = Plan(
                self.fingerprint,
                self.seed,
                str(problem.network.device),
                str(problem.network.dtype).removeprefix("torch."),
                _engine(),
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
            with _one_thread():
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
                if self.progress:
                    self.progress.start(name, self.draws)
            if name in self.failures:
                continue
            if not isinstance(chunk, ChunkStatistics):
                self._fail(name, index, chunk)
                continue
            stream.add(chunk)
            seconds += chunk.seconds
            if self.progress:
                self.progress.advance(count)
            if stream.joint.count == self._total(name):
                self._finish(name, stream, seconds / self._total(name))

    def _tasks(self, pool: Workers) -> Iterator[Task[ChunkStatistics | Failure]]:
        for name, sampler in self.samplers.items():
            work = _Work(sampler, self.scorer, (self.seed, self.fingerprint, name))
            call = work if pool.shares_memory else _Sent(work, name if name in self.specs else None)
            total = self._total(name)
            for index in range(-(-total // CHUNK)):
                if name in self.failures:
                    break
                count = min(CHUNK, total - index * CHUNK)
                known = self.store.read(name, index, count) if self.store else None
                yield Task((name, index, count), call, (index, count), known)

    def _save(self, task: Task[ChunkStatistics | Failure]) -> None:
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
        if self.progress:
            self.progress.finish("; ".join(sampler.notes))
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
            with _one_thread():
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


@contextmanager
def _one_thread() -> Iterator[None]:
    """One BLAS thread: as many would wait on each other, and the number could change the rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fit(
    problem: Problem, name: str, estimator: Any, seed: int, progress: Progress | None
) -> tuple[Estimator, dict[str, Any]]:
    """The estimator fitted to the problem, then frozen; what was learned and the seconds of compute it cost."""
    if progress:
        progress.start(f"fitting {name}", estimator.budget)
    with _one_thread():
        began = _clock(problem)
        fitted = estimator.fit(problem, seed, progress.advance if progress else None)
        cost = _clock(problem) - began
    if progress:
        progress.finish("")
    return fitted, {"learned": fitted.learned, "seconds": cost}


class _Surrogate(nn.Module):
    """The estimator as a function of the network's parameters: the mean over points of its surrogate."""

    def __init__(self, problem: Problem, estimator: Estimator) -> None:
        super().__init__()
        self.network = deepcopy(problem.network)
        self.problem = problem
        self.estimator = estimator

    def forward(self, randomness: Randomness) -> Float[Tensor, ""]:
        surrogate = self.estimator(
            self.network, self.problem.inputs, self.problem.loss_function(self.network), randomness
        )
        if not isinstance(surrogate, Tensor) or surrogate.shape != (self.problem.points,):
            found = list(surrogate.shape) if isinstance(surrogate, Tensor) else type(surrogate).__name__
            raise GradevalError(f"must return one surrogate per point, [{self.problem.points}], returned {found}.")
        return surrogate.mean()


def _engine() -> str:
    """Hash of the source of all that decides a chunk's numbers but the estimator."""
    names = ("estimators.surrogate", "losses", "network", "noise", "randomness", "streaming")
    texts = [inspect.getsource(importlib.import_module(f"gradeval.{name}")) for name in names]
    return text_hash("|".join([*texts, inspect.getsource(_Surrogate), inspect.getsource(Sampler)]))


class Sampler:
    """Per-draw gradients and values of one estimator, vectorised over draws where the estimator allows it.

    Attributes:
        vectorised: whether draws are made by `torch.func.vmap`, else by a loop.
        deterministic: whether the estimator asks for no randomness and all draws agree.
        own_chance: whether it asks for none and yet they differ.
        notes: what the user should know.
    """

    def __init__(self, problem: Problem, name: str, estimator: Estimator) -> None:
        self.name = name
        self.problem = problem
        self.estimator: Any = estimator
        self.notes: list[str] = []
        self.vectorised = True
        self._local = threading.local()
        widest = max(a * b for a, b in zip([1, *problem.widths], [*problem.widths, 1], strict=True))
        self.batch = max(1, min(CHUNK, BATCH_BYTES // (problem.points * widest * problem.network.dtype.itemsize)))
        trial = RandomDraws(generator(problem.network.device, "trial"), problem.network.dtype)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", FlipCost)
            gradients = self._try(trial)
        for warning in caught:
            if issubclass(warning.category, FlipCost):
                self.notes.append(str(warning.message))
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        self.deterministic = not trial.used and bool((gradients[0] == gradients[1]).all())
        self.own_chance = not trial.used and not self.deterministic
        if self.own_chance:
            self.notes.append("uses randomness of its own: draws do not follow from the seed")

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _local=threading.local())

    def _try(self, trial: RandomDraws) -> Float[Tensor, "2 P"]:
        """The gradients of two draws; decides whether draws are vectorised."""
        pair = torch.empty(2)
        try:
            if getattr(self.estimator, "owns_sampling", False):
                raise RuntimeError("it owns its sampling")
            return self._vectorised(pair, lambda _: trial)[0]
        except GradevalError as error:
            raise GradevalError(f"estimator '{self.name}' {error}") from None
        except Exception as error:
            self.vectorised = False
            try:
                gradients, _ = self._loop(pair, lambda _: trial)
            except Exception as plain:
                raise GradevalError(f"estimator '{self.name}' raised {type(plain).__name__}: {plain}") from plain
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            self.notes.append(f"not vectorised, drawn in a loop ({reason})")
            return gradients

    def chunk(self, count: int, *names: object) -> tuple[Float[Tensor, "draws P"], Float[Tensor, " draws"]]:
        """Gradients (flattened) and values of ``count`` draws, seeded by ``names``."""
        randomness = RandomDraws(generator(self.problem.network.device, *names), self.problem.network.dtype)
        return self._draw(torch.empty(count), lambda _: randomness, self.batch)

    def given(
        self, uniforms: Float[Tensor, "draws given"], random: torch.Generator
    ) -> tuple[Float[Tensor, "draws P"], Float[Tensor, " draws"]]:
        """As `chunk`, where every draw takes its uniform variables from a row, and further ones from ``random``."""
        dtype = self.problem.network.dtype
        return self._draw(uniforms, lambda row: GivenUniforms(row, random, dtype), 8 * self.batch)

    def _draw(self, rows: Tensor, chance: Callable[[Tensor], RandomDraws], batch: int) -> tuple[Tensor, Tensor]:
        draw = self._vectorised if self.vectorised else self._loop
        count = len(rows)
        try:
            parts = [draw(part, chance) for part in rows.split(batch)]
        except Exception as error:
            raise GradevalError(f"estimator '{self.name}' raised {type(error).__name__}: {error}") from error
        gradients, values = (torch.cat(part) for part in zip(*parts, strict=True))
        if not bool(torch.isfinite(gradients).all()):
            bad = int((~torch.isfinite(gradients).all(1)).sum())
            raise GradevalError(f"estimator '{self.name}' gave NaN or infinite gradients in {bad} of {count} draws.")
        return gradients, values

    def _surrogate(self) -> tuple[_Surrogate, dict[str, Tensor]]:
        """This thread's own copy: a functional call exchanges the parameters of the module it calls."""
        if not hasattr(self._local, "surrogate"):
            surrogate = _Surrogate(self.problem, self.estimator)
            self._local.surrogate = surrogate, {name: p.detach() for name, p in surrogate.named_parameters()}
        pair: tuple[_Surrogate, dict[str, Tensor]] = self._local.surrogate
        return pair

    def _vectorised(self, rows: Tensor, chance: Callable[[Tensor], RandomDraws]) -> tuple[Tensor, Tensor]:
        surrogate, parameters = self._surrogate()

        def draw(row: Tensor) -> tuple[dict[str, Tensor], Tensor]:
            result: tuple[dict[str, Tensor], Tensor] = grad_and_value(
                lambda parameters: functional_call(surrogate, parameters, (chance(row),))
            )(parameters)
            return result

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")
            gradients, values = vmap(draw, randomness="different")(rows)
        return torch.cat([g.reshape(len(rows), -1) for g in gradients.values()], 1), values

    def _loop(self, rows: Tensor, chance: Callable[[Tensor], RandomDraws]) -> tuple[Tensor, Tensor]:
        surrogate, _ = self._surrogate()
        parameters = list(surrogate.parameters())
        gradients, values = [], []
        for row in rows:
            value = surrogate(chance(row))
            found = torch.autograd.grad(value, parameters, allow_unused=True)
            flat = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
            gradients.append(torch.cat([g.flatten() for g in flat]))
            values.append(value.detach())
        return torch.stack(gradients), torch.stack(values)


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
    return Moments(draws, moments.mean, zeros[0], descents, zeros[1], True)


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
    name: str, sampler: Sampler, exact: str, target: Tensor, workers: int, progress: Progress | None
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
        if progress:
            progress.start(f"{name} on all states", 2**bits)
        advance = progress.advance if progress else None
        moments = exact_moments(problem, estimator, workers=workers, progress=advance)
    except GradevalError as error:
        if exact == "always":
            raise GradevalError(f"no exact moments of '{name}': {error}") from None
        sampler.notes.append(f"no exact moments: {error}")
        return []
    if progress:
        progress.finish("")
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


class _CountingLayer(BinaryLayer):
    """A layer that counts how often it is evaluated, per point; all flips in closed form count as one evaluation."""

    count = 0.0

    def preactivation(self, x: Tensor) -> Tensor:
        a = super().preactivation(x)
        self.count += a.shape[:-2].numel()
        return a

    def gaussian_moments(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        self.count += mean.shape[:-2].numel()
        return super().gaussian_moments(mean, variance)

    def form(self, x: Tensor) -> Form | None:
        form = super().form(x)
        self.count += x.shape[:-2].numel() * (x.shape[-1] if form is None else 1)
        return form


def count_evaluations(problem: Problem, estimator: Estimator) -> tuple[float, float]:
    """Evaluations of one layer, and of the loss, that one draw of an estimator costs per data point."""
    network = deepcopy(problem.network)
    layers = [_CountingLayer(layer.map, layer.noise, network.states) for layer in network.layers]
    network.layers = nn.ModuleList(layers)  # type: ignore[assignment]
    loss, losses = problem.loss_function(network), 0.0

    def counted(x: Tensor) -> Tensor:
        nonlocal losses
        f = loss(x)
        losses += f.shape[:-1].numel()
        return f

    estimator(network, problem.inputs, counted, RandomDraws(generator(network.device, "count"), network.dtype))
    return sum(layer.count for layer in layers), losses


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
