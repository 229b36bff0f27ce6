"""Sweeps: estimators evaluated on many networks, one tidy table. A cell that is done is not done again.

The folder of a sweep:

    sweep.json                   the cells of the sweep file that was run last, and their settings
    cells/HASH.parquet           the table of each cell that is done
    sweep.csv, regressions.csv   the tables of all cells (parquet, too), and figures/
"""

from __future__ import annotations

import io
import itertools
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from gradeval.analysis.measures import mean_square
from gradeval.analysis.run.evaluation import Evaluation
from gradeval.analysis.sweep import SWEEP_FORMAT, Sweep
from gradeval.errors import GradevalError, Incomplete, unknown_name
from gradeval.estimators import resolve
from gradeval.evaluation.run import evaluate
from gradeval.files import CannotWrite, convert, digest_of, read_json, read_whole, reason, sealed, unsealed, write_whole
from gradeval.folder_lock import FolderLock, holder_of
from gradeval.model.problem import Problem
from gradeval.problems.catalogue import load_problem
from gradeval.progress import Progress, Silent
from gradeval.workers.jobs import run_jobs

SETTINGS: dict[str, Any] = {"estimators": None, "draws": 2000, "seed": 0, "exact": "auto"}
"""The settings of [evaluate] and their defaults."""
SWEEP_FILE = "sweep.json"
MAX_SWEEP_BYTES, MAX_CELL_BYTES = 2**26, 2**28
CELLS_TASK = "cells of the sweep"


@dataclass(frozen=True)
class SweepCell:
    """One network, on which all estimators are evaluated.

    Args:
        problem: options of `load_problem`, with the problem's name.
        settings: of the evaluation.
        folder: of the cells' tables.

    Examples:
        >>> SweepCell({"name": "expclass", "units": "3-3"}, SETTINGS, Path("cells")).name
        'name=expclass units=3-3'
    """

    problem: dict[str, Any]
    settings: dict[str, Any]
    folder: Path

    @property
    def name(self) -> str:
        """The options as words."""
        return " ".join(f"{key}={value}" for key, value in self.problem.items())

    @property
    def key(self) -> str:
        """What its table is: it follows from the options and the settings."""
        return digest_of(json.dumps([SWEEP_FORMAT, self.problem, self.settings], sort_keys=True).encode())

    def saved(self) -> bytes | None:
        """The content of the file of its table, KEY-DIGEST.parquet; None where there is none, or a damaged one."""
        for path in sorted(self.folder.glob(f"{self.key}-*.parquet")):
            content = read_whole(path, MAX_CELL_BYTES)
            if path.stem == f"{self.key}-{digest_of(content)}":
                return content
        return None

    def evaluate(self) -> None:
        """Evaluate the estimators and write the table.

        Raises:
            GradevalError: the problem cannot be made, or an estimator fails.
        """
        problem = load_problem(**self.problem)
        try:
            found = evaluate(
                problem,
                self.settings["estimators"],
                draws=self.settings["draws"],
                seed=self.settings["seed"],
                exact=self.settings["exact"],
                workers=1,
            )
        except Incomplete as error:
            if error.exit_code == 130:
                raise KeyboardInterrupt from None
            raise
        content = self._table(problem, found).to_parquet(index=False)
        path = self.folder / f"{self.key}-{digest_of(content)}.parquet"
        try:
            write_whole(path, content)
        except OSError as error:
            raise CannotWrite(path, error) from None

    def _table(self, problem: Problem, found: Evaluation) -> pd.DataFrame:
        """The evaluation's table, with the options and the facts of the network in front."""
        table = found.best.assign(
            gradient_norm=found.best["layer"].map(found.norms), value=found.manifest["problem"]["exact_value"]
        )
        known = table["exact_relative_bias"].notna()
        exact = np.sqrt(mean_square(table["relative_bias"], table["relative_variance"]))
        for end in ("", "_low", "_high"):
            table[f"relative_rmse{end}"] = table[f"relative_rmse{end}"].where(~known, exact)
        widths = problem.widths
        facts = self.problem | {
            "net": self.name,
            "depth": len(widths),
            "width": float(np.exp(np.log(widths).mean())),
            "total_units": sum(widths),
        }
        for column, value in reversed(facts.items()):
            table.insert(0, column, value)
        return table


def read_sweep(path: str | Path, folder: str | Path) -> list[SweepCell]:
    """Read a sweep file: its cells are all combinations of the options that are lists.

    A sweep file is TOML with two tables: ``[problem]`` holds the options of `load_problem`, ``name`` among them, each a
    value or a list of values; ``[evaluate]`` holds ``estimators`` (a list of specs, or of tables whose lists are
    crossed, ``{name = "concrete", temperature = [0.1, 1.0]}``), ``draws``, ``seed`` and ``exact`` as of `evaluate`.

    Args:
        path: of the sweep file.
        folder: of the sweep.

    Returns:
        The cells, in order: the last option varies first.

    Raises:
        GradevalError: not TOML, an unknown table, setting or estimator, a value of the wrong type, or an empty list.
    """
    path = Path(path)
    try:
        document = tomllib.loads(read_whole(path, MAX_SWEEP_BYTES).decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise GradevalError(f"{path}: not a TOML file ({error}).") from None
    try:
        for table in document:
            if table not in ("problem", "evaluate"):
                raise unknown_name("table", table, ("problem", "evaluate"))
        options = _options(document.get("problem", {}))
        settings = _settings(document.get("evaluate", {}))
    except GradevalError as error:
        raise GradevalError(f"{path}: {error}") from None
    cells = Path(folder) / "cells"
    return [
        SweepCell(dict(zip(options, values, strict=True)), settings, cells)
        for values in itertools.product(*options.values())
    ]


def _options(problem: Any) -> dict[str, list[Any]]:
    """[problem], with a list for every option."""
    if not isinstance(problem, dict) or not isinstance(problem.get("name"), str | list):
        raise GradevalError('[problem] needs a name, such as name = "expclass".')
    lists = {key: value if isinstance(value, list) and key != "states" else [value] for key, value in problem.items()}
    for key, values in lists.items():
        if not values:
            raise GradevalError(f"[problem] {key} is an empty list.")
        for value in values:
            if key in ("stage", "points", "seed"):
                _check_integer(f"[problem] {key}", value)
    return lists


def _settings(given: Any) -> dict[str, Any]:
    """[evaluate], with the defaults."""
    if not isinstance(given, dict):
        raise GradevalError("evaluate must be a table, [evaluate].")
    for key in given:
        if key not in SETTINGS:
            raise GradevalError(f"[evaluate] {unknown_name('setting', key, SETTINGS)}")
    settings = SETTINGS | given
    if not isinstance(settings["estimators"], list):
        raise GradevalError('[evaluate] needs estimators, such as estimators = ["psa", "st"].')
    settings["estimators"] = [_spec(given) for given in settings["estimators"]]
    resolve(settings["estimators"])
    for key in ("draws", "seed"):
        _check_integer(f"[evaluate] {key}", settings[key])
    if not isinstance(settings["exact"], str):
        raise GradevalError(f"[evaluate] exact must be a text, found {settings['exact']!r}.")
    return settings


def _spec(given: Any) -> Any:
    """The spec of an estimator that is given as a table, {name = "concrete", temperature = [0.1, 1.0]}: lists cross."""
    if not isinstance(given, dict):
        return given
    if not isinstance(given.get("name"), str):
        raise GradevalError(f'[evaluate] estimators: a table needs a name, {{name = "concrete"}}, found {given!r}.')
    values = {key: value if isinstance(value, list) else [value] for key, value in given.items() if key != "name"}
    settings = ",".join(f"{key}={'|'.join(map(str, value))}" for key, value in values.items())
    return f"{given['name']}:{settings}" if settings else given["name"]


def _check_integer(place: str, value: Any) -> None:
    if type(value) is not int:
        raise GradevalError(f"{place} must be an integer, found {value!r}.")


def run_sweep(path: str | Path, folder: str | Path, *, workers: int = 1, progress: Progress | None = None) -> Sweep:
    """Evaluate every cell that is not done yet, then write the tables of all cells and their regressions.

    Args:
        path: the sweep file, see `read_sweep`.
        folder: for cells and tables; cells that are done there are kept.
        workers: processes; results do not depend on it.
        progress: receives the progress; a step is a cell.

    Returns:
        The table and the regressions of all cells of the file.

    Raises:
        GradevalError: an unusable sweep file or folder.
        Incomplete: cells failed, or Ctrl-C; those that were done are kept.
    """
    folder, progress = Path(folder), progress or Silent()
    cells = read_sweep(path, folder)
    with FolderLock(folder, SWEEP_FILE) as lock:
        lock.hold()
        return _carry_out(cells, folder, workers, progress)


def _carry_out(cells: Sequence[SweepCell], folder: Path, workers: int, progress: Progress) -> Sweep:
    try:
        (folder / "cells").mkdir(parents=True, exist_ok=True)
        write_whole(folder / SWEEP_FILE, sealed(_plan(cells)))
    except OSError as error:
        raise GradevalError(f"cannot write {folder}: {error.strerror}.") from None
    todo = [cell for cell in cells if cell.saved() is None]
    # a process takes seconds to start: each is started once, and of n processes each evaluates every n-th cell
    count = min(workers, len(todo))
    shares = [ProcessCells(f"part {k + 1} of {count}", todo[k::count]) for k in range(count)]
    try:
        progress.start(CELLS_TASK, len(todo))
        failures = run_jobs(shares, min(workers, max(1, count)), progress)
        progress.finish(CELLS_TASK)
        why = "; ".join(text.rstrip(".") for text in failures.values())
        done = _tables(cells)
        if not done:
            raise GradevalError(f"{why}.")
        sweep = Sweep(pd.concat(done, ignore_index=True))
        sweep.save(folder)
    except KeyboardInterrupt:
        kept = sum(cell.saved() is not None for cell in cells)
        raise Incomplete(f"interrupted; kept in {folder}: {kept} of {len(cells)} cells.", exit_code=130) from None
    if failures:
        raise Incomplete(f"{why}; the tables in {folder} have {len(done)} of {len(cells)} cells.", exit_code=1)
    return sweep


def _plan(cells: Sequence[SweepCell]) -> dict[str, Any]:
    """The contents of sweep.json."""
    named = [{"name": cell.name, "problem": cell.problem, "key": cell.key} for cell in cells]
    return {"format": SWEEP_FORMAT, "settings": cells[0].settings, "cells": named}


def _tables(cells: Sequence[SweepCell]) -> list[pd.DataFrame]:
    """Those of the cells that are done."""
    return [pd.read_parquet(io.BytesIO(content)) for cell in cells if (content := cell.saved()) is not None]


@dataclass(frozen=True)
class ProcessCells:
    """The cells that one process evaluates, one after the other.

    Args:
        name: of this part of the sweep.
        cells: what is evaluated.
    """

    name: str
    cells: list[SweepCell]

    def run(self, progress: Progress) -> None:
        """Evaluate the cells; one that fails leaves the others.

        Args:
            progress: receives the progress; a step is a cell.

        Raises:
            GradevalError: cells that failed, and why.
        """
        failures = []
        for cell in self.cells:
            try:
                cell.evaluate()
            except GradevalError as error:
                failures.append(f"cell '{cell.name}': {str(error).rstrip('.')}")
            progress.advance(CELLS_TASK, 1)
        if failures:
            raise GradevalError("; ".join(failures) + ".")


# --- what a folder holds ----------------------------------------------------------------------------------------------


class SavedCell(msgspec.Struct):
    """A cell in sweep.json.

    Attributes:
        name: its options as words.
        problem: its options.
        key: of its table, in cells/.
    """

    name: str
    problem: dict[str, Any]
    key: str


class SavedSweep(msgspec.Struct):
    """The contents of sweep.json.

    Attributes:
        format: of the file.
        settings: of the evaluations.
        cells: all of them, done or not.
    """

    format: str
    settings: dict[str, Any]
    cells: list[SavedCell]


def is_sweep(folder: str | Path) -> bool:
    """Tell whether a folder holds a sweep, finished or not.

    Args:
        folder: any path.

    Returns:
        Whether it does.
    """
    folder = Path(folder)
    return (folder / SWEEP_FILE).is_file() or (folder / "sweep.parquet").is_file()


def sweep_status(folder: str | Path) -> dict[str, Any]:
    """Describe what the folder of a sweep holds.

    Args:
        folder: of the sweep.

    Returns:
        "folder"; "holder": who is at work, in words, or None; "bytes" in it; the "settings" of the evaluations;
        "cells": how many there are, and "done": how many of them are done; "missing": the names of the others;
        "complete": whether all are done and the tables are there. It can be written as JSON. A folder of an older
        version does not say what was to be done: all its cells are done.

    Raises:
        GradevalError: the folder is not a sweep, or its sweep.json is damaged.
    """
    folder = Path(folder)
    if not is_sweep(folder):
        raise GradevalError(f"{folder} is not a sweep: it has neither {SWEEP_FILE} nor sweep.parquet.")
    settings: dict[str, Any] = {}
    missing: list[str] = []
    cells = len(list(folder.glob("cells/*.parquet")))
    if (folder / SWEEP_FILE).exists():
        saved = _read_plan(folder)
        settings, cells = saved.settings, len(saved.cells)
        missing = [cell.name for cell in _cells(saved, folder) if cell.saved() is None]
    return {
        "folder": str(folder),
        "holder": holder_of(folder),
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        "settings": settings,
        "cells": cells,
        "done": cells - len(missing),
        "missing": missing,
        "complete": not missing and (folder / "sweep.parquet").is_file(),
    }


def rebuild_sweep(folder: str | Path) -> Sweep:
    """Make the tables of a sweep again, from the cells that are done; nothing is evaluated.

    Args:
        folder: of the sweep.

    Returns:
        The table and the regressions; of a folder without sweep.json, made by an older version, its saved tables.

    Raises:
        GradevalError: no cell is done, or a file is damaged.
    """
    folder = Path(folder)
    if not (folder / SWEEP_FILE).exists():
        return Sweep.load(folder)
    saved = _read_plan(folder)
    try:
        done = _tables(_cells(saved, folder))
    except (OSError, ValueError) as error:
        raise GradevalError(f"{folder}: a cell cannot be read ({reason(error)}).") from None
    if not done:
        raise GradevalError(f"{folder}: no cell of the sweep is done. Repeat the command that began it to resume.")
    sweep = Sweep(pd.concat(done, ignore_index=True))
    sweep.save(folder)
    return sweep


def _cells(saved: SavedSweep, folder: Path) -> list[SweepCell]:
    return [SweepCell(cell.problem, saved.settings, folder / "cells") for cell in saved.cells]


def _read_plan(folder: Path) -> SavedSweep:
    path = folder / SWEEP_FILE
    document = read_json(path, MAX_SWEEP_BYTES)
    if document.get("format") != SWEEP_FORMAT:
        raise GradevalError(
            f"{path}: this version reads '{SWEEP_FORMAT}', found {document.get('format')!r:.80}: repeat the command "
            "that made it, with a new --out."
        )
    document = unsealed(document, path)
    try:
        saved = convert(document, SavedSweep, "")
    except GradevalError as error:
        raise GradevalError(f"{path}: {error}") from None
    return saved
