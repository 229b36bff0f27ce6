"""The figure of the score against the number of draws averaged: its lines, its marks and what it takes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from gradeval.analysis.drawing import Drawing
from gradeval.analysis.training import Training
from gradeval.analysis.training_figures import accuracy_figure
from gradeval.analysis.training_folder import TRAINING_TABLES
from gradeval.errors import GradevalError

NAMES = ("st", "psa")
BASE = {"st": 0.6, "psa": 0.7}


def training_of(splits: tuple[str, ...] = ("validation", "test"), accuracy: bool = True) -> Training:
    """Two estimators, three seeds; accuracy grows with the draws by 2 % at a time, mode and mean-field lie above."""
    rows: dict[str, list[dict[str, object]]] = {"ensembles": [], "predictions": []}
    for name in NAMES:
        for seed in range(3):
            for split in splits:
                same = {"estimator": name, "seed": seed, "split": split}
                own = BASE[name] + 0.01 * seed - 0.1 * (split == "validation")
                for table, key, places in (
                    ("ensembles", "draws", (1, 10, 12, 100)),
                    ("predictions", "predictor", ("expected", "ensemble", "mode", "mean-field")),
                ):
                    for step, place in enumerate(places):
                        share = own + 0.02 * step
                        score = {"loss": 1 - share, "accuracy": share if accuracy else math.nan}
                        rows[table].append(same | {key: place} | score)
    tables = {name: pd.DataFrame(rows.get(name, []), columns=columns) for name, columns in TRAINING_TABLES.items()}
    return Training({"estimators": {name: {"unbiased_claim": False} for name in NAMES}}, tables)


def lines_of(training: Training, drawing: Drawing) -> dict[str, list[list[float]]]:
    ax = Figure().subplots()
    accuracy_figure(training, drawing, ax)
    found: dict[str, list[list[float]]] = {"lines": [], "marks": []}
    for line in ax.lines:
        if line.get_marker() not in ("", "None", None):
            kind = "marks" if line.get_linestyle() == "None" else "lines"
            found[kind].append(np.round(np.asarray(line.get_ydata(), dtype=float), 9).tolist())
    return found


def test_lines_are_means_over_seeds_and_marks_are_what_is_not_drawn() -> None:
    """In percent, of the test data. Planted: the marks of "expected", or of the validation data."""
    found = lines_of(training_of(), Drawing(["psa", "st"]))
    assert found["lines"] == [[71.0, 73.0, 75.0, 77.0], [61.0, 63.0, 65.0, 67.0]]
    assert found["marks"] == [[75.0, 77.0], [65.0, 67.0]]
    other = lines_of(training_of(), Drawing(["st"], panels=["validation"]))
    assert (other["lines"], other["marks"]) == ([[51.0, 53.0, 55.0, 57.0]], [[55.0, 57.0]])


def test_without_accuracy_the_loss_is_shown_and_without_test_data_those_for_validation(tmp_path: Path) -> None:
    panels = accuracy_figure(training_of(("validation",), accuracy=False))
    assert list(panels) == ["validation"]
    ax = panels["validation"]
    assert ax.get_ylabel() == "loss"
    ticks = [text.get_text() for text in ax.get_xticklabels()]
    assert ticks == ["1", "10", "100", "mode", "mean-\nfield"]  # 12 would stand on 10
    assert panels.save(tmp_path / "accuracy.svg").stat().st_size > 0


def test_a_panel_that_is_not_there_is_refused_and_nothing_is_drawn_of_nothing() -> None:
    with pytest.raises(GradevalError, match="unknown panel 'tests': did you mean test"):
        accuracy_figure(training_of(), Drawing(panels=["tests"]))
    full = training_of()
    none = full.tables["ensembles"].iloc[:0]
    assert not accuracy_figure(Training(full.manifest, full.tables | {"ensembles": none}))
