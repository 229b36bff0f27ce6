"""An estimator on one problem: what is known of it so far, and how to know more."""

from __future__ import annotations

import math

import numpy as np

from gradeval.analysis.measures import relative_variance
from gradeval.checking.claims import Claims, State, worst
from gradeval.checking.findings import Finding, Value
from gradeval.checking.known import can_be_known, known_moments
from gradeval.checking.limits import EQUAL, REPLICATES, Limits
from gradeval.checking.places import place_of, shape_of
from gradeval.checking.replicates import Replicates
from gradeval.checking.sequential import level_of_look, mean_test, rare_event_error
from gradeval.errors import GradevalError
from gradeval.estimators import Estimator
from gradeval.estimators.protocol import fit, repeats_of
from gradeval.model.problem import Problem
from gradeval.reference import ExactGradient, exact_gradient
from gradeval.sampling.probes import describe, probe
from gradeval.sampling.sampler import OWN_CHANCE, Sampler


class Subject:
    """An estimator on one problem.

    Args:
        name: of the estimator.
        estimator: the estimator; it is fitted here if it learns.
        problem: with its exact gradient within reach.
        claims: what is judged.
        limits: what may be spent.
        tests: the number of tests that share the error rate.

    Attributes:
        trouble: why it cannot be evaluated; empty if it can.
        state: of all claims on this problem so far.
        rarest: the probability below which an event of chance may have been missed; zero: none.
        findings: what is known of each layer with a gradient.
        vanishing: for each layer whose exact gradient is zero, whether the mean one is, too.
        value: what is known of the mean value.
        notes: what the user should know besides.
    """

    def __init__(
        self, name: str, estimator: Estimator, problem: Problem, claims: Claims, limits: Limits, tests: int
    ) -> None:
        self.problem, self.claims, self.limits = problem, claims, limits
        self.alpha, self.seed = limits.alpha / tests, (limits.seed, problem.fingerprint(), name)
        self.findings: list[Finding] = []
        self.vanishing: dict[str, State] = {}
        self.value: Value | None = None
        self.state, self.trouble, self.notes = State.UNDECIDED, "", list[str]()
        self.replicates: Replicates | None = None
        self.exactly, self.rarest = False, 0.0
        try:
            estimator = fit(estimator, name, problem, limits.seed).estimator
            behaviour = probe(problem, estimator)
            self.uniforms, self.notes = behaviour.uniforms, behaviour.notes
            self.estimator = estimator
            self.repeats = repeats_of(estimator)
            self.sampler = Sampler(problem, name, estimator)
        except GradevalError as error:
            self.trouble = str(error)
            return
        except Exception as error:
            self.trouble = f"raises {describe(error)}"
            return
        self.notes += [note for note in self.sampler.notes if note != OWN_CHANCE]  # the probe says it better
        self.truth = exact_gradient(problem)
        self.place = place_of(problem, estimator)
        self.exactly = can_be_known(self.sampler, len(self.truth.vector), self.notes)

    def refine(self, radius: float | None) -> None:
        """Draw until every claim is decided, or every mean gradient is known well enough. Trouble is kept, not raised.

        Args:
            radius: how well, relative to ‖g*‖; None: only the claims count.
        """
        try:
            if self.exactly:
                if not self.findings:
                    self._enumerate()
                return
            if self.replicates is None:
                self.replicates = Replicates(self.sampler, self.truth, self.uniforms, self.seed)
            while not (self._enough(radius) or self._hopeless()):
                first = self.limits.first_points(self.sampler.vectorised, self.repeats)
                points = max(first, self.replicates.points)
                if REPLICATES * (self.replicates.points + points) * self.repeats > self.limits.max_draws:
                    break
                self.replicates.add(points)
                self._look(self.replicates)
        except GradevalError as error:
            self.trouble = str(error)

    def _enough(self, radius: float | None) -> bool:
        if not self.findings:
            return False
        if self.claims.words() and self.state is State.HOLDS:
            return True
        if self.claims.words() and self.state is State.UNDECIDED and radius is None:
            return False
        # a failure is diagnosed, and figures without a claim are shown, from means that are known so well
        return all(f.radius <= (radius or self.limits.coarse) for f in self.findings)

    def _hopeless(self) -> bool:
        """Whether a mean gradient has more directions than the replicates can test, however many draws there are."""
        return any(math.isinf(f.detectable) for f in self.findings)

    def _enumerate(self) -> None:
        moments = known_moments(self.sampler, self.truth)
        for _, layer, where, norm in _with_gradient(self.truth):
            exact, mean = (v[where].cpu().numpy() / norm for v in (self.truth.vector, moments.mean))
            variance = relative_variance(max(0.0, float(moments.variance[where].sum())), norm)
            unequal = bool(np.linalg.norm(mean - exact) > EQUAL)
            what = (self.place, layer, shape_of(self.problem, layer), exact, mean, 0.0, 0.0)
            self.findings.append(Finding(*what, variance, variance, variance, unequal, 0.0, 0))
        whole = float(self.truth.vector.norm())
        for _, layer, where in _without_gradient(self.truth):
            self.vanishing[layer] = State.of(float(moments.mean[where].norm()) > EQUAL * (whole or 1.0), True)
        tolerance = EQUAL * max(abs(self.truth.value), 1e-300)
        unequal = abs(moments.value - self.truth.value) > tolerance
        self.value = Value(self.place, self.truth.value, moments.value, 0.0, unequal)
        self._judge()

    def _look(self, replicates: Replicates) -> None:
        """Test everything on the replicates there are."""
        level, draws = level_of_look(self.alpha, replicates.looks), REPLICATES * replicates.points
        means, values, squares = replicates.means()
        sizes = np.sqrt(replicates.largest)
        # by the first look, which may reject already, events of this probability have been seen
        self.rarest = self.rarest or math.log(1 / level) / (draws * self.repeats)

        def floor(index: int, scale: float) -> float:
            return max(self.limits.detect / 100, rare_event_error(float(sizes[index]) / scale, draws, level))

        self.findings = []
        for index, layer, where, norm in _with_gradient(self.truth):
            exact = self.truth.vector[where].cpu().numpy() / norm
            test = mean_test(means[:, where] / norm - exact, level, floor(index, norm))
            rare = rare_event_error((float(sizes[index]) / norm) ** 2, draws, level)
            error = mean_test(relative_variance(squares[:, index, None], norm), level, rare)
            bias = float(np.linalg.norm(test.mean))
            low, high, square = max(0.0, bias - test.radius), bias + test.radius, float(error.mean[0])
            variance = (
                max(0.0, square - max(0.0, bias**2 - test.noise)),
                max(0.0, square - error.radius - high**2),
                square + error.radius - low**2,
            )
            what = (self.place, layer, shape_of(self.problem, layer), exact, test.mean + exact, test.radius, test.noise)
            self.findings.append(Finding(*what, *variance, test.rejected, test.detectable, draws * self.repeats))
        whole = float(self.truth.vector.norm()) or 1.0
        for index, layer, where in _without_gradient(self.truth):  # on the scale of the whole gradient
            test = mean_test(means[:, where] / whole, level, floor(index, whole))
            self.vanishing[layer] = State.of(test.rejected, test.detectable <= self.limits.detect)
        scale, exact_value = max(abs(self.truth.value), 1e-300), self.truth.value
        error = mean_test(values[:, None] - exact_value, level, floor(-1, scale) * scale)
        self.value = Value(self.place, exact_value, float(error.mean[0]) + exact_value, error.radius, error.rejected)
        self._judge()

    def _judge(self) -> None:
        states = [state for f in self.findings for state in self.claims.judge(f, self.limits.detect).values()]
        if self.claims.unbiased:
            states += self.vanishing.values()
        if not self.findings:
            states.append(State.UNDECIDED)
        if self.claims.unbiased and self.value and self.value.unequal:
            states.append(State.FAILS)
        self.state = worst(states)


def _with_gradient(truth: ExactGradient) -> list[tuple[int, str, slice, float]]:
    """Number, name, place and norm of the exact gradient of the layers where that is not zero."""
    whole = float(truth.vector.norm())
    layers = [(k, where, float(truth.vector[where].norm())) for k, where in truth.slices.items()]
    return [(i, *row) for i, row in enumerate(layers) if row[0] != "all" and row[2] > 1e-12 * whole]


def _without_gradient(truth: ExactGradient) -> list[tuple[int, str, slice]]:
    """Number, name and place of the other layers."""
    known = {layer for _, layer, _, _ in _with_gradient(truth)}
    return [(i, layer, where) for i, (layer, where) in enumerate(truth.slices.items()) if layer not in known | {"all"}]
