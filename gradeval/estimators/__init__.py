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
        source: where it was published.
        defaults: its hyper-parameters as a spec would give them.
        layer_evaluations, loss_evaluations: what one draw costs per data point, see `Facts.evaluations`. Python
            expressions of L, the number of layers; n, the list of their widths; K, the samples.
        aliases: other names that users may write.
        fitted: whether `fit(problem, seed)` must learn something first; `evaluate` does it.
    """

    name: str
    target: str
    unbiased: bool
    differentiable: bool
    randomness: str
    source: str
    defaults: str = ""
    layer_evaluations: str = "L"
    loss_evaluations: str = "1"
    aliases: tuple[str, ...] = ()
    fitted: bool = False

    def evaluations(self, widths: Sequence[int], samples: int = 0) -> tuple[int, int]:
        """Evaluations of one layer, and of the loss, per draw and point, on linear layers of the given widths."""
        names = {"L": len(widths), "n": list(widths), "K": samples, "sum": sum, "range": range, "__builtins__": {}}
        return int(eval(self.layer_evaluations, names)), int(eval(self.loss_evaluations, names))


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
            defaults="baseline=0.0",
        ),
        Facts(
            "rloo",
            "score_function:Rloo",
            unbiased=True,
            differentiable=False,
            randomness="bernoulli",
            source="Salimans & Knowles 2014, arXiv:1401.1022; Kool et al. 2019, openreview r1lgTGL5DE",
            defaults="samples=4",
            layer_evaluations="K * L",
            loss_evaluations="K",
        ),
        Facts(
            "nvil",
            "score_function:Nvil",
            unbiased=True,
            differentiable=False,
            randomness="bernoulli",
            source="Mnih & Gregor 2014, arXiv:1402.0030",
            fitted=True,
        ),
        Facts(
            "muprop",
            "control_variates:MuProp",
            unbiased=True,
            differentiable=True,
            randomness="bernoulli",
            source="Gu et al. 2016, arXiv:1511.05176",
            layer_evaluations="L + L * (L - 1) // 2",
            loss_evaluations="L + 1",
        ),
        Facts(
            "rebar",
            "control_variates:Rebar",
            unbiased=True,
            differentiable=True,
            randomness="continuous",
            source="Tucker et al. 2017, arXiv:1703.07370",
            defaults="temperature=fitted,eta=fitted",
            layer_evaluations="L * L",
            loss_evaluations="2 * L + 1",
            fitted=True,
        ),
        Facts(
            "relax",
            "control_variates:Relax",
            unbiased=True,
            differentiable=True,
            randomness="continuous",
            source="Grathwohl et al. 2018, arXiv:1711.00123",
            layer_evaluations="L + 3 * L * (L - 1)",
            loss_evaluations="6 * L + 1",
            fitted=True,
        ),
        Facts(
            "double-cv",
            "control_variates:DoubleCV",
            unbiased=True,
            differentiable=True,
            randomness="bernoulli",
            source="Titsias & Shi 2022, arXiv:2111.05300",
            defaults="samples=4",
            layer_evaluations="K * (L + L * (L - 1) // 2)",
            loss_evaluations="K * (L + 1)",
        ),
        Facts(
            "arm",
            "antithetic:Arm",
            unbiased=True,
            differentiable=False,
            randomness="continuous",
            source="Yin & Zhou 2019, arXiv:1807.11143",
            layer_evaluations="L * (L + 1) // 2",
            loss_evaluations="L + 1",
        ),
        Facts(
            "disarm",
            "antithetic:Disarm",
            unbiased=True,
            differentiable=False,
            randomness="bernoulli",
            source="Dong et al. 2020, arXiv:2006.10680; Yin et al. 2020, arXiv:2006.06448",
            layer_evaluations="L * (L + 1) // 2",
            loss_evaluations="L + 1",
            aliases=("u2g",),
        ),
        Facts(
            "arms",
            "antithetic:Arms",
            unbiased=True,
            differentiable=False,
            randomness="continuous",
            source="Dimitriev & Zhou 2021, arXiv:2105.14141",
            defaults="samples=4",
            layer_evaluations="L + (K - 1) * L * (L - 1) // 2",
            loss_evaluations="1 + (K - 1) * L",
        ),
        Facts(
            "ram",
            "marginalisation:Ram",
            unbiased=True,
            differentiable=False,
            randomness="continuous",
            source="Tokui & Sato 2017, arXiv:1611.01239",
            layer_evaluations="L + sum(n[k] * (L - 1 - k) for k in range(L))",
            loss_evaluations="1 + sum(n)",
        ),
        Facts(
            "leg",
            "marginalisation:Leg",
            unbiased=True,
            differentiable=False,
            randomness="bernoulli",
            source="Titsias & Lázaro-Gredilla 2015, arXiv:1503.01494",
            layer_evaluations="2 * L - 1",
            loss_evaluations="1 + n[-1]",
        ),
        Facts(
            "concrete",
            "relaxation:Concrete",
            unbiased=False,
            differentiable=True,
            randomness="continuous",
            source="Maddison et al. 2017, arXiv:1611.00712; Jang et al. 2017, arXiv:1611.01144",
            defaults="temperature=1.0",
        ),
        Facts(
            "st-gumbel",
            "relaxation:GumbelST",
            unbiased=False,
            differentiable=True,
            randomness="continuous",
            source="Jang et al. 2017, arXiv:1611.01144",
            defaults="temperature=1.0",
        ),
        Facts(
            "gumbel-rao",
            "relaxation:GumbelRao",
            unbiased=False,
            differentiable=True,
            randomness="continuous",
            source="Paulus et al. 2021, arXiv:2010.04838",
            defaults="temperature=1.0,samples=10",
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
            layer_evaluations="2 * L",
        ),
        Facts(
            "local-reparam",
            "moments:LocalReparametrisation",
            unbiased=False,
            differentiable=True,
            randomness="continuous",
            source="Kingma et al. 2015, arXiv:1506.02557; Peters & Welling 2018, arXiv:1809.03368",
            layer_evaluations="2 * L",
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
            "reinmax",
            "straight_through:ReinMax",
            unbiased=False,
            differentiable=True,
            randomness="bernoulli",
            source="Liu et al. 2023, arXiv:2304.08612; Shekhovtsov 2023 (ZGR); Gregor et al. 2014, arXiv:1310.8499",
            aliases=(
                "zgr",
                "darn",
            ),
        ),
        Facts(
            "mve",
            "straight_through:Mve",
            unbiased=False,
            differentiable=True,
            randomness="bernoulli",
            source="Hooper & Shekhovtsov 2026",
            defaults="strength=1.0",
        ),
        Facts(
            "psa",
            "psa:PathSampleAnalytic",
            unbiased=False,
            differentiable=False,
            randomness="bernoulli",
            source="Shekhovtsov, Yanush & Flach 2020, arXiv:2006.03143",
            defaults="tolerance=0.0",
            layer_evaluations="2 * L - 1",
            loss_evaluations="1 + n[-1]",
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
    name = next((facts.name for facts in TABLE.values() if name in facts.aliases), name)
    if name in TABLE:
        module, _, cls = TABLE[name].target.partition(":")
        return _build(getattr(importlib.import_module(f"{__name__}.{module}"), cls), name, rest)
    if rest and rest.isidentifier():
        return _import_user(name, rest)
    if name.endswith(".py"):
        raise GradevalError(f"'{spec}' names a file: add the estimator's name in it, {name}:NAME.")
    raise unknown_name("estimator", name, _names())


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
    """The spec that `get_estimator` turns into this estimator again (before it was fitted).

    A hyper-parameter whose default is 0 turns something on, and is left out at 0.
    """
    facts = get_facts(estimator)
    if facts is None:
        name = getattr(estimator, "__qualname__", type(estimator).__qualname__)
        return f"{getattr(estimator, '__module__', type(estimator).__module__)}:{name}"
    shown = [(name, getattr(estimator, name)) for name in hyper_parameters(type(estimator))]
    values = ",".join(f"{name}={value}" for name, value in shown if value or value != getattr(type(estimator), name))
    return f"{facts.name}:{values}" if values else facts.name


def hyper_parameters(cls: type) -> dict[str, Any]:
    """The defaults of a built-in estimator's hyper-parameters: its fields but those that a fit sets (repr=False)."""
    return {field.name: field.default for field in dataclasses.fields(cls) if field.repr}


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
        near = unknown_name("estimator", module, _names())
        raise GradevalError(f"cannot import '{module}' ({error}); if a built-in was meant: {near}") from None
    except Exception as error:
        raise GradevalError(f"importing '{module}' raised {type(error).__name__}: {error}") from error
    if not hasattr(loaded, name):
        names = [n for n, value in vars(loaded).items() if callable(value) and not n.startswith("_")]
        raise GradevalError(f"in '{module}': {unknown_name('estimator', name, names)}")
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
