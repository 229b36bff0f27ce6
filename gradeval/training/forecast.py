"""How long a training will take, said before anything is written."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from gradeval.errors import GradevalError
from gradeval.estimators import Estimator
from gradeval.estimators.protocol import copied
from gradeval.problems.tasks import Task
from gradeval.training.protocol import Protocol
from gradeval.training.stacked import Recipe, Stack

STEPS = (2, 8)  # of two short epochs: what is the same for both is the cost of an epoch, the rest that of a step


def training_seconds(
    task: Task, estimators: Mapping[str, Estimator], protocol: Protocol, workers: int
) -> dict[str, float]:
    """Predict the seconds of all epochs, from short ones; measures along the training are left out.

    Args:
        task: what is trained on.
        estimators: by name.
        protocol: how they are trained.
        workers: how many estimators are trained at once, at most.

    Returns:
        Seconds by the task's name; zero where an estimator fails, which it may say when it is trained.
    """
    found: dict[str, float] = {}
    at_once = min(workers, len(estimators))
    for name, estimator in estimators.items():
        try:
            epoch, rowwise = _seconds_of_epoch(task, name, copied(estimator), protocol)
        except GradevalError:
            epoch, rowwise = 0.0, False
        trials = len(protocol.rates) * protocol.tuning_seeds if len(protocol.rates) > 1 else 0
        share = trials / protocol.seeds if rowwise else float(trials > 0)
        found |= {
            f"{name}, search": epoch * protocol.trial_epochs * share / at_once,
            f"{name}, training": epoch * protocol.epochs / at_once,
            f"{name}, gradients": 0.0,
        }
    return found


def _seconds_of_epoch(task: Task, name: str, estimator: Estimator, protocol: Protocol) -> tuple[float, bool]:
    """Seconds of an epoch of all runs, and whether they are trained one after the other."""
    train = task.train
    size = min(protocol.batch, train.points)
    steps = -(-train.points // size)
    seconds, done = [], []
    rowwise = False
    for count in STEPS:
        points = min(train.points, count * size)
        few = replace(task, train=replace(train, inputs=train.inputs[:points], targets=train.targets[:points]))
        recipe = Recipe(few, name, estimator, protocol.optimiser, protocol.batch)
        stack = Stack(recipe, list(range(protocol.seeds)), [protocol.rates[0]] * protocol.seeds)
        stack.train_epoch()  # the first call takes longer
        began = time.perf_counter()
        stack.train_epoch()
        seconds.append(time.perf_counter() - began)
        done.append(-(-points // size))
        rowwise = not stack.gradients.vectorised
    step = max(0.0, seconds[1] - seconds[0]) / max(1, done[1] - done[0])
    return max(0.0, seconds[0] - step * done[0]) + step * steps, rowwise
