"""Draw gradients with each estimator and stream their statistics against the exact gradient."""

from __future__ import annotations

import platform
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from gradeval.analysis.tables import CURVE_COLUMNS, EXACT_COLUMNS, FORMAT, MIN_BLOCKS, Evaluation, Moments, curve_rows
from gradeval.errors import GradevalError, unknown_name
from gradeval.estimators import Estimator, claims_unbiased, get_facts, resolve
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
from gradeval.streaming import CHUNK, ChunkStatistics, Scorer, Stream, reduce_chunk, tree

EXACT = ("auto", "always", "never")
EXACT_ENTRIES = 2**30  # joint states × points × parameters that exact="auto" takes, about ten seconds
MAX_PARAMETERS = 10_000  # the joint covariance of all parameters is kept
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
) -> Evaluation:
    """Bias, variance and cosine similarity of gradient estimators against the exact gradient.

    Args:
        problem: network, data and loss; small enough to enumerate.
        estimators: specs ("concrete:temperature=0.1"), user's own ("module:name") or callables.
        draws: number of draws of each estimator, at least 20.
        seed: every random number follows from it, the problem and the estimator's name.
        workers: threads; the result does not depend on it. Default: one per core.
        exact: whether estimators whose only chance is Bernoulli states are also run on all joint states, for exact bias
            and variance: "auto" (where affordable), "always" (or refuse), "never".
        progress: told how far it is.
        arguments: kept in the manifest.

    Raises:
        GradevalError: unusable input, or an estimator that raises or returns a wrong shape at its first draw.
        Incomplete: an estimator failed later (NaN gradients, an exception), or Ctrl-C; it holds what had finished.
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
    began = time.perf_counter()
    truth = exact_gradient(problem)
    reference_seconds = time.perf_counter() - began
    fingerprint = problem.fingerprint()
    target = _without_rounding(truth)
    scorer = Scorer(target, truth.slices)
    fits = {}
    for name, estimator in resolved.items():
        if hasattr(estimator, "fit"):
            seeds = (seed, fingerprint, name, "fit")
            resolved[name], fits[name] = _fit(problem, name, estimator, derived_seed(*seeds), progress)
    samplers = {name: Sampler(problem, name, estimator) for name, estimator in resolved.items()}
    moments: dict[str, Moments] = {}
    curves: list[dict[str, Any]] = []
    exact_rows: list[dict[str, Any]] = []
    facts: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    seconds: dict[str, float] = {}
    workers = workers or torch.get_num_threads()

    def result() -> Evaluation | None:
        if not moments:
            return None
        manifest = _manifest(problem, truth, fingerprint, draws, seed, facts, arguments or {})
        manifest["failures"] = failures
        total = time.perf_counter() - began
        manifest["timings"] = {"reference": reference_seconds, "total": total, "seconds_per_draw": seconds}
        points, prediction = mean_prediction(problem)
        table = pd.DataFrame(curves, columns=CURVE_COLUMNS)
        known = pd.DataFrame(exact_rows, columns=EXACT_COLUMNS)
        return Evaluation(manifest, target.cpu().numpy(), truth.slices, moments, table, known, points, prediction)

    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        warnings.simplefilter("ignore", FlipCost)  # it is in the notes
        try:
            for name, sampler in samplers.items():
                if progress:
                    progress.start(name, draws)
                try:
                    stream, cost = _sample(pool, workers, sampler, scorer, draws, (seed, fingerprint, name), progress)
                except GradevalError as error:
                    failures[name] = str(error)
                    continue
                if progress:
                    progress.finish("; ".join(sampler.notes))
                facts[name] = _estimator_facts(problem, name, sampler, draws)
                if name in fits:
                    facts[name]["fit"] = fits[name]
                moments[name] = _moments(stream, draws, sampler.deterministic)
                curves += _curves(name, stream, scorer, draws, sampler.deterministic)
                seconds[name] = cost
                try:  # last: an interrupt here keeps the draws
                    exact_rows += _exact_rows(name, sampler, exact, target, workers, progress)
                except GradevalError as error:
                    failures[name] = str(error)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise Incomplete("interrupted", result(), exit_code=130) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    evaluation = result()
    if failures or evaluation is None:
        raise Incomplete("; ".join(failures.values()), evaluation, exit_code=1)
    return evaluation


def _fit(
    problem: Problem, name: str, estimator: Any, seed: int, progress: Progress | None
) -> tuple[Estimator, dict[str, Any]]:
    """The estimator fitted to the problem, then frozen; what was learned and the seconds of compute it cost."""
    if progress:
        progress.start(f"fitting {name}", estimator.budget)
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
        self.estimator = estimator
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


def _sample(
    pool: ThreadPoolExecutor,
    workers: int,
    sampler: Sampler,
    scorer: Scorer,
    draws: int,
    names: tuple[object, ...],
    progress: Progress | None,
) -> tuple[Stream, float]:
    """All draws of one estimator, merged in the order of the chunks, and the seconds of compute a draw took."""
    stream, seconds, done = Stream(scorer), 0.0, 0
    total = 2 if sampler.deterministic else draws

    def work(index: int, count: int) -> ChunkStatistics:
        began = _clock(sampler.problem)
        gradients, values = sampler.chunk(count, *names, index)
        cost = _clock(sampler.problem) - began
        statistics = reduce_chunk(scorer, gradients, values)
        statistics.seconds = cost
        return statistics

    def chunks() -> Iterator[tuple[int, int]]:
        yield from ((i, min(CHUNK, total - i * CHUNK)) for i in range(-(-total // CHUNK)))

    ahead: deque[Future[ChunkStatistics]] = deque()
    todo = chunks()
    while True:
        while len(ahead) < 2 * workers and (task := next(todo, None)) is not None:
            ahead.append(pool.submit(work, *task))
        if not ahead:
            return stream, seconds / total
        chunk = ahead.popleft().result()
        stream.add(chunk)
        seconds += chunk.seconds
        done += chunk.joint.count
        if progress:
            progress.advance(chunk.joint.count)


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
    packages = ("gradeval", "torch", "numpy", "scipy", "pandas", "statsmodels", "seaborn", "matplotlib")
    return {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "arguments": arguments,
        "seed": seed,
        "draws": draws,
        "versions": {"python": platform.python_version()} | {package: version(package) for package in packages},
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
