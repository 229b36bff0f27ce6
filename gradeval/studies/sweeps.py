"""Sweeps: estimators evaluated on many networks, one tidy table. A cell that is done is not done again."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gradeval.analysis.run.figures import write_atomically
from gradeval.analysis.sweep import FORMAT, Sweep
from gradeval.errors import GradevalError, Incomplete, unknown_name
from gradeval.estimators import resolve
from gradeval.evaluation.run import evaluate
from gradeval.problems.catalogue import load_problem
from gradeval.workers.jobs import Report, run_jobs

SETTINGS: dict[str, Any] = {"estimators": None, "draws": 2000, "seed": 0, "exact": "auto"}


@dataclass(frozen=True)
class Cell:
    """One network and all estimators.

    Attributes:
        problem: options of `load_problem`, with its name.
        settings: of the evaluation.
        folder: of the cells' tables.
    """

    problem: dict[str, Any]
    settings: dict[str, Any]
    folder: Path

    @property
    def name(self) -> str:
        """The options as words."""
        return " ".join(f"{key}={value}" for key, value in self.problem.items())

    @property
    def path(self) -> Path:
        """Where its table lies: a name that its options, settings and nothing else decide."""
        text = json.dumps([FORMAT, self.problem, self.settings], sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.parquet"

    def run(self, progress: Report | None) -> None:
        """Evaluate and write the table, unless it is there."""
        if self.path.exists():
            return
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
        table = found.best.assign(
            gradient_norm=found.best["layer"].map(found.norms), value=found.manifest["problem"]["exact_value"]
        )
        known = table["exact_relative_bias"].notna()
        exact = np.sqrt(table["relative_bias"] ** 2 + table["relative_variance"])
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
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        write_atomically(self.path, buffer.getvalue())
        if progress:
            progress("sweep", self.name, 1, 1)


def read_sweep(path: str | Path, folder: str | Path) -> list[Cell]:
    """The cells of a sweep file, every combination of the options that are lists.

    A sweep file is TOML with two tables: ``[problem]`` holds the options of `load_problem`, ``name`` among them, each a
    value or a list of values; ``[evaluate]`` holds ``estimators`` (a list), ``draws``, ``seed`` and ``exact`` as of
    `evaluate`.

    Raises:
        GradevalError: not TOML, an unknown table, setting or estimator, or an empty list.
    """
    path = Path(path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GradevalError(f"cannot read sweep file {path}: {error.strerror}.") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise GradevalError(f"{path}: not a TOML file ({error}).") from None
    for table in document:
        if table not in ("problem", "evaluate"):
            raise GradevalError(f"{path}: {unknown_name('table', table, ('problem', 'evaluate'))}")
    problem, settings = document.get("problem", {}), SETTINGS | document.get("evaluate", {})
    for key in settings:
        if key not in SETTINGS:
            raise GradevalError(f"{path}: [evaluate] {unknown_name('setting', key, SETTINGS)}")
    if not isinstance(problem, dict) or not isinstance(problem.get("name"), str | list):
        raise GradevalError(f'{path}: [problem] needs a name, such as name = "expclass".')
    if not isinstance(settings["estimators"], list):
        raise GradevalError(f'{path}: [evaluate] needs estimators, such as estimators = ["psa", "st"].')
    resolve(settings["estimators"])
    lists = {key: value if isinstance(value, list) and key != "states" else [value] for key, value in problem.items()}
    for key, values in lists.items():
        if not values:
            raise GradevalError(f"{path}: [problem] {key} is an empty list.")
    numbers = {f"[problem] {key}": lists.get(key, []) for key in ("stage", "points", "seed")}
    numbers |= {f"[evaluate] {key}": [settings[key]] for key in ("draws", "seed")}
    for key, values in numbers.items():
        for value in values:
            if type(value) is not int:
                raise GradevalError(f"{path}: {key} must be an integer, found {value!r}.")
    cells = Path(folder) / "cells"
    return [
        Cell(dict(zip(lists, values, strict=True)), settings, cells) for values in itertools.product(*lists.values())
    ]


def run_sweep(path: str | Path, folder: str | Path, *, workers: int = 1, progress: Report | None = None) -> Sweep:
    """Evaluate every cell that is not done, and write one table, regressions and nothing else twice.

    Args:
        path: the sweep file, see `read_sweep`.
        folder: for cells and tables; cells that lie there already are kept.
        workers: processes; results do not depend on it.
        progress: told of every cell that is done.

    Raises:
        GradevalError: an unusable sweep file or folder.
        Incomplete: cells failed, or Ctrl-C; those that were done are kept.
    """
    folder = Path(folder)
    cells = read_sweep(path, folder)
    try:
        (folder / "cells").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GradevalError(f"cannot write {folder}: {error.strerror}.") from None
    todo = [cell for cell in cells if not cell.path.exists()]
    # few processes, since each takes seconds to start: one worker takes every so-manieth cell
    shares = [_Share(f"cells {k + 1}", todo[k::workers], k) for k in range(min(workers, len(todo)))]
    try:
        failures = run_jobs(shares, min(workers, max(1, len(shares))), progress)
    except KeyboardInterrupt:
        raise Incomplete(f"interrupted: the same command goes on where it was, from {folder}", exit_code=130) from None
    done = [cell for cell in cells if cell.path.exists()]
    if not done:
        raise GradevalError("; ".join(failures.values()))
    table = pd.concat([pd.read_parquet(cell.path) for cell in done], ignore_index=True)
    sweep = Sweep(table)
    sweep.save(folder)
    if failures:
        raise Incomplete("; ".join(failures.values()), exit_code=1)
    return sweep


@dataclass(frozen=True)
class _Share:
    name: str
    cells: list[Cell]
    number: int

    def run(self, progress: Report | None) -> None:
        failures = []
        for done, cell in enumerate(self.cells, 1):
            try:
                cell.run(None)
            except GradevalError as error:
                failures.append(f"{cell.name}: {error}")
            if progress:
                progress(self.name, "", done, len(self.cells))
        if failures:
            raise GradevalError("; ".join(failures))
