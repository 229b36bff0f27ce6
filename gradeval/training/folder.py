"""The folder of a training: its manifest, its checkpoints, and what it holds.

training.json                   what is trained, under which protocol, and what became of it
checkpoints/ESTIMATOR-HASH.pt   how far each estimator is
*.csv, *.parquet                the tables, once all estimators are trained or have failed
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gradeval.analysis.training_manifest import TRAINING_FILE, TRAINING_FORMAT, read_training_manifest
from gradeval.checkpoint import Phase, checkpoint_path, read_checkpoint
from gradeval.errors import GradevalError
from gradeval.files import CannotWrite, sealed, write_whole
from gradeval.folder_lock import holder_of
from gradeval.model.objective import loss_title
from gradeval.problems.tasks import Task
from gradeval.training.measures import enumerable
from gradeval.training.protocol import Protocol
from gradeval.versions import versions_of


@dataclass(frozen=True)
class TrainingPlan:
    """What is trained and how: two trainings with the same plan have the same numbers.

    Args:
        task: what is trained on.
        estimators: their names, in order.
        protocol: what is the same for all of them.
    """

    task: Task
    estimators: list[str]
    protocol: Protocol

    def as_json(self) -> dict[str, Any]:
        """Describe the plan as it stands in the manifest.

        Returns:
            The fingerprint of the task, the estimators and the protocol.
        """
        document = {
            "task": self.task.fingerprint(),
            "estimators": self.estimators,
            "protocol": asdict(self.protocol),
        }
        converted: dict[str, Any] = json.loads(json.dumps(document))  # tuples are lists there
        return converted


def open_folder(folder: Path, plan: TrainingPlan, arguments: dict[str, Any]) -> dict[str, Any]:
    """Begin a training in a new folder, or resume the one that the folder holds.

    Args:
        folder: of the training; the caller holds it.
        plan: what is trained and how.
        arguments: of the command, kept in a new manifest.

    Returns:
        The manifest.

    Raises:
        GradevalError: the folder holds another training, or cannot be written.
    """
    if is_training(folder):
        manifest = read_training_manifest(folder)
        _refuse_another(folder, manifest["kind"], plan.as_json())
        return manifest
    manifest = _new_manifest(plan, arguments)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / TRAINING_FILE, sealed(manifest))
    except OSError as error:
        raise CannotWrite(folder, error) from None
    return manifest


def is_training(folder: str | Path) -> bool:
    """Tell whether a folder holds a training, finished or not.

    Args:
        folder: any path.

    Returns:
        Whether it does.
    """
    return (Path(folder) / TRAINING_FILE).is_file()


def training_status(folder: str | Path) -> dict[str, Any]:
    """Describe what the folder of a training holds.

    Args:
        folder: of the training.

    Returns:
        "folder"; "bytes" in it; "holder": who is at work, in words, or None; the "problem"; "complete": whether every
        estimator is trained and the tables are there; and for each of the "estimators" its name, "phase" (search, runs,
        gradients, done), the "epoch" and the "epochs" of that phase, the learning "rate" once it is chosen, "damaged":
        the file of a checkpoint that cannot be read, and its "failure". It can be written as JSON.

    Raises:
        GradevalError: the folder is not a training.
    """
    folder = Path(folder)
    manifest = read_training_manifest(folder)
    protocol = manifest["kind"]["protocol"]
    rows = [_estimator_status(folder, name, protocol, manifest) for name in manifest["kind"]["estimators"]]
    return {
        "folder": str(folder),
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        "problem": manifest["problem"]["name"],
        "holder": holder_of(folder),
        "complete": bool(manifest.get("estimators")) and all(row["phase"] == Phase.DONE for row in rows),
        "estimators": rows,
    }


def _estimator_status(folder: Path, name: str, protocol: dict[str, Any], manifest: dict[str, Any]) -> dict[str, Any]:
    path, damaged, checkpoint = checkpoint_path(folder, name), None, None
    try:
        checkpoint = read_checkpoint(path)
    except GradevalError:
        damaged = path.name
    first = Phase.SEARCH if len(protocol.get("rates", ())) > 1 else Phase.RUNS
    phase = checkpoint.phase if checkpoint else first
    epochs = protocol.get("tuning_epochs" if phase is Phase.SEARCH else "epochs")
    trained = phase in (Phase.GRADIENTS, Phase.DONE)
    return {
        "estimator": name,
        "phase": phase.value,
        "epoch": epochs if trained else checkpoint.epoch if checkpoint else 0,
        "epochs": epochs,
        "rate": checkpoint.rate if checkpoint and phase is not Phase.SEARCH else None,
        "damaged": damaged,
        "failure": manifest["failures"].get(name),
    }


def _refuse_another(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for part in ("task", "protocol", "estimators"):
        if found[part] != wanted[part]:
            raise GradevalError(
                f"{folder} holds another training: its {part} differs "
                f"({_difference(found[part], wanted[part])}); choose another folder or remove it."
            )


def _difference(found: Any, wanted: Any) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        different = [key for key in wanted if found.get(key) != wanted[key]]
        return ", ".join(f"{key}: {found.get(key)} there, {wanted[key]} here" for key in different)
    return f"{found} there, {wanted} here"


def _new_manifest(plan: TrainingPlan, arguments: dict[str, Any]) -> dict[str, Any]:
    problem, network = plan.task.train, plan.task.train.network
    return {
        "format": TRAINING_FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "kind": plan.as_json(),
        "made": plan.task.made,
        "arguments": arguments,
        "versions": versions_of("gradeval", "torch", "numpy", "pandas", "seaborn"),
        "problem": {
            "name": problem.name,
            "description": problem.description,
            "points": {name: split.points for name, split in plan.task.splits.items()},
            "widths": problem.widths,
            "noise": network.noise.name,
            "states": list(network.states),
            "loss": loss_title(problem.loss),
            "parameters": sum(p.numel() for p in network.trainable().values()),
            "enumerated": enumerable(problem),
        },
        "failures": {},
    }
