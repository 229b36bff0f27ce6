"""Hashes of the sources that decide a chunk's numbers: gradeval's own, the problem's and the estimator's."""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gradeval.errors import GradevalError
from gradeval.files import digest_of
from gradeval.model.problem import Problem

ROOTS = ("gradeval.sampling.sampler", "gradeval.sampling.streaming", "gradeval.estimators.surrogate")
"""The modules that make and reduce chunks; what they import, directly or not, decides the numbers with them."""


def engine_hash(problem: Problem) -> str:
    """A hash of all sources that decide a chunk's numbers, except the estimator's.

    Args:
        problem: its loss and its maps are hashed, too, where they are the user's own.

    Returns:
        32 hexadecimal digits.

    Raises:
        GradevalError: the source of an own loss or map cannot be found.
    """
    own = [source_hash(written, what) for written, what in _own_code(problem)]
    return text_digest("|".join([_gradeval_hash(), *own]))


@functools.cache
def _gradeval_hash() -> str:
    return text_digest("|".join(f"{name}={path.read_text()}" for name, path in sorted(engine_modules().items())))


def engine_modules() -> dict[str, Path]:
    """The `ROOTS` and all modules of gradeval that they import, directly or not, with their files."""
    found: dict[str, Path] = {}
    todo = list(ROOTS)
    while todo:
        name = todo.pop()
        spec = importlib.util.find_spec(name) if name not in found else None
        if spec is not None and spec.origin is not None:
            found[name] = Path(spec.origin)
            todo += [imported for imported in _imports(found[name]) if imported.startswith("gradeval.")]
    return found


def _imports(path: Path) -> list[str]:
    """The modules that a file imports anywhere, even if only for types."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return names + [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]


def _own_code(problem: Problem) -> Iterator[tuple[Any, str]]:
    """The user's own code in a problem, with what it is: its loss, and the classes of its maps and noise."""
    if not isinstance(problem.loss, str):
        yield problem.loss, "the loss"
    network = problem.network
    objects = {type(module): module for module in (*network.modules(), network.noise)}
    for kind, module in objects.items():
        if kind.__module__.split(".")[0] not in ("torch", "gradeval"):
            yield module, "the map"


def source_hash(written: Callable[..., Any], what: str = "estimator") -> str:
    """A hash of the file that something is written in and of its settings.

    Args:
        written: a function, or an object of a class.
        what: it is, in words.

    Returns:
        32 hexadecimal digits.

    Raises:
        GradevalError: its source cannot be found (it was written in an interactive session, say).
    """
    if isinstance(written, functools.partial):
        return text_digest(f"{source_hash(written.func, what)}|{written.args!r}|{written.keywords!r}")
    code = inspect.unwrap(written) if inspect.isroutine(written) else type(written)
    settings = {k: v for k, v in sorted(getattr(written, "__dict__", {}).items()) if _is_setting(v)}
    for place in (sys.modules.get(code.__module__), code):
        try:
            return text_digest(f"{code.__qualname__}|{settings!r}|{inspect.getsource(place)}")  # type: ignore[arg-type]
        except (OSError, TypeError):
            continue
    raise GradevalError(
        f"the source of {what} {code.__qualname__} cannot be found, and a run in a folder records it: write it in a "
        "file."
    )


def _is_setting(value: Any) -> bool:
    return isinstance(value, bool | int | float | str | tuple | list) and " at 0x" not in repr(value)


def text_digest(text: str) -> str:
    """The first half of a text's SHA-256, in hexadecimal.

    Args:
        text: any.

    Returns:
        32 digits.
    """
    return digest_of(text.encode())
