"""What a notebook shows: objects as HTML in which nothing of a stranger's is code, progress as bars."""

from __future__ import annotations

from pathlib import Path

import pytest

import gradeval
from gradeval.errors import GradevalError
from gradeval.evaluation.run import evaluate

EVIL = "<script>alert(1)</script>"


def test_objects_are_shown(small, tmp_path: Path) -> None:
    problem = gradeval.Problem(small.network, small.inputs, small.targets, name=EVIL, description=EVIL)
    run = evaluate(problem, {EVIL: "st"}, draws=20)
    verdict = gradeval.check({EVIL: "disarm"}, problems=problem)
    for shown, words in (
        (problem, ["points", "widths", "[2]", "logistic", "trainable parameters"]),
        (problem.network, ["1 of binary units (Linear)", "BinaryLayer"]),
        (run, ["20 draws", "relative_bias"]),
        (verdict, ["unbiased: HOLDS", "decided exactly"]),
    ):
        html = shown._repr_html_()
        assert all(word in html for word in words)
        assert "<script" not in html
    assert "tensor" not in repr(problem)  # not the data
    title, *rows = repr(run).splitlines()
    assert "20 draws" in title
    assert [row.split()[0] for row in rows] == ["estimator", EVIL]
    page = run.report(tmp_path / "new" / "page.html")
    assert page.read_text().startswith("<!")
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]
    (tmp_path / "file").touch()
    with pytest.raises(GradevalError, match="cannot write"):
        run.report(tmp_path / "file" / "page.html")


def test_bars(small, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(small, "st", draws=20, exact="never", progress=True)
    assert "20/20" in capsys.readouterr().err
