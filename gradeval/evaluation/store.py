"""A run's folder while it is drawn: its plan, the finished chunks and who holds it.

    plan.json                     what is drawn: problem, seed, draws, estimators and the hash of their source
    problem.json                  the problem, where it can be saved
    chunks/ESTIMATOR/INDEX-COUNT-DIGEST.parquet
                                  the reduction of one chunk; DIGEST is the SHA-256 of the file
    chunks/ESTIMATOR/exact-DIGEST.json
                                  its exact moments, where there are any
    chunks/ESTIMATOR/failure.txt  why it failed
    lock, holder.json             who is at work

All of it is data: nothing in it is executed or unpickled, and bytes that do not have their digest are not parsed.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from gradeval.analysis.run.tables import EXACT_COLUMNS
from gradeval.errors import GradevalError
from gradeval.evaluation.sources import digest_of
from gradeval.files import CannotWrite, read_json, reason, write_whole
from gradeval.model.problem import Problem
from gradeval.sampling.streaming import BLOCK, CHUNK, ChunkStatistics, Spread, kept, tree

FORMAT = "gradeval-plan/1"
MAX_PLAN_BYTES = 2**22
MAX_PARAMETERS = 10_000  # the joint covariance of all parameters is kept
_CHUNK_NAME = re.compile(r"(\d{7,12})-(\d{1,12})-([0-9a-f]{32})\.parquet")
_EXACT_NAME = re.compile(r"exact-([0-9a-f]{32})\.json")
_OWN = ("lock", "holder.json")


@dataclass(frozen=True)
class Planned:
    """One estimator of a plan: the hash of its source, its number of draws and a few numbers of one draw."""

    source: str
    draws: int
    probe: list[float]


@dataclass(frozen=True)
class Plan:
    """What a run draws.

    Attributes:
        fingerprint: of the problem.
        seed: of the draws.
        device, dtype: where and in which precision the draws are made.
        engine: hash of the source of all that decides a chunk except the estimators.
        layers: names of the K layers.
        exact: g*, [P].
        estimators: by name.
        arguments: of the command that began it.
        versions: of the libraries when it was begun.
    """

    fingerprint: str
    seed: int
    device: str
    dtype: str
    engine: str
    layers: list[str]
    exact: list[float]
    estimators: Mapping[str, Planned]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """The plan of a folder. Raises GradevalError when it is missing, of another format or damaged."""
        document = read_json(folder / "plan.json", MAX_PLAN_BYTES)
        found = document.pop("format", None)
        if found != FORMAT:
            raise GradevalError(f"{folder}: this version continues runs of format '{FORMAT}', found {found!r}.")
        if document.pop("chunk", None) != CHUNK:
            raise GradevalError(f"{folder}: its chunks are not of {CHUNK} draws: they cannot be continued.")
        try:
            estimators = {_text(k): Planned(**v) for k, v in document.pop("estimators").items()}
            plan = cls(**document, estimators=estimators)
            texts = [plan.fingerprint, plan.device, plan.dtype, plan.engine, *plan.layers]
            texts += [planned.source for planned in estimators.values()]
            numbers = [plan.seed, *(planned.draws for planned in estimators.values())]
            good = all(type(number) is int for number in numbers) and all(p.draws > 0 for p in estimators.values())
            good &= plan.dtype in ("float32", "float64") and isinstance(plan.arguments, dict)
            good &= isinstance(plan.versions, dict) and isinstance(plan.layers, list) and isinstance(plan.exact, list)
            good &= all(type(value) is float and math.isfinite(value) for value in plan.exact)
            good &= all(type(value) is float for p in estimators.values() for value in p.probe)
            good &= 0 < len(plan.exact) <= MAX_PARAMETERS and 0 < len(plan.layers) <= len(plan.exact) + 1
            if not good or [_text(text) for text in texts] != texts:
                raise ValueError("a value of the wrong type")
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise GradevalError(f"{folder / 'plan.json'}: damaged ({reason(error)}).") from None
        return plan

    @property
    def draws(self) -> int:
        """Of each estimator that is not deterministic."""
        return max((planned.draws for planned in self.estimators.values()), default=0)

    def write(self, folder: Path) -> None:
        """As ``folder``/plan.json."""
        document = {"format": FORMAT, "chunk": CHUNK, **asdict(self)}
        write_whole(folder / "plan.json", json.dumps(document, indent=1).encode())


class Store:
    """A run's folder, held by this process alone; a context manager.

    Raises:
        GradevalError: another process holds it, it holds something else, or cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.notes: dict[str, list[str]] = {}
        self.plan: Plan | None = None
        self._lock = FileLock(self.folder / "lock", timeout=0.5)  # `status` takes it for an instant
        self._chunks: dict[tuple[str, int, int], Path] = {}

    def __enter__(self) -> Store:
        if self.folder.exists():
            self._hold()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock.is_locked:
            (self.folder / "holder.json").unlink(missing_ok=True)
            self._lock.release()

    def _hold(self) -> None:
        check_folder(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
            write_whole(self.folder / "holder.json", json.dumps(holder).encode())
        except Timeout:
            raise GradevalError(
                f"{self.folder} is in use by {holder_of(self.folder) or 'another process'}: wait until it has ended, "
                "or choose another folder."
            ) from None
        except (OSError, NotImplementedError) as error:
            raise GradevalError(f"cannot write {self.folder}: {reason(error)}.") from None

    def begin(self, plan: Plan, problem: Problem) -> Plan:
        """Write the plan, or go on with the one that is there if it draws the same; the plan to follow.

        More draws and more estimators extend it.

        Raises:
            GradevalError: the folder's run is of another problem, seed, device, version or estimator source.
        """
        if not self._lock.is_locked:
            self._hold()
        if (self.folder / "plan.json").exists():
            there = Plan.read(self.folder)
            self._compare(there, plan)
            plan = replace(plan, exact=there.exact, versions=there.versions)
        try:
            with suppress(GradevalError):  # own layers or losses cannot be saved
                problem.save(self.folder / "problem.json")
            plan.write(self.folder)
            for name in plan.estimators:
                home = self.home(name)
                home.mkdir(parents=True, exist_ok=True)
                for path in home.iterdir():
                    if path.suffix == ".part":
                        path.unlink()
                    elif match := _CHUNK_NAME.fullmatch(path.name):
                        self._chunks[name, int(match[1]), int(match[2])] = path
        except OSError as error:
            raise CannotWrite(self.folder, error) from None
        self.plan = plan
        return plan

    def _compare(self, there: Plan, wanted: Plan) -> None:
        advice = "choose another folder, or remove this one."
        for what, old, new in (
            ("problem", there.fingerprint[:12], wanted.fingerprint[:12]),
            ("seed", there.seed, wanted.seed),
            ("device", there.device, wanted.device),
            ("precision", there.dtype, wanted.dtype),
            ("list of layers", there.layers, wanted.layers),
            ("version of gradeval's sources", there.engine[:12], wanted.engine[:12]),
        ):
            if old != new:
                raise GradevalError(f"{self.folder} holds a run of another {what} ({old}; asked for: {new}): {advice}")
        if missing := set(there.estimators) - set(wanted.estimators):
            raise GradevalError(f"{self.folder} also holds '{min(missing)}': name it too, or {advice}")
        if not np.allclose(there.exact, wanted.exact, rtol=1e-6, atol=1e-12):
            raise GradevalError(f"{self.folder} holds another exact gradient of this problem: {advice}")
        for name, planned in there.estimators.items():
            new_one = wanted.estimators[name]
            home = self.home(name)
            same = len(planned.probe) == len(new_one.probe) and np.allclose(planned.probe, new_one.probe, 1e-3, 1e-6)
            if (planned.source != new_one.source or not same) and any(home.glob("*-*")):
                what = "the source of" if planned.source != new_one.source else "what is drawn by"
                raise GradevalError(
                    f"{what} '{name}' has changed since its chunks were made: remove {home} to make them anew, or "
                    "choose another folder."
                )

    def home(self, name: str) -> Path:
        """The folder of an estimator's chunks."""
        return self.folder / "chunks" / _home(name)

    def read(self, name: str, index: int, count: int) -> ChunkStatistics | None:
        """A chunk; None where it is missing, or damaged, which is noted."""
        path = self._chunks.get((name, index, count))
        if path is None:
            return None
        assert self.plan is not None
        try:
            return read_chunk(path, self.plan, name)
        except GradevalError as error:
            self._damaged(name, path, error)
            return None

    def _damaged(self, name: str, path: Path, error: GradevalError) -> None:
        self.notes.setdefault(name, []).append(f"computed again: {error}")
        path.unlink(missing_ok=True)

    def write(self, name: str, index: int, count: int, chunk: ChunkStatistics) -> None:
        """Save a chunk: whole or not at all.

        Raises:
            CannotWrite: a full disk, say.
        """
        assert self.plan is not None
        content = chunk_bytes(chunk, self.plan, name, index, count)
        path = self.home(name) / f"{index:07}-{count}-{digest_of(content)}.parquet"
        self._write(path, content)
        self._chunks[name, index, count] = path

    def _write(self, path: Path, content: bytes) -> None:
        try:
            write_whole(path, content)
        except OSError as error:
            raise CannotWrite(path, error) from None

    def read_exact(self, name: str) -> list[dict[str, Any]] | None:
        """The exact moments of an estimator by layer; None where they are missing, or damaged, which is noted."""
        assert self.plan is not None
        for path in sorted(self.home(name).glob("exact-*.json")):
            try:
                return _read_exact(path, self.plan, name)
            except GradevalError as error:
                self._damaged(name, path, error)
        return None

    def write_exact(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Save the exact moments of an estimator."""
        assert self.plan is not None
        content = json.dumps({"of": _identity(self.plan, name), "rows": rows}).encode()
        self._write(self.home(name) / f"exact-{digest_of(content)}.json", content)

    def fail(self, name: str, text: str) -> None:
        """Save why an estimator failed."""
        self._write(self.home(name) / "failure.txt", text.encode(errors="backslashreplace"))

    def succeed(self, name: str) -> None:
        """Forget an earlier failure."""
        (self.home(name) / "failure.txt").unlink(missing_ok=True)


def check_folder(folder: Path) -> None:
    """Raise GradevalError where a folder holds something else than a run that can be continued."""
    if folder.exists() and not folder.is_dir():
        raise GradevalError(f"{folder} is a file, not a folder: choose another folder.")
    if folder.exists() and not (folder / "plan.json").exists():
        others = [path for path in folder.iterdir() if path.name not in _OWN and path.suffix != ".part"]
        if others:
            raise GradevalError(f"{folder} exists and is not empty: choose another folder or remove it.")


def holder_of(folder: Path) -> str | None:
    """Who holds a folder, in words; None where nobody does."""
    lock = FileLock(folder / "lock", timeout=0)
    try:
        if (folder / "lock").exists():
            with lock:
                return None
        return None
    except Timeout:
        pass
    except OSError:  # a folder that cannot be written: nobody writes it
        return None
    try:
        found = read_json(folder / "holder.json", 4096)
    except GradevalError:
        return "another process"
    return f"process {found.get('pid')} on {found.get('host')} since {found.get('since')}"


def status(folder: str | Path) -> dict[str, Any]:
    """What a run's folder holds: chunks and draws of each estimator, damaged chunks, failures, and who is at work.

    Raises:
        GradevalError: the folder is not a run that can be continued.
    """
    folder = Path(folder)
    if not (folder / "plan.json").exists():
        raise GradevalError(f"{folder} is not a run that was begun: it has no plan.json.")
    plan = Plan.read(folder)
    rows = []
    for name, planned in plan.estimators.items():
        done: dict[int, int] = {}
        damaged = []
        home = folder / "chunks" / _home(name)
        for path in sorted(home.glob("*.parquet")):
            match = _CHUNK_NAME.fullmatch(path.name)
            if match is None or int(match[2]) != min(CHUNK, planned.draws - int(match[1]) * CHUNK):
                continue
            try:
                read_chunk(path, plan, name)
                done[int(match[1])] = int(match[2])
            except GradevalError:
                damaged.append(path.name)
        failure = home / "failure.txt"
        rows.append(
            {
                "estimator": name,
                "chunks": len(done),
                "chunks_planned": -(-planned.draws // CHUNK),
                "draws": sum(done.values()),
                "draws_planned": planned.draws,
                "exact_moments": any(home.glob("exact-*.json")),
                "damaged": damaged,
                "failure": _first_line(failure) if failure.exists() else None,
            }
        )
    finished = all(row["chunks"] == row["chunks_planned"] for row in rows)
    size = sum(path.stat().st_size for path in folder.glob("chunks/*/*"))
    return {
        "folder": str(folder),
        "problem": plan.fingerprint,
        "seed": plan.seed,
        "complete": finished and (folder / "manifest.json").exists(),
        "holder": holder_of(folder),
        "bytes": size,
        "estimators": rows,
    }


def chunk_bytes(chunk: ChunkStatistics, plan: Plan, name: str, index: int, count: int) -> bytes:
    """A chunk as a parquet file with one named array a row."""
    arrays: dict[str, Any] = {
        "mean": chunk.joint.mean,
        "squares": np.asarray(chunk.joint.squares)[np.triu_indices(len(np.asarray(chunk.joint.mean)))],
        "descents": chunk.descents,
        "thirds": chunk.thirds,
        "seconds": [chunk.seconds],
        "means": chunk.means,
    }
    for samples, (spread, cosines) in chunk.levels.items():
        arrays |= {f"{samples}.mean": spread.mean, f"{samples}.squares": spread.squares, f"{samples}.cosines": cosines}
    flat = [np.asarray(array, dtype=np.float64).ravel() for array in arrays.values()]
    offsets = np.cumsum([0, *map(len, flat)], dtype=np.int32)
    values = pa.ListArray.from_arrays(offsets, np.concatenate(flat))
    identity = json.dumps([*_identity(plan, name), index, count])
    table = pa.table({"array": list(arrays), "values": values}, metadata={"chunk": identity})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="none", use_dictionary=False, write_statistics=False)
    return sink.getvalue()


def read_chunk(path: Path, plan: Plan, name: str) -> ChunkStatistics:
    """A chunk of estimator ``name`` from its file. Raises GradevalError where it is damaged or of another run."""
    match = _CHUNK_NAME.fullmatch(path.name)
    if match is None:
        raise GradevalError(f"{path} is not a chunk.")
    index, count = int(match[1]), int(match[2])
    size = len(plan.exact) + 2 * len(plan.layers) + 1
    limit = 8 * (size**2 + CHUNK * 4 * size) + 2**20
    return parse_chunk(_verified(path, match[3], limit), plan, name, index, count)


def parse_chunk(content: bytes, plan: Plan, name: str, index: int, count: int) -> ChunkStatistics:
    """The chunk that `chunk_bytes` turned into ``content``. Raises GradevalError where it is another, or none."""
    layers, parameters = len(plan.layers), len(plan.exact)
    size = parameters + 2 * layers + 1
    lengths = {"mean": size, "squares": size * (size + 1) // 2, "descents": layers, "thirds": 4 * layers}
    lengths["seconds"] = 1
    lengths["means"] = count // BLOCK * parameters
    for samples, _ in tree(min(count, BLOCK)):
        cosines = len(range(count // samples)[kept(index * (CHUNK // samples), count // samples)])
        lengths |= {f"{samples}.mean": 2 * layers, f"{samples}.squares": 2 * layers}
        lengths[f"{samples}.cosines"] = cosines * layers
    try:
        if not 1 <= count <= CHUNK:
            raise ValueError(f"of {count} draws")
        table = pq.ParquetFile(io.BytesIO(content)).read()
        if json.loads(table.schema.metadata[b"chunk"]) != [*_identity(plan, name), index, count]:
            raise ValueError("it belongs to another run")
        if table.num_rows != len(lengths):
            raise ValueError(f"it has {table.num_rows} arrays")
        flat = [np.asarray(row.values) for row in table["values"]]
        arrays = dict(zip(table["array"].to_pylist(), flat, strict=True))
        if {key: len(array) for key, array in arrays.items()} != lengths:
            raise ValueError("its arrays have other lengths")
        descents, seconds = arrays["descents"], float(arrays["seconds"][0])
        if not (np.isin(descents, range(count + 1)).all() and 0 <= seconds < math.inf):
            raise ValueError("a count or a time that cannot be")
        with np.errstate(over="ignore"):
            arrays = {key: array.astype(plan.dtype) for key, array in arrays.items()}
        if any(np.isinf(array).any() for array in arrays.values()):  # NaN can be: cosines of a layer without gradient
            raise ValueError("an infinite number")
    except Exception as error:  # whatever a strange file makes a parser say
        raise GradevalError(f"chunk {index} of '{name}' is damaged ({reason(error)}).") from None
    squares = np.zeros((size, size), dtype=plan.dtype)
    upper = np.triu_indices(size)
    squares[upper] = squares.T[upper] = arrays["squares"]
    levels = {
        samples: (
            Spread(count // samples, arrays[f"{samples}.mean"], arrays[f"{samples}.squares"]),
            arrays[f"{samples}.cosines"].reshape(-1, layers),
        )
        for samples, _ in tree(min(count, BLOCK))
    }
    return ChunkStatistics(
        Spread(count, arrays["mean"], squares),
        descents.astype(np.int64),
        arrays["thirds"],
        levels,
        arrays["means"].reshape(-1, parameters),
        seconds,
    )


def _read_exact(path: Path, plan: Plan, name: str) -> list[dict[str, Any]]:
    match = _EXACT_NAME.fullmatch(path.name)
    content = _verified(path, match[1] if match else "", MAX_PLAN_BYTES)
    try:
        document = json.loads(content)
        rows: list[dict[str, Any]] = document["rows"]
        good = document["of"] == _identity(plan, name)
        for row in rows:
            good &= list(row) == EXACT_COLUMNS and row["estimator"] == name and row["layer"] in plan.layers
            good &= all(type(row[key]) is float for key in EXACT_COLUMNS[2:])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise GradevalError(f"{path.name} of '{name}' is damaged ({reason(error)}).") from None
    if not good:
        raise GradevalError(f"{path.name} of '{name}' belongs to another run.")
    return rows


def _verified(path: Path, digest: str, limit: int) -> bytes:
    """The bytes of a file if they have their digest."""
    try:
        if path.stat().st_size > limit:
            raise GradevalError(f"{path} is damaged (larger than {limit} bytes).")
        content = path.read_bytes()
    except OSError as error:
        raise GradevalError(f"{path} cannot be read ({reason(error)}).") from None
    if digest_of(content) != digest:
        raise GradevalError(f"{path.parent.name}/{path.name} is damaged (its checksum is wrong).")
    return content


def _identity(plan: Plan, name: str) -> list[Any]:
    planned = plan.estimators[name]
    return [FORMAT, plan.fingerprint, plan.seed, plan.engine, name, planned.source]


def _home(name: str) -> str:
    """A folder name from an estimator's: readable, and different for different names."""
    return re.sub(r"[^A-Za-z0-9=.+-]+", "_", name).strip("._")[:60] + "-" + digest_of(name.encode())[:8]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text was expected, found {value!r:.40}")
    value.encode()  # half a surrogate pair cannot be printed
    return value


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline(1000).strip()
