"""Arguments of commands are checked before work begins."""

from __future__ import annotations

from pathlib import Path

import pytest

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
