"""gradeval: how accurate are gradient estimators for stochastic binary networks, against the exact gradient.

The names below are imported when first used, so that the program answers without loading torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradeval.analysis.run.evaluation import Evaluation
    from gradeval.errors import GradevalError
    from gradeval.evaluation.run import evaluate
    from gradeval.model.network import StochasticBinaryNetwork
    from gradeval.model.problem import Problem
    from gradeval.problems.catalogue import load_problem
    from gradeval.training.trainer import train

_HOMES = {
    "Evaluation": "gradeval.analysis.run.evaluation",
    "GradevalError": "gradeval.errors",
    "Problem": "gradeval.model.problem",
    "StochasticBinaryNetwork": "gradeval.model.network",
    "evaluate": "gradeval.evaluation.run",
    "load_problem": "gradeval.problems.catalogue",
    "train": "gradeval.training.trainer",
}

__all__ = ["Evaluation", "GradevalError", "Problem", "StochasticBinaryNetwork", "evaluate", "load_problem", "train"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'gradeval' has no attribute '{name}'")
