"""training.json: what is trained, under which protocol, and what became of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from gradeval.errors import GradevalError
from gradeval.files import Finite, convert, read_json, unsealed

TRAINING_FORMAT = "gradeval-training/2"
TRAINING_FILE = "training.json"
MAX_TRAINING_BYTES = 2**22


class TrainingKind(msgspec.Struct):
    """What makes a training another one when it changes.

    Attributes:
        task: the fingerprint of data, networks and initial parameters.
        estimators: their names, in order.
        protocol: the fields of the protocol.
    """

    task: str
    estimators: list[str]
    protocol: dict[str, Any]


class TrainedProblem(msgspec.Struct):
    """The facts of the problem that are shown in the report.

    Attributes:
        name, description: of the problem.
        points: by split.
        widths: of the binary layers.
        noise, states, loss: of the network and the problem.
        parameters: of the network.
        enumerated: whether the objective is exact.
    """

    name: str
    description: str
    points: dict[str, int]
    widths: list[int]
    noise: str
    states: list[Finite]
    loss: str
    parameters: int
    enumerated: bool


class TrainedEstimator(msgspec.Struct):
    """The facts of an estimator that are shown in the report.

    Attributes:
        unbiased_claim: whether it claims to be unbiased.
        source: where it comes from.
    """

    unbiased_claim: bool
    source: str


class TrainingManifest(msgspec.Struct):
    """The contents of training.json.

    Attributes:
        format: `TRAINING_FORMAT`.
        created: when the training began.
        kind: what is trained and how.
        arguments: of the command that began it.
        versions: of the libraries when it began.
        problem: its facts.
        failures: by estimator, why it was not trained.
        estimators: facts of those that were trained; None while the training is not finished.
        files: the digest of each file of its tables.
        made: the arguments of `load_task` that made the task; empty where it was made otherwise.
    """

    format: str
    created: str
    kind: TrainingKind
    arguments: dict[str, Any]
    versions: dict[str, str]
    problem: TrainedProblem
    failures: dict[str, str]
    estimators: dict[str, TrainedEstimator] | None = None
    files: dict[str, str] = msgspec.field(default_factory=dict)
    made: dict[str, Any] = msgspec.field(default_factory=dict)


def read_training_manifest(folder: str | Path) -> dict[str, Any]:
    """Read and validate the manifest of a training.

    Args:
        folder: of the training.

    Returns:
        The contents of training.json.

    Raises:
        GradevalError: the file is missing, of another format, or damaged; it names the file and the place in it.
    """
    path = Path(folder) / TRAINING_FILE
    if not path.exists():
        raise GradevalError(f"{folder} is not a training: it has no {TRAINING_FILE}.")
    document = read_json(path, MAX_TRAINING_BYTES)
    if document.get("format") != TRAINING_FORMAT:
        raise GradevalError(
            f"{path}: this version reads '{TRAINING_FORMAT}', found {document.get('format')!r:.80}: repeat the command "
            "that made it, with a new --out."
        )
    document = unsealed(document, path)
    try:
        convert(document, TrainingManifest, "")
    except GradevalError as error:
        raise GradevalError(f"{path}: {error}") from None
    return document
