"""Training with each estimator under one protocol, and what it must not depend on: where it was stopped.

For every estimator: the rate is searched for on the training objective with seeds of its own; then all runs are trained
with the best, from the same initial parameters, in the same order of data, for the same number of epochs. Validation
and test data enter nothing but the tables.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gradeval.analysis.training import FORMAT, TABLES, Training
from gradeval.errors import GradevalError, Incomplete, unknown_name
from gradeval.estimators import Estimator, claims_unbiased, get_facts, resolve
from gradeval.estimators.protocol import fit
from gradeval.model.problem import Problem
from gradeval.model.randomness import RandomDraws, generator
from gradeval.problems.tasks import Task, with_parameters
from gradeval.reference import exact_gradient, layerwise_values
from gradeval.reference.cost import costs
from gradeval.reference.layerwise import distinct_targets
from gradeval.sampling.sampler import Sampler
from gradeval.training.prediction import PREDICTORS, expected_loss, predict, score
from gradeval.training.stacked import OPTIMISERS, Stack
from gradeval.workers.jobs import Report, run_jobs

RATES = {"sgd": tuple(10 ** (k / 2) for k in range(-7, 1)), "adam": tuple(10 ** (k / 2) for k in range(-8, -1))}
"""The rates that are tried first: half decades."""
EXTENSIONS = 2  # how often the search goes on by two rates when the best is at an end
TUNING = 1_000_000  # the first seed of the search: it shares no seed with the runs
EXACT_WORK = 2**30  # multiply–adds of an exact objective beyond which it is sampled
CHECKPOINT_SECONDS = 10.0


@dataclass(frozen=True)
class Protocol:
    """What is the same for all estimators.

    Args:
        optimiser: "sgd" (momentum 0.9) or "adam".
        epochs: of every run.
        seeds: number of runs of each estimator; the seed fixes initial parameters, order of data and chance.
        batch: points of a step.
        rates: learning rates tried first; half decades if not given. One rate is taken without a search.
        tuning_epochs: of every trial; a fifth of ``epochs`` if not given.
        tuning_seeds: trials of each rate.
        checks: how often the objective is measured along a run, evenly in the logarithm of the epoch.
        samples: draws for an objective that cannot be enumerated.
        ensemble: draws that are averaged for a prediction.
        gradient_epochs: when gradients are compared with the exact one, where that can be enumerated; before training
            and five times, evenly in the logarithm of the epoch, if not given.
        gradient_draws: draws for that.

    Raises:
        GradevalError: a number that cannot be.
    """

    optimiser: str = "sgd"
    epochs: int = 2000
    seeds: int = 5
    batch: int = 10
    rates: tuple[float, ...] = ()
    tuning_epochs: int | None = None
    tuning_seeds: int = 2
    checks: int = 40
    samples: int = 10
    ensemble: int = 10
    gradient_epochs: tuple[int, ...] | None = None
    gradient_draws: int = 1000

    def __post_init__(self) -> None:
        if self.optimiser not in OPTIMISERS:
            raise unknown_name("optimiser", self.optimiser, OPTIMISERS)
        for name in ("epochs", "seeds", "batch", "tuning_seeds", "checks", "samples", "ensemble"):
            if getattr(self, name) < 1:
                raise GradevalError(f"{name} must be at least 1, found {getattr(self, name)}.")
        if self.gradient_draws < 2:
            raise GradevalError(f"gradient_draws must be at least 2, found {self.gradient_draws}.")
        if self.tuning_epochs is None:
            object.__setattr__(self, "tuning_epochs", max(1, self.epochs // 5))
        if self.trial_epochs < 1:
            raise GradevalError(f"tuning_epochs must be at least 1, found {self.tuning_epochs}.")
        if not self.rates:
            object.__setattr__(self, "rates", RATES[self.optimiser])
        if not all(rate > 0 and math.isfinite(rate) for rate in self.rates):
            raise GradevalError(f"learning rates must be positive, found {', '.join(map(str, self.rates))}.")
        if self.gradient_epochs is None:
            object.__setattr__(self, "gradient_epochs", tuple(self._evenly(5)))
        if not all(0 <= epoch <= self.epochs for epoch in self.snapshot_epochs):
            raise GradevalError(f"gradient_epochs must be from 0 to {self.epochs}, found {self.gradient_epochs}.")

    @property
    def trial_epochs(self) -> int:
        """Epochs of a trial."""
        return self.tuning_epochs or 0

    @property
    def check_epochs(self) -> list[int]:
        """When the objective is measured: before training, then evenly in the logarithm of the epoch."""
        return self._evenly(self.checks)

    @property
    def snapshot_epochs(self) -> tuple[int, ...]:
        """When gradients are compared."""
        return self.gradient_epochs or ()

    def _evenly(self, count: int) -> list[int]:
        grid = np.geomspace(1, self.epochs, count).round().astype(int)
        return sorted({0, *grid.tolist(), self.epochs})


def train(
    task: Task,
    estimators: Sequence[str | Estimator],
    protocol: Protocol | None = None,
    *,
    folder: str | Path,
    workers: int = 1,
    progress: Report | None = None,
    arguments: dict[str, Any] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Training:
    """Train with each estimator under one protocol; a folder with a training of the same kind is gone on with.

    Args:
        task: what is trained on.
        estimators: specs, user's own ("module:name") or callables.
        protocol: what is the same for all of them.
        folder: for checkpoints and tables.
        workers: processes, each of which takes one estimator at a time; results do not depend on it.
        progress: told how far each estimator is.
        arguments: kept in the manifest.
        checkpoint_seconds: at the end of an epoch a checkpoint is written if the last is older than this.

    Raises:
        GradevalError: unusable input, or a folder that holds something else.
        Incomplete: an estimator failed, or Ctrl-C; what was done is kept in ``folder``.
    """
    protocol = protocol or Protocol()
    resolved = resolve(estimators)
    if workers > 1 and not all(isinstance(given, str) for given in estimators):
        raise GradevalError("with several workers estimators must be given by name, not as objects.")
    folder = Path(folder)
    manifest = _open(folder, task, list(resolved), protocol, arguments or {})
    # another process imports a user's own estimator anew, by its name
    own = {name: None if workers > 1 else estimator for name, estimator in resolved.items()}
    jobs = [_Job(task, name, own[name], protocol, folder, checkpoint_seconds) for name in resolved]
    try:
        manifest["failures"] = failures = run_jobs(jobs, workers, progress)
    except KeyboardInterrupt:
        raise Incomplete(f"interrupted: the same command goes on where it was, from {folder}", exit_code=130) from None
    states = {job.name: job.load() for job in jobs if job.name not in failures}
    training = _collect(manifest, resolved, {name: state for name, state in states.items() if state})
    training.save(folder)
    if failures:
        raise Incomplete("; ".join(failures.values()), exit_code=1)
    return training


@dataclass(frozen=True)
class _Job:
    """The training with one estimator, from its checkpoint on."""

    task: Task
    name: str
    estimator: Estimator | None
    protocol: Protocol
    folder: Path
    checkpoint_seconds: float

    @property
    def path(self) -> Path:
        slug = re.sub(r"[^\w.=-]+", "-", self.name)[:60]
        return self.folder / "checkpoints" / f"{slug}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}.pt"

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint; None where there is none."""
        if not self.path.exists():
            return None
        try:
            saved: dict[str, Any] = torch.load(self.path, weights_only=True, map_location="cpu")
        except Exception as error:
            raise GradevalError(
                f"{self.path}: not a readable checkpoint ({type(error).__name__}); remove it to train anew."
            ) from None
        return saved

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint beside the last and put it in its place: it is there whole, or the last is."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            torch.save(state, beside)
            os.replace(beside, self.path)
        finally:
            beside.unlink(missing_ok=True)

    def run(self, progress: Report | None) -> None:
        """Search, train, compare gradients and predict, writing a checkpoint after each and in between."""
        protocol, estimator = self.protocol, self.estimator or resolve([self.name])[self.name]
        state = self.load() or {
            "phase": "search" if len(protocol.rates) > 1 else "runs",
            "rate": protocol.rates[0],
            "stack": None,
            "trials": [],
            "curves": [],
            "snapshots": {},
            "gradients": [],
            "predictions": [],
            "seconds": 0.0,
        }
        if state["phase"] == "search":
            self._search(estimator, state, progress)
        if state["phase"] == "runs":
            self._runs(estimator, state, progress)
        if state["phase"] == "gradients":
            self._gradients(estimator, state, progress)
            state["predictions"] = self._predictions(state)
            state["phase"] = "done"
            self.save(state)

    def _stack(self, estimator: Estimator, seeds: Sequence[int], rates: Sequence[float]) -> Stack:
        return Stack(self.task, self.name, estimator, self.protocol.optimiser, self.protocol.batch, seeds, rates)

    def _train(
        self, stack: Stack, state: dict[str, Any], epochs: int, phase: str, progress: Report | None
    ) -> Iterator[int]:
        """Train to ``epochs``, yielding before every epoch and at the end; checkpoints are written in between."""
        if state["stack"] is not None:
            stack.restore(state["stack"])
        else:
            yield 0
        last = time.monotonic()
        while stack.epoch < epochs:
            began = time.process_time()
            stack.train_epoch()
            yield stack.epoch
            state["seconds"] += time.process_time() - began
            if progress:
                progress(self.name, phase, stack.epoch, epochs)
            if time.monotonic() - last >= self.checkpoint_seconds and stack.epoch < epochs:
                state["stack"] = stack.saved()
                self.save(state)
                last = time.monotonic()

    def _search(self, estimator: Estimator, state: dict[str, Any], progress: Report | None) -> None:
        """The rate with the smallest mean training objective after the trials; two rates more where it is at an end."""
        protocol, trials = self.protocol, state["trials"]
        rates = sorted(protocol.rates)
        for extension in range(EXTENSIONS + 1):
            todo = [rate for rate in rates if rate not in {trial["rate"] for trial in trials}]
            if todo:
                pairs = [(rate, TUNING + k) for rate in todo for k in range(protocol.tuning_seeds)]
                stack = self._stack(estimator, [seed for _, seed in pairs], [rate for rate, _ in pairs])
                for _ in self._train(stack, state, protocol.trial_epochs, "search", progress):
                    pass
                state["stack"] = None
                for run, (rate, seed) in enumerate(pairs):
                    value, _ = self._objective(self.task.train, stack.theta[run], seed, stack.epoch)
                    trials.append({"rate": rate, "seed": seed, "epochs": stack.epoch, "objective": value})
                self.save(state)
            table = pd.DataFrame(trials).fillna({"objective": math.inf})
            means = table[table["rate"].isin(rates)].groupby("rate")["objective"].mean()
            best = float(means.index[int(np.argmin(means.to_numpy()))])
            at = rates.index(best)
            if 0 < at < len(rates) - 1 or extension == EXTENSIONS or not math.isfinite(means.min()):
                break
            factor = rates[0] / rates[1] if at == 0 else rates[-1] / rates[-2]
            rates = sorted([*rates, best * factor, best * factor**2])
        if not math.isfinite(means.min()):
            raise GradevalError(f"estimator '{self.name}': training diverged at every rate that was tried.")
        state["rate"], state["phase"] = best, "runs"
        self.save(state)

    def _runs(self, estimator: Estimator, state: dict[str, Any], progress: Report | None) -> None:
        protocol = self.protocol
        seeds = list(range(protocol.seeds))
        stack = self._stack(estimator, seeds, [state["rate"]] * len(seeds))
        for epoch in self._train(stack, state, protocol.epochs, "training", progress):
            if epoch in protocol.check_epochs:
                state["curves"] += [self._check(stack.theta[seed], seed, epoch) for seed in seeds]
            if epoch in protocol.snapshot_epochs:
                state["snapshots"][epoch] = stack.theta.clone()
        state["stack"], state["phase"] = stack.saved(), "gradients"
        self.save(state)

    def _check(self, theta: Tensor, seed: int, epoch: int) -> dict[str, Any]:
        row: dict[str, Any] = {"seed": seed, "epoch": epoch}
        for split, problem in self.task.splits.items():
            if split != "test":
                value, exact = self._objective(problem, theta, seed, epoch)
                row |= {{"train": "objective"}.get(split, f"{split}_objective"): value, "exact": exact}
        return row

    def _objective(self, problem: Problem, theta: Tensor, seed: int, epoch: int) -> tuple[float, bool]:
        """J, exactly where it can be enumerated, else from draws that are the same for every estimator."""
        exact = enumerable(problem)
        if not bool(torch.isfinite(theta).all()):
            return math.nan, exact
        problem = with_parameters(problem, theta)
        if exact:
            with torch.no_grad():
                return float(layerwise_values(problem).mean()), True
        return expected_loss(problem, _chance(problem, "objective", seed, epoch), self.protocol.samples), False

    def _gradients(self, estimator: Estimator, state: dict[str, Any], progress: Report | None) -> None:
        """Cosine and bias of gradients at the snapshots, against the exact gradient."""
        if not enumerable(self.task.train):
            return
        done = {(row["seed"], row["epoch"]) for row in state["gradients"]}
        last = time.monotonic()
        todo = [(seed, epoch) for epoch in state["snapshots"] for seed in range(self.protocol.seeds)]
        for number, (seed, epoch) in enumerate(todo, 1):
            theta = state["snapshots"][epoch][seed]
            if (seed, epoch) in done or not bool(torch.isfinite(theta).all()):
                continue
            rows = gradient_accuracy(
                with_parameters(self.task.train, theta), self.name, estimator, self.protocol.gradient_draws, seed
            )
            state["gradients"] += [{"seed": seed, "epoch": epoch} | row for row in rows]
            if progress:
                progress(self.name, "gradients", number, len(todo))
            if time.monotonic() - last >= self.checkpoint_seconds:
                self.save(state)
                last = time.monotonic()

    def _predictions(self, state: dict[str, Any]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for seed, theta in enumerate(state["stack"]["theta"]):
            if not bool(torch.isfinite(theta).all()):
                continue
            for split, problem in self.task.splits.items():
                value, _ = self._objective(problem, theta, seed, self.protocol.epochs)
                rows.append({"seed": seed, "split": split, "predictor": "expected", "loss": value})
                problem = with_parameters(problem, theta)
                for predictor in PREDICTORS:
                    chance = _chance(problem, "prediction", split, seed)
                    scores = score(problem, predict(problem, predictor, chance, self.protocol.ensemble))
                    rows.append({"seed": seed, "split": split, "predictor": predictor} | scores)
        return rows


def enumerable(problem: Problem) -> bool:
    """Whether an exact objective takes at most 2^30 multiply–adds."""
    widths = problem.widths
    if max(widths) > 30:
        return False
    targets = len(distinct_targets(problem.targets)[0])
    return costs(widths, problem.points, targets)["layerwise"].multiply_adds <= EXACT_WORK


def gradient_accuracy(problem: Problem, name: str, estimator: Estimator, draws: int, seed: int) -> list[dict[str, Any]]:
    """Mean cosine of single draws with the exact gradient g*, relative bias and variance, for every layer.

    The bias is √max(0, ‖ḡ − g*‖² − tr Σ̂/n)/‖g*‖: without what the mean ḡ of n draws owes to chance, which ``noise``,
    √(tr Σ̂/n)/‖g*‖, is the size of.
    """
    estimator = fit(estimator, name, problem, seed).estimator
    exact = exact_gradient(problem, progress=False)
    gradients, _ = Sampler(problem, name, estimator).chunk(draws, "gradient accuracy", seed)
    rows = []
    for layer, where in exact.slices.items():
        target, found = exact.vector[where], gradients[:, where]
        norm = float(target.norm())
        if norm == 0:
            continue
        cosines = found @ target / (found.norm(dim=1) * norm).clamp(min=1e-300)
        variance = float(found.var(0).sum())
        square = float((found.mean(0) - target).norm() ** 2) - variance / draws
        rows.append(
            {
                "layer": layer,
                "cosine": float(cosines.mean()),
                "relative_bias": math.sqrt(max(0.0, square)) / norm,
                "relative_variance": variance / norm**2,
                "noise": math.sqrt(variance / draws) / norm,
            }
        )
    return rows


def _chance(problem: Problem, *names: object) -> RandomDraws:
    network = problem.network
    return RandomDraws(generator(network.device, *names), network.dtype)


def _open(folder: Path, task: Task, names: list[str], protocol: Protocol, arguments: dict[str, Any]) -> dict[str, Any]:
    """The manifest of the training in ``folder``: a new one, or the one that is gone on with."""
    kind = json.loads(json.dumps({"task": _fingerprint(task), "estimators": names, "protocol": asdict(protocol)}))
    path = folder / "training.json"
    if path.exists():
        try:
            manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            found = manifest["kind"]
        except (OSError, ValueError, KeyError, TypeError):
            raise GradevalError(f"{path}: not the manifest of a training; choose another folder.") from None
        for part in ("task", "protocol", "estimators"):
            if found.get(part) != kind[part]:
                raise GradevalError(
                    f"{folder} holds another training: its {part} differs "
                    f"({_difference(found.get(part), kind[part])}); choose another folder or remove it."
                )
        return manifest
    if folder.exists() and any(folder.iterdir()):
        raise GradevalError(f"{folder} exists and is not a training: choose another folder or remove it.")
    problem, network = task.train, task.train.network
    packages = ("gradeval", "torch", "numpy", "pandas", "seaborn")
    manifest = {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "kind": kind,
        "arguments": arguments,
        "versions": {"python": platform.python_version()} | {package: version(package) for package in packages},
        "problem": {
            "name": problem.name,
            "description": problem.description,
            "points": {name: split.points for name, split in task.splits.items()},
            "widths": problem.widths,
            "noise": network.noise.name,
            "states": list(network.states),
            "loss": problem.loss if isinstance(problem.loss, str) else "callable",
            "parameters": sum(p.numel() for p in network.parameters()),
            "enumerated": enumerable(problem),
        },
        "failures": {},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f".training.json.{os.getpid()}"
        beside.write_text(json.dumps(manifest, indent=1))
        os.replace(beside, path)
    except OSError as error:
        raise GradevalError(f"cannot write {folder}: {error.strerror}.") from None
    return manifest


def _difference(found: Any, wanted: Any) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        different = [key for key in wanted if found.get(key) != wanted[key]]
        return ", ".join(f"{key}: {found.get(key)} there, {wanted[key]} here" for key in different)
    return f"{found} there, {wanted} here"


def _fingerprint(task: Task) -> str:
    """Of data, networks and initial parameters."""
    digest = hashlib.sha256()
    for name, problem in task.splits.items():
        digest.update(f"{name}|{problem.fingerprint()}".encode())
    digest.update(task.initial_parameters(0).cpu().numpy().tobytes())
    return digest.hexdigest()


def _collect(manifest: dict[str, Any], estimators: dict[str, Estimator], states: dict[str, dict[str, Any]]) -> Training:
    """The tables of all estimators that are done."""
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    for name, state in states.items():
        for table, rows in (
            ("trials", [row | {"chosen": row["rate"] == state["rate"]} for row in state["trials"]]),
            ("curves", [row | {"rate": state["rate"]} for row in state["curves"]]),
            ("gradients", state["gradients"]),
            ("predictions", state["predictions"]),
            ("timings", [{"seconds": state["seconds"]}]),
        ):
            tables[table] += [{"estimator": name} | row for row in rows]
    facts = {name: get_facts(estimators[name]) for name in states}
    manifest["estimators"] = {
        name: {
            "unbiased_claim": claims_unbiased(estimators[name]),
            "source": known.source if known else f"the user's own, {name}",
        }
        for name, known in facts.items()
    }
    return Training(manifest, {name: pd.DataFrame(rows) for name, rows in tables.items()})
