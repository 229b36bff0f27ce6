"""Files are written whole or not at all, and read with limits: they may come from strangers."""

from __future__ import annotations

import json
import os
import secrets
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


def read_json(path: Path, limit: int) -> dict[str, Any]:
    """Read a JSON object from a file.

    Args:
        path: of the file.
        limit: the most bytes it may have.

    Returns:
        The object.

    Args:
        path: of the file.
        limit: the most bytes it may have.

    Returns:
        The object.

    Raises:
        GradevalError: it is missing, larger, or no JSON object; it names a key twice, or holds NaN or Infinity.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise GradevalError(f"cannot read {path}: {error.strerror}.") from None
    if len(content) > limit:
        raise GradevalError(f"{path}: larger than the limit of {limit} bytes.")
    return parse_json(content, str(path))


def parse_json(content: bytes, place: str) -> dict[str, Any]:
    """Read a JSON object from bytes.

    Args:
        content: in UTF-8.
        place: where they are from, for errors.

    Returns:
        The object.

    Args:
        content: of a file.
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
