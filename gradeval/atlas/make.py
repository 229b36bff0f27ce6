"""What makes the entries of the atlas, and what recomputes them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gradeval.atlas.definitions import DEFINITIONS
from gradeval.atlas.entry import FIGURES_KEPT, FORMAT, Results
from gradeval.errors import GradevalError
from gradeval.estimators import TABLE, Estimator, get_estimator
from gradeval.estimators.facts import Chance
from gradeval.estimators.protocol import fit
from gradeval.files import write_whole
from gradeval.model.problem import Problem, problem_bytes
from gradeval.reference import exact_gradient, exact_moments
from gradeval.sampling.probes import count_chance
from gradeval.versions import versions_of

MANY = 2000  # entries of a gradient; of more, only norms are kept, and no estimators
COMPARED = ("joint", "layerwise", "plain", "transform")
MOST_BYTES = 2**15  # of a problem's file
MOST_JOINT = 16  # units, of which all joint states are summed as a check


def specs() -> list[str]:
    """The built-in estimators that can be run on all joint states, those of several samples with two.

    Returns:
        Their specs.

    Examples:
        >>> "rloo:samples=2" in specs(), "arm" in specs()
        (True, False)
    """
    known = [name for name, facts in TABLE.items() if facts.randomness != Chance.CONTINUOUS and name != "exact"]
    return [f"{name}:samples=2" if "samples" in TABLE[name].defaults else name for name in known]


def accuracy_of(problem: Problem, estimator: Estimator) -> dict[str, list[float | None]]:
    """Exact relative bias, variance, scale, and the cosine between E[g] and ∇J, by layer.

    Args:
        problem: small enough to be enumerated.
        estimator: whose chance is Bernoulli states only.

    Returns:
        The four numbers of each layer; None where ∇J is zero.

    Raises:
        GradevalError: it has further chance, or too many joint states.
    """
    if count_chance(problem, estimator)[1]:
        raise GradevalError(
            "it has chance beyond Bernoulli states, which cannot be enumerated; `gradeval run` draws it."
        )
    found = exact_moments(problem, estimator)
    bias, variance, scale = found.relative_bias(), found.relative_variance(), found.scale()
    table: dict[str, list[float | None]] = {}
    for layer, where in found.slices.items():
        norm, length = float(found.exact[where].norm()), float(found.mean[where].norm())
        cosine = scale[layer] * norm / length if length > 0 else 0.0
        numbers = [bias[layer], variance[layer], scale[layer], cosine]
        table[layer] = list(numbers) if norm > 0 else [None] * 4
    return table


def results_of(name: str, problem: Problem) -> Results:
    """Everything that an entry keeps, computed anew.

    Args:
        name: of the entry.
        problem: of the entry.

    Returns:
        The results.

    Examples:
        >>> from gradeval.atlas import load
        >>> abs(results_of("toy", load("toy").problem).value - 0.250001) < 1e-15
        True
    """
    exact = exact_gradient(problem)
    norm = float(exact.vector.norm())
    methods = {exact.method: 0.0}
    for method in COMPARED:
        if method == exact.method or (method == "joint" and sum(problem.widths) > MOST_JOINT):
            continue
        try:
            other = exact_gradient(problem, method)
        except GradevalError:  # not for this loss or size
            continue
        methods[method] = float((other.vector - exact.vector).norm()) / norm
    accuracy = {}
    for spec in specs() if exact.vector.numel() <= MANY else []:
        estimator = get_estimator(spec)
        try:
            accuracy[spec] = accuracy_of(problem, fit(estimator, spec, problem, "atlas").estimator)
        except GradevalError:
            continue  # too many joint states, or not defined here
    layers = exact.by_layer()
    gradient = {k: g.tolist() for k, g in layers.items() if k != "all"} if exact.vector.numel() <= MANY else {}
    norms = {layer: float(g.norm()) for layer, g in layers.items()}
    facts = (problem.fingerprint(), exact.value, norms, gradient, methods, versions_of("gradeval", "torch"), accuracy)
    return Results(FORMAT, name, *facts)


def write_entry(name: str, folder: Path) -> Results:
    """Make an entry and write its files.

    Args:
        name: of the entry.
        folder: that the files are in.

    Returns:
        Its results.
    """
    problem, path = DEFINITIONS[name].make(), folder / f"{name}.problem.json"
    path.unlink(missing_ok=True)
    try:
        content = problem_bytes(problem)
    except GradevalError:  # maps or a loss that files do not hold: it is made as it is defined
        content = b""
    if 0 < len(content) < MOST_BYTES:
        write_whole(path, content)
        problem = Problem.load(path)
    results = results_of(name, problem)
    write_whole(folder / f"{name}.json", msgspec.json.format(msgspec.json.encode(results), indent=1))
    return results


def differences(old: Results, new: Results, tolerance: float = 1e-9) -> list[str]:
    """What differs between the results that are kept and those computed anew.

    Args:
        old, new: of the same entry.
        tolerance: relative to the larger of a number and 1e-3, below which rounding lies.

    Returns:
        A line for each number that differs, and for each estimator that the new ones lack.

    Examples:
        >>> from gradeval.atlas import load
        >>> differences(load("toy").results, load("toy").results)
        []
    """
    found = [f"J: {old.value} is now {new.value}"] if _differ(old.value, new.value, tolerance) else []
    for layer, norm in old.norms.items():
        if _differ(norm, new.norms[layer], tolerance):
            found.append(f"the norm of the gradient, layer {layer}: {norm} is now {new.norms[layer]}")
    for spec in old.accuracy:  # a new estimator waits until the atlas is made again
        if spec not in new.accuracy:
            found.append(f"{spec}: missing")
            continue
        for layer, numbers in old.accuracy[spec].items():
            for column, before, now in zip(FIGURES_KEPT, numbers, new.accuracy[spec][layer], strict=True):
                if (before is None) != (now is None) or (
                    before is not None and now is not None and _differ(before, now, tolerance)
                ):
                    found.append(f"{spec}, layer {layer}, {column}: {before} is now {now}")
    return found


def _differ(old: float, new: float, tolerance: float) -> bool:
    return abs(old - new) > tolerance * max(abs(old), 1e-3)
