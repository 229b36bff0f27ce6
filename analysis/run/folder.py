"""A run's folder: manifest.json, moments.npz and the tables as csv and parquet, written whole, read with care.

The manifest comes last and has a digest of every other file, and one of itself. So files of two runs, or of a run that
was interrupted while it wrote, are never taken for one.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gradeval.analysis.run.curves import CURVE_COLUMNS
from gradeval.analysis.run.manifest import read_manifest
from gradeval.analysis.run.moments import BlockProducts, Layout, Moments
from gradeval.analysis.run.rare import COLUMNS, RareStates
from gradeval.analysis.run.record import EXACT_COLUMNS, Record
from gradeval.analysis.run.sampled import FORMS, NUMBERS, SampledReference, SecondSample
from gradeval.analysis.statistics import Array
from gradeval.analysis.tables import MAX_TABLE_BYTES, table_files
from gradeval.errors import GradevalError, enumeration
from gradeval.files import CannotWrite, digest_of, read_whole, reason, sealed, write_together, write_whole

MANIFEST, MOMENTS = "manifest.json", "moments.npz"
PARTS = ("mean", "covariance", "descents", "thirds", "blocks")  # of an estimator's moments, each an array
OF_BLOCKS = ("products", "deviations", "draws")  # where there are too many parameters for a covariance
MAX_ARRAY_BYTES = 2**34  # of all moments together, unpacked
FEWEST_PRODUCTS = 4  # blocks, from which the trace of a squared covariance can be told
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
            for name, written in _run_files(record, tables).items():
                write_whole(content / name, written)
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
    try:
        write_together(folder, _run_files(record, tables), MANIFEST)
    except OSError as error:
        raise CannotWrite(folder, error) from None


def _run_files(record: Record, tables: Mapping[str, pd.DataFrame]) -> dict[str, bytes]:
    arrays: dict[str, Array] = {"exact": record.exact}
    for name, m in record.moments.items():
        arrays |= {f"{part}/{name}": getattr(m, part) for part in PARTS}
        if m.products is not None:
            arrays |= {f"blocks.{part}/{name}": getattr(m.products, part) for part in OF_BLOCKS}
        if m.second is not None:
            arrays[f"reference.forms/{name}"] = m.second.forms
    if (reference := record.reference) is not None:
        arrays["reference.numbers"] = reference.numbers
        if reference.covariance is not None:
            arrays["reference.covariance"] = reference.covariance
    arrays |= {name: array for ending, rare in _all_rare(record).items() for name, array in _of_rare(rare, ending)}
    packed = io.BytesIO()
    np.savez_compressed(packed, allow_pickle=False, **arrays)
    files = {MOMENTS: packed.getvalue()}
    for name, table in tables.items():
        files |= table_files(name, table)
    digests = {name: digest_of(content) for name, content in files.items()}
    return files | {MANIFEST: sealed({**record.manifest, "files": digests})}


def _all_rare(record: Record) -> dict[str, RareStates]:
    """All that is known of rare states, each by what its arrays' names have beside "rare" and "usual"."""
    reference = record.reference.rare if record.reference is not None else None
    found = {"": record.rare, **{f"/{name}": own for name, own in record.own_rare.items()}, ".reference": reference}
    return {ending: rare for ending, rare in found.items() if rare is not None}


def _of_rare(rare: RareStates, ending: str) -> list[tuple[str, Array]]:
    return [(f"rare{ending}", rare.cells), (f"usual{ending}", rare.usual)]


# --- reading ------------------------------------------------------------------------------------------------------


def check_run(folder: Path) -> None:
    """Refuse a folder that does not hold a saved run.

    Args:
        folder: any path.

    Raises:
        GradevalError: it has no manifest.
    """
    if not (folder / MANIFEST).exists():
        raise GradevalError(f"{folder} is not a run: it has no readable {MANIFEST}.")


def read_run(folder: Path) -> Record:
    """Read what a run measured. The tables that are made from it are not read.

    Args:
        folder: of a saved run.

    Returns:
        Its record; shapes, names and types fit together.

    Raises:
        GradevalError: in one line: it is missing, of another format or damaged.
    """
    check_run(folder)
    manifest, digests = read_manifest(folder / MANIFEST)
    found = _read_stored(folder, digests)
    tables = {name: _table(folder / f"{name}.parquet", found) for name in STORED}
    curves, exact_moments = tables["curves"], tables["exact_moments"]
    if curves is None or exact_moments is None:
        raise GradevalError(f"{folder}: {'curves' if curves is None else 'exact_moments'}.parquet is missing.")
    arrays = _arrays(folder / MOMENTS, found.get(MOMENTS, b""))
    try:
        slices = {layer: slice(*ends) for layer, ends in manifest["problem"]["slices"].items()}
        layout = Layout(len(arrays["exact"]), slices)
        known = (list(slices), manifest["problem"]["points"])
        rare = {
            name.removeprefix("rare"): RareStates(*known, array, arrays[f"usual{name.removeprefix('rare')}"])
            for name, array in arrays.items()
            if name.startswith("rare")
        }
        reference = _reference(manifest, arrays, slices, rare.get(".reference"))
        moments = {
            name: Moments(
                layout,
                facts["draws"],
                **{part: arrays[f"{part}/{name}"] for part in PARTS},
                deterministic=facts["deterministic"],
                products=_products(arrays, name),
                second=SecondSample(reference, arrays[f"reference.forms/{name}"]) if reference else None,
            )
            for name, facts in manifest["estimators"].items()
        }
        made = (manifest, arrays["exact"], slices, moments, curves, exact_moments)
        own = {name: rare[f"/{name}"] for name in moments if f"/{name}" in rare}
        record = Record(*made, tables["points"], tables["prediction"], rare.get(""), own)
        _check_shapes(record, layout)
        _check_numbers(record, layout)
        _check_tables(record)
    except (ValueError, KeyError, TypeError) as error:
        raise GradevalError(f"{folder}: a damaged run ({reason(error)}).") from None
    return record


def _products(arrays: Mapping[str, Array], name: str) -> BlockProducts | None:
    """What stands in place of an estimator's covariance; None where there is one."""
    if f"blocks.products/{name}" not in arrays:
        return None
    return BlockProducts(*(arrays[f"blocks.{part}/{name}"] for part in OF_BLOCKS))


def _reference(
    manifest: Mapping[str, Any], arrays: Mapping[str, Array], slices: Mapping[str, slice], rare: RareStates | None
) -> SampledReference | None:
    """The reference of a run where it was sampled. Raises ValueError where its numbers cannot be."""
    if (facts := manifest.get("reference") or {}).get("method") != "sampled":
        return None
    numbers, covariance, size = arrays["reference.numbers"], arrays.get("reference.covariance"), len(arrays["exact"])
    known = numbers if covariance is None else np.append(numbers.ravel(), covariance.ravel())
    if numbers.shape != (len(slices), NUMBERS) or (covariance is not None and covariance.shape != (size, size)):
        raise ValueError("the error of the reference is of another shape")
    if not (np.abs(known) < LARGEST).all() or (numbers < 0).any():
        raise ValueError("the error of the reference is not finite, or negative")
    made = (facts["estimator"], facts["draws"], arrays["exact"], dict(slices), numbers, covariance)
    return SampledReference(*made, block_draws=facts["block_draws"], rare=rare)


def _read_stored(folder: Path, digests: Mapping[str, str]) -> dict[str, bytes]:
    """The files that a run is read from, by name; all that are there must be those that the manifest vouches for."""
    needed = {MOMENTS, *(f"{name}.parquet" for name in STORED)}
    stored = {name: read_whole(folder / name, MAX_TABLE_BYTES) for name in digests if name in needed}
    if other := [name for name, content in stored.items() if digest_of(content) != digests[name]]:
        raise GradevalError(
            f"{folder}: {_not_of(other)}. Put back what was there, or repeat the command that made the run with "
            f"--out {folder}, which does only what is missing."
        )
    made = [name for name in digests if name not in needed and (folder / name).exists()]
    if other := [name for name in made if digest_of(read_whole(folder / name, MAX_TABLE_BYTES)) != digests[name]]:
        raise GradevalError(
            f"{folder}: {_not_of(other)}. Put back what was there, or remove it: `gradeval report {folder}` makes it "
            "anew."
        )
    return stored


def _not_of(names: list[str]) -> str:
    """That files are not those of the manifest."""
    return f"{enumeration(names)} {'is' if len(names) == 1 else 'are'} not what gradeval wrote with {MANIFEST}"


def _arrays(path: Path, content: bytes) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as entries:
            if sum(entry.file_size for entry in entries.infolist()) > MAX_ARRAY_BYTES:
                raise ValueError(f"larger than {MAX_ARRAY_BYTES >> 30} GiB")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        if other := [name for name, array in found.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"{other[0]!r:.80} is no array")
        return found
    except Exception as error:  # zip, zlib and numpy have many ways to say it
        raise GradevalError(f"{path}: damaged ({reason(error)}).") from None


def _table(path: Path, found: Mapping[str, bytes]) -> pd.DataFrame | None:
    import pyarrow.parquet as pq

    if path.name not in found:
        return None
    try:
        with pq.ParquetFile(io.BytesIO(found[path.name])) as file:
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
    for rare in _all_rare(record).values():
        shapes.append(("what is known of rare states", rare.cells, (len(rare.cells), COLUMNS)))
        shapes.append(("the usual size of gradients", rare.usual, (layers,)))
    for name, m in record.moments.items():
        wanted = {"mean": (size,), "covariance": (size, size), "descents": (layers,), "thirds": (4 * layers,)}
        if m.products is not None:
            wanted |= {"mean": (size + layers,), "covariance": (4 * layers + 1,) * 2}
            shapes += _shapes_of_blocks(name, m.products, layers)
            most = m.second.reference.draws if m.second and m.deterministic else m.draws
            if m.products.draws.dtype != np.int64 or not 1 <= int(m.products.draws.min()) <= most:
                raise ValueError(f"'{name}' has blocks of so many draws as cannot be")
            if m.products.blocks < FEWEST_PRODUCTS and not (m.deterministic and m.second is None):
                raise ValueError(f"'{name}' has fewer than {FEWEST_PRODUCTS} blocks of draws")
        if m.second is not None:
            shapes.append((f"forms of '{name}'", m.second.forms, (layers, FORMS)))
            if m.products is None and m.second.reference.covariance is None:
                raise ValueError("the reference has no covariance")
        shapes += [(f"{key} of '{name}'", getattr(m, key), shape) for key, shape in wanted.items()]
        blocks = 0 if m.deterministic else max(1, len(m.blocks))
        shapes.append((f"blocks of '{name}'", m.blocks, (blocks, 2 * layers)))
    for what, array, shape in shapes:
        if array.shape != shape or array.dtype not in (np.float64, np.float32, np.int64):
            raise ValueError(f"{what} is {array.dtype}{list(array.shape)}, not numbers {list(shape)}")


def _shapes_of_blocks(name: str, found: BlockProducts, layers: int) -> list[tuple[str, Array, tuple[int, ...]]]:
    """The arrays that stand in place of a covariance, and their shapes."""
    rows = found.blocks
    return [
        (f"products of '{name}'", found.products, (layers, rows + 2, rows + 2)),
        (f"deviations of '{name}'", found.deviations, (rows, layers)),
        (f"draws of the blocks of '{name}'", found.draws, (1,)),
    ]


def _check_numbers(record: Record, layout: Layout) -> None:
    """Raise ValueError where moments cannot be those of any draws."""
    for rare in _all_rare(record).values():
        if not all(((array >= 0) & (array < LARGEST)).all() for array in (rare.cells, rare.usual)):
            raise ValueError("what is known of rare states is not finite, or negative")
    for name, m in record.moments.items():
        known = np.ones(len(m.mean), dtype=bool)  # the cosines of a layer without gradient are NaN
        known[layout.squares.stop : layout.scores.stop] = False
        without = known[len(m.mean) - len(m.covariance) :]
        variance = np.diag(m.covariance)
        numbers = np.concatenate([record.exact, m.mean[known], m.covariance[np.ix_(without, without)].ravel()])
        numbers = numbers if m.second is None else np.append(numbers, m.second.forms)
        of_blocks = [] if m.products is None else [m.products.products.ravel(), m.products.deviations.ravel()]
        numbers = np.concatenate([numbers, *of_blocks])
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
    if len(record.curves) and not (record.curves["samples"] >= 1).all():
        raise ValueError("curves.parquet has means of less than one draw")
    if (record.exact_moments[["exact_relative_bias", "exact_relative_variance"]] < 0).any(axis=None):
        raise ValueError("exact_moments.parquet has a bias or a variance below zero")
