"""From a spec string to an estimator and back.

A spec is the name of a row of the table, with hyper-parameters (``concrete:temperature=0.1``), or the place of a user's
own estimator (``package.module:name``, ``file.py:name``).
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from gradeval.errors import GradevalError, estimator_error, unknown_name
from gradeval.estimators.facts import Facts
from gradeval.estimators.protocol import Estimator, claim_of, definition_of, settings_of
from gradeval.estimators.table import TABLE


def split_specs(text: str) -> list[str]:
    """Split a list of specs at the commas that do not separate hyper-parameters.

    Args:
        text: specs with commas between them; blanks around them are dropped.

    Returns:
        The specs.

    Examples:
        >>> split_specs("psa, gumbel-rao:temperature=1,samples=10, arm")
        ['psa', 'gumbel-rao:temperature=1,samples=10', 'arm']
    """
    specs: list[str] = []
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        if re.fullmatch(r"[\w-]+=[^:]*", piece) and specs:
            specs[-1] += "," + piece
        else:
            specs.append(piece)
    return specs


def get_estimator(spec: str) -> Estimator:
    """The estimator that a spec names.

    Args:
        spec: ``name`` or ``name:key=value,key=value`` of the table, an alias included; or a user's own
            ``package.module:name`` or ``file.py:name``, which imports that code and so runs it.

    Returns:
        The estimator. A user's class is called without arguments.

    Raises:
        GradevalError: an unknown name (with near matches), hyper-parameter or value.

    Examples:
        >>> get_estimator("concrete:temperature=0.1")
        Concrete(temperature=0.1)
        >>> get_estimator("zgr")
        ReinMax()
    """
    name, _, rest = spec.partition(":")
    name = next((facts.name for facts in TABLE.values() if name in facts.aliases), name)
    if name in TABLE:
        module, _, cls = TABLE[name].target.partition(":")
        return _build(getattr(importlib.import_module(f"gradeval.estimators.{module}"), cls), name, rest)
    if rest and rest.isidentifier():
        return _import_user(name, rest)
    if name.endswith(".py"):
        raise GradevalError(f"'{spec}' names a file: add the estimator's name in it, {name}:NAME.")
    raise unknown_name("estimator", name, _names())


def get_facts(estimator: Estimator) -> Facts | None:
    """The row of the table of a built-in estimator.

    Args:
        estimator: any.

    Returns:
        Its facts; None for a user's own.

    Examples:
        >>> get_facts(get_estimator("psa")).source
        'Shekhovtsov, Yanush & Flach 2020, arXiv:2006.03143'
    """
    cls = type(estimator)
    for facts in TABLE.values():
        if f"gradeval.estimators.{facts.target}" == f"{cls.__module__}:{cls.__qualname__}":
            return facts
    return None


def claims_unbiased(estimator: Estimator) -> bool:
    """Whether an estimator claims to be unbiased.

    Args:
        estimator: any.

    Returns:
        What its row says, or a user's own by its attribute ``unbiased``.
    """
    facts = get_facts(estimator)
    return facts.unbiased if facts else claim_of(estimator)


def spec_of(estimator: Estimator) -> str:
    """The spec that `get_estimator` turns into this estimator again (before it was fitted).

    A hyper-parameter whose default is 0 turns something on, and is left out at 0.

    Args:
        estimator: any.

    Returns:
        "name:key=value,…" of a built-in one, "module:name" of a user's own.

    Examples:
        >>> from gradeval.estimators.relaxation import Concrete
        >>> spec_of(Concrete(0.5))
        'concrete:temperature=0.5'
    """
    facts = get_facts(estimator)
    if facts is None:
        return definition_of(estimator)
    defaults = hyper_parameters(type(estimator))
    settings = settings_of(estimator, defaults)
    values = ",".join(f"{name}={value}" for name, value in settings.items() if value or value != defaults[name])
    return f"{facts.name}:{values}" if values else facts.name


def hyper_parameters(cls: type) -> dict[str, Any]:
    """The hyper-parameters of a built-in estimator: its fields but those that a fit sets (repr=False).

    Args:
        cls: the class of an estimator, a dataclass.

    Returns:
        The default by the name; None where a fit finds the value unless it is given.

    Examples:
        >>> from gradeval.estimators.relaxation import GumbelRao
        >>> hyper_parameters(GumbelRao)
        {'temperature': 1.0, 'samples': 10}
    """
    return {field.name: field.default for field in dataclasses.fields(cls) if field.repr}


def resolve(estimators: Sequence[str | Estimator]) -> dict[str, Estimator]:
    """Specs and callables as estimators with the names that tables show.

    Args:
        estimators: specs, or estimators themselves.

    Returns:
        Each estimator by its name, in the order given.

    Raises:
        GradevalError: none given, or two of the same name.

    Examples:
        >>> list(resolve(["st", "concrete:temperature=1"]))
        ['st', 'concrete:temperature=1.0']
    """
    resolved: dict[str, Estimator] = {}
    for given in estimators:
        estimator = get_estimator(given) if isinstance(given, str) else given
        name = spec_of(estimator) if get_facts(estimator) or not isinstance(given, str) else given
        if name in resolved:
            raise GradevalError(f"estimator '{name}' is given twice.")
        resolved[name] = estimator
    if not resolved:
        raise GradevalError("no estimators given.")
    return resolved


def _names() -> list[str]:
    return [name for facts in TABLE.values() for name in (facts.name, *facts.aliases)]


def _build(cls: type, name: str, text: str) -> Estimator:
    fields = hyper_parameters(cls)
    values: dict[str, Any] = {}
    for piece in filter(None, text.split(",")):
        key, _equals, value = (part.strip() for part in piece.partition("="))
        if key not in fields:
            if not fields:
                raise GradevalError(f"estimator '{name}' takes no hyper-parameters, found '{piece}'.")
            raise unknown_name(f"hyper-parameter of '{name}'", key, fields)
        kind = float if fields[key] is None else type(fields[key])  # None: fitted unless given
        try:
            values[key] = kind(value)
        except ValueError:
            raise GradevalError(f"{name}: {key} must be a {kind.__name__}, found '{value}'.") from None
    estimator: Estimator = cls(**values)
    return estimator


def _import_user(module: str, name: str) -> Estimator:
    from gradeval.isolation import contained

    try:
        with contained():
            loaded = _load(module)
    except (ImportError, FileNotFoundError) as error:
        near = unknown_name("estimator", module, _names())
        raise GradevalError(f"cannot import '{module}' ({error}); if a built-in was meant: {near}") from None
    except GradevalError as error:
        raise GradevalError(f"importing '{module}' {error}") from error
    except Exception as error:
        raise GradevalError(f"importing '{module}' raised {type(error).__name__}: {error}") from error
    if not hasattr(loaded, name):
        names = [n for n, value in vars(loaded).items() if callable(value) and not n.startswith("_")]
        raise GradevalError(f"in '{module}': {unknown_name('estimator', name, names)}")
    estimator = getattr(loaded, name)
    if isinstance(estimator, type):
        try:
            with contained():
                estimator = estimator()
        except Exception as error:
            raise estimator_error(f"{module}:{name}", error) from error
    if not callable(estimator):
        raise GradevalError(f"'{module}:{name}' is not callable: an estimator is a function of four arguments.")
    result: Estimator = estimator
    return result


def _load(module: str) -> ModuleType:
    """A module by its name, from the present folder too, or a file ending in .py."""
    if module.endswith(".py"):
        if Path(module).exists() and not Path(module).is_file():
            raise GradevalError("is not possible: it is no file, but a folder, a pipe or a device.")
        found = importlib.util.spec_from_file_location(Path(module).stem, module)
        assert found is not None
        assert found.loader is not None
        loaded = importlib.util.module_from_spec(found)
        sys.modules[found.name] = loaded  # dataclasses look their module up there
        found.loader.exec_module(loaded)
        return loaded
    sys.path.insert(0, "")
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove("")
