"""Has an estimator the mean and the variance of another one? The check of what a biased estimator is, by definition.

Both estimators are compared on the same problems. Where all chance of both is Bernoulli states, mean and covariance are
compared exactly. Otherwise each is drawn from the same 64 scrambled Sobol sequences, and the differences of the
replicates are tested (`gradeval.checking.sequential`): they are independent, and have mean zero where the means agree.
Since both have the same chance, the differences vary little where the estimators are alike.

The variances are compared by E‖g − c‖² of both about one centre c. If the means agree, then these agree exactly where
the total variances tr Cov(g) do. If the means differ, their part is taken off, with its uncertainty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradeval.checking.claims import Claims, RowState, State, worst
from gradeval.checking.findings import Finding, Place
from gradeval.checking.known import known_moments
from gradeval.checking.limits import EQUAL, REPLICATES, Limits
from gradeval.checking.places import shape_of
from gradeval.checking.replicates import Replicates
from gradeval.checking.sequential import level_of_look, mean_test, rare_event_error
from gradeval.checking.subject import Subject
from gradeval.errors import GradevalError
from gradeval.estimators import Estimator
from gradeval.model.problem import Problem
from gradeval.reference import ExactGradient, ExactMoments

VARIANCE_DETECT = 5.0  # a relative difference of variances of so many times `detect` is to be found


@dataclass(frozen=True)
class Definition:
    """What an estimator is to be equal to.

    Args:
        name: of the other estimator.
        estimator: the other estimator.
        variance: whether the variance is to be equal too, beside the mean gradient and the mean value.
    """

    name: str
    estimator: Estimator
    variance: bool = True

    def words(self) -> list[str]:
        """The claims in words, one phrase each.

        Returns:
            The phrases.

        Examples:
            >>> Definition("st", print).words()
            ['the mean of st', 'the variance of st']
        """
        return [f"the mean of {self.name}", *[f"the variance of {self.name}"] * self.variance]


@dataclass(frozen=True)
class Difference:
    """What is known of one layer of both estimators.

    Attributes:
        finding: the estimator's mean, where the other's mean takes the place of the exact gradient.
        difference: ‖E g − E g'‖ relative to ‖E g'‖, with its interval.
        comparable: whether the other's mean is above zero, so that a scale and a cosine have a meaning.
        variance: tr Cov(g)/tr Cov(g'), with its interval; where that of g' is zero, 1 + tr Cov(g)/‖E g'‖².
        mean_state, variance_state: of the two claims.
        detectable_variance: the relative difference of variances that would have been found with probability 0.99.
    """

    finding: Finding
    difference: tuple[float, float, float]
    comparable: bool
    variance: tuple[float, float, float]
    mean_state: State
    variance_state: State
    detectable_variance: float

    @property
    def row_state(self) -> RowState:
        """What the row of the table says."""
        if self.mean_state is not State.FAILS and self.variance_state is State.FAILS:
            return RowState.VARIANCE_FAILS
        return RowState(worst((self.mean_state, self.variance_state)).value)


@dataclass(frozen=True)
class _Numbers:
    """Replicates of an estimator; a side that is known exactly has the same numbers in every one.

    Attributes:
        means: [replicates, P].
        values: [replicates].
        squares: ‖g − c‖² by layer, [replicates, layers].
        largest: the most that a draw adds to a sum of draws, the value's last, and to one of their squares,
            [2, layers + 1]; zeros if exact.
    """

    means: np.ndarray
    values: np.ndarray
    squares: np.ndarray
    largest: np.ndarray


class Pair:
    """An estimator and the one it should be equal to, on one problem.

    Args:
        name: of the estimator.
        estimator: any.
        definition: what it should be equal to.
        problem: with its exact gradient within reach.
        limits: what may be spent.
        tests: the number of tests that share the error rate.

    Raises:
        GradevalError: the other estimator cannot be evaluated on the problem.

    Attributes:
        trouble: why the estimator cannot be evaluated; empty if it can.
        state: of all claims on this problem so far.
        rarest: the probability below which an event of chance may have been missed; zero: none.
        differences: what is known of each layer.
        value: E[value] of the estimator and of the other one.
        value_state: whether these are equal.
        notes: what the user should know besides.
    """

    def __init__(
        self, name: str, estimator: Estimator, definition: Definition, problem: Problem, limits: Limits, tests: int
    ) -> None:
        self.problem, self.definition, self.limits = problem, definition, limits
        self.alpha = limits.alpha / tests
        nothing = Claims(False)
        self.mine = Subject(name, estimator, problem, nothing, limits, tests)
        self.theirs = Subject(definition.name, definition.estimator, problem, nothing, limits, tests)
        self.trouble, self.notes = self.mine.trouble, self.mine.notes
        if self.theirs.trouble:
            raise GradevalError(f"equals: on {problem.name}, {definition.name} {self.theirs.trouble}")
        self.state, self.rarest = State.UNDECIDED, 0.0
        self.differences: list[Difference] = []
        self.value, self.value_state = (math.nan, math.nan), State.UNDECIDED
        self._exact: dict[str, ExactMoments] = {}
        self._replicates: dict[str, Replicates] = {}

    @property
    def sides(self) -> dict[str, Subject]:
        """The estimator and the other one."""
        return {"mine": self.mine, "theirs": self.theirs}

    def refine(self, radius: float | None) -> None:
        """Draw until every claim is decided, or every difference is known well enough. Trouble is kept, not raised.

        Args:
            radius: how well, relative to the other's mean; None: only the claims count.
        """
        try:
            if not self._exact and not self._replicates:
                self._start()
            if not self._replicates:
                self._compare_exactly()
                return
            while not self._enough(radius):
                replicates = list(self._replicates.values())
                sampled = [side for key, side in self.sides.items() if key in self._replicates]
                vectorised, repeats = all(s.sampler.vectorised for s in sampled), min(s.repeats for s in sampled)
                points = max(self.limits.first_points(vectorised, repeats), replicates[0].points)
                if REPLICATES * (replicates[0].points + points) * repeats > self.limits.budget(vectorised, repeats):
                    break
                for one in replicates:
                    one.add(points)
                self._look(replicates[0].looks, REPLICATES * replicates[0].points)
        except GradevalError as error:
            self.trouble = str(error)

    def _start(self) -> None:
        for key, side in self.sides.items():
            if side.exactly:
                self._exact[key] = known_moments(side.sampler, side.truth)
        centre = self.theirs.truth
        if "theirs" in self._exact:  # about the known mean a second moment is the variance
            centre = ExactGradient(centre.value, {"all": self._exact["theirs"].mean}, centre.slices)
        self._layers = _Layers(self.mine, centre, self.limits, self.definition.variance)
        uniforms = max(side.behaviour.uniforms for side in self.sides.values())
        stateful = any(side.behaviour.stateful for side in self.sides.values())
        seed = (self.limits.seed, self.problem.fingerprint(), "equality")  # one seed: both have the same chance
        for key, side in self.sides.items():
            if not side.exactly:
                self._replicates[key] = Replicates(side.sampler, centre, uniforms, seed, independent=stateful)

    def _enough(self, radius: float | None) -> bool:
        found = self.differences
        if not found:
            return False
        if any(math.isinf(d.finding.detectable) for d in found) or self.state is State.HOLDS:
            return True
        if self.state is State.UNDECIDED and radius is None:
            return False
        # a failure is diagnosed from means that are known so well
        return all(d.difference[2] - d.difference[1] <= 2 * (radius or self.limits.coarse) for d in found)

    def _compare_exactly(self) -> None:
        mine, theirs = self._exact["mine"], self._exact["theirs"]
        self.differences = [self._layers.exactly(layer, mine, theirs) for layer in self._layers.names]
        self.value = (mine.value, theirs.value)
        apart = abs(mine.value - theirs.value)
        self.value_state = State.of(not apart <= EQUAL * self._layers.value_scale, True)
        self._judge()

    def _look(self, look: int, draws: int) -> None:
        """Test everything on the replicates there are."""
        level = level_of_look(self.alpha, look)
        self.rarest = self.rarest or math.log(1 / level) / draws
        mine, theirs = (self._numbers(key) for key in self.sides)
        self.differences = [
            self._layers.by_test(index, layer, mine, theirs, (level, draws))
            for index, layer in enumerate(self.theirs.truth.slices)
            if layer != "all"
        ]
        scale = self._layers.value_scale
        size = float(mine.largest[0, -1] + theirs.largest[0, -1]) / scale
        floor = max(self.limits.detect / 100, rare_event_error(size, draws, level))
        test = mean_test((mine.values - theirs.values)[:, None] / scale, level, floor)
        self.value = (float(mine.values.mean()), float(theirs.values.mean()))
        self.value_state = State.of(test.rejected, test.detectable <= self.limits.detect)
        self._judge()

    def _numbers(self, key: str) -> _Numbers:
        if key in self._replicates:
            replicates = self._replicates[key]
            means, values, squares = replicates.means()
            return _Numbers(means, values, squares[:, :-1], np.stack([replicates.largest(1), replicates.largest(2)]))
        exact, slices = self._exact[key], self.theirs.truth.slices
        shift = exact.mean - self._layers.centre.vector
        second = np.array([float(exact.variance[w].sum() + shift[w] @ shift[w]) for w in slices.values()])
        means, values, squares = (
            np.broadcast_to(row, (REPLICATES, *row.shape))
            for row in (exact.mean.cpu().numpy(), np.array(exact.value), second)
        )
        return _Numbers(means, values, squares, np.zeros((2, len(slices) + 1)))

    def _judge(self) -> None:
        states = [state for d in self.differences for state in (d.mean_state, d.variance_state)]
        self.state = worst([*states, self.value_state] if self.differences else [State.UNDECIDED])


@dataclass(frozen=True)
class _Layers:
    """How the layers of two estimators are compared on one problem.

    Attributes:
        subject: the estimator; its problem has the exact gradient.
        centre: c, in the place of an exact gradient.
        limits: what is to be found.
        variance: whether the variances are to be equal, too.
    """

    subject: Subject
    centre: ExactGradient
    limits: Limits
    variance: bool

    @property
    def names(self) -> list[str]:
        """Of the layers."""
        return [layer for layer in self.subject.truth.slices if layer != "all"]

    @property
    def value_scale(self) -> float:
        """What differences of the values are relative to: |J|."""
        return max(abs(self.subject.truth.value), 1e-300)

    def exactly(self, layer: str, mine: ExactMoments, theirs: ExactMoments) -> Difference:
        """Compare mean and covariance of a layer that are known exactly."""
        where = self.subject.truth.slices[layer]
        mean, other = (m.mean[where].cpu().numpy() for m in (mine, theirs))
        unit, comparable = self._unit(where, other)
        own, its = (float(m.variance[where].sum().clamp(min=0)) for m in (mine, theirs))
        apart = float((mine.covariance[where, where] - theirs.covariance[where, where]).norm())
        difference = float(np.linalg.norm(mean - other)) / unit
        states = (
            State.of(not difference <= EQUAL, True),  # NaN is a difference
            State.of(self.variance and not apart <= EQUAL * (its + unit**2), True),
        )
        ratio = own / its if its > EQUAL * unit**2 else 1 + (own - its) / unit**2
        relative = own / unit**2
        what = (*self._what(layer), other / unit, mean / unit, 0.0, 0.0)
        finding = Finding(*what, relative, relative, relative, states[0] is State.FAILS, 0.0, 0)
        return Difference(finding, (difference,) * 3, comparable, (ratio,) * 3, *states, 0.0)

    def by_test(self, index: int, layer: str, mine: _Numbers, theirs: _Numbers, spent: tuple[float, int]) -> Difference:
        """Compare a layer on the replicates; ``spent`` are the level and the number of draws."""
        (level, draws), detect = spent, self.limits.detect
        where = self.subject.truth.slices[layer]
        own, other = mine.means[:, where], theirs.means[:, where]
        unit, comparable = self._unit(where, other.mean(0))
        size = float(mine.largest[0, index] + theirs.largest[0, index]) / unit
        floor = max(detect / 100, rare_event_error(size, draws, level))
        test = mean_test((own - other) / unit, level, floor)
        # the second moments about the centre, and the part of the means in them
        centre = self.centre.vector[where].cpu().numpy()
        shifts = (own.mean(0) - centre) / unit, (other.mean(0) - centre) / unit
        its = float(theirs.squares[:, index].mean()) / unit**2 - float(shifts[1] @ shifts[1])
        scale = its if its > EQUAL else 1.0
        square = float(mine.largest[1, index] + theirs.largest[1, index]) / unit**2
        rare = rare_event_error(square / scale, draws, level)
        gaps = (mine.squares - theirs.squares)[:, index, None] / unit**2 / scale
        second = mean_test(gaps, level, max(detect / 100, rare))
        ratio = 1 + float(second.mean[0]) - float(test.mean @ (shifts[0] + shifts[1])) / scale
        radius = second.radius + test.radius * float(np.linalg.norm(shifts[0] + shifts[1])) / scale
        interval = (ratio, max(0.0, ratio - radius), ratio + radius)
        differ = second.rejected and (not test.rejected or not interval[1] <= 1 <= interval[2])
        states = (
            State.of(test.rejected, test.detectable <= detect),
            State.of(self.variance and differ, not self.variance or second.detectable <= VARIANCE_DETECT * detect),
        )
        length = float(np.linalg.norm(test.mean))
        apart = (length, max(0.0, length - test.radius), length + test.radius)
        # for the diagnosis: how well the mean is known against a multiple (up to 2) of the other's
        alone = [mean_test((side - side.mean(0)) / unit, level, floor).radius for side in (own, other)]
        finding = Finding(
            *(*self._what(layer), other.mean(0) / unit, own.mean(0) / unit, alone[0] + 2 * alone[1], test.noise),
            *(its + (ratio - 1) * scale, 0.0, math.inf, test.rejected, test.detectable, draws),
        )
        return Difference(finding, apart, comparable, interval, *states, second.detectable)

    def _what(self, layer: str) -> tuple[Place, str, tuple[int, int] | None]:
        return self.subject.place, layer, shape_of(self.subject.problem, layer)

    def _unit(self, where: slice, mean: np.ndarray) -> tuple[float, bool]:
        """What differences are relative to, and whether that is the norm of the other's mean, as it is by default.

        Where the mean is as good as zero, it is the norm of the exact gradient, of the layer or else of all.
        """
        truth = self.subject.truth.vector
        own, whole, norm = float(truth[where].norm()), float(truth.norm()) or 1.0, float(np.linalg.norm(mean))
        if norm > 0.01 * own and norm > 1e-12 * whole:
            return norm, True
        return (own if own > 1e-12 * whole else whole), False
