"""An estimator on one problem: what is known of it so far, and how to know more."""

from __future__ import annotations

import math

from gradeval.checking.claims import Claims, State, worst
from gradeval.checking.coupling import variance_growth
from gradeval.checking.evidence import Evidence, on_all_states, on_replicates
from gradeval.checking.findings import Finding, Value
from gradeval.checking.known import can_be_known
from gradeval.checking.limits import RARE, REPLICATES, Limits
from gradeval.checking.places import place_of
from gradeval.checking.replicates import Replicates
from gradeval.checking.sequential import level_of_look
from gradeval.errors import GradevalError
from gradeval.estimators import Estimator
from gradeval.estimators.protocol import copied, fit, repeats_of
from gradeval.model.problem import Problem
from gradeval.reference import exact_gradient
from gradeval.sampling.probes import Coupled, describe, probe
from gradeval.sampling.sampler import OWN_CHANCE, Sampler
from gradeval.threads import one_thread

BEYOND_REACH = "not sampled: its chance is its own, so rare states of the network may be missed"

KEEPS_STATE = "it keeps a state between draws"


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
        coupling: how many times the variance of independent points a draw has, where its points are coupled; else 1.
        coupled: why they are; empty where they are not.
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
        self.coupled, self.coupling = "", 1.0
        try:
            with one_thread():
                estimator = fit(copied(estimator), name, problem, limits.seed).estimator
                self.behaviour = probe(problem, estimator)
            self.notes = list(self.behaviour.notes)
            self.estimator = estimator
            self.repeats = repeats_of(estimator)
            self.sampler = Sampler(problem, name, estimator, KEEPS_STATE if self.behaviour.stateful else "")
            self.truth = exact_gradient(problem)
            self.truth.check_size()
        except GradevalError as error:
            self.trouble = str(error)
            return
        except Exception as error:
            self.trouble = f"raises {describe(error)}"
            return
        self.notes += [note for note in self.sampler.notes if note != OWN_CHANCE]  # the probe says it better
        with one_thread():
            self.place = place_of(problem, estimator)
            self.exactly = _can_be_enumerated(self)
        if self.coupled:
            self.coupling = variance_growth(self.sampler)

    @property
    def limited(self) -> bool:
        """Whether this problem is one at the edge, nothing speaks against the estimator, and more was not asked for."""
        return self.limits.edge and not self.exactly and not self.trouble and self.state is State.UNDECIDED

    def refine(self, radius: float | None) -> None:
        """Draw until every claim is decided, or every mean gradient is known well enough. Trouble is kept, not raised.

        Args:
            radius: how well, relative to ‖g*‖; None: only the claims count.
        """
        try:
            if self.exactly and not self.findings:
                self._enumerate()
            if not self.exactly:
                self._sample(radius)
        except GradevalError as error:
            self.trouble = str(error)
        except Exception as error:
            self.trouble = f"raises {describe(error)}"

    def _sample(self, radius: float | None) -> None:
        vectorised = self.sampler.vectorised
        budget = self.limits.budget(vectorised, self.repeats)
        if self.replicates is None:
            if _beyond_reach(self):
                return
            self.replicates = Replicates(
                self.sampler,
                self.truth,
                self.behaviour.uniforms,
                self.seed,
                tilted=self.place.rarest < RARE,
                independent=self.behaviour.stateful,
            )
        while not (self._enough(radius) or self._hopeless()):
            points = max(self.limits.first_points(vectorised, self.repeats), self.replicates.points)
            if REPLICATES * (self.replicates.points + points) * self.repeats > budget:
                break
            self.replicates.add(points)
            self._look(self.replicates)

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
        try:
            evidence = on_all_states(self.sampler, self.place, self.truth)
        except Exception as error:
            self.exactly = False
            reason = str(error) if isinstance(error, GradevalError) else describe(error)
            self.notes.append(f"not decided exactly: {reason}")
            return
        self._judge(evidence)

    def _look(self, replicates: Replicates) -> None:
        """Test everything on the replicates there are."""
        level = level_of_look(self.alpha, replicates.looks)
        # by the first look, which may reject already, events of this probability have been seen
        self.rarest = self.rarest or math.log(1 / level) / (REPLICATES * replicates.points * self.repeats)
        found = on_replicates(
            self.problem, self.place, self.truth, replicates, (level, self.limits.detect), self.repeats
        )
        self._judge(found)

    def _judge(self, evidence: Evidence) -> None:
        self.findings, self.vanishing, self.value = evidence.findings, evidence.vanishing, evidence.value
        states = [state for f in self.findings for state in self.claims.judge(f, self.limits.detect).values()]
        if self.claims.unbiased:
            states += self.vanishing.values()
        if not self.findings:
            states.append(State.UNDECIDED)
        if self.claims.unbiased and self.value and self.value.unequal:
            states.append(State.FAILS)
        self.state = worst(states)


def _can_be_enumerated(subject: Subject) -> bool:
    """Whether its moments can be had exactly; why its points are coupled, or a note, where they cannot."""
    sampler, behaviour = subject.sampler, subject.behaviour
    if sampler.own_chance or behaviour.own_chance or behaviour.stateful:
        return False
    try:
        return can_be_known(sampler, len(subject.truth.vector), subject.limits.entries)
    except Coupled as error:
        subject.coupled = str(error)
    except GradevalError as error:
        if sampler.vectorised:
            subject.notes.append(f"not decided exactly: {error}")
    return False


def _beyond_reach(subject: Subject) -> bool:
    """Whether states are so rare that the draws of an estimator with chance of its own may miss them."""
    sampler, repeats = subject.sampler, subject.repeats
    needed = math.log(1 / level_of_look(subject.alpha, 1)) / subject.place.rarest
    first = REPLICATES * repeats * subject.limits.first_points(sampler.vectorised, repeats)
    if not (subject.behaviour.own_chance or sampler.own_chance) or needed <= first:
        return False
    if BEYOND_REACH not in subject.notes:
        subject.notes.append(BEYOND_REACH)
    return True
