"""Files are written whole, and nowhere else than asked."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

import pytest

from gradeval.files import write_whole


def test_what_was_there_is_replaced_and_has_the_usual_rights(tmp_path: Path) -> None:
    (tmp_path / "usual").write_bytes(b"")
    for content in (b"one", b"two"):
        write_whole(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == ["file", "usual"]
    rights = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "usual")]
    assert rights[0] == rights[1]


def test_a_link_that_was_planted_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where its name was foreseen. A link in the file's own place is replaced. Planted: plain `open`."""
    (tmp_path / "folder").mkdir()
    outside, file = tmp_path / "outside", tmp_path / "folder" / "file"
    outside.write_bytes(b"precious")
    monkeypatch.setattr(secrets, "token_hex", lambda size: "known")
    (tmp_path / "folder" / "file.known.part").symlink_to(outside)
    with pytest.raises(FileExistsError):
        write_whole(file, b"new")
    monkeypatch.undo()
    file.symlink_to(outside)
    write_whole(file, b"new")
    assert outside.read_bytes() == b"precious"
    assert file.read_bytes() == b"new"
    assert not file.is_symlink()
