"""The files that one estimator of a run has: finished chunks and exact moments, each with its checksum in its name.

All of it is data: nothing in it is executed or unpickled, and bytes that do not have their digest are not parsed.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from gradeval.analysis.run.record import EXACT_COLUMNS
from gradeval.errors import GradevalError
from gradeval.evaluation.plan import MAX_PLAN_BYTES, Plan
from gradeval.files import digest_of, parse_json, read_whole, reason
from gradeval.sampling.extent import CHUNK, BlockMeans
from gradeval.sampling.streaming import ChunkStatistics, Spread, kept, paired_block, tree

_CHUNK_NAME = re.compile(r"(\d{7,12})-(\d{1,12})-([0-9a-f]{32})\.safetensors")
_EXACT_NAME = re.compile(r"exact-([0-9a-f]{32})\.json")
_FAILURE_NAME = re.compile(r"failure-([0-9a-f]{32})\.txt")
MAX_FAILURE_BYTES = 2**20


def chunk_name(content: bytes, index: int, count: int) -> str:
    """The name of a chunk's file, INDEX-COUNT-DIGEST.safetensors.

    Args:
        content: of the file.
        index: the chunk's place in the run.
        count: its number of draws.

    Returns:
        The name, without a folder.
    """
    return f"{index:07}-{count}-{digest_of(content)}.safetensors"


def chunk_of_name(name: str) -> tuple[int, int] | None:
    """The index and the number of draws of the chunk in a file of this name; None where it is no chunk's name.

    Args:
        name: of a file.

    Returns:
        Index and number of draws, or None.
    """
    match = _CHUNK_NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def chunk_bytes(chunk: ChunkStatistics, plan: Plan, name: str, index: int, count: int) -> bytes:
    """A chunk as the content of a safetensors file.

    Args:
        chunk: what remains of the draws.
        plan: of its run.
        name: of its estimator.
        index: its place in the run.
        count: its number of draws.

    Returns:
        The bytes, to be written under `chunk_name`.
    """
    squares = np.asarray(chunk.joint.squares)
    arrays = {
        "mean": chunk.joint.mean,
        "squares": squares[np.triu_indices(len(squares))],
        "descents": np.asarray(chunk.descents, dtype=np.int64),
        "thirds": chunk.thirds,
        "blocks": chunk.blocks,
        "times": chunk.times,
        "means": chunk.means,
        "identity": _identity(plan, name, index, count),
    }
    if chunk.of_blocks is not None:
        arrays |= {"errors": chunk.of_blocks.errors, "deviations": chunk.of_blocks.deviations}
    if chunk.directions is not None:
        arrays["directions"] = chunk.directions
    for samples, (spread, cosines) in chunk.levels.items():
        arrays |= {f"{samples}.mean": spread.mean, f"{samples}.squares": spread.squares, f"{samples}.cosines": cosines}
    return save({key: np.ascontiguousarray(array) for key, array in arrays.items()})


def _identity(plan: Plan, name: str, index: int, count: int) -> np.ndarray:
    return np.frombuffer(json.dumps([*plan.identity(name), index, count]).encode(), dtype=np.uint8)


def read_chunk(path: Path, plan: Plan, name: str) -> ChunkStatistics:
    """A chunk of an estimator from its file.

    Args:
        path: of the file, with the name that `chunk_name` gave it.
        plan: of its run.
        name: of its estimator.

    Returns:
        The chunk's statistics.

    Raises:
        GradevalError: it is damaged, of another run, or no chunk.
    """
    match = _CHUNK_NAME.fullmatch(path.name)
    if match is None:
        raise GradevalError(f"{path} is not a chunk.")
    size, extent = plan.layout.size, plan.extent
    squares = 4 * extent.blocks * size if extent.blocks else size**2
    limit = 8 * (squares + extent.chunk * 4 * size) + 2**20
    return parse_chunk(_verified(path, match[3], limit), plan, name, int(match[1]), int(match[2]))


def parse_chunk(content: bytes, plan: Plan, name: str, index: int, count: int) -> ChunkStatistics:
    """The chunk that `chunk_bytes` turned into bytes.

    Args:
        content: the bytes.
        plan, name, index, count: as given to `chunk_bytes`.

    Returns:
        The chunk's statistics.

    Raises:
        GradevalError: it is another chunk, or none.
    """
    try:
        if not 1 <= count <= plan.extent.chunk:
            raise ValueError(f"of {count} draws")
        arrays = load(content)
        if bytes(arrays.pop("identity", np.zeros(0, np.uint8))) != bytes(_identity(plan, name, index, count)):
            raise ValueError("it belongs to another run")
        _check_arrays(arrays, plan, index, count)
    except Exception as error:  # whatever a strange file makes a parser say
        raise GradevalError(f"chunk {index} of '{name}' is damaged ({reason(error)}).") from None
    extent, of_blocks = plan.extent, None
    size = _with_squares(plan)
    squares = np.zeros((size, size), dtype=np.float64)
    upper = np.triu_indices(size)
    squares[upper] = squares.T[upper] = arrays["squares"]
    levels = {
        samples: (
            Spread(count // samples, arrays[f"{samples}.mean"], arrays[f"{samples}.squares"]),
            arrays[f"{samples}.cosines"],
        )
        for samples, _ in tree(min(count, extent.block))
    }
    joint = Spread(count, arrays["mean"], squares)
    if extent.blocks:
        of_blocks = BlockMeans(extent.blocks, extent.unit(index, count), arrays["errors"], arrays["deviations"])
    made = (joint, arrays["descents"], arrays["thirds"], arrays["blocks"], levels, arrays["means"], arrays["times"])
    return ChunkStatistics(*made, of_blocks, arrays.get("directions"))


def _with_squares(plan: Plan) -> int:
    """How many of the numbers of a draw have squares and products: all, or at size all but the gradient's."""
    layers = len(plan.layers)
    return 4 * layers + 1 if plan.extent.blocks else plan.layout.size


def _check_arrays(arrays: dict[str, np.ndarray], plan: Plan, index: int, count: int) -> None:
    """Raise ValueError unless the arrays are those of a chunk, with the right shapes and types."""
    layers, parameters, size, extent = len(plan.layers), len(plan.exact), plan.layout.size, plan.extent
    squares = _with_squares(plan)
    shapes: dict[str, tuple[int, ...]] = {"squares": (squares * (squares + 1) // 2,)}
    shapes["mean"] = (size + layers * (extent.blocks > 0),)
    types = {"descents": "int64"}
    if extent.blocks:
        blocks = count // extent.unit(index, count)
        shapes |= {"errors": (blocks, parameters), "deviations": (blocks, layers)}
        types["errors"] = "float32"
    if plan.reference:
        shapes["directions"] = (sum(stop - start for start, stop in plan.layers.values()),)
    shapes["times"] = (min(len(arrays["times"]), 2 * CHUNK), 2)
    shapes |= {"descents": (layers,), "thirds": (4 * layers,), "means": (count // extent.block, parameters)}
    shapes["blocks"] = (count // paired_block(index, count), 2 * layers)
    for samples, _ in tree(min(count, extent.block)):
        blocks = len(range(count // samples)[kept(index * (extent.chunk // samples), count // samples)])
        shapes |= {f"{samples}.mean": (2 * layers,), f"{samples}.squares": (2 * layers,)}
        shapes[f"{samples}.cosines"] = (blocks, layers)
    if {key: array.shape for key, array in arrays.items()} != shapes:
        raise ValueError("its arrays have other names or shapes")
    if any(array.dtype != types.get(key, "float64") for key, array in arrays.items()):
        raise ValueError("its arrays have other types")
    times = arrays["times"]
    if not np.isin(arrays["descents"], range(count + 1)).all():
        raise ValueError("a count that cannot be")
    if not ((times[:, 0] >= 1) & (times[:, 0] <= CHUNK) & (times[:, 1] >= 0) & (times[:, 1] < math.inf)).all():
        raise ValueError("a time that cannot be")
    if any(np.isinf(array).any() for array in arrays.values()):  # NaN can be: cosines of a layer without gradient
        raise ValueError("an infinite number")


def exact_bytes(rows: list[dict[str, Any]], plan: Plan, name: str) -> tuple[str, bytes]:
    """An estimator's exact moments as a file.

    Args:
        rows: one for each layer, with the columns `EXACT_COLUMNS`.
        plan: of its run.
        name: of the estimator.

    Returns:
        The file's name and its content.
    """
    content = json.dumps({"of": plan.identity(name), "rows": rows}).encode()
    return f"exact-{digest_of(content)}.json", content


def read_exact(path: Path, plan: Plan, name: str) -> list[dict[str, Any]]:
    """The rows that `exact_bytes` was given.

    Args:
        path: of the file.
        plan: of its run.
        name: of the estimator.

    Returns:
        One row for each layer, with the columns `EXACT_COLUMNS`.

    Raises:
        GradevalError: the file is damaged, or of another run.
    """
    match = _EXACT_NAME.fullmatch(path.name)
    document = parse_json(_verified(path, match[1] if match else "", MAX_PLAN_BYTES), f"{path.name} of '{name}'")
    try:
        rows: list[dict[str, Any]] = document["rows"]
        good = document["of"] == plan.identity(name)
        for row in rows:
            good &= list(row) == EXACT_COLUMNS and row["estimator"] == name and row["layer"] in plan.layers
            good &= all(type(row[key]) is float for key in EXACT_COLUMNS[2:])
    except (ValueError, KeyError, TypeError) as error:
        raise GradevalError(f"{path.name} of '{name}' is damaged ({reason(error)}).") from None
    if not good:
        raise GradevalError(f"{path.name} of '{name}' belongs to another run.")
    return rows


def failure_file(text: str) -> tuple[str, bytes]:
    """The reason why an estimator failed as a file.

    Args:
        text: the reason, with a traceback; of a longer one the beginning and the end.

    Returns:
        The file's name and its content.
    """
    content = text.encode(errors="backslashreplace")
    if len(content) > MAX_FAILURE_BYTES:
        half = MAX_FAILURE_BYTES // 2 - 20
        content = content[:half] + b"\n[...]\n" + content[-half:]
    return f"failure-{digest_of(content)}.txt", content


def read_failure(path: Path) -> str:
    """The first line of what `failure_file` was given.

    Args:
        path: of the file.

    Returns:
        At most 1000 characters.

    Raises:
        GradevalError: the file is damaged.
    """
    match = _FAILURE_NAME.fullmatch(path.name)
    text = _verified(path, match[1] if match else "", MAX_FAILURE_BYTES).decode(errors="replace")
    return text.partition("\n")[0][:1000].strip()


def _verified(path: Path, digest: str, limit: int) -> bytes:
    """The bytes of a file if they have their digest."""
    content = read_whole(path, limit)
    if digest_of(content) != digest:
        raise GradevalError(f"{path.parent.name}/{path.name} is damaged (its checksum is wrong).")
    return content
