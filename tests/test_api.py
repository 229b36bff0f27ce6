"""Every public function, class and method says what it does, takes, returns and raises, and all examples run.

Public is what has no leading underscore in a module that has none. A function without parameters needs a sentence only,
as does a property; a method that overrides a documented one needs nothing.
"""

from __future__ import annotations

import ast
import doctest
import enum
import functools
import importlib.util
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import gradeval
import gradeval.analysis
import gradeval.reference

WITHOUT_SECTIONS = ("gradeval.program", "gradeval.pytest_plugin")
"""Docstrings of commands are their help: options are explained where they are declared."""


def public_modules() -> list[str]:
    """The names of all modules without a leading underscore."""
    found = {"gradeval"}
    for package in (gradeval, gradeval.analysis, gradeval.reference):
        found |= {module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")}
        found.add(package.__name__)
    return sorted(name for name in found if "._" not in name)


MODULES = public_modules()


def definitions(module: ModuleType, private: bool = False) -> Iterator[tuple[str, Any, type | None]]:
    """The functions and classes of a module, and the methods and properties of these classes, with their class."""
    for name, value in vars(module).items():
        if getattr(value, "__module__", "") != module.__name__ or (name.startswith("_") and not private):
            continue
        if inspect.isclass(value):
            yield f"{module.__name__}.{name}", value, None
            for inner, attribute in vars(value).items():
                if isinstance(attribute, property | functools.cached_property):
                    attribute = getattr(attribute, "fget", None) or getattr(attribute, "func", None)
                    attribute.is_property = True  # type: ignore[union-attr]
                function = getattr(attribute, "__func__", attribute)
                if inspect.isroutine(function) and (private or not inner.startswith("_")):
                    yield f"{module.__name__}.{name}.{inner}", function, value
        elif inspect.isroutine(value):
            yield f"{module.__name__}.{name}", value, None


def parameters_of(value: Any) -> list[str]:
    """The names of the parameters; for ``**options: Unpack[Options]`` the names of the options."""
    try:
        parameters = inspect.signature(value).parameters
    except ValueError:  # of a class without a signature
        return []
    names = []
    for name, parameter in parameters.items():
        unpacked = re.fullmatch(r"Unpack\[(\w+)\]", str(parameter.annotation))
        names += inspect.unwrap(value).__globals__[unpacked[1]].__annotations__ if unpacked else [name]
    return [name for name in names if name not in ("self", "cls") and not name.startswith("_")]


def raises(value: Any) -> bool:
    """Whether the source raises a GradevalError itself."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(value)))
    except (OSError, TypeError):  # made by a decorator: no source
        return False
    raised = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc]
    return any(re.match(r"(\w+\.)?(GradevalError|unknown_name|estimator_error)\b", ast.unparse(exc)) for exc in raised)


def complaints(name: str, value: Any, owner: type | None, sections: bool = True) -> list[str]:
    """What the docstring of a function, a class or a method lacks."""
    own = name.rpartition(".")[2]
    if owner is not None and any(getattr(vars(base).get(own), "__doc__", None) for base in owner.__mro__[1:]):
        return []
    doc = value.__doc__ or ""
    if not doc or (inspect.isclass(value) and doc.startswith(f"{own}(")):  # a dataclass's signature is no docstring
        return [f"{name}: no docstring"]
    if not sections or getattr(value, "is_property", False):
        return []
    found = []
    is_class = inspect.isclass(value)
    if is_class and (issubclass(value, enum.Enum) or getattr(value, "_is_protocol", False)):
        return []
    names = parameters_of(value)
    if is_class and issubclass(value, BaseException) and "__init__" not in vars(value):
        names = []
    found += [
        f"{name}: '{p}' is not explained"
        for p in names
        if not re.search(rf"^ +(\w+, )*\*{{0,2}}{p}(, \w+)*: ", doc, re.M)
    ]
    if not is_class:
        function = inspect.unwrap(value)
        result = inspect.signature(value).return_annotation
        manager = inspect.isgeneratorfunction(function) and function is not value
        if names and result not in (None, "None", "NoReturn") and not manager and "Returns:" not in doc:
            found.append(f"{name}: no Returns")
    makers = [vars(value).get(maker) for maker in ("__init__", "__post_init__", "__call__")] if is_class else [value]
    if any(map(raises, filter(None, makers))) and "Raises:" not in doc:
        found.append(f"{name}: no Raises")
    return found


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name}: no docstring"
    sections = not name.startswith(WITHOUT_SECTIONS)
    found = [text for where, value, owner in definitions(module) for text in complaints(where, value, owner, sections)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADEVAL_CACHE", str(tmp_path / "cache"))
    module = importlib.import_module(name)
    failures: list[str] = []
    for where, value, _ in [(name, module, None), *definitions(module, private=True)]:
        # not doctest.DocTestFinder: it leaves out functions that are wrapped, as they are while shapes are checked
        examples = doctest.DocTestParser().get_doctest(value.__doc__ or "", dict(vars(module)), where, None, None)
        doctest.DocTestRunner().run(examples, out=failures.append)
    assert not failures, "\n".join(failures)


PLANTED = '''
"""A module."""

from dataclasses import dataclass

from gradeval.errors import GradevalError


def silent(a: int) -> int:
    return a


def without_sections(a: int, b: int) -> int:
    """Something.

    Args:
        a: explained.
    """
    if a:
        raise GradevalError("no.")
    return a


def complete(a: int) -> int:
    """Something.

    Args:
        a: explained.

    Returns:
        a.

    Examples:
        >>> complete(1)
        2
    """
    return a


@dataclass
class Bare:
    a: int


class Kept:
    """Something."""

    def method(self, a: int) -> None:
        """Something."""

    @property
    def value(self) -> int:
        """Something."""
        return 1
'''


def planted(tmp_path: Path) -> ModuleType:
    path = tmp_path / "planted.py"
    path.write_text(PLANTED.lstrip())
    spec = importlib.util.spec_from_file_location("planted", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_missing_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = planted(tmp_path)
    monkeypatch.setitem(importlib.sys.modules, "planted", module)  # type: ignore[attr-defined]
    found = [text for where, value, owner in definitions(module) for text in complaints(where, value, owner)]
    assert found == [
        "planted.silent: no docstring",
        "planted.without_sections: 'b' is not explained",
        "planted.without_sections: no Returns",
        "planted.without_sections: no Raises",
        "planted.Bare: no docstring",
        "planted.Kept.method: 'a' is not explained",
    ]
    with pytest.raises(AssertionError, match=r"(?s)complete\(1\).*Expected:\s+2\s+Got:\s+1"):
        test_examples_run("planted", tmp_path, monkeypatch)
