"""From a spec string to an estimator and back.

A spec is the name of a row of the table, or the place of a user's own estimator (``package.module:name``,
``file.py:name``), with hyper-parameters: ``concrete:temperature=0.1``, ``mine.py:Tempered:temperature=0.5``. A list of
values, ``concrete:temperature=0.1|0.3|1``, makes several specs of one.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import itertools
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from gradeval.errors import GradevalError, estimator_error, unknown_name
from gradeval.estimators.bound_table import BUILT_IN
from gradeval.estimators.facts import Facts
from gradeval.estimators.protocol import Estimator, claim_of, definition_of, parameters_of, settings_of
from gradeval.estimators.table import ALL, PAPER


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


def specs_of(text: str) -> list[str]:
    """The specs in a text, each once: 'paper' and 'all' are spelled out, lists of hyper-parameters are crossed.

    Args:
        text: specs with commas between them.

    Returns:
        The specs.

    Examples:
        >>> specs_of("st, concrete:temperature=0.1|1, st")
        ['st', 'concrete:temperature=0.1', 'concrete:temperature=1']
    """
    named = {"paper": list(PAPER), "all": list(ALL)}
    specs = [spec for piece in split_specs(text) for spec in named.get(piece, crossed(piece))]
    return list(dict.fromkeys(specs))


def crossed(spec: str) -> list[str]:
    """A spec for every combination of the values of its hyper-parameters.

    Args:
        spec: such as "gumbel-rao:temperature=0.1|1,samples=1|10".

    Returns:
        The specs; the last hyper-parameter varies first.

    Examples:
        >>> crossed("gumbel-rao:temperature=0.1|1,samples=10")
        ['gumbel-rao:temperature=0.1,samples=10', 'gumbel-rao:temperature=1,samples=10']
    """
    name, _, rest = spec.rpartition(":")
    if "|" not in rest or "=" not in rest:
        return [spec]
    choices = []
    for piece in rest.split(","):
        key, _, values = piece.partition("=")
        choices.append([f"{key.strip()}={value.strip()}" for value in values.split("|")])
    return [f"{name}:{','.join(values)}" for values in itertools.product(*choices)]


def get_estimator(spec: str) -> Estimator:
    """The estimator that a spec names.

    Args:
        spec: ``name`` or ``name:key=value,key=value`` of the table, an alias included; or a user's own
            ``package.module:name`` or ``file.py:name``, also with ``:key=value,key=value``, which imports that code and
            so runs it.

    Returns:
        The estimator. A user's class is called with the hyper-parameters, a user's function gets them at every call.

    Raises:
        GradevalError: an unknown name (with near matches), hyper-parameter or value.

    Examples:
        >>> get_estimator("concrete:temperature=0.1")
        Concrete(temperature=0.1)
        >>> get_estimator("zgr")
        ReinMax()
    """
    name, _, rest = (part.strip() for part in spec.partition(":"))
    name = next((facts.name for facts in BUILT_IN.values() if name in facts.aliases), name)
    if name in BUILT_IN:
        module, _, cls = BUILT_IN[name].target.partition(":")
        made = getattr(importlib.import_module(f"gradeval.estimators.{module}"), cls)
        estimator: Estimator = made(**_values(name, rest, hyper_parameters(made)))
        return estimator
    own, _, values = rest.partition(":")
    if names_code(spec):
        return _import_user(name, own, values)
    if name.endswith(".py"):
        raise GradevalError(f"'{spec}' names a file: add the estimator's name in it, {name}:NAME.")
    raise unknown_name("estimator", name, _names())


def names_code(spec: str) -> bool:
    """Whether a spec, which is not of the table, names a user's own estimator by where its code lies.

    Args:
        spec: any text.

    Returns:
        Whether it has the form ``package.module:name`` or ``file.py:name``.

    Examples:
        >>> names_code("mine.py:Tempered:temperature=0.5"), names_code("Tempered:temperature=0.5"), names_code("cold")
        (True, False, False)
    """
    return spec.partition(":")[2].partition(":")[0].strip().isidentifier()


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
    for facts in BUILT_IN.values():
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
        "name:key=value,…" of a built-in one, "module:name" of a user's own, with the hyper-parameters that differ from
        their defaults.

    Examples:
        >>> from gradeval.estimators.relaxation import Concrete
        >>> spec_of(Concrete(0.5))
        'concrete:temperature=0.5'
    """
    facts = get_facts(estimator)
    if facts is None:
        settings, defaults = hyper_settings(estimator), parameters_of(estimator)
        settings = {key: value for key, value in settings.items() if value != defaults[key]}
    else:
        defaults = hyper_parameters(type(estimator))
        settings = hyper_settings(estimator)
        settings = {key: value for key, value in settings.items() if value or value != defaults[key]}
    name = facts.name if facts else definition_of(estimator)
    values = ",".join(f"{key}={value}" for key, value in settings.items())
    return f"{name}:{values}" if values else name


def hyper_settings(estimator: Estimator) -> dict[str, Any]:
    """The values of an estimator's hyper-parameters.

    Args:
        estimator: any.

    Returns:
        The value by the name; of a user's own, those of its class's or function's parameters that are numbers, texts or
        truth values.

    Examples:
        >>> hyper_settings(get_estimator("gumbel-rao:samples=3"))
        {'temperature': 1.0, 'samples': 3}
    """
    built_in = get_facts(estimator) is not None
    known = hyper_parameters(type(estimator)) if built_in else parameters_of(estimator)
    settings = settings_of(estimator, known)
    return settings if built_in else {k: v for k, v in settings.items() if isinstance(v, bool | int | float | str)}


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


def _names() -> list[str]:
    return [name for facts in BUILT_IN.values() for name in (facts.name, *facts.aliases)]


def _values(name: str, text: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """The hyper-parameters in the text of a spec; of the type of their defaults."""
    values: dict[str, Any] = {}
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        key, _equals, value = (part.strip() for part in piece.partition("="))
        if key not in defaults:
            if not defaults:
                raise GradevalError(f"estimator '{name}' takes no hyper-parameters, found '{piece}'.")
            raise unknown_name(f"hyper-parameter of '{name}'", key, defaults)
        if key in values:
            raise GradevalError(f"{name}: {key} is given twice.")
        values[key] = _value(f"{name}: {key}", value, defaults[key])
    return values


def _value(place: str, text: str, default: Any) -> Any:
    """A hyper-parameter in a text. Default None: a number, fitted unless given; no default: what it looks like."""
    if default is inspect.Parameter.empty:
        kinds: tuple[Any, ...] = (int, float, str)
    else:
        kinds = (float if default is None else type(default),)
    for kind in kinds:
        if kind is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        try:
            if kind is not bool:
                return kind(text)
        except (ValueError, TypeError):
            continue
    wanted = {int: "a whole number", float: "a number", bool: "true or false"}.get(kinds[0], f"a {kinds[0].__name__}")
    raise GradevalError(f"{place} must be {wanted}, found '{text}'.")


def _import_user(module: str, name: str, values: str) -> Estimator:
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
    return made_of(getattr(loaded, name), f"{module}:{name}", values)


def made_of(given: Callable[..., Any], name: str, values: str = "") -> Estimator:
    """An estimator from a user's class, which is called, or function.

    Args:
        given: the class, function or object.
        name: of it, for messages.
        values: its hyper-parameters, "key=value,key=value".

    Returns:
        The estimator.

    Raises:
        GradevalError: the class cannot be called with these, or what was given is no estimator.
    """
    from gradeval.isolation import contained

    if not callable(given):
        raise GradevalError(f"'{name}' is not callable: an estimator is a function of four arguments.")
    settings = _values(name, values, parameters_of(given))
    if isinstance(given, type):
        try:
            with contained():
                made = given(**settings)
        except Exception as error:
            raise estimator_error(name, error) from error
        if not callable(made):
            raise GradevalError(f"'{name}' is not callable: an estimator is a function of four arguments.")
        return made
    return partial(given, **settings) if settings else given


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
