"""Files are written whole or not at all, and read with limits: they may come from strangers."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from gradeval.errors import GradevalError

Kind = TypeVar("Kind")


def one_line(text: str) -> str:
    """A text, perhaps a stranger's, on one line.

    Args:
        text: any.

    Returns:
        The text with a space for every run of white space.

    Examples:
        >>> one_line("norms.a\\nb")
        'norms.a b'
    """
    return " ".join(text.split())


def reason(error: BaseException) -> str:
    """What an error of another library says, in one line.

    Args:
        error: any.

    Returns:
        At most 200 characters of its message, with its type where it is not of the file system.

    Examples:
        >>> reason(ValueError("no\\nnumber"))
        'ValueError: no number'
    """
    text = getattr(error, "strerror", None) or one_line(str(error))
    return f"{type(error).__name__}: {text[:200]}" if not isinstance(error, OSError) or not text else text[:200]


class CannotWrite(GradevalError):
    """A file cannot be written (any more); what was written before is as it was.

    Args:
        path: of the file.
        error: why not.
    """

    exit_code = 1

    def __init__(self, path: str | Path, error: BaseException) -> None:
        super().__init__(
            f"cannot write {path}: {reason(error)}. What was finished is kept: repeat the command when there is room "
            "again."
        )


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all: beside its place, to the disk, then in its place.

    Args:
        path: where to; a file that is there is replaced.
        content: what to write.

    Raises:
        OSError: the file cannot be written; what was there is as it was.
    """
    # a name that nobody can have foreseen: a link planted there would lead out of the folder
    beside = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(beside, flags, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)  # should power fail before this reaches the disk, the old state is a good one too
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_together(folder: Path, files: Mapping[str, bytes], last: str) -> None:
    """Write several files; none is replaced before all are on the disk, and the one that vouches for them comes last.

    Args:
        folder: must exist.
        files: contents by name.
        last: the name of the last.

    Raises:
        OSError: they cannot be written; what was there is as it was.
    """
    with tempfile.TemporaryDirectory(prefix=_TOGETHER, dir=folder, ignore_cleanup_errors=True) as temporary:
        for name, content in files.items():
            write_whole(Path(temporary) / name, content)
        for name in sorted(files, key=lambda name: name == last):
            (Path(temporary) / name).replace(folder / name)


_TOGETHER = ".tables-"
_LEFT_OVER = re.compile(r".+\.[0-9a-f]{16}\.part")  # what `write_whole` leaves when it is killed
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link",
}


def remove_left_overs(folder: Path) -> None:
    """Remove what writers that were killed left behind; nobody else may be writing.

    Args:
        folder: and the folders in it; links are not followed.

    Raises:
        OSError: one cannot be removed.
    """
    for home, folders, names in os.walk(folder):
        for name in filter(is_left_over, list(folders)):
            folders.remove(name)
            if not (Path(home) / name).is_symlink():
                shutil.rmtree(Path(home) / name)
        for name in filter(is_left_over, names):
            (Path(home) / name).unlink()


def is_left_over(name: str) -> bool:
    """Whether a file or a folder of this name is what a writer that was killed left behind.

    Args:
        name: without its folder.

    Returns:
        Whether it is.
    """
    return name.startswith(_TOGETHER) or _LEFT_OVER.fullmatch(name) is not None


def refuse_links(folder: Path) -> None:
    """Refuse to write in a folder that leads elsewhere: it may be a stranger's.

    Args:
        folder: need not exist; it may be a link itself, as its owner has named it.

    Raises:
        GradevalError: a link, a pipe or a device is in it, or in a folder in it.
    """
    for entry in _entries(folder):
        kind = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
        if kind not in (stat.S_IFDIR, stat.S_IFREG):
            raise GradevalError(
                f"{entry.path} is {_KINDS.get(kind, 'no file')}: gradeval writes only where a folder has files and "
                "folders alone; remove it, or choose another folder."
            )


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    todo = [str(folder)] if folder.is_dir() else []
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)


def read_whole(path: Path, limit: int) -> bytes:
    """The content of a regular file. A pipe or a device is refused at once, not waited for.

    Args:
        path: of the file.
        limit: the most bytes it may have.

    Returns:
        Its bytes.

    Raises:
        GradevalError: it is missing, no file, larger, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
            if kind != stat.S_IFREG:
                raise GradevalError(f"cannot read {path}: it is {_KINDS.get(kind, 'something else')}, not a file.")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                content = file.read(limit + 1)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        why = "it is a link to nothing" if path.is_symlink() and not path.exists() else reason(error)
        raise GradevalError(f"cannot read {path}: {why}.") from None
    if len(content) > limit:
        raise GradevalError(f"{path}: larger than the limit of {limit} bytes.")
    return content


DIGEST_DIGITS = 32  # of a digest


def digest_of(content: bytes) -> str:
    """The first half of the SHA-256 of some bytes, in hexadecimal.

    Args:
        content: any.

    Returns:
        `DIGEST_DIGITS` digits.
    """
    return hashlib.sha256(content).hexdigest()[:DIGEST_DIGITS]


def sealed(document: Mapping[str, Any]) -> bytes:
    """A JSON object as the content of a file, with the digest of all it holds under "digest".

    Args:
        document: without that key.

    Returns:
        The bytes.
    """
    return json.dumps({**document, "digest": _digest_of_object(document)}, indent=1).encode()


def unsealed(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """A JSON object that `sealed` wrote, without its digest.

    Args:
        document: of `read_json`.
        path: of its file, for the error.

    Returns:
        The object.

    Raises:
        GradevalError: something in it has changed.
    """
    content = {key: value for key, value in document.items() if key != "digest"}
    if document.get("digest") != _digest_of_object(content):
        raise GradevalError(
            f"{path} is not as gradeval wrote it (its digest is wrong): put back what was there, or repeat the command "
            "that made it in a new folder."
        )
    return content


def _digest_of_object(document: Mapping[str, Any]) -> str:
    return digest_of(json.dumps(document, sort_keys=True).encode())


def read_json(path: Path, limit: int) -> dict[str, Any]:
    """Read a JSON object from a file.

    Args:
        path: of the file.
        limit: the most bytes it may have.

    Returns:
        The object.

    Raises:
        GradevalError: it is missing, no file, larger, or no JSON object; it names a key twice, or holds NaN or
            Infinity.
    """
    return parse_json(read_whole(path, limit), str(path))


def parse_json(content: bytes, place: str) -> dict[str, Any]:
    """Read a JSON object from bytes.

    Args:
        content: of a file, in UTF-8.
        place: its name, for errors.

    Returns:
        The object.

    Raises:
        GradevalError: no JSON object, a key twice, NaN or Infinity (with its place), or text that is not Unicode.

    Examples:
        >>> parse_json(b'{"norms": {"a": [1.5, NaN]}}', "x.json")
        Traceback (most recent call last):
        gradeval.errors.GradevalError: x.json: norms.a[1]: must be a finite number, found NaN.
    """
    constants: list[_Constant] = []

    def constant(name: str) -> _Constant:
        constants.append(_Constant(name))
        return constants[-1]

    try:
        document = json.loads(content.decode("utf-8"), object_pairs_hook=_without_repeats, parse_constant=constant)
        if constants:
            where, found = _place_of(constants[0], document), constants[0].name
            raise GradevalError(f"{place}: {where}must be a finite number, found {found}.")
        if b"\\u" in content:  # half a surrogate pair cannot be printed, nor written
            json.dumps(document, ensure_ascii=False).encode()
    except (RecursionError, ValueError) as error:
        raise GradevalError(f"{place}: not a JSON file ({reason(error)}).") from None
    if not isinstance(document, dict):
        raise GradevalError(f"{place}: must hold a JSON object, found {type(document).__name__}.")
    return document


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return found


@dataclass(frozen=True, eq=False)
class _Constant:
    """NaN, Infinity or -Infinity, which Python's parser takes and JSON does not have."""

    name: str


def _place_of(wanted: Any, document: Any) -> str:
    """Where a part of a document stands, "a.b[2]: "; empty for the document itself."""
    todo = [("", document)]
    while todo:  # no recursion: the document may be as deep as the parser allows
        place, node = todo.pop()
        if node is wanted:
            return f"{place.removeprefix('.')}: " if place else ""
        if isinstance(node, dict):
            todo += [(f"{place}.{k:.40}" if k.isidentifier() else f"{place}[{k[:40]!a}]", v) for k, v in node.items()]
        elif isinstance(node, list):
            todo += [(f"{place}[{k}]", v) for k, v in enumerate(node)]
    raise AssertionError("not a part of the document")


Finite = Annotated[float, msgspec.Meta(gt=-1e300, lt=1e300)]
"""A number that is neither infinite nor near it."""


def convert(value: Any, kind: type[Kind], place: str) -> Kind:
    """Parsed JSON as a value of a type, by msgspec: nothing is coerced, and every error names its place.

    Args:
        value: of `read_json`, or a part of it.
        kind: a `msgspec.Struct`, a dataclass, or any type that msgspec knows.
        place: of ``value`` in its file, "" for the whole.

    Returns:
        The value.

    Raises:
        GradevalError: "PLACE.KEY: what was expected and found".
    """
    converted: Kind = _convert(value, kind, place)
    return converted


def convert_entries(entries: dict[str, Any], kind: Any, place: str) -> dict[str, Any]:
    """`convert` every value of an object whose keys are names, so that an error names the key, too.

    Args:
        entries: values by name, as `read_json` gives them.
        kind: of every value, as in `convert`; also `Finite` and its like.
        place: of the object in its file.

    Returns:
        The converted values by name.

    Raises:
        GradevalError: "PLACE.NAME.KEY: what was expected and found".
    """
    return {name: _convert(value, kind, f"{place}.{name}") for name, value in entries.items()}


def _convert(value: Any, kind: Any, place: str) -> Any:
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `")
        inner = path.rstrip("`").removeprefix("key in ").removeprefix("$").removeprefix(".")
        separator = "." if place and not place.endswith(" ") and inner and not inner.startswith("[") else ""
        where = one_line(f"{place}{separator}{inner}")
        raise GradevalError(f"{where.rstrip(': ')}: {what[0].lower()}{what[1:]}." if where else f"{what}.") from None
