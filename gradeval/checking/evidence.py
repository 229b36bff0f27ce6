"""What is known of an estimator on one problem: exactly, from all joint states, or by tests on replicates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradeval.analysis.measures import relative_variance
from gradeval.checking.claims import State
from gradeval.checking.findings import Finding, Place, Value
from gradeval.checking.known import known_moments
from gradeval.checking.limits import EQUAL, REPLICATES
from gradeval.checking.places import shape_of
from gradeval.checking.replicates import Replicates
from gradeval.checking.sequential import mean_test, rare_event_error
from gradeval.model.problem import Problem
from gradeval.reference import ExactGradient
from gradeval.sampling.sampler import Sampler


@dataclass(frozen=True)
class Evidence:
    """What is known of an estimator's mean on one problem.

    Attributes:
        findings: what is known of each layer with a gradient.
        vanishing: for each layer whose exact gradient is zero, whether the mean one is, too.
        value: what is known of the mean value.
    """

    findings: list[Finding]
    vanishing: dict[str, State]
    value: Value


def on_all_states(sampler: Sampler, place: Place, truth: ExactGradient) -> Evidence:
    """What an estimator's exact moments say.

    Args:
        sampler: of an estimator of which `can_be_known` is true.
        place: the problem's facts.
        truth: its exact gradient.

    Returns:
        The evidence, without error.

    Raises:
        GradevalError: the moments cannot be had exactly.
    """
    moments, findings, problem = known_moments(sampler, truth), list[Finding](), sampler.problem
    for _, layer, where, norm in _with_gradient(truth):
        exact, mean = (v[where].cpu().numpy() / norm for v in (truth.vector, moments.mean))
        variance = relative_variance(max(0.0, float(moments.variance[where].sum())), norm)
        unequal = not np.linalg.norm(mean - exact) <= EQUAL  # NaN is unequal
        what = (place, layer, shape_of(problem, layer), exact, mean, 0.0, 0.0)
        findings.append(Finding(*what, variance, variance, variance, unequal, 0.0, 0))
    whole = float(truth.vector.norm())
    vanishing = {
        layer: State.of(not float(moments.mean[where].norm()) <= EQUAL * (whole or 1.0), True)
        for _, layer, where in _without_gradient(truth)
    }
    unequal = not abs(moments.value - truth.value) <= EQUAL * _value_scale(truth)
    return Evidence(findings, vanishing, Value(place, truth.value, moments.value, 0.0, unequal))


def on_replicates(
    problem: Problem,
    place: Place,
    truth: ExactGradient,
    replicates: Replicates,
    sizes_of_tests: tuple[float, float],
    repeats: int = 1,
) -> Evidence:
    """What one look at an estimator's replicates says.

    Args:
        problem: what the estimator was run on.
        place: its facts.
        truth: its exact gradient.
        replicates: of the estimator.
        sizes_of_tests: the false-alarm rate of each test of this look, and the relative bias that is to be found.
        repeats: the draws that each of the replicates' draws is a mean of.

    Returns:
        The evidence, with its errors.
    """
    level, detect = sizes_of_tests
    draws, sizes = REPLICATES * replicates.points, replicates.largest()
    means, values, squares = replicates.means()

    def floor(index: int, scale: float) -> float:
        return max(detect / 100, rare_event_error(float(sizes[index]) / scale, draws, level))

    findings, vanishing = [], {}
    for index, layer, where, norm in _with_gradient(truth):
        exact = truth.vector[where].cpu().numpy() / norm
        test = mean_test(means[:, where] / norm - exact, level, floor(index, norm))
        rare = rare_event_error(float(replicates.largest(2)[index]) / norm**2, draws, level)
        error = mean_test(relative_variance(squares[:, index, None], norm), level, rare)
        bias = float(np.linalg.norm(test.mean))
        low, high, square = max(0.0, bias - test.radius), bias + test.radius, float(error.mean[0])
        variance = (
            max(0.0, square - max(0.0, bias**2 - test.noise)),
            max(0.0, square - error.radius - high**2),
            square + error.radius - low**2,
        )
        what = (place, layer, shape_of(problem, layer), exact, test.mean + exact, test.radius, test.noise)
        findings.append(Finding(*what, *variance, test.rejected, test.detectable, draws * repeats))
    whole = float(truth.vector.norm()) or 1.0
    for index, layer, where in _without_gradient(truth):  # on the scale of the whole gradient
        test = mean_test(means[:, where] / whole, level, floor(index, whole))
        vanishing[layer] = State.of(test.rejected, test.detectable <= detect)
    scale = _value_scale(truth)
    error = mean_test(values[:, None] - truth.value, level, floor(-1, scale) * scale)
    value = Value(place, truth.value, float(error.mean[0]) + truth.value, error.radius, error.rejected)
    return Evidence(findings, vanishing, value)


def _value_scale(truth: ExactGradient) -> float:
    """What an error of the value is small against: |J|, or ‖g*‖ where J is about zero."""
    return max(abs(truth.value), float(truth.vector.norm()), 1e-300)


def _with_gradient(truth: ExactGradient) -> list[tuple[int, str, slice, float]]:
    """Number, name, place and norm of the exact gradient of the layers where that is not zero."""
    whole = float(truth.vector.norm())
    layers = [(k, where, float(truth.vector[where].norm())) for k, where in truth.slices.items()]
    return [(i, *row) for i, row in enumerate(layers) if row[0] != "all" and row[2] > 1e-12 * whole]


def _without_gradient(truth: ExactGradient) -> list[tuple[int, str, slice]]:
    """Number, name and place of the other layers."""
    known = {layer for _, layer, _, _ in _with_gradient(truth)}
    return [(i, layer, where) for i, (layer, where) in enumerate(truth.slices.items()) if layer not in known | {"all"}]
