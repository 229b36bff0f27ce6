"""A run's folder while it is drawn: its plan, the finished chunks and who holds it.

It holds::

    plan.json                     what is drawn: problem, seed, draws, estimators and the hash of their source
    problem.json                  the problem, where it can be saved; the plan has its digest
    reference.safetensors         the reference, where it was sampled; the plan has its digest
    chunks/ESTIMATOR/INDEX-COUNT-DIGEST.safetensors
                                  the reduction of one chunk; DIGEST is from the SHA-256 of the file
    chunks/ESTIMATOR/exact-DIGEST.json
                                  its exact moments, where there are any
    chunks/ESTIMATOR/failure-DIGEST.txt
                                  why it failed
    lock, holder.json             who is at work
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradeval.errors import GradevalError
from gradeval.evaluation.chunk_file import (
    chunk_bytes,
    chunk_name,
    chunk_of_name,
    exact_bytes,
    failure_file,
    read_chunk,
    read_exact,
)
from gradeval.evaluation.plan import PLAN_FILE, PROBLEM_FILE, REFERENCE_FILE, Plan
from gradeval.evaluation.sources import text_digest
from gradeval.files import CannotWrite, digest_of, read_whole, write_whole
from gradeval.folder_lock import FolderLock
from gradeval.model.problem import Problem
from gradeval.model.problem_file import MAX_FILE_BYTES
from gradeval.sampling.streaming import ChunkStatistics

MAX_REFERENCE_BYTES = 2**34


class Store:
    """A run's folder, held by this process alone; a context manager.

    Args:
        folder: a new or empty one, or that of a run.

    Attributes:
        notes: by estimator, what was wrong with its files.
        plan: what is drawn; None before `begin`.

    Raises:
        GradevalError: another process holds it, it holds something else, or cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.notes: dict[str, list[str]] = {}
        self.plan: Plan | None = None
        self._lock = FolderLock(self.folder, PLAN_FILE)
        self._chunks: dict[tuple[str, int, int], Path] = {}

    def __enter__(self) -> Store:
        self._lock.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def begin(self, plan: Plan, problem: Problem, reference: bytes = b"") -> Plan:
        """Write the plan, or continue the one that is there if it draws the same.

        Args:
            plan: what is asked for. More draws and more estimators extend the plan that is there.
            problem, reference: saved beside it, where it can be; and the content of the file of a sampled reference.

        Returns:
            The plan to follow: with the exact gradient of the run's beginning.

        Raises:
            GradevalError: the folder's run is of another problem, seed, device, version or estimator source.
            CannotWrite: the folder cannot be written.
        """
        self._lock.hold()
        if (self.folder / PLAN_FILE).exists():
            there = Plan.read(self.folder)
            _refuse_changes(self.folder, there, plan)
            plan = plan.continuing(there)
        with _writing(self.folder):
            plan = replace(plan, problem=_save_problem(problem, self.folder / PROBLEM_FILE))
            if reference and digest_of(reference) == plan.reference:
                write_whole(self.folder / REFERENCE_FILE, reference)
            plan.write(self.folder)
            for name in plan.estimators:
                home = estimator_folder(self.folder, name)
                home.mkdir(parents=True, exist_ok=True)
                for path in home.iterdir():
                    if chunk := chunk_of_name(path.name):
                        self._chunks[name, *chunk] = path
        self.plan = plan
        return plan

    def read(self, name: str, index: int, count: int) -> ChunkStatistics | None:
        """A chunk of an estimator.

        Args:
            name: of the estimator.
            index: of the chunk.
            count: its number of draws.

        Returns:
            Its statistics; None where it is missing, or damaged, which is noted.
        """
        path = self._chunks.get((name, index, count))
        if path is None or self.plan is None:
            return None
        try:
            return read_chunk(path, self.plan, name)
        except GradevalError as error:
            self._damaged(name, path, error)
            return None

    def _damaged(self, name: str, path: Path, error: GradevalError) -> None:
        self.notes.setdefault(name, []).append(f"computed again: {error}")
        path.unlink(missing_ok=True)

    def write(self, name: str, index: int, count: int, chunk: ChunkStatistics) -> None:
        """Save a chunk of an estimator, whole or not at all.

        Args:
            name: of the estimator.
            index: of the chunk.
            count: its number of draws.
            chunk: its statistics.

        Raises:
            CannotWrite: the disk is full, say.
        """
        assert self.plan is not None
        content = chunk_bytes(chunk, self.plan, name, index, count)
        self._chunks[name, index, count] = self._write(name, chunk_name(content, index, count), content)

    def _write(self, name: str, file: str, content: bytes) -> Path:
        path = estimator_folder(self.folder, name) / file
        with _writing(path):
            write_whole(path, content)
        return path

    def read_exact(self, name: str) -> list[dict[str, Any]] | None:
        """The exact moments of an estimator.

        Args:
            name: of the estimator.

        Returns:
            A row for each layer; None where they are missing, or damaged, which is noted.
        """
        assert self.plan is not None
        for path in sorted(estimator_folder(self.folder, name).glob("exact-*.json")):
            try:
                return read_exact(path, self.plan, name)
            except GradevalError as error:
                self._damaged(name, path, error)
        return None

    def write_exact(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Save the exact moments of an estimator.

        Args:
            name, rows: the estimator's, and a row for each layer.
        """
        assert self.plan is not None
        self._write(name, *exact_bytes(rows, self.plan, name))

    def fail(self, name: str, text: str) -> None:
        """Save the reason why an estimator failed.

        Args:
            name, text: the estimator's, and the reason.
        """
        self.succeed(name)
        self._write(name, *failure_file(text))

    def succeed(self, name: str) -> None:
        """Forget an earlier failure of the estimator ``name``.

        Args:
            name: its name.
        """
        for path in estimator_folder(self.folder, name).glob("failure-*.txt"):
            path.unlink(missing_ok=True)


def _refuse_changes(folder: Path, there: Plan, wanted: Plan) -> None:
    """Raise GradevalError where the plan that is there draws something else, or an estimator has changed since."""
    there.refuse_others(wanted, folder)
    for name in there.estimators:
        home = estimator_folder(folder, name)
        if (what := there.changed(name, wanted)) and any(home.glob("*-*")):
            raise GradevalError(
                f"{what} '{name}' has changed since its chunks were made: remove {home} to make them anew, or "
                "choose another folder."
            )


def _save_problem(problem: Problem, path: Path) -> str:
    """Save the problem and give the digest of its file; an empty text where its own layers or loss cannot be saved."""
    try:
        problem.save(path)
    except GradevalError:
        path.unlink(missing_ok=True)
        return ""
    return digest_of(read_whole(path, MAX_FILE_BYTES))


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotWrite(path, error) from None


def kept_draws(folder: Path, name: str) -> int:
    """How many draws of an estimator a run's folder holds, before it is begun or resumed.

    Args:
        folder: of the run; it need not exist.
        name: of the estimator.

    Returns:
        The draws of all its chunks.
    """
    home = estimator_folder(folder, name)
    found = [chunk_of_name(path.name) for path in home.iterdir()] if home.exists() else []
    return sum(chunk[1] for chunk in found if chunk)


def estimator_folder(folder: Path, name: str) -> Path:
    """The folder of an estimator's files: readable, and different for different names.

    Args:
        folder: of the run.
        name: of the estimator.

    Returns:
        Its path below the run.
    """
    readable = re.sub(r"[^A-Za-z0-9=.+-]+", "_", name).strip("._")[:60]
    return folder / "chunks" / f"{readable}-{text_digest(name)[:8]}"


def kept_reference(folder: Path) -> bytes:
    """The sampled reference that a folder's run was begun with.

    Args:
        folder: of the run; it need not exist.

    Returns:
        The content of its file; none where there is no run, or its reference is exact.

    Raises:
        GradevalError: it is not the one of the plan.
    """
    if not (folder / PLAN_FILE).exists() or not (digest := Plan.read(folder).reference):
        return b""
    content = read_whole(path := folder / REFERENCE_FILE, MAX_REFERENCE_BYTES)
    if digest_of(content) != digest:
        raise GradevalError(f"{path} is not the reference of this run (plan.json has another digest).")
    return content
