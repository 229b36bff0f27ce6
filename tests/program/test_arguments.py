"""Arguments of commands are checked before work begins; what carries meaning is whole at 80 columns."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from gradeval.program.cost import show_cost
from tests.programs import gradeval


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cost", "--growing", "foo"), "unknown estimator 'foo'"),
        (("train", "expclass", "--epochs", "0"), "epochs must be at least 1, found 0."),
        (("train", "expclass", "--batch", "0"), "batch must be at least 1, found 0."),
    ],
)
def test_refused_before_any_work(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = gradeval(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [f"gradeval: {done.stderr.strip().removeprefix('gradeval: ')}"]
    assert message in done.stderr
    assert not list(tmp_path.glob("gradeval-*"))


def test_exponents_are_whole_at_80_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = [
        {
            "estimator": name,
            "axis": axis,
            "quantity": quantity,
            "exponent": 1.25,
            "exponent_low": 0.95,
            "exponent_high": 1.55,
        }
        for name in ("st", "gumbel-rao:temperature=0.1,samples=10")
        for axis in ("depth", "width")
        for quantity in ("evaluations", "flops", "seconds")
    ]
    show_cost(pd.DataFrame([]), pd.DataFrame(rows))
    assert capsys.readouterr().out.count("1.25 [0.95, 1.55]") == 12
