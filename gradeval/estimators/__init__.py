"""Estimators: one family a file, a table of facts, and the look-up of a spec string.

An estimator is any callable ``(network, inputs, loss, randomness) -> [..., points]`` written for one draw: the gradient
of its mean over points estimates ∇J and its value estimates E[f]. The table only gives names to the built-in ones.
"""

from gradeval.estimators.bound_table import BUILT_IN
from gradeval.estimators.facts import Facts
from gradeval.estimators.naming import Estimators, resolve, resolve_one, resolve_with_specs
from gradeval.estimators.protocol import Estimator
from gradeval.estimators.specs import (
    claims_unbiased,
    get_estimator,
    get_facts,
    hyper_parameters,
    hyper_settings,
    spec_of,
    specs_of,
    split_specs,
)
from gradeval.estimators.table import ALL, PAPER, TABLE

__all__ = [
    "ALL",
    "BUILT_IN",
    "PAPER",
    "TABLE",
    "Estimator",
    "Estimators",
    "Facts",
    "claims_unbiased",
    "get_estimator",
    "get_facts",
    "hyper_parameters",
    "hyper_settings",
    "resolve",
    "resolve_one",
    "resolve_with_specs",
    "spec_of",
    "specs_of",
    "split_specs",
]
