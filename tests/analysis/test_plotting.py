"""What figures share: every estimator has a look of its own, and files are whole."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from gradeval.analysis.plotting import OTHERS, STYLES, family_of, log_limits, save_figure, styles


def test_no_two_estimators_look_alike() -> None:
    chosen = styles([*STYLES, *(f"user:{i}" for i in range(60)), *(f"st:x={i}" for i in range(10))])
    assert len(set(chosen.values())) == len(chosen) == len(STYLES) + 70
    assert len(styles(f"user:{i}" for i in range(150))) == 150  # more than there are: reused, not refused


def test_a_failing_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "figure.svg"
    target.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        save_figure(Figure(), tmp_path, "figure")
    assert [path.name for path in tmp_path.iterdir()] == ["figure.svg"]
    assert target.read_bytes() == b"old"


def test_a_logarithmic_axis_holds_what_can_be_drawn() -> None:
    assert log_limits(pd.Series([0.0, np.nan, np.inf, 1e-12])) == (0.1, 10.0)  # nothing can
    low, high = log_limits(pd.Series([3.0]), pd.Series([4.0]))
    assert low < 3 < 4 < high
    assert high / low >= 10


def test_every_built_in_estimator_has_a_family_and_a_style_of_its_own() -> None:
    """Planted: a new row of the table, which would be among the others."""
    from gradeval.estimators import BUILT_IN

    assert {name for name in BUILT_IN if family_of(name) == OTHERS} == set()
    assert set(BUILT_IN) | {"concrete:temperature=0.1", "concrete:temperature=1.0"} == set(STYLES)
    assert len(set(STYLES.values())) == len(STYLES)
    assert [family_of(name) for name in ("rloo:samples=4", "concrete:temperature=2.0", "mine:st")] == [
        "score function",
        "relaxation",
        "others",
    ]
