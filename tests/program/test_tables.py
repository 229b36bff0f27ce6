"""At 80 columns every table is whole: no command cuts a number or a verdict."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from gradeval.analysis.comparison.outcome import Outcome
from gradeval.analysis.run.summary import BiasVerdict
from gradeval.atlas import load
from gradeval.checking.claims import RowState, State
from gradeval.checking.verdict import Verdict
from gradeval.estimators import TABLE
from gradeval.problems.catalogue import PROBLEMS
from gradeval.program import atlas, check, compare, cost, listing, report, status, sweep, train
from gradeval.program.tables import Cell, show_table

PROGRAM = Path(__file__).parents[2] / "gradeval" / "program"
LONG = "gumbel-rao:temperature=0.1,samples=10"
OWN = "estimators/of_a_long_name.py:Tempered:temperature=0.123456"
NAMES = (LONG, OWN)


def ends(key: str, value: float, low: float, high: float) -> dict[str, float]:
    return {key: value, f"{key}_low": low, f"{key}_high": high}


def a_run() -> None:
    rows = [
        {"estimator": name, "layer": "all", "relative_rmse": 123.4, "cosine": -0.123, "seconds_per_draw": 0.0123456}
        | ends("relative_bias", 123.4567, 101.234, 145.678)
        | {"verdict": verdict}
        for name in NAMES
        for verdict in BiasVerdict
    ]
    problem = {"widths": [2], "points": 4}
    manifest = {"problem": problem, "failures": {}}
    choice = pd.DataFrame(columns=["layer", "unit", "budget", "estimator", "draws", "rivals"])
    report.show_summary(SimpleNamespace(best=pd.DataFrame(rows), choice=choice, manifest=manifest))


def a_check(against: str = "") -> None:
    rows = [
        {"problem": problem, "layer": "head", "method": "sampled", "draws": 8_388_608, "scale": -1234.5678}
        | {"cosine": -0.9876, "relative_variance": 1.23456e8, "variance_ratio": 1.234e8, "value_error": 1e-300}
        | ends("relative_bias", 0.000123456, 0.0000987, 0.000234)
        | {"detectable": 0.01, "detectable_variance": 0.1, "verdict": verdict}
        for problem in ("2-2 logistic", "3 normal")
        for verdict in RowState
    ]
    verdict = Verdict(LONG, State.UNDECIDED, ["unbiased"], pd.DataFrame(rows), [], [], 1e-6, 0.01, 0, 1e-6, against)
    check.show_verdict(verdict)


def a_comparison() -> None:
    row = {"layer": "head", "measure": "evaluations", "old": -1.234e-300, "new": 1.234e300, "change": -0.98765}
    rows = [row | {"estimator": name, "pvalue_adjusted": 1e-7, "verdict": v} for name in NAMES for v in Outcome]
    compare.show_comparison(
        SimpleNamespace(changed=pd.DataFrame(rows), problem="own", answer="Regression.", notes=["a note"])
    )


def a_cost() -> None:
    row = {"layer_evaluations": 123456, "loss_evaluations": 65536, "flops": 1.23e300, "relative_flops": 1234.56}
    row |= {"seconds": 12.3456, "relative_seconds": 1234.56, "bytes": 2.0**33, "relative_bytes": 123.45}
    growth = [
        {"estimator": name, "axis": axis, "quantity": quantity} | ends("exponent", -1.25, -1.55, -0.95)
        for name in NAMES
        for axis in ("depth", "width")
        for quantity in ("evaluations", "flops", "seconds")
    ]
    cost.show_cost(pd.DataFrame([row | {"estimator": name} for name in NAMES]), pd.DataFrame(growth))


def a_training() -> None:
    rows = [
        {"estimator": name, "split": split, "predictor": predictor, "rate": 0.00032, "seeds": 5}
        | ends("loss", 12.3456, 10.1234, 14.5678)
        | ends("accuracy", 0.987, 0.981, 0.993)
        for name in NAMES
        for split, predictor in (("train", "expected"), ("test", "ensemble"))
    ]
    manifest: dict[str, Any] = {"failures": {}}
    train.show_training(SimpleNamespace(summary=pd.DataFrame(rows), best=None, manifest=manifest))


def a_status() -> None:
    row = {"chunks": 1234, "chunks_planned": 2345, "draws": 1_234_567, "draws_planned": 2_345_678, "damaged": [1]}
    rows = [row | {"estimator": n, "exact_moments": True, "failure": "raised ValueError: not a number"} for n in NAMES]
    found = {"folder": "a/folder", "bytes": 1.5e6, "damaged": [], "holder": "", "complete": True, "estimators": rows}
    status.show_status(found)


def a_training_s_status() -> None:
    row = {"phase": "search", "epoch": 1999, "epochs": 20_000, "rate": 0.00032, "damaged": "", "failure": "it is NaN"}
    rows = [row | {"estimator": name} for name in NAMES]
    facts = {"folder": "a/folder", "problem": "own", "bytes": 1.5e6, "holder": "", "complete": True}
    train.show_training_status(facts | {"estimators": rows})


def a_sweep() -> None:
    rows = [
        {"measure": measure, "estimator": name, "term": term} | ends("slope", -1.234, -2.345, 3.456)
        for name in NAMES
        for measure in ("relative_variance", "relative_rmse")
        for term in ("depth", "log2_width")
    ]
    sweep.show_regressions(SimpleNamespace(regressions=pd.DataFrame(rows)))


def the_atlas() -> None:
    table = load("toy").accuracy.drop(columns="layer")
    assert table["relative_rmse"].notna().all()
    atlas._show(table.assign(estimator=[*NAMES, *table["estimator"][2:]]))
    numbers = dict.fromkeys(("relative_bias", "relative_variance", "cosine", "relative_rmse"), 1.234e-5)
    atlas._show(pd.DataFrame([{"problem": "logistic-deep", **numbers, "place": "12 of 36", "best": LONG}]))


SHOWN: dict[str, tuple[Callable[[], None], list[str]]] = {
    "run": (a_run, ["undecided", "biased", "no bias seen", "exactly unbiased", "101.234–145.678", "12346", "-0.123"]),
    "check": (a_check, ["fails: variance", "not refuted", "0.000123 [9.9e-05, 0.00023]", "-1235", "1.23e+08"]),
    "check --equals": (lambda: a_check("st"), ["difference", "fails: value"]),
    "compare": (a_comparison, ["evaluations", "-1.234e-300", "1.234e+300", "-98.8%", "1.0e-07", "missing", "better"]),
    "cost": (a_cost, ["123456", "1.23e+300", "1.23e+04", "8388608", "-1.25 [-1.55, -0.95]"]),
    "train": (a_training, ["0.00032", "12.3456", "[10.1234, 14.5678]", "[0.981, 0.993]"]),
    "status": (a_status, ["1,234/2,345", "1,234,567/2,345,678", "yes", "ValueError:"]),
    "status of a training": (a_training_s_status, ["search for the rate", "1,999/20,000", "0.00032"]),
    "sweep": (a_sweep, ["relative_variance", "twice the width", "0.0583 [0.00452, 2.86e+03]"]),
    "list": (lambda: listing.show_lists(PROBLEMS.values(), TABLE.values()), ["autoencoder", "expclass"]),
    "atlas": (the_atlas, ["1.234e-05", "12 of 36", "logistic-deep"]),
}


@pytest.mark.parametrize("command", SHOWN)
def test_nothing_is_cut_at_80_columns(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names may be folded, after a colon, comma or slash; all else stands whole on a line."""
    monkeypatch.setenv("COLUMNS", "80")
    show, whole = SHOWN[command]
    show()
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    for text in whole:
        assert re.search(rf"(?<![\w.]){re.escape(text)}(?![\w.])", shown), text
    if command != "list" and not command.startswith("check"):
        for piece in ("gumbel-rao:", "temperature=0.1,", "samples=10"):
            assert piece in shown


def test_tables_have_one_owner() -> None:
    """A table that is made elsewhere is not seen by the test above."""
    makers = [path.name for path in PROGRAM.glob("*.py") if "rich.table" in path.read_text(encoding="utf-8")]
    assert makers == ["tables.py"]


def test_where_numbers_need_more_than_the_width_lines_are_longer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The terminal breaks such a line; planted: rich's own tables would cut it."""
    monkeypatch.setenv("COLUMNS", "30")
    show_table("a\x07b", {"name": Cell.NAME, "one": Cell.NUMBER, "two": Cell.WORD}, [("st[red]", "1" * 20, "2" * 20)])
    shown = capsys.readouterr().out
    assert "1" * 20 in shown
    assert "2" * 20 in shown
    assert "st[red]" in shown
    assert "a\\x07b" in shown
