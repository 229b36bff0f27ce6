"""What a run's folder holds: what is finished, damaged or failed, and who is at work on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from gradeval.analysis.run.folder import MANIFEST, read_run
from gradeval.errors import GradevalError
from gradeval.evaluation.chunk_file import chunk_of_name, read_chunk, read_exact, read_failure
from gradeval.evaluation.plan import Plan, check_problem
from gradeval.evaluation.store import estimator_folder
from gradeval.folder_lock import holder_of


def run_status(folder: str | Path) -> dict[str, Any]:
    """What a run's folder holds.

    Args:
        folder: of a run, finished or not.

    Returns:
        A dict for JSON: "folder", "problem" (its fingerprint), "seed", "complete", "damaged" (what is wrong with the
        tables and with problem.json, in words), "holder" (who is at work, in words, or None), "bytes" of all chunks,
        and "estimators", a list of dicts with the numbers of chunks and draws that are finished and planned, the names
        of damaged files, whether there are exact moments, and why it failed, or None.

    Raises:
        GradevalError: the folder is not a run that can be continued.
    """
    folder = Path(folder)
    if not (folder / "plan.json").exists():
        raise GradevalError(f"{folder} holds no run: it has no plan.json.")
    plan = Plan.read(folder)
    rows = [_estimator(folder, plan, name) for name in plan.estimators]
    finished = all(row["chunks"] == row["chunks_planned"] for row in rows)
    damaged = list(_damaged(folder, plan))
    return {
        "folder": str(folder),
        "problem": plan.fingerprint,
        "seed": plan.seed,
        "complete": finished and not damaged and (folder / MANIFEST).exists(),
        "damaged": damaged,
        "holder": holder_of(folder),
        "bytes": sum(path.lstat().st_size for path in folder.glob("chunks/*/*")),
        "estimators": rows,
    }


def _estimator(folder: Path, plan: Plan, name: str) -> dict[str, Any]:
    planned, home = plan.estimators[name].draws, estimator_folder(folder, name)
    done: dict[int, int] = {}
    length = plan.extent.chunk
    damaged = []
    for path in sorted(home.glob("*")):
        chunk = chunk_of_name(path.name)
        if chunk is None or chunk[1] != min(length, planned - chunk[0] * length):
            continue
        try:
            read_chunk(path, plan, name)
            done[chunk[0]] = chunk[1]
        except GradevalError:
            damaged.append(path.name)
    moments = _readable(home.glob("exact-*.json"), lambda path: read_exact(path, plan, name), damaged)
    failures = _readable(home.glob("failure-*.txt"), read_failure, damaged)
    return {
        "estimator": name,
        "chunks": len(done),
        "chunks_planned": -(-planned // length),
        "draws": sum(done.values()),
        "draws_planned": planned,
        "exact_moments": bool(moments),
        "damaged": damaged,
        "failure": failures[0] if failures else None,
    }


def _readable(paths: Iterable[Path], read: Callable[[Path], Any], damaged: list[str]) -> list[Any]:
    """What the files hold that can be read; the names of the others are added to the damaged ones."""
    found = []
    for path in sorted(paths):
        try:
            found.append(read(path))
        except GradevalError:
            damaged.append(path.name)
    return found


def _damaged(folder: Path, plan: Plan) -> Iterator[str]:
    """What is wrong with the files that are not an estimator's."""
    try:
        if plan.problem:
            check_problem(folder, plan)
    except GradevalError as error:
        yield str(error)
    try:
        if (folder / MANIFEST).exists():
            read_run(folder)
    except GradevalError as error:
        yield str(error)
