"""Training with each estimator under one protocol, and what it must not depend on: where it was stopped.

For every estimator the learning rate is searched for on the training objective, with seeds of its own; then all runs
are trained with the best rate, from the same initial parameters, in the same order of data, for the same number of
epochs. Validation and test data enter the tables and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict, Unpack

import pandas as pd

from gradeval.analysis.training import Training
from gradeval.analysis.training_folder import TRAINING_TABLES
from gradeval.analysis.training_manifest import TRAINING_FILE
from gradeval.arguments import folder_path, listener, shown, whole
from gradeval.checkpoint import Checkpoint, checkpoint_path, read_checkpoint
from gradeval.errors import GradevalError, Incomplete, check_options, enumeration
from gradeval.estimators import Estimator, Estimators, claims_unbiased, get_facts, resolve_with_specs
from gradeval.folder_lock import FolderLock
from gradeval.given import GivenProblem, given_task
from gradeval.progress import Progress, foretell
from gradeval.training.folder import TrainingPlan, is_training, open_folder
from gradeval.training.forecast import training_seconds
from gradeval.training.job import TrainingJob
from gradeval.training.protocol import Protocol
from gradeval.workers.jobs import run_jobs

CHECKPOINT_SECONDS = 10.0


class TrainingExecution(TypedDict, total=False):
    """How `train` carries a training out; no number depends on it.

    Attributes:
        workers, progress, arguments, checkpoint_seconds: as of `train`.
    """

    workers: int
    progress: Progress | None
    arguments: dict[str, Any] | None
    checkpoint_seconds: float


def train(
    task: GivenProblem,
    estimators: Estimators,
    protocol: Protocol | None = None,
    *,
    folder: str | Path,
    **execution: Unpack[TrainingExecution],
) -> Training:
    """Train with each estimator under one protocol. A training that was stopped in the folder is resumed.

    Args:
        task: what is trained on: a task, a problem (training data alone), or the name or file of one.
        estimators: specs, the user's own ("module:name") or callables; one, a list, or a dictionary that names them.
        protocol: what is the same for all of them; `Protocol()` if not given.
        folder: for checkpoints and tables.
        workers: processes, each of which takes one estimator at a time; 1 if not given.
        progress: receives the progress of each estimator; True for bars.
        arguments: kept in the manifest.
        checkpoint_seconds: at the end of an epoch a checkpoint is written if the last is older than this; 10 if not
            given.

    Returns:
        The tables, which are also written into ``folder``.

    Raises:
        GradevalError: unusable input, or a folder that holds something else.
        Incomplete: an estimator failed, or Ctrl-C; the message says what is kept in ``folder``.

    Examples:
        >>> import tempfile
        >>> from gradeval.problems.catalogue import load_task
        >>> task = load_task("expclass", units="2", points=20)
        >>> short = Protocol(epochs=2, seeds=2, rates=(0.1,), gradient_epochs=())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     training = train(task, ["st", "psa"], short, folder=Path(folder) / "run")
        >>> training.estimators
        ['st', 'psa']
    """
    check_options(train, execution, TrainingExecution)
    resolved, specs = resolve_with_specs(estimators)
    workers = whole("workers", execution.get("workers") or 1, least=1)
    if workers > 1 and set(specs) < set(resolved):
        raise GradevalError("with several workers estimators must be given by name, not as objects.")
    if protocol is not None and not isinstance(protocol, Protocol):
        raise GradevalError(f"protocol must be a gradeval.Protocol(epochs=…), found {shown(protocol)}.")
    # another process imports a user's own estimator again, by its spec
    given: dict[str, Any] = specs if workers > 1 else resolved
    folder, plan = folder_path(folder), TrainingPlan(given_task(task), list(resolved), protocol or Protocol())
    if execution.get("progress") is not None:
        execution["progress"] = listener(execution["progress"])
    with FolderLock(folder, TRAINING_FILE) as lock:
        foretell(execution.get("progress"), lambda: _predicted(folder, plan, resolved, workers))
        lock.hold()
        return _carry_out(folder, plan, resolved, given, execution)


def _carry_out(
    folder: Path,
    plan: TrainingPlan,
    resolved: dict[str, Estimator],
    given: dict[str, Any],
    execution: TrainingExecution,
) -> Training:
    task, workers = plan.task, execution.get("workers") or 1
    manifest = open_folder(folder, plan, execution.get("arguments") or {})
    paths = {name: checkpoint_path(folder, name) for name in resolved}
    seconds = execution.get("checkpoint_seconds", CHECKPOINT_SECONDS)
    jobs = [TrainingJob(task, name, given[name], plan.protocol, paths[name], seconds) for name in resolved]
    try:
        manifest["failures"] = failures = run_jobs(jobs, workers, execution.get("progress"))
        checkpoints = {name: read_checkpoint(path) for name, path in paths.items() if name not in failures}
        training = _collect(manifest, resolved, {name: found for name, found in checkpoints.items() if found})
        training.save(folder)
    except KeyboardInterrupt:
        raise Incomplete(_what_is_kept(folder, paths), exit_code=130) from None
    if failures:
        raise _failed(folder, failures, training)
    return training


def _predicted(folder: Path, plan: TrainingPlan, estimators: dict[str, Estimator], workers: int) -> dict[str, float]:
    """The seconds of a training that begins; what is resumed was agreed to when it began."""
    return {} if is_training(folder) else training_seconds(plan.task, estimators, plan.protocol, workers)


def _failed(folder: Path, failures: dict[str, str], training: Training) -> Incomplete:
    why = "; ".join(text.rstrip(".") for text in failures.values())
    kept = f"the tables in {folder} have {enumeration(training.estimators)}" if training.estimators else ""
    return Incomplete(f"{why}; {kept or 'no estimator was trained'}.", exit_code=1)


def _what_is_kept(folder: Path, paths: dict[str, Path]) -> str:
    kept = [name for name, path in paths.items() if path.exists()]
    if not kept:
        return f"interrupted before the first checkpoint was written to {folder}."
    if len(kept) == 1:
        return f"interrupted; the checkpoint of {kept[0]} is kept in {folder}."
    return f"interrupted; the checkpoints of {enumeration(kept)} are kept in {folder}."


def _collect(
    manifest: dict[str, Any], estimators: dict[str, Estimator], checkpoints: dict[str, Checkpoint]
) -> Training:
    """The tables of all estimators that are trained."""
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in TRAINING_TABLES}
    for name, found in checkpoints.items():
        for table, rows in (
            ("trials", [row | {"chosen": row["rate"] == found.rate} for row in found.trials]),
            ("curves", [row | {"rate": found.rate} for row in found.curves]),
            ("gradients", found.gradients),
            ("predictions", found.predictions),
            ("ensembles", found.ensembles),
            ("timings", [{"seconds": found.seconds}]),
        ):
            tables[table] += [{"estimator": name} | row for row in rows]
    facts = {name: get_facts(estimators[name]) for name in checkpoints}
    manifest["estimators"] = {
        name: {
            "unbiased_claim": claims_unbiased(estimators[name]),
            "source": known.source if known else f"the user's own, {name}",
        }
        for name, known in facts.items()
    }
    return Training(manifest, {name: pd.DataFrame(rows) for name, rows in tables.items()})
