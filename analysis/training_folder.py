"""The tables in a training's folder: written together, training.json last, with a digest of each; read with care."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from gradeval.analysis.tables import MAX_TABLE_BYTES, table_files
from gradeval.analysis.training_manifest import TRAINING_FILE, read_training_manifest
from gradeval.errors import GradevalError
from gradeval.files import CannotWrite, digest_of, read_whole, reason, sealed, write_together

TRAINING_TABLES: dict[str, list[str]] = {
    "trials": ["estimator", "rate", "seed", "epochs", "objective", "chosen"],
    "curves": ["estimator", "seed", "epoch", "objective", "exact", "validation_objective", "rate"],
    "gradients": ["estimator", "seed", "epoch", "layer", "cosine", "relative_bias", "relative_variance", "noise"],
    "predictions": ["estimator", "seed", "split", "predictor", "loss", "accuracy"],
    "ensembles": ["estimator", "seed", "split", "draws", "loss", "accuracy"],
    "timings": ["estimator", "seconds"],
}
"""The saved tables and their columns; `summary` is made from them."""
LATER = "ensembles"  # a table that trainings of earlier versions do not have; it is empty then


def write_training(folder: Path, manifest: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> None:
    """Write tables (csv and parquet) and manifest; none is replaced before all are on the disk.

    Args:
        folder: is made if need be.
        manifest: the contents of training.json.
        tables: by name.

    Raises:
        CannotWrite: a full disk, say; the files are as they were.
    """
    files: dict[str, bytes] = {}
    for name, table in tables.items():
        files |= table_files(name, table)
    digests = {name: digest_of(content) for name, content in files.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        vouching = {TRAINING_FILE: sealed({**manifest, "files": digests})}
        write_together(folder, files | vouching, TRAINING_FILE)
    except OSError as error:
        raise CannotWrite(folder, error) from None


def read_training(folder: Path) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """Read manifest and tables of a training.

    Args:
        folder: of the training.

    Returns:
        The manifest, and the tables that `TRAINING_TABLES` names; without those that an earlier version did not make.

    Raises:
        GradevalError: in one line, that it is missing, not finished or damaged.
    """
    manifest = read_training_manifest(folder)
    if not manifest.get("estimators"):
        raise GradevalError(
            f"{folder} has no tables yet: no estimator is trained. Repeat the command that began it with "
            f"--out {folder} to resume."
        )
    tables = {}
    for name in TRAINING_TABLES:
        path = folder / f"{name}.parquet"
        if name == LATER and path.name not in manifest["files"]:
            continue
        content = read_whole(path, MAX_TABLE_BYTES)
        if digest_of(content) != manifest["files"].get(path.name):
            raise GradevalError(
                f"{path} is not what gradeval wrote with {TRAINING_FILE}: put back what was there, or repeat the "
                f"command that made it with --out {folder}, which makes the tables again from the checkpoints."
            )
        try:
            tables[name] = pd.read_parquet(io.BytesIO(content))
        except (OSError, ValueError, KeyError) as error:
            raise GradevalError(f"{path}: cannot be read ({reason(error)}).") from None
    return manifest, tables
