"""`gradeval report`: what is shown of a run is what its tables say."""

from __future__ import annotations

import re

import pytest

from gradeval import Evaluation, evaluate
from gradeval.analysis.run.summary import BiasVerdict
from gradeval.program.report import show_summary


@pytest.mark.parametrize("exact", ["never", "auto"])
def test_every_number_shown_is_that_of_its_column(
    make_problem, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], exact: str
) -> None:
    """Planted: the cosine in the column of the bias, the sampled bias in place of the exact one, rows of a layer."""
    monkeypatch.setenv("COLUMNS", "200")
    run = evaluate(make_problem((2, 2)), ["reinforce", "st", "psa", "tanh", "arm"], draws=500, exact=exact)
    show_summary(run)
    lines = capsys.readouterr().out.splitlines()
    shown = {cells[0]: cells[1:] for line in lines if len(cells := re.split(r"\s{2,}", line.strip())) == 7}
    assert shown.pop("estimator") == ["RMSE", "bias", "95 % interval", "cosine", "µs/draw", "claim"]
    rows = _rows(run)
    assert list(shown) == sorted(rows, key=lambda name: rows[name]["relative_rmse"])
    assert any(row["relative_bias_low"] == row["relative_bias_high"] for row in rows.values())
    for name, row in rows.items():
        low, bias, high = (row[f"relative_bias{end}"] for end in ("_low", "", "_high"))
        assert shown[name] == [
            f"{row['relative_rmse']:.3g}",
            f"{bias:.3g}",
            "exact" if low == bias == high else f"{low:.3f}–{high:.3f}",
            f"{row['cosine']:.3f}",
            f"{1e6 * row['seconds_per_draw']:.0f}",
            BiasVerdict(row["verdict"]).short,
        ]
        assert abs(bias - row["cosine"]) > 1e-3  # one could stand for the other without being seen


def _rows(run: Evaluation) -> dict[str, dict[str, float]]:
    """Of all layers, with what is known exactly in place of the estimates, from the saved columns alone."""
    rows = {}
    for row in run.summary[run.summary["layer"] == "all"].to_dict("records"):
        exact = row["exact_relative_bias"]
        if exact == exact:
            known = 0.0 if exact < 1e-9 else exact
            row |= {f"relative_bias{end}": known for end in ("", "_low", "_high")}
            row |= {"relative_rmse": (known**2 + row["exact_relative_variance"]) ** 0.5}
        rows[row["estimator"]] = row
    return rows
