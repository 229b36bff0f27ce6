"""Hashes of the sources that decide a chunk's numbers: the estimator's, and all that the sampling room imports."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from gradeval.errors import GradevalError

ROOTS = ("gradeval.sampling.sampler", "gradeval.sampling.streaming", "gradeval.estimators.surrogate")
"""The modules that make and reduce chunks; what they import, directly or not, decides the numbers with them."""


@cache
def engine_hash() -> str:
    """A hash of the source of every module of gradeval that decides a chunk's numbers, except the estimator's own."""
    return digest_of("|".join(f"{name}={path.read_text()}" for name, path in sorted(engine_modules().items())).encode())


def engine_modules() -> dict[str, Path]:
    """The `ROOTS` and all modules of gradeval that they import, directly or not, with their files."""
    found: dict[str, Path] = {}
    todo = list(ROOTS)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found[name] = path = _file(name)
        todo += [imported for imported in _imports(path) if imported.startswith("gradeval.")]
    return found


def _file(name: str) -> Path:
    origin = getattr(importlib.util.find_spec(name), "origin", None)
    assert origin is not None, name
    return Path(origin)


def _imports(path: Path) -> list[str]:
    """The modules that a file imports anywhere, even if only for types."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return names + [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]


def source_hash(estimator: Callable[..., Any]) -> str:
    """Hash of the file that an estimator is written in and of its settings.

    Raises:
        GradevalError: it has no source to be found (written in an interactive session, say).
    """
    if isinstance(estimator, functools.partial):
        return text_digest(f"{source_hash(estimator.func)}|{estimator.args!r}|{estimator.keywords!r}")
    code = inspect.unwrap(estimator) if inspect.isroutine(estimator) else type(estimator)
    settings = {k: v for k, v in sorted(getattr(estimator, "__dict__", {}).items()) if _is_setting(v)}
    for written in (sys.modules.get(code.__module__), code):
        try:
            return text_digest(f"{code.__qualname__}|{settings!r}|{inspect.getsource(written)}")  # type: ignore[arg-type]
        except (OSError, TypeError):
            continue
    raise GradevalError(
        f"the source of estimator {code.__qualname__} cannot be found, and a run in a folder records it: write the "
        "estimator in a file."
    )


def _is_setting(value: Any) -> bool:
    return isinstance(value, bool | int | float | str | tuple | list) and " at 0x" not in repr(value)


def text_digest(text: str) -> str:
    """The digest of a text."""
    return digest_of(text.encode())


def digest_of(content: bytes) -> str:
    """The first half of the SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()[:32]
