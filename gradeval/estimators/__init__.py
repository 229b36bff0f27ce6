"""The table of estimators (facts as data, read without importing torch) and the look-up of a spec string.

An estimator is any callable ``(network, inputs, loss, randomness) -> [..., points]`` written for one draw: the gradient
of its mean over points estimates ∇J and its value estimates E[f]. The table only gives names to the built-in ones.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradeval.errors import GradevalError, unknown_name

Estimator = Callable[..., Any]
"""(network, inputs, loss, randomness) -> Tensor[..., points]."""


@dataclass(frozen=True)
class Facts:
    """What is claimed of an estimator; the conformance tests check it.

    Attributes:
        name: the name users write.
        target: "module:class" of the frozen dataclass, below gradeval.estimators.
        unbiased: whether E[gradient] = ∇J is claimed.
        differentiable: whether f must be differentiable in the last layer's states.
        randomness: what it asks of chance: "none", "bernoulli" or "continuous".
        defaults: its hyper-parameters as a spec would give them.
        source: where it was published.
    """

    name: str
    target: str
    unbiased: bool
    differentiable: bool
    randomness: str
    source: str
    defaults: str = ""


TABLE: dict[str, Facts] = {
    facts.name: facts
    for facts in (
        Facts(
            "reinforce",
            "score_function:Reinforce",
            unbiased=True,
            differentiable=False,
            randomness="bernoulli",
            source="Williams 1992, doi:10.1007/BF00992696",
        ),
        Facts(
            "arm",
            "antithetic:Arm",
            unbiased=True,
            differentiable=False,
            randomness="continuous",
            source="Yin & Zhou 2019, arXiv:1807.11143",
        ),
        Facts(
            "concrete",
            "relaxation:Concrete",
            unbiased=False,
            differentiable=True,
            randomness="continuous",
            defaults="temperature=1.0",
            source="Maddison et al. 2017, arXiv:1611.00712; Jang et al. 2017, arXiv:1611.01144",
        ),
        Facts(
            "tanh",
            "moments:MeanField",
            unbiased=False,
            differentiable=True,
            randomness="none",
            source="mean field (AP1), Shekhovtsov et al. 2020, arXiv:2006.03143",
        ),
        Facts(
            "adf",
            "moments:AssumedDensityFiltering",
            unbiased=False,
            differentiable=True,
            randomness="continuous",
            source="Minka 2001, arXiv:1301.2294; Hernández-Lobato & Adams 2015, arXiv:1502.05336",
        ),
        Facts(
            "local-reparam",
            "moments:LocalReparametrisation",
            unbiased=False,
            differentiable=True,
            randomness="continuous",
            source="Kingma et al. 2015, arXiv:1506.02557; Peters & Welling 2018, arXiv:1809.03368",
        ),
        Facts(
            "st",
            "straight_through:StraightThrough",
            unbiased=False,
            differentiable=True,
            randomness="bernoulli",
            source="Shekhovtsov et al. 2020, arXiv:2006.03143; one layer: Tokui & Sato 2017, arXiv:1611.01239",
        ),
        Facts(
            "identity-st",
            "straight_through:IdentityStraightThrough",
            unbiased=False,
            differentiable=True,
            randomness="bernoulli",
            source="Hinton 2012 (lectures); Bengio et al. 2013, arXiv:1308.3432",
        ),
        Facts(
            "hard-st",
            "straight_through:HardStraightThrough",
            unbiased=False,
            differentiable=True,
            randomness="bernoulli",
            source="Hubara et al. 2016, arXiv:1602.02830",
        ),
        Facts(
            "psa",
            "psa:PathSampleAnalytic",
            unbiased=False,
            differentiable=False,
            randomness="bernoulli",
            source="Shekhovtsov, Yanush & Flach 2020, arXiv:2006.03143",
        ),
    )
}

PAPER = ("reinforce", "arm", "concrete:temperature=0.1", "concrete:temperature=1.0", "tanh", "st", "psa")
"""The estimators of the paper's figure."""


def split_specs(text: str) -> list[str]:
    """Split "psa,concrete:temperature=0.1,arm" at the commas that do not separate hyper-parameters."""
    specs: list[str] = []
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        if re.fullmatch(r"[\w-]+=[^:]*", piece) and specs:
            specs[-1] += "," + piece
        else:
            specs.append(piece)
    return specs


def get_estimator(spec: str) -> Estimator:
    """The estimator a spec names: a row of the table with hyper-parameters, or a user's ``module:name``.

    ``concrete:temperature=0.1`` is built in; ``package.module:name`` and ``file.py:name`` import (and so execute) the
    user's own code.

    Raises:
        GradevalError: an unknown name (with near matches), hyper-parameter or value.
    """
    name, _, rest = spec.partition(":")
    if name in TABLE:
        module, _, cls = TABLE[name].target.partition(":")
        return _build(getattr(importlib.import_module(f"{__name__}.{module}"), cls), name, rest)
    if rest and rest.isidentifier():
        return _import_user(name, rest)
    raise unknown_name("estimator", name, TABLE)


def get_facts(estimator: Estimator) -> Facts | None:
    """The table's row of a built-in estimator; None for a user's own."""
    cls = type(estimator)
    for facts in TABLE.values():
        if f"{__name__}.{facts.target}" == f"{cls.__module__}:{cls.__qualname__}":
            return facts
    return None


def claims_unbiased(estimator: Estimator) -> bool:
    """Whether an estimator claims to be unbiased: by its row, or by an attribute ``unbiased`` of a user's own."""
    facts = get_facts(estimator)
    return facts.unbiased if facts else bool(getattr(estimator, "unbiased", False))


def spec_of(estimator: Estimator) -> str:
    """The spec that `get_estimator` turns into this estimator again."""
    facts = get_facts(estimator)
    if facts is None:
        name = getattr(estimator, "__qualname__", type(estimator).__qualname__)
        return f"{getattr(estimator, '__module__', type(estimator).__module__)}:{name}"
    values = ",".join(f"{f.name}={getattr(estimator, f.name)}" for f in dataclasses.fields(estimator))  # type: ignore[arg-type]
    return f"{facts.name}:{values}" if values else facts.name


def _build(cls: type, name: str, text: str) -> Estimator:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for piece in filter(None, text.split(",")):
        key, _equals, value = (part.strip() for part in piece.partition("="))
        if key not in fields:
            if not fields:
                raise GradevalError(f"estimator '{name}' takes no hyper-parameters, found '{piece}'.")
            raise unknown_name(f"hyper-parameter of '{name}'", key, fields)
        kind: type = type(fields[key].default)
        try:
            values[key] = kind(value)
        except ValueError:
            raise GradevalError(f"{name}: {key} must be a {kind.__name__}, found '{value}'.") from None
    estimator: Estimator = cls(**values)
    return estimator


def _import_user(module: str, name: str) -> Estimator:
    try:
        if module.endswith(".py"):
            found = importlib.util.spec_from_file_location(Path(module).stem, module)
            assert found is not None
            assert found.loader is not None
            loaded = importlib.util.module_from_spec(found)
            sys.modules[found.name] = loaded  # dataclasses look their module up there
            found.loader.exec_module(loaded)
        else:
            sys.path.insert(0, "")
            try:
                loaded = importlib.import_module(module)
            finally:
                sys.path.remove("")
    except (ImportError, FileNotFoundError) as error:
        near = unknown_name("estimator", module, TABLE)
        raise GradevalError(f"cannot import '{module}' ({error}); if a built-in was meant: {near}") from None
    except Exception as error:
        raise GradevalError(f"importing '{module}' raised {type(error).__name__}: {error}") from error
    if not hasattr(loaded, name):
        raise unknown_name(f"estimator in '{module}'", name, [n for n in vars(loaded) if not n.startswith("_")])
    estimator = getattr(loaded, name)
    if isinstance(estimator, type):
        estimator = estimator()
    if not callable(estimator):
        raise GradevalError(f"'{module}:{name}' is not callable: an estimator is a function of four arguments.")
    result: Estimator = estimator
    return result


def resolve(estimators: Sequence[str | Estimator]) -> dict[str, Estimator]:
    """Specs and callables as a dict from the name shown in tables to the callable.

    Raises:
        GradevalError: none given, or two of the same name.
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
