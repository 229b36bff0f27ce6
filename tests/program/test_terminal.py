"""A terminal shows what strangers write, and does not obey it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gradeval.program.terminal import safe, say, visible

OBEYED = ["\x1b[2J", "\x1b]0;title\x07", "\r", "\b", "\x9b31m", "\u202etxt.exe", "\u2028", "\ud800", "\x00", "\u200b"]


@pytest.mark.parametrize("text", OBEYED)
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    for shown in (visible(f"st{text}"), safe(f"st{text}")):
        assert shown.isprintable()
        assert shown.startswith("st\\")
    file = io.StringIO()
    say(f"st{text}\nforged: line", file)
    assert file.getvalue().count("\n") == 1
    Console(file=file, width=200).print(safe(f"st{text}[bold red]x[/]"))
    assert "[bold red]x[/]" in file.getvalue()
    assert file.getvalue().replace("\n", "").isprintable()


def test_ordinary_texts_stay() -> None:
    text = "relative bias ≤ 5 %, ‖g*‖, ∇J, 9.5\u202fms, naïve, 中文"
    assert visible(text) == text
