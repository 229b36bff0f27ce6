"""What estimators are compared with: the exact gradient, or one that was sampled, which a run's folder keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from gradeval.analysis.run.sampled import NUMBERS, SampledReference
from gradeval.errors import GradevalError, unknown_name
from gradeval.estimators import Estimator, claims_unbiased, get_estimator
from gradeval.files import reason
from gradeval.model.problem import Problem
from gradeval.progress import Progress
from gradeval.reference import ExactGradient, Precision, exact_gradient, sampled_gradient
from gradeval.reference.cost import TooLarge
from gradeval.reference.own_rare import is_large, own_rare_states
from gradeval.reference.sampled import as_gradient
from gradeval.sampling.extent import WORKING_MEMORY
from gradeval.sampling.sampler import Sampler

KINDS = ("auto", "exact", "sampled")
SPECS = ("ram", "disarm", "rloo:samples=4", "leg")
"""The estimators that a reference may be sampled by: unbiased, with a bounded gradient in every state."""


def candidates() -> dict[str, Estimator]:
    """The estimators that a reference may be sampled by; the cheapest one for a precision is taken.

    Returns:
        Those of `SPECS` that claim to be unbiased, by their spec.
    """
    return {spec: made for spec in SPECS if claims_unbiased(made := get_estimator(spec))}


def check_kind(reference: str | Precision) -> None:
    """Raise GradevalError unless a reference is one of `KINDS`, or a precision, which is that of a sampled one.

    Args:
        reference: what the user chose.

    Raises:
        GradevalError: it is none of them; the message names near matches.
    """
    if not isinstance(reference, Precision) and reference not in KINDS:
        raise unknown_name("reference", reference, KINDS)


def is_sampled(reference: str | Precision) -> bool:
    """Whether a reference is to be sampled.

    Args:
        reference: "auto", "exact", "sampled" or a precision.

    Returns:
        True for the latter two.
    """
    return isinstance(reference, Precision) or reference == "sampled"


def made_reference(
    problem: Problem, reference: str | Precision, seed: int, progress: Progress, memory: int = WORKING_MEMORY
) -> ExactGradient:
    """The gradient that estimators are compared with.

    Args:
        problem: network, data and loss.
        reference: "auto" and "exact": an exact method; "sampled" or a precision: see `sampled_gradient`.
        seed: of a sampled one; its draws are none of the evaluation's.
        progress: told how far it is.
        memory: of the run, as of `Extent`: both keep a covariance, or neither.

    Returns:
        The gradient.

    Raises:
        GradevalError: no exact method is affordable; the message says how to sample one.
    """
    if is_sampled(reference):
        limits = reference if isinstance(reference, Precision) else Precision()
        limits = replace(limits, memory=memory)
        return sampled_gradient(problem, candidates(), limits=limits, seed=seed, progress=progress)
    try:
        return exact_gradient(problem, seconds=math.inf, progress=progress)
    except TooLarge as error:
        raise GradevalError(
            f"{error} Or compare with a sampled reference, whose error is then in every figure: --reference sampled; "
            "from Python, evaluate(…, reference='sampled')."
        ) from None


def with_rare(truth: ExactGradient, problem: Problem) -> ExactGradient:
    """A sampled reference of a large network with what rare states may be missing in its own draws.

    Args:
        truth: the reference.
        problem: that it is of.

    Returns:
        The same where it is exact, or the network is small.
    """
    if (known := truth.sampled) is None:
        return truth
    sampler = Sampler(problem, known.estimator, get_estimator(known.estimator))
    return replace(truth, sampled=replace(known, rare=own_rare_states(sampler))) if is_large(sampler) else truth


def reference_facts(
    truth: ExactGradient, reference: str | Precision, states_log2: int, seconds: float
) -> dict[str, Any]:
    """What stands under "reference" in the manifest of a run.

    Args:
        truth: the reference.
        reference: as it was asked for.
        states_log2: the number of binary units, 2 to the power of which are the joint states of a point.
        seconds: that it took; 0 where that is not known.

    Returns:
        Method, number of states, seconds, and by layer a bound of the relative error, −1 where the norm is zero; no
        bounds where all states were enumerated. Of a sampled one also its estimator and draws; its errors are relative
        standard errors, −1 where the norm is not told from zero.
    """
    facts = {"method": truth.method, "states_log2": states_log2, **({"seconds": seconds} if seconds else {})}
    if (known := truth.sampled) is None:
        norms = {layer: float(g.norm()) for layer, g in truth.by_layer().items()}
        return facts | {"errors": {k: e / norms[k] if norms[k] else -1.0 for k, e in truth.error.items()}}
    limits = reference if isinstance(reference, Precision) else Precision()
    errors = {layer: known.relative_error(layer) for layer in known.slices}
    return facts | {
        "estimator": known.estimator,
        "draws": known.draws,
        "block_draws": known.block_draws,
        "target": limits.target,
        "errors": {layer: error if math.isfinite(error) else -1.0 for layer, error in errors.items()},
    }


def reference_bytes(truth: ExactGradient) -> bytes:
    """A sampled reference as the content of a safetensors file.

    Args:
        truth: the reference.

    Returns:
        The bytes; none for an exact one.
    """
    if (known := truth.sampled) is None:
        return b""
    arrays: dict[str, np.ndarray] = {
        "estimator": np.frombuffer(known.estimator.encode(), np.uint8),
        "counts": np.array([known.draws, known.block_draws], dtype=np.int64),
        "value": np.array([truth.value]),
        "mean": known.mean,
        "numbers": known.numbers,
    }
    for name in ("covariance", "blocks"):
        if (array := getattr(known, name)) is not None:
            arrays[name] = np.ascontiguousarray(array)
    content: bytes = save(arrays)
    return content


def reference_of(content: bytes, problem: Problem) -> ExactGradient:
    """A sampled reference from the content of its file, which has the digest that the run's plan names.

    Args:
        content: by `reference_bytes`.
        problem: that it is of.

    Returns:
        The reference.

    Raises:
        GradevalError: it is damaged, or that of another problem.
    """
    slices = problem.network.layer_slices()
    size = sum(p.numel() for p in problem.network.trainable().values())
    try:
        arrays: Mapping[str, np.ndarray] = load(content)
        draws, block_draws = (int(count) for count in arrays["counts"])
        made = SampledReference(
            bytes(arrays["estimator"]).decode(),
            draws,
            arrays["mean"],
            slices,
            arrays["numbers"],
            arrays.get("covariance"),
            arrays.get("blocks"),
            block_draws,
        )
        if made.mean.shape != (size,) or made.numbers.shape != (len(slices), NUMBERS):
            raise ValueError("of another problem")
        return as_gradient(problem, made, float(arrays["value"][0]))
    except Exception as error:
        raise GradevalError(f"the sampled reference cannot be read ({reason(error)}).") from None
