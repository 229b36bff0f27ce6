"""Files are written whole, and nowhere else than asked; what is no file is not read."""

from __future__ import annotations

import os
import secrets
import socket
import stat
from pathlib import Path

import pytest

from gradeval.errors import GradevalError
from gradeval.files import (
    read_json,
    read_whole,
    refuse_links,
    remove_left_overs,
    sealed,
    unsealed,
    write_together,
    write_whole,
)


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


def test_files_are_written_together(tmp_path: Path) -> None:
    """None is replaced before all are on the disk; the last one comes last."""
    (tmp_path / "b").mkdir()  # in the way of the second
    with pytest.raises(OSError):  # noqa: PT011  # which one depends on the system
        write_together(tmp_path, {"z": b"1", "a": b"2", "b": b"3"}, last="z")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]  # z, which vouches for them, is not there
    (tmp_path / "b").rmdir()
    write_together(tmp_path, {"z": b"1", "a": b"2", "b": b"3"}, last="z")
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "z"]


def in_its_place(kind: str, path: Path) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "link to nothing":
        path.symlink_to("nowhere")
    elif kind == "link to itself":
        path.symlink_to(path.name)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(path))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pipe", "it is a pipe, not a file"),
        ("folder", "it is a folder, not a file"),
        ("device", "it is a device, not a file"),
        ("link to nothing", "it is a link to nothing"),
        ("link to itself", "link"),
        ("socket", "No such device"),
        ("missing", "No such file"),
    ],
)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str, message: str) -> None:
    """A pipe was waited for, for ever; a device would be read for ever."""
    in_its_place(kind, tmp_path / "x.json")
    with pytest.raises(GradevalError, match=message) as caught:
        read_json(tmp_path / "x.json", 1000)
    assert str(tmp_path / "x.json") in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_limits(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert read_whole(tmp_path / "x", 5) == b"12345"
    with pytest.raises(GradevalError, match="larger than the limit of 4 bytes"):
        read_whole(tmp_path / "x", 4)
    with pytest.raises(GradevalError, match="null byte"):
        read_whole(tmp_path / "x\0y", 4)


def test_left_overs_are_removed_and_nothing_else(tmp_path: Path) -> None:
    """Planted: links with the names of what gradeval leaves behind when it is killed."""
    home, outside = tmp_path / "home", tmp_path / "outside"
    (home / "chunks" / "st").mkdir(parents=True)
    (home / ".tables-abc").mkdir()
    (home / ".tables-abc" / "curves.csv").write_text("")
    outside.mkdir()
    (outside / "precious").write_text("")
    (home / ".tables-link").symlink_to(outside)
    (home / "linked").symlink_to(outside)
    (outside / f"x.{'1' * 16}.part").write_text("")
    for name in (f"plan.json.{'a' * 16}.part", f"chunks/st/1.{'0' * 16}.part"):
        (home / name).write_text("")
    for name in ("mine.part", f"{'a' * 16}.part", "chunks/st/1"):
        (home / name).write_text("")
    remove_left_overs(home)
    left = {str(path.relative_to(home)) for path in home.rglob("*")}
    assert left == {"chunks", "chunks/st", "chunks/st/1", "mine.part", f"{'a' * 16}.part", ".tables-link", "linked"}
    assert sorted(os.listdir(outside)) == ["precious", f"x.{'1' * 16}.part"]


@pytest.mark.parametrize("kind", ["pipe", "device", "link to nothing", "link to itself", "socket"])
def test_a_folder_that_leads_elsewhere_is_not_written_in(tmp_path: Path, kind: str) -> None:
    refuse_links(tmp_path / "missing")
    (tmp_path / "chunks" / "st").mkdir(parents=True)
    (tmp_path / "chunks" / "st" / "1").write_text("")
    refuse_links(tmp_path)
    in_its_place(kind, tmp_path / "chunks" / "x")
    with pytest.raises(GradevalError, match=r"chunks/x is a \w+: gradeval writes only where"):
        refuse_links(tmp_path)


def test_a_sealed_document_is_read_as_it_was_written(tmp_path: Path) -> None:
    document = {"b": [1, 2.5, "\u2028", None], "a": {"x": True}}
    write_whole(tmp_path / "x.json", sealed(document))
    assert unsealed(read_json(tmp_path / "x.json", 1000), tmp_path) == document
    for old, new in ((b"2.5", b"2.6"), (b"true", b"false"), (b'"a"', b'"c"'), (b"digest", b"digesT")):
        (tmp_path / "x.json").write_bytes(sealed(document).replace(old, new))
        with pytest.raises(GradevalError, match="its digest is wrong"):
            unsealed(read_json(tmp_path / "x.json", 1000), tmp_path)
