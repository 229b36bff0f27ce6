"""What estimators were compared with, in words: how the reference was made, its error, its cost, what it covers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gradeval.analysis.numbers import duration, layer_title, listed, sentence

if TYPE_CHECKING:
    from gradeval.analysis.run.record import Record

REFERENCE_METHODS = {
    "layerwise": "enumerated layer by layer (layerwise)",
    "plain": "enumerated layer by layer, one term at a time (plain)",
    "joint": "enumerated jointly (joint)",
    "transform": "by the characteristic function of the last layer (transform)",
    "sampled": "sampled",
}
"""The methods that a reference may be made by, as they stand in a manifest, and what each does with the states."""
COUNTED = 20  # bits up to which a number of states is written out


def states_words(bits: int) -> str:
    """The number of joint states of so many binary units.

    Args:
        bits: how many units.

    Returns:
        The number and the noun.

    Examples:
        >>> states_words(15), states_words(200)
        ('32,768 joint states', '2^200 joint states')
    """
    return f"{f'{2**bits:,}' if bits <= COUNTED else f'2^{bits}'} joint states"


def reference_sentence(run: Record) -> str:
    """What the gradient that all is compared with is.

    Args:
        run: an evaluation; of an older version, whose manifest says nothing of an exact reference, too.

    Returns:
        Of an exact one the method, the number of states, a bound of its error where that is not mere rounding, and the
        seconds. Of a sampled one its estimator, draws, and relative standard error by layer, where it fell short of its
        target, and the seconds.
    """
    problem = run.manifest["problem"]
    facts: Mapping[str, Any] = run.manifest.get("reference") or {}
    states = states_words(facts.get("states_log2", sum(problem["widths"])))
    covered = f"{states} for each of {problem['points']:,} points"
    seconds = f", {duration(facts['seconds'])}" if "seconds" in facts else ""
    if facts.get("method") == "sampled":
        return _sampled(facts, f"{covered}{seconds}")
    how = f" {REFERENCE_METHODS[facts['method']]}" if facts else ""
    return sentence(f"reference, exact: {covered}{how}{_bound(facts.get('errors', {}))}{seconds}")


def _bound(errors: Mapping[str, float]) -> str:
    """The largest of the proven bounds of the relative error; empty where there are none."""
    known = [error for error in errors.values() if error >= 0]
    if not known:
        return ""
    where = "in every layer" if len(known) == len(errors) else "in every layer that has a gradient"
    return f", error below {_rounded_up(max(known))} of ‖g*‖ {where}"


def _rounded_up(value: float) -> str:
    """A number that is not smaller, with one digit: 1.2e-10 -> 2e-10."""
    if not 0 < value < math.inf:
        return f"{value:g}"
    scale = 10.0 ** math.floor(math.log10(value))
    return f"{math.ceil(value / scale * (1 - 1e-12)) * scale:.0e}"


def _sampled(facts: Mapping[str, Any], covered: str) -> str:
    errors = {layer_title(layer): error for layer, error in facts["errors"].items()}
    each = listed(
        [f"{error:.2%} in {layer}" if error >= 0 else f"unknown in {layer}" for layer, error in errors.items()]
    )
    said = f"reference sampled by {facts['estimator']}, {facts['draws']:,} draws of {covered}"
    said += f"; its relative standard error is {each}"
    short = [layer for layer, error in errors.items() if error < 0 or error > facts["target"]]
    if short:
        said += f"; the target of {facts['target']:.2%} was not reached in {listed(short)}"
    return sentence(f"{said}. Every interval, test and verdict has that error in it; descent is as to this reference")
