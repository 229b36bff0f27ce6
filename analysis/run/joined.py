"""Several evaluations of one problem, joined to one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from gradeval.analysis.run.evaluation import Evaluation
from gradeval.errors import GradevalError

ALIKE = {
    "seed": "estimators are compared draw by draw, with the same random numbers",
    "draws": "estimators are compared draw by draw",
    "detect": "verdicts have one detectable bias",
    "dtype": "numbers have one precision",
    "device": "draws are those of one device",
}
"""What must be the same in all evaluations that are joined, and why."""


def concat(evaluations: Iterable[Evaluation] | Mapping[str, Evaluation]) -> Evaluation:
    """Join evaluations of different estimators on the same problem, with the same seed and draws, to one.

    Verdicts, p-values and pairs are made anew for all estimators together.

    Args:
        evaluations: two or more; a dictionary adds its names to those of the estimators, "psa (new)", so that the same
            estimator may be in several.

    Returns:
        The evaluation, with the arguments of the first.

    Raises:
        GradevalError: they differ in the problem, the seed, the draws or what else must be alike, their reference was
            sampled, or an estimator is in two of them.

    Examples:
        >>> import gradeval
        >>> problem = gradeval.load_problem("expclass", units=2, stage=0, points=4)
        >>> parts = [gradeval.evaluate(problem, name, draws=40) for name in ("st", "psa")]
        >>> list(gradeval.concat(parts).moments)
        ['st', 'psa']
    """
    if isinstance(evaluations, Mapping):
        parts = [_renamed(run, str(label)) for label, run in evaluations.items()]
    else:
        parts = [_checked(run) for run in evaluations]
    if not parts:
        raise GradevalError("no evaluations given.")
    first = parts[0]
    for other in parts[1:]:
        _check_alike(first, other)
    names = [name for part in parts for name in part.moments]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise GradevalError(
            f"estimator '{twice[0]}' is in two of the evaluations. A dictionary tells them apart: "
            "{'old': …, 'new': …}."
        )
    return replace(
        first,
        manifest=_joined([part.manifest for part in parts]),
        moments={name: moments for part in parts for name, moments in part.moments.items()},
        curves=pd.concat([part.curves for part in parts], ignore_index=True),
        exact_moments=_stacked([part.exact_moments for part in parts]),
    )


def _checked(run: Any) -> Evaluation:
    if not isinstance(run, Evaluation):
        raise GradevalError(f"only evaluations can be joined, found a {type(run).__name__}.")
    return run


def _check_alike(one: Evaluation, other: Evaluation) -> None:
    alike = one.manifest["problem"]["fingerprint"] == other.manifest["problem"]["fingerprint"]
    if not alike or not np.array_equal(one.exact, other.exact):
        raise GradevalError(
            "the evaluations are of different problems: "
            f"{one.manifest['problem']['name']} and {other.manifest['problem']['name']}."
        )
    for key, why in ALIKE.items():
        if one.manifest[key] != other.manifest[key]:
            found = f"{one.manifest[key]} and {other.manifest[key]}"
            raise GradevalError(f"the evaluations must have the same {key}, found {found}: {why}.")
    if one.reference is not None or other.reference is not None:
        raise GradevalError("evaluations with a sampled reference cannot be joined: their references differ.")


def _stacked(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Tables with the same columns; empty ones, whose columns have no types, are left out."""
    full = [table for table in tables if len(table)]
    return pd.concat(full, ignore_index=True) if full else tables[0]


def _joined(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    joined = dict(manifests[0])
    for key in ("estimators", "failures"):
        joined[key] = {name: entry for manifest in manifests for name, entry in manifest[key].items()}
    joined["looks"] = max(manifest["looks"] for manifest in manifests)
    timings: dict[str, Any] = {}
    for manifest in manifests:
        for key, value in manifest["timings"].items():
            timings[key] = timings.get(key, {}) | value if isinstance(value, dict) else timings.get(key, 0.0) + value
    return joined | {"timings": timings}


def _renamed(run: Any, label: str) -> Evaluation:
    """The same evaluation with a label behind the names of its estimators."""
    run = _checked(run)
    new = {name: f"{name} ({label})" for name in {*run.moments, *run.manifest["failures"]}}

    def keyed(entries: dict[str, Any]) -> dict[str, Any]:
        return {new.get(name, name): entry for name, entry in entries.items()}

    manifest = dict(run.manifest)
    for key in ("estimators", "failures"):
        manifest[key] = keyed(manifest[key])
    timings = manifest["timings"].items()
    manifest["timings"] = {key: keyed(value) if isinstance(value, dict) else value for key, value in timings}
    curves, exact = (
        table.assign(estimator=table["estimator"].map(lambda name: new.get(name, name)))
        for table in (run.curves, run.exact_moments)
    )
    return replace(run, manifest=manifest, moments=keyed(dict(run.moments)), curves=curves, exact_moments=exact)
