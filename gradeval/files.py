"""Files are written whole or not at all, and read with limits: they may come from strangers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from gradeval.errors import GradevalError


def reason(error: BaseException) -> str:
    """What an error of another library says, in one line."""
    text = getattr(error, "strerror", None) or " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if not isinstance(error, OSError) or not text else text[:200]


class CannotWrite(GradevalError):
    """A file cannot be written (any more); what was written before is as it was."""

    exit_code = 1

    def __init__(self, path: str | Path, error: BaseException) -> None:
        super().__init__(
            f"cannot write {path}: {reason(error)}. What was finished is kept: repeat the command when there is room "
            "again."
        )


def write_whole(path: Path, content: bytes) -> None:
    """Write beside the target, flush to the disk, then put it in place: a crash never leaves half a file."""
    beside = path.with_name(f"{path.name}.part")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)  # should power fail before this reaches the disk, the old state is a good one too
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def read_json(path: Path, limit: int) -> dict[str, Any]:
    """The JSON object in a file of at most ``limit`` bytes.

    Raises:
        GradevalError: it is missing, larger, or no JSON object.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise GradevalError(f"cannot read {path}: {error.strerror}.") from None
    if len(content) > limit:
        raise GradevalError(f"{path}: larger than the limit of {limit} bytes.")
    try:
        document = json.loads(content.decode("utf-8"))
    except (RecursionError, ValueError) as error:
        raise GradevalError(f"{path}: not a JSON file ({reason(error)}).") from None
    if not isinstance(document, dict):
        raise GradevalError(f"{path}: must hold a JSON object, found {type(document).__name__}.")
    return document
