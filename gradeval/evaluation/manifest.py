"""The facts that are saved with a run: arguments, versions, the problem and the estimators."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from gradeval.analysis.run.manifest import RUN_FORMAT
from gradeval.estimators import claims_unbiased, get_facts, hyper_settings
from gradeval.estimators.protocol import definition_of
from gradeval.model.objective import loss_title
from gradeval.model.problem import Problem
from gradeval.reference import ExactGradient
from gradeval.sampling.sampler import Sampler
from gradeval.versions import versions_of


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that numbers and figures depend on."""
    return versions_of("gradeval", "torch", "numpy", "scipy", "pandas", "statsmodels", "seaborn", "matplotlib")


def problem_facts(problem: Problem, exact: ExactGradient, fingerprint: str) -> dict[str, Any]:
    """The facts of a problem and of its exact gradient.

    Args:
        problem: that was evaluated.
        exact: its exact gradient.
        fingerprint: of the problem.

    Returns:
        What stands under "problem" in the manifest.
    """
    network = problem.network
    return {
        "name": problem.name,
        "description": problem.description,
        "fingerprint": fingerprint,
        "points": problem.points,
        "widths": problem.widths,
        "noise": network.noise.name,
        "states": list(network.states),
        "loss": loss_title(problem.loss),
        "parameters": len(exact.vector),
        "exact_value": exact.value,
        "gradient_norms": {
            layer: exact.sampled.norm(layer).estimate if exact.sampled else float(g.norm())
            for layer, g in exact.by_layer().items()
        },
        "slices": {layer: [where.start, where.stop] for layer, where in exact.slices.items()},
    }


def estimator_facts(sampler: Sampler, evaluations: tuple[float, float], draws: int) -> dict[str, Any]:
    """The facts of an estimator that was evaluated.

    Args:
        sampler: of the estimator.
        evaluations: how often a draw evaluates a layer, and the loss, for each point.
        draws: their number.

    Returns:
        What stands under its name in the manifest.
    """
    estimator = sampler.estimator
    layers, losses = evaluations
    facts = get_facts(estimator)
    return {
        "source": facts.source if facts else f"the user's own, {sampler.name}",
        "unbiased_claim": claims_unbiased(estimator),
        "head": facts.head if facts else "",
        "deterministic": sampler.deterministic,
        "vectorised": sampler.vectorised,
        "draws": draws,
        "layer_evaluations": layers,
        "loss_evaluations": losses,
        "notes": sampler.notes,
        "family": facts.name if facts else definition_of(estimator),
        "settings": {key: _as_json(value) for key, value in hyper_settings(estimator).items()},
    }


def _as_json(value: Any) -> Any:
    """A setting; JSON has no infinite numbers."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def manifest_of(
    problem: Problem, facts: dict[str, Any], reference: dict[str, Any], estimators: dict[str, Any], run: dict[str, Any]
) -> dict[str, Any]:
    """The manifest of a run.

    Args:
        problem: that was evaluated.
        facts: of it, by `problem_facts`.
        reference: the facts of what estimators were compared with.
        estimators: the facts of each by its name.
        run: its arguments, seed, draws, failures and timings.

    Returns:
        What is written to manifest.json.
    """
    network = problem.network
    timings = {key: run[key] for key in ("failures", "timings")}
    return {
        "format": RUN_FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **{key: run[key] for key in ("arguments", "seed", "draws", "detect", "looks")},
        "versions": versions(),
        "device": str(network.device),
        "dtype": str(network.dtype).removeprefix("torch."),
        "problem": facts,
        "estimators": estimators,
        "reference": reference,
        **timings,
    }
