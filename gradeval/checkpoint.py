"""The checkpoint of the training with one estimator: how far it is, and what it has measured until then."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradeval.errors import GradevalError
from gradeval.files import DIGEST_DIGITS, CannotWrite, digest_of, read_whole, reason, write_whole

MAX_CHECKPOINT_BYTES = 2**34


class Phase(StrEnum):
    """What comes next in a training."""

    SEARCH = "search"  # for the learning rate
    RUNS = "runs"  # training with that rate
    GRADIENTS = "gradients"  # their accuracy, and predictions
    DONE = "done"


@dataclass
class Checkpoint:
    """How far the training with one estimator is.

    Args:
        phase: what comes next.
        rate: the learning rate; before the end of the search, the first that is tried.
        stack: the runs under way, as `Stack.saved` gives them; None between the parts of the training.
        trials, curves, gradients, predictions, ensembles: rows of the tables, without the estimator.
        snapshots: by epoch, the parameters at which gradients are compared, [runs, P].
        seconds: of compute.
    """

    phase: Phase
    rate: float
    stack: dict[str, Any] | None = None
    trials: list[dict[str, Any]] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)
    snapshots: dict[int, Tensor] = field(default_factory=dict)
    gradients: list[dict[str, Any]] = field(default_factory=list)
    predictions: list[dict[str, Any]] = field(default_factory=list)
    ensembles: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def epoch(self) -> int:
        """The epochs that the runs under way have done; 0 where none are."""
        return int(self.stack["epoch"]) if self.stack else 0

    @property
    def is_trained(self) -> bool:
        """Whether the runs are at their last epoch."""
        return self.phase in (Phase.GRADIENTS, Phase.DONE)

    def write(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all.

        Args:
            path: of its file.

        Raises:
            CannotWrite: the disk is full, say.
        """
        content = io.BytesIO()
        state = {part.name: getattr(self, part.name) for part in fields(self)}
        torch.save(state | {"phase": self.phase.value}, content)  # what weights_only reads again: plain text
        written = content.getvalue()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, digest_of(written).encode() + written)
        except OSError as error:
            raise CannotWrite(path, error) from None


def checkpoint_path(folder: Path, name: str) -> Path:
    """Name the checkpoint file of an estimator: readable, and different for different names.

    Args:
        folder: of the training.
        name: of the estimator.

    Returns:
        The path; it need not exist.

    Examples:
        >>> checkpoint_path(Path("run"), "concrete:temperature=0.1").as_posix()
        'run/checkpoints/concrete-temperature=0.1-d3eb4561.pt'
    """
    slug = re.sub(r"[^\w.=-]+", "-", name)[:60]
    return folder / "checkpoints" / f"{slug}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.pt"


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Read a checkpoint; nothing in it is executed.

    Args:
        path: of its file.

    Returns:
        The checkpoint; None where there is no file.

    Raises:
        GradevalError: the file is damaged.
    """
    if not path.exists():
        return None
    content = read_whole(path, MAX_CHECKPOINT_BYTES)
    digest, written = content[:DIGEST_DIGITS], content[DIGEST_DIGITS:]
    try:
        if digest != digest_of(written).encode():
            raise ValueError("its digest is wrong")
        state: dict[str, Any] = torch.load(io.BytesIO(written), weights_only=True, map_location="cpu")
        return Checkpoint(**(state | {"phase": Phase(state["phase"])}))
    except Exception as error:  # whatever a strange file makes a parser say
        raise GradevalError(
            f"{path}: not a readable checkpoint ({reason(error)}); remove it to train that estimator again."
        ) from None
