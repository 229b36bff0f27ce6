"""gradeval: how accurate are gradient estimators for stochastic binary networks, against the exact gradient?

The names below are imported when they are first used, so that the program answers without loading torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradeval.analysis.run.evaluation import Evaluation
    from gradeval.analysis.run.joined import concat
    from gradeval.checking.procedure import check
    from gradeval.checking.verdict import Verdict
    from gradeval.errors import GradevalError, Incomplete
    from gradeval.evaluation.run import evaluate
    from gradeval.model.building import BinaryUnits
    from gradeval.model.network import StochasticBinaryNetwork
    from gradeval.model.noise import Noise
    from gradeval.model.problem import Problem
    from gradeval.problems.catalogue import load_problem, load_task
    from gradeval.reference import exact_gradient, exact_moments
    from gradeval.training.protocol import Protocol
    from gradeval.training.trainer import train

    __version__: str

_HOMES = {
    "BinaryUnits": "gradeval.model.building",
    "Evaluation": "gradeval.analysis.run.evaluation",
    "GradevalError": "gradeval.errors",
    "Incomplete": "gradeval.errors",
    "Noise": "gradeval.model.noise",
    "Problem": "gradeval.model.problem",
    "Protocol": "gradeval.training.protocol",
    "StochasticBinaryNetwork": "gradeval.model.network",
    "Verdict": "gradeval.checking.verdict",
    "check": "gradeval.checking.procedure",
    "concat": "gradeval.analysis.run.joined",
    "evaluate": "gradeval.evaluation.run",
    "exact_gradient": "gradeval.reference",
    "exact_moments": "gradeval.reference",
    "load_problem": "gradeval.problems.catalogue",
    "load_task": "gradeval.problems.catalogue",
    "train": "gradeval.training.trainer",
}

__all__ = [
    "BinaryUnits",
    "Evaluation",
    "GradevalError",
    "Incomplete",
    "Noise",
    "Problem",
    "Protocol",
    "StochasticBinaryNetwork",
    "Verdict",
    "__version__",
    "check",
    "concat",
    "evaluate",
    "exact_gradient",
    "exact_moments",
    "load_problem",
    "load_task",
    "train",
]


_IN_CHECKOUT = (
    "this gradeval is a folder of the checkout, which hides the installed package: start Python in another folder, or "
    "as `python -P`."
)


def __getattr__(name: str) -> Any:
    if name in _HOMES or name == "atlas":
        try:
            if name == "atlas":  # for gradeval.atlas.load
                return importlib.import_module("gradeval.atlas")
            return getattr(importlib.import_module(_HOMES[name]), name)
        except ModuleNotFoundError as error:
            if error.name in ("gradeval.analysis", "gradeval.reference"):  # setup.cfg maps them
                raise ImportError(_IN_CHECKOUT) from None
            raise
    if name == "__version__":
        from importlib.metadata import version

        return version("gradeval")
    raise AttributeError(f"module 'gradeval' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
