"""Networks of a training as problems: FOLDER:ESTIMATOR@EPOCH names one of the networks that its checkpoints keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from gradeval.analysis.training_manifest import TRAINING_FILE, read_training_manifest
from gradeval.arguments import shown
from gradeval.checkpoint import checkpoint_path, read_checkpoint
from gradeval.errors import GradevalError, unknown_name
from gradeval.model.problem import Problem
from gradeval.problems.tasks import Task, with_parameters


@dataclass(frozen=True)
class TrainedName:
    """What a name such as ``gradeval-train-1:psa@100`` says.

    Args:
        folder: of the training.
        estimator: that trained the network.
        epoch: after which; None: the last.
        seed: of the run.
    """

    folder: Path
    estimator: str
    epoch: int | None = None
    seed: int = 0


def trained_name(text: str) -> TrainedName | None:
    """Read the name of a trained network.

    Args:
        text: FOLDER:ESTIMATOR@EPOCH, or @EPOCH/SEED for another run than that of seed 0; without @, the last epoch.

    Returns:
        What it says; None where it names no folder of a training.

    Raises:
        GradevalError: epoch or seed is no whole number, or there is no training in the folder.

    Examples:
        >>> trained_name("expclass") is None
        True
    """
    places = [k for k, letter in enumerate(text) if letter == ":" and (Path(text[:k]) / TRAINING_FILE).is_file()]
    head, at, _ = text.rpartition("@")
    if not places:
        if at and ":" in head:
            raise GradevalError(
                f"'{text}' names a network of a training, FOLDER:ESTIMATOR@EPOCH, but {head.partition(':')[0]} holds "
                f"no training (no {TRAINING_FILE})."
            )
        return None
    folder, rest = Path(text[: places[-1]]), text[places[-1] + 1 :]
    estimator, _, where = rest.partition("@")
    epoch, _, seed = where.partition("/")
    if not all(number.isdecimal() for number in (epoch, seed) if number):
        raise GradevalError(f"'{text}': the name of a trained network is FOLDER:ESTIMATOR@EPOCH or …@EPOCH/SEED.")
    return TrainedName(folder, estimator, int(epoch) if epoch else None, int(seed or 0))


def trained_problem(name: TrainedName, load: Callable[..., Task], task: Task | None = None) -> Problem:
    """The training data with a network as a training left it.

    Args:
        name: of the network.
        load: `load_task`, which makes the task again as it was made for the training.
        task: what was trained on; needed where it was not made by `load_task`.

    Returns:
        The problem.

    Raises:
        GradevalError: an estimator, an epoch or a seed that the folder does not have, or another task.
    """
    manifest = read_training_manifest(name.folder)
    estimators = manifest["kind"]["estimators"]
    if name.estimator not in estimators:
        raise unknown_name(f"estimator of {name.folder}", name.estimator, estimators)
    epoch, networks = _networks(name)
    if name.seed >= len(networks):
        raise GradevalError(f"{name.folder} has the seeds 0 to {len(networks) - 1}, found {name.seed}.")
    task = _task(name.folder, manifest, load) if task is None else task
    if not isinstance(task, Task) or task.fingerprint() != manifest["kind"]["task"]:
        raise GradevalError(f"{name.folder} was not trained on this task: its data or its network differ.")
    found = with_parameters(task.train, networks[name.seed].to(task.train.network.device))
    what = f"after {epoch} epoch{'s' * (epoch != 1)} of training with {name.estimator}, seed {name.seed}"
    return replace(found, name=f"{found.name}, {name.estimator}@{epoch}", description=f"{found.description}, {what}")


def _networks(name: TrainedName) -> tuple[int, Tensor]:
    """The epoch that is meant, and the parameters of all runs after it, [runs, P]."""
    checkpoint = read_checkpoint(checkpoint_path(name.folder, name.estimator))
    kept = dict(checkpoint.snapshots) if checkpoint else {}
    if checkpoint and checkpoint.is_trained and checkpoint.stack:
        kept[checkpoint.epoch] = checkpoint.stack["theta"]
    epoch = max(kept, default=0) if name.epoch is None else name.epoch
    if epoch not in kept:
        there = f"those after {', '.join(map(str, sorted(kept)))} epochs" if kept else "none yet"
        raise GradevalError(
            f"of the networks trained with {name.estimator}, {name.folder} keeps {there}; found {epoch}. "
            "`gradeval train --gradient-epochs 1,10,100` says which are kept."
        )
    return epoch, kept[epoch]


def _task(folder: Path, manifest: dict[str, Any], load: Callable[..., Task]) -> Task:
    made = manifest.get("made") or {}
    if not made:
        raise GradevalError(
            f"{folder} does not say how its task was made: give it, "
            f"gradeval.load_problem({shown(f'{folder}:…')}, task=task)."
        )
    return load(**made)
