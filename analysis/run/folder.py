"""A run's folder: manifest.json, moments.npz and the tables as csv and parquet, written whole, read with care."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gradeval.analysis.run.curves import CURVE_COLUMNS
from gradeval.analysis.run.manifest import read_manifest
from gradeval.analysis.run.moments import Layout, Moments
from gradeval.analysis.run.rare import COLUMNS, RareStates
from gradeval.analysis.run.record import EXACT_COLUMNS, Record
from gradeval.analysis.statistics import Array
from gradeval.analysis.tables import table_files
from gradeval.errors import GradevalError
from gradeval.files import CannotWrite, reason, write_whole

MANIFEST = "manifest.json"
MAX_ARRAY_BYTES = 2**34  # of all moments together, unpacked
MAX_ROWS = 2**22
LARGEST = 1e100  # of the numbers, so that their products are finite
STORED = {
    "curves": CURVE_COLUMNS,
    "exact_moments": EXACT_COLUMNS,
    "points": ["x", "y", "target"],
    "prediction": ["x", "y", "prediction"],
}
"""The tables that a record holds, with their columns; all others are made from it."""


# --- writing ------------------------------------------------------------------------------------------------------


def create_run(folder: Path, record: Record, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write a new folder, whole or not at all.

    Args:
        folder: absent or empty.
        record: of the run.
        tables: all that are to be written, by name.

    Raises:
        GradevalError: the folder exists and is not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise GradevalError(f"{folder} exists and is not empty: choose another folder or remove it.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            content = Path(temporary) / "run"
            content.mkdir()
            _write_files(content, _run_files(record, tables))
            if folder.exists():
                folder.rmdir()
            content.rename(folder)
    except OSError as error:
        raise GradevalError(f"cannot write {folder}: {error.strerror}.") from None


def replace_run(folder: Path, record: Record, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write the files of a run into its folder, the manifest last; none is replaced before all are on the disk.

    Args:
        folder: must exist.
        record: of the run.
        tables: all that are to be written, by name.

    Raises:
        CannotWrite: a full disk, say.
    """
    files = _run_files(record, tables)
    try:
        with tempfile.TemporaryDirectory(prefix=".tables-", dir=folder) as temporary:
            _write_files(Path(temporary), files)
            for name in sorted(files, key=lambda name: name == MANIFEST):
                (Path(temporary) / name).replace(folder / name)
    except OSError as error:
        raise CannotWrite(folder, error) from None


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        write_whole(folder / name, content)


def _run_files(record: Record, tables: Mapping[str, pd.DataFrame]) -> dict[str, bytes]:
    arrays: dict[str, Array] = {"exact": record.exact}
    for i, m in enumerate(record.moments.values()):
        arrays |= {f"mean_{i}": m.mean, f"covariance_{i}": m.covariance, f"descents_{i}": m.descents}
        arrays |= {f"thirds_{i}": m.thirds, f"blocks_{i}": m.blocks}
    if record.rare is not None:
        arrays |= {"rare": record.rare.cells, "usual": record.rare.usual}
    packed = io.BytesIO()
    np.savez_compressed(packed, allow_pickle=False, **arrays)
    files = {MANIFEST: json.dumps(record.manifest, indent=1).encode(), "moments.npz": packed.getvalue()}
    for name, table in tables.items():
        files |= table_files(name, table)
    return files


# --- reading ------------------------------------------------------------------------------------------------------


def read_run(folder: Path) -> Record:
    """Read what a run measured. The tables that are made from it are not read.

    Args:
        folder: of a saved run.

    Returns:
        Its record; shapes, names and types fit together.

    Raises:
        GradevalError: in one line: it is missing, of another format or damaged.
    """
    if not (folder / MANIFEST).exists():
        raise GradevalError(f"{folder} is not a run: it has no readable {MANIFEST}.")
    manifest = read_manifest(folder / MANIFEST)
    tables = {name: _read_table(folder / f"{name}.parquet") for name in STORED}
    curves, exact_moments = tables["curves"], tables["exact_moments"]
    if curves is None or exact_moments is None:
        raise GradevalError(f"{folder}: {'curves' if curves is None else 'exact_moments'}.parquet is missing.")
    arrays = _read_arrays(folder / "moments.npz")
    try:
        slices = {layer: slice(*ends) for layer, ends in manifest["problem"]["slices"].items()}
        layout = Layout(len(arrays["exact"]), slices)
        moments = {
            name: Moments(
                layout,
                facts["draws"],
                arrays[f"mean_{i}"],
                arrays[f"covariance_{i}"],
                arrays[f"descents_{i}"],
                arrays[f"thirds_{i}"],
                arrays[f"blocks_{i}"],
                facts["deterministic"],
            )
            for i, (name, facts) in enumerate(manifest["estimators"].items())
        }
        made = (manifest, arrays["exact"], slices, moments, curves, exact_moments)
        known = (list(slices), manifest["problem"]["points"])
        rare = RareStates(*known, arrays["rare"], arrays["usual"]) if "rare" in arrays else None
        record = Record(*made, tables["points"], tables["prediction"], rare)
        _check_shapes(record, layout)
        _check_numbers(record, layout)
        _check_tables(record)
    except (ValueError, KeyError, TypeError) as error:
        raise GradevalError(f"{folder}: a damaged run ({reason(error)}).") from None
    return record


def _read_arrays(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as entries:
            if sum(entry.file_size for entry in entries.infolist()) > MAX_ARRAY_BYTES:
                raise ValueError(f"larger than {MAX_ARRAY_BYTES >> 30} GiB")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # zip, zlib and numpy have many ways to say it
        raise GradevalError(f"{path}: damaged ({reason(error)}).") from None


def _read_table(path: Path) -> pd.DataFrame | None:
    import pyarrow.parquet as pq

    if not path.exists():
        return None
    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows > MAX_ROWS:
                raise ValueError(f"more than {MAX_ROWS} rows")
            for column in STORED[path.stem]:
                if column not in file.schema_arrow.names:
                    raise ValueError(f"no column {column}")
            return file.read(columns=STORED[path.stem]).to_pandas(ignore_metadata=True)
    except Exception as error:  # so have Arrow and its codecs
        raise GradevalError(f"{path}: damaged ({reason(error)}).") from None


def _check_shapes(record: Record, layout: Layout) -> None:
    """Raise ValueError unless layers, arrays and numbers of draws fit together."""
    for layer, where in record.slices.items():
        if where.stop > layout.parameters:
            raise ValueError(f"layer {layer} is {where} of {layout.parameters} parameters")
    if not record.moments or "all" not in layout.layers:
        raise ValueError("no estimators, or no layer 'all'")
    layers, size = len(layout.layers), layout.size
    shapes: list[tuple[str, Array, tuple[int, ...]]] = [
        ("the exact gradient", record.exact, (layout.parameters,)),
    ]
    if record.rare is not None:
        shapes.append(("what is known of rare states", record.rare.cells, (len(record.rare.cells), COLUMNS)))
        shapes.append(("the usual size of gradients", record.rare.usual, (layers,)))
    wanted = {"mean": (size,), "covariance": (size, size), "descents": (layers,), "thirds": (4 * layers,)}
    for name, m in record.moments.items():
        shapes += [(f"{key} of '{name}'", getattr(m, key), shape) for key, shape in wanted.items()]
        blocks = 0 if m.deterministic else max(1, len(m.blocks))
        shapes.append((f"blocks of '{name}'", m.blocks, (blocks, 2 * layers)))
    for what, array, shape in shapes:
        if array.shape != shape or array.dtype not in (np.float64, np.float32, np.int64):
            raise ValueError(f"{what} is {array.dtype}{list(array.shape)}, not numbers {list(shape)}")


def _check_numbers(record: Record, layout: Layout) -> None:
    """Raise ValueError where moments cannot be those of any draws."""
    for array in (record.rare.cells, record.rare.usual) if record.rare is not None else ():
        if not ((array >= 0) & (array < LARGEST)).all():
            raise ValueError("what is known of rare states is not finite, or negative")
    known = layout.without_cosines  # the cosines of a layer without gradient are NaN
    for name, m in record.moments.items():
        variance = np.diag(m.covariance)
        numbers = np.concatenate([record.exact, m.mean[known], m.covariance[np.ix_(known, known)].ravel()])
        all_numbers = np.concatenate([m.mean, variance, m.thirds, m.blocks.ravel()])
        squares = np.concatenate([variance, m.mean[layout.squares]])
        if not (np.abs(numbers) < LARGEST).all() or (np.abs(all_numbers) >= LARGEST).any() or (squares < 0).any():
            raise ValueError(f"the moments of '{name}' are not finite, or a mean square is negative")
        if not ((m.descents >= 0) & (m.descents <= m.draws)).all():
            raise ValueError(f"'{name}' has a number of descents that cannot be")


def _check_tables(record: Record) -> None:
    """Raise ValueError where a stored table names what the run does not have, or holds what is no number."""
    names: dict[str, set[Any]] = {"estimator": set(record.moments), "layer": set(record.slices)}
    for name, columns in STORED.items():
        table = getattr(record, name)
        for column in columns if table is not None else []:
            values = table[column]
            if column in names:
                if not set(values) <= names[column]:
                    raise ValueError(f"{name}.parquet names another {column}")
            elif len(table) and not pd.api.types.is_numeric_dtype(values):
                raise ValueError(f"column {column} of {name}.parquet is no number")
            elif len(table) and (values.abs() >= LARGEST).any():
                raise ValueError(f"column {column} of {name}.parquet has numbers beyond {LARGEST:g}")
