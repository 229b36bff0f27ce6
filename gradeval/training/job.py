"""The training with one estimator: search, runs, gradients and predictions, from its checkpoint to the end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gradeval.checkpoint import Checkpoint, Phase, read_checkpoint
from gradeval.errors import GradevalError
from gradeval.estimators import Estimator, get_estimator
from gradeval.problems.tasks import Task, with_parameters
from gradeval.progress import Progress
from gradeval.training.measures import Measures, enumerable, gradient_accuracy
from gradeval.training.protocol import Protocol
from gradeval.training.search import FIRST_TRIAL_SEED, MAX_EXTENSIONS, best_rate, extend_rates
from gradeval.training.stacked import Recipe, Stack


@dataclass(frozen=True)
class TrainingJob:
    """The training with one estimator; it can be sent to another process.

    Args:
        task: what is trained on.
        name: of the estimator.
        estimator: the estimator itself, or the spec that the process which trains makes it from.
        protocol: how it is trained.
        path: of the checkpoint. A training that was stopped is resumed from it.
        checkpoint_seconds: at the end of an epoch a checkpoint is written if the last is older than this.
    """

    task: Task
    name: str
    estimator: Estimator | str
    protocol: Protocol
    path: Path
    checkpoint_seconds: float

    def run(self, progress: Progress) -> None:
        """Do what is left to do. A checkpoint is written after each part, and during those that take long.

        Args:
            progress: receives the progress of each part; steps are epochs, or networks whose gradients are compared.

        Raises:
            GradevalError: the estimator fails, diverges at every rate, or the checkpoint cannot be read or written.
        """
        begin = Phase.SEARCH if len(self.protocol.rates) > 1 else Phase.RUNS
        checkpoint = read_checkpoint(self.path) or Checkpoint(begin, self.protocol.rates[0])
        estimator = get_estimator(self.estimator) if isinstance(self.estimator, str) else self.estimator
        if checkpoint.phase is Phase.SEARCH:
            self._search(estimator, checkpoint, progress)
        if checkpoint.phase is Phase.RUNS:
            self._train_runs(estimator, checkpoint, progress)
        if checkpoint.phase is Phase.GRADIENTS:
            self._compare_gradients(estimator, checkpoint, progress)
        if not checkpoint.ensembles:  # a training that an earlier version finished has none either
            self._predict(checkpoint)

    def _search(self, estimator: Estimator, checkpoint: Checkpoint, progress: Progress) -> None:
        """Try rates, and two more where the best is at an end."""
        rates = sorted(self.protocol.rates)
        for extension in range(MAX_EXTENSIONS + 1):
            tried = {trial["rate"] for trial in checkpoint.trials}
            if todo := [rate for rate in rates if rate not in tried]:
                self._try_rates(todo, estimator, checkpoint, progress)
            best, objective = best_rate(checkpoint.trials, rates)
            if not math.isfinite(objective):
                raise GradevalError(f"estimator '{self.name}': training diverged at every rate that was tried.")
            extended = extend_rates(rates, best)
            if extended == rates or extension == MAX_EXTENSIONS:
                break
            rates = extended
        checkpoint.rate, checkpoint.phase = best, Phase.RUNS
        checkpoint.write(self.path)

    def _try_rates(
        self, rates: Sequence[float], estimator: Estimator, checkpoint: Checkpoint, progress: Progress
    ) -> None:
        pairs = [(rate, FIRST_TRIAL_SEED + k) for rate in rates for k in range(self.protocol.tuning_seeds)]
        stack = self._stack(estimator, [seed for _, seed in pairs], [rate for rate, _ in pairs])
        for _ in self._epochs(stack, checkpoint, self.protocol.trial_epochs, progress):
            pass
        checkpoint.stack = None
        measures = Measures(self.task, self.protocol)
        for run, (rate, seed) in enumerate(pairs):
            value, _ = measures.objective(self.task.train, stack.theta[run], seed, stack.epoch)
            checkpoint.trials.append({"rate": rate, "seed": seed, "epochs": stack.epoch, "objective": value})
        checkpoint.write(self.path)

    def _train_runs(self, estimator: Estimator, checkpoint: Checkpoint, progress: Progress) -> None:
        protocol, measures = self.protocol, Measures(self.task, self.protocol)
        seeds = list(range(protocol.seeds))
        stack = self._stack(estimator, seeds, [checkpoint.rate] * len(seeds))
        for epoch in self._epochs(stack, checkpoint, protocol.epochs, progress):
            if epoch in protocol.check_epochs:
                checkpoint.curves += [measures.curve_row(stack.theta[seed], seed, epoch) for seed in seeds]
            if epoch in protocol.snapshot_epochs:
                checkpoint.snapshots[epoch] = stack.theta.clone()
        checkpoint.stack, checkpoint.phase = stack.saved(), Phase.GRADIENTS
        checkpoint.write(self.path)

    def _stack(self, estimator: Estimator, seeds: Sequence[int], rates: Sequence[float]) -> Stack:
        recipe = Recipe(self.task, self.name, estimator, self.protocol.optimiser, self.protocol.batch)
        return Stack(recipe, seeds, rates)

    def _epochs(self, stack: Stack, checkpoint: Checkpoint, epochs: int, progress: Progress) -> Iterator[int]:
        """Train to ``epochs``, yielding before every epoch and at the end; checkpoints are written in between."""
        part = f"{self.name}, {'search' if checkpoint.phase is Phase.SEARCH else 'training'}"
        progress.start(part, epochs)
        if checkpoint.stack is not None:
            stack.restore(checkpoint.stack)
            progress.advance(part, stack.epoch)
        else:
            yield 0
        last = time.monotonic()
        while stack.epoch < epochs:
            began = time.process_time()
            stack.train_epoch()
            yield stack.epoch
            checkpoint.seconds += time.process_time() - began
            progress.advance(part, 1)
            if time.monotonic() - last >= self.checkpoint_seconds and stack.epoch < epochs:
                checkpoint.stack = stack.saved()
                checkpoint.write(self.path)
                last = time.monotonic()
        progress.finish(part)

    def _compare_gradients(self, estimator: Estimator, checkpoint: Checkpoint, progress: Progress) -> None:
        """Compare gradients at the snapshots with the exact one, where it can be had."""
        if not enumerable(self.task.train):
            return
        part, draws = f"{self.name}, gradients", self.protocol.gradient_draws
        done = {(row["seed"], row["epoch"]) for row in checkpoint.gradients}
        todo = [(seed, epoch) for epoch in checkpoint.snapshots for seed in range(self.protocol.seeds)]
        progress.start(part, len(todo))
        last = time.monotonic()
        for seed, epoch in todo:
            theta = checkpoint.snapshots[epoch][seed]
            if (seed, epoch) not in done and bool(torch.isfinite(theta).all()):
                problem = with_parameters(self.task.train, theta)
                rows = gradient_accuracy(problem, self.name, estimator, draws, seed)
                checkpoint.gradients += [{"seed": seed, "epoch": epoch} | row for row in rows]
            progress.advance(part, 1)
            if time.monotonic() - last >= self.checkpoint_seconds:
                checkpoint.write(self.path)
                last = time.monotonic()
        progress.finish(part)

    def _predict(self, checkpoint: Checkpoint) -> None:
        """Score what the trained networks predict."""
        measures = Measures(self.task, self.protocol)
        checkpoint.predictions = []
        assert checkpoint.stack is not None
        for seed, theta in enumerate(checkpoint.stack["theta"]):
            predictions, ensembles = measures.prediction_rows(theta, seed)
            checkpoint.predictions += predictions
            checkpoint.ensembles += ensembles
        checkpoint.phase = Phase.DONE
        checkpoint.write(self.path)
