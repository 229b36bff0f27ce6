"""`gradeval check`: is an estimator what it claims to be? A verdict on small problems, exact where it can be."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.checking.battery import battery
from gradeval.checking.diagnosis import Finding, Place, Value, diagnose
from gradeval.checking.sequential import FREEDOM, POWER, level_of_look, mean_test, rare_event_error
from gradeval.errors import GradevalError
from gradeval.estimators import Estimator, claims_unbiased, resolve
from gradeval.estimators.protocol import fit, samples_of
from gradeval.model.noise import NOISES, Noise
from gradeval.model.problem import Problem
from gradeval.model.randomness import derived_seed, generator
from gradeval.reference import MAX_BITS, ExactGradient, exact_gradient, exact_moments
from gradeval.sampling.probes import check_pointwise, count_chance, describe, probe
from gradeval.sampling.sampler import Sampler

EXACT = 1e-6  # an exact relative bias below this is rounding (of single precision, too)
EXACT_ENTRIES = 2**26  # joint states × points × parameters that are enumerated, a second or two
REPLICATES, LEAST_POINTS = 64, 32
FIRST_POINTS, FIRST_IN_A_LOOP = 512, 128  # of the first look, unless max_draws is below; a loop takes its time
MAX_DRAWS = 2**23
COARSE = 0.05  # first every problem is known so well (or half of detect); where none fails, as the claims need
ROWS_AT_ONCE = 2**14
MAX_SOBOL = torch.quasirandom.SobolEngine.MAXDIM

Progress = Callable[[str, int, int], None]
"""Told what is done, of how much: (text, done, total)."""


@dataclass(frozen=True)
class Claims:
    """What is to be checked in every layer of every problem; None: not claimed."""

    unbiased: bool
    max_relative_bias: float | None
    min_cosine: float | None
    max_relative_variance: float | None

    def words(self) -> list[str]:
        """One phrase for each."""
        phrases = ["unbiased"] if self.unbiased else []
        for value, phrase in (
            (self.max_relative_bias, "relative bias ≤ {:g}"),
            (self.min_cosine, "cosine of the mean ≥ {:g}"),
            (self.max_relative_variance, "relative variance of a draw ≤ {:g}"),
        ):
            if value is not None:
                phrases.append(phrase.format(value))
        return phrases

    def judge(self, finding: Finding, detect: float) -> dict[str, str]:
        """By claim: holds, fails or undecided."""
        verdicts = {}
        if self.unbiased:
            verdicts["unbiased"] = _state(finding.unequal, finding.detectable <= detect)
        if (bound := self.max_relative_bias) is not None:
            _, low, high = finding.relative_bias
            verdicts["max_relative_bias"] = _state(low > bound + EXACT, high <= bound + EXACT)
        if (bound := self.min_cosine) is not None:
            _, low, high = finding.cosine
            verdicts["min_cosine"] = _state(high < bound - EXACT, low >= bound - EXACT)
        if (bound := self.max_relative_variance) is not None:
            low, high = finding.variance_low, finding.variance_high
            verdicts["max_relative_variance"] = _state(low > bound * (1 + EXACT), high <= bound * (1 + EXACT))
        return verdicts


def _state(fails: bool, holds: bool) -> str:
    return "fails" if fails else "holds" if holds else "undecided"


def _worst(states: Iterable[str]) -> str:
    found = set(states)
    return next((state for state in ("fails", "undecided") if state in found), "holds")


@dataclass(frozen=True)
class Verdict:
    """What `check` found.

    Attributes:
        name: of the estimator.
        verdict: "holds", "fails" or "undecided".
        claims: in words.
        table: one row per problem and layer. scale ⟨E g, g*⟩/‖g*‖², cosine between E[g] and g*, relative_bias
            ‖E g − g*‖/‖g*‖ and relative_variance tr Cov(g)/‖g*‖² of one draw, with bounds that hold for all rows and at
            all times together with probability 1 − α; value_error (E[value] − J)/|J|; detectable, the relative
            bias that would have been found with probability 0.99 (zero: exact).
        diagnosis: what is wrong, in words.
        notes: what the user should know besides.
        alpha, detect, seed: as given.
        rarest: the probability below which an event of chance may have been missed by all tests; zero: none.
    """

    name: str
    verdict: str
    claims: list[str]
    table: pd.DataFrame
    diagnosis: list[str]
    notes: list[str]
    alpha: float
    detect: float
    seed: int
    rarest: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 holds, 1 fails, 3 undecided."""
        return {"holds": 0, "fails": 1, "undecided": 3}[self.verdict]

    @property
    def headline(self) -> str:
        """The verdict in a sentence."""
        return f"{self.name}: {', '.join(self.claims) or 'nothing claimed'}: {self.verdict.upper()}"

    @property
    def guarantee(self) -> str:
        """What stands behind it."""
        if self.table.empty:
            return "No problem could be evaluated."
        sampled = self.table["method"] == "sampled"
        exact = f"{self.table['problem'][~sampled].nunique()} problems decided exactly, on all joint states"
        if not sampled.any():
            return f"{exact}: no false alarm is possible."
        worst = float(self.table["detectable"][sampled].max())
        return (
            f"{exact}; {self.table['problem'][sampled].nunique()} by at most {self.table['draws'].max():,} draws: "
            f"all tests and bounds together err with probability ≤ {self.alpha:g}; a relative bias of {worst:.2g} in "
            f"any layer would have been found with probability {POWER:g} (seed {self.seed}). Events rarer than one in "
            f"{1 / self.rarest:,.0f} draws excepted: what is not seen is not tested."
        )

    def __str__(self) -> str:
        columns = ["problem", "layer", "scale", "cosine", "relative_bias", "relative_bias_low", "relative_bias_high"]
        columns += ["relative_variance", "value_error", "verdict"]
        lines = [self.headline, *(f"  {line}" for line in self.diagnosis)]
        if len(self.table):
            shown = self.table if self.verdict == "holds" else self.table[self.table["verdict"] != "holds"]
            lines.append(shown[columns].to_string(index=False, float_format=lambda x: f"{x:.3g}"))
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes), self.guarantee])

    def as_dict(self) -> dict[str, Any]:
        """For JSON: infinities and NaN as null."""
        rows = self.table.replace([math.inf, -math.inf], math.nan).astype(object)
        return {
            "estimator": self.name,
            "verdict": self.verdict,
            "claims": self.claims,
            "diagnosis": self.diagnosis,
            "notes": self.notes,
            "guarantee": self.guarantee,
            "alpha": self.alpha,
            "detect": self.detect,
            "seed": self.seed,
            "rows": rows.where(rows.notna(), None).to_dict("records"),
        }


def check(
    estimator: str | Estimator,
    *,
    unbiased: bool | None = None,
    max_relative_bias: float | None = None,
    min_cosine: float | None = None,
    max_relative_variance: float | None = None,
    alpha: float = 1e-6,
    detect: float = 0.01,
    seed: int = 0,
    max_draws: int = MAX_DRAWS,
    problems: Sequence[Problem] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Check an estimator against the exact gradient of the battery's problems.

    An estimator whose only chance is Bernoulli states is decided exactly where all its joint states can be enumerated,
    otherwise by a sequential test (`gradeval.checking.sequential`) whose false-alarm rate over all problems, layers and looks
    together is at most ``alpha``.

    Args:
        estimator: a spec ("psa", "module:name", "file.py:name") or a callable.
        unbiased: check E[g] = ∇J and E[value] = J; default: where the estimator claims it.
        max_relative_bias: a bound for ‖E g − g*‖/‖g*‖ in every layer.
        min_cosine: a bound for the cosine between E[g] and g* in every layer.
        max_relative_variance: a bound for tr Cov(g)/‖g*‖² of one draw in every layer.
        alpha: the false-alarm rate.
        detect: the relative bias, in any layer and direction, that is to be found with probability 0.99 before the
            verdict "holds".
        seed: every random number follows from it.
        max_draws: the most draws on one problem.
        problems: instead of the battery.
        workers: threads; the result does not depend on it. Default: one per core.
        progress: told what is done.

    Raises:
        GradevalError: an unknown estimator, or an argument out of its range.
    """
    for name, value, low, high in (
        ("alpha", alpha, 0.0, 0.5),
        ("detect", detect, 0.0, 1.0),
        ("max_relative_bias", max_relative_bias, 0.0, math.inf),
        ("min_cosine", min_cosine, -1.0, 1.0),
        ("max_relative_variance", max_relative_variance, 0.0, math.inf),
    ):
        strict = name in ("alpha", "detect")
        if value is not None and not (low < value <= high if strict else low <= value <= high):
            raise GradevalError(
                f"{name} must be {'above' if strict else 'at least'} {low:g} and at most {high:g}, found {value}."
            )
    if max_draws < REPLICATES * LEAST_POINTS:
        raise GradevalError(f"max_draws must be at least {REPLICATES * LEAST_POINTS}, found {max_draws}.")
    ((name, subject),) = resolve([estimator]).items()
    claimed = claims_unbiased(subject) if unbiased is None else unbiased
    bounds = (max_relative_bias, min_cosine, max_relative_variance)
    claims = Claims(claimed, *(None if bound is None else float(bound) for bound in bounds))
    problems = battery() if problems is None else list(problems)
    tests = sum(2 * len(problem.network.layer_slices()) - 1 for problem in problems)
    arguments = (seed, alpha / tests, detect, max_draws, claims)
    workers, coarse = workers or torch.get_num_threads(), max(COARSE, detect / 2)
    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        warnings.filterwarnings("ignore", message="There is a performance drop")
        report = _Report(progress, len(problems))
        # one after the other: what is global (a generator, parameters) can be watched
        subjects = [_Subject(name, subject, problem, *arguments) for problem in problems]
        trouble = [s for s in subjects if s.trouble]
        if not trouble:
            list(pool.map(lambda s: report(s, s.refine(coarse)), subjects))
            trouble = [s for s in subjects if s.trouble]
        if not trouble and not any(s.verdict == "fails" for s in subjects):
            list(pool.map(lambda s: report(s, s.refine(None)), subjects))
            trouble = [s for s in subjects if s.trouble]
    return _verdict(name, claims, subjects, trouble, alpha, detect, seed)


class _Report:
    def __init__(self, progress: Progress | None, problems: int) -> None:
        self.progress, self.done, self.total = progress, 0, 2 * problems

    def __call__(self, subject: _Subject, _: None) -> None:
        self.done += 1
        if self.progress:
            self.progress(subject.problem.name, self.done, self.total)


def _verdict(
    name: str,
    claims: Claims,
    subjects: list[_Subject],
    trouble: list[_Subject],
    alpha: float,
    detect: float,
    seed: int,
) -> Verdict:
    if trouble:
        lines = _on_problems([(s.trouble, s.problem.name) for s in trouble], len(subjects))
        notes = _on_problems([(note, s.problem.name) for s in subjects for note in s.notes], len(subjects))
        return Verdict(name, "fails", claims.words(), pd.DataFrame(), lines, notes, alpha, detect, seed)
    table = pd.DataFrame([row for s in subjects for row in s.rows()])
    notes = _on_problems([(note, s.problem.name) for s in subjects for note in s.notes], len(subjects))
    verdict = _worst(s.verdict for s in subjects)
    lines = []
    if claims.unbiased and verdict == "fails":
        for s in subjects:
            s.add_densities()
        lines = diagnose([f for s in subjects for f in s.findings], [s.value for s in subjects if s.value])
    lines += _beyond_bounds(claims, subjects, detect)
    if claims.unbiased:
        lines += [
            f"{s.problem.name}, layer {layer}: the exact gradient is zero, the mean one is not"
            for s in subjects
            for layer, state in s.vanishing.items()
            if state == "fails"
        ]
    notes += [
        f"{s.problem.name}: no layer has a gradient, there is nothing to compare with"
        for s in subjects
        if s.vanishing and not s.findings
    ]
    if not claims.words():
        verdict = "undecided"
        notes.append(
            "nothing is claimed, so nothing was judged: give --unbiased or a bound, or set an attribute `unbiased`"
        )
    elif verdict == "undecided" and len(table):
        open_ = table[table["verdict"] == "undecided"]
        if len(open_):
            where = open_.iloc[open_["detectable"].argmax()]
            bias = f"{where['detectable']:.2g}"
            why = f"a relative bias of {bias} could be found, not of {detect:g}; raise max-draws or detect"
            if math.isinf(where["detectable"]):
                most = REPLICATES - FREEDOM
                why = f"the gradient varies in more than {most} directions, too many to test; take fewer parameters"
            notes.append(
                f"undecided on {len(open_)} of {len(table)} rows within {int(open_['draws'].max()):,} draws: on "
                f"{where['problem']}, layer {where['layer']}, {why}"
            )
    rarest = max(s.rarest for s in subjects)
    return Verdict(name, verdict, claims.words(), table, lines, notes, alpha, detect, seed, rarest)


def _beyond_bounds(claims: Claims, subjects: list[_Subject], detect: float) -> list[str]:
    """One line for each bound that fails, with its worst row."""
    figures: dict[str, tuple[str, Callable[[Finding], float], int]] = {
        "max_relative_bias": ("relative bias", lambda f: f.relative_bias[0], 1),
        "min_cosine": ("cosine of the mean", lambda f: f.cosine[0], -1),
        "max_relative_variance": ("relative variance", lambda f: f.variance, 1),
    }
    lines = []
    for claim, (words, figure, sign) in figures.items():
        bad = [f for s in subjects for f in s.findings if claims.judge(f, detect).get(claim) == "fails"]
        if bad:
            worst = max(bad, key=lambda f: sign * figure(f))
            where = f"{worst.place.name}, layer {worst.layer}"
            lines.append(
                f"{words} {figure(worst):.3g}, the bound is {getattr(claims, claim):g}: {where} (worst of {len(bad)})"
            )
    return lines


def _on_problems(pairs: list[tuple[str, str]], total: int) -> list[str]:
    """Equal texts once, with where they apply."""
    where: dict[str, list[str]] = {}
    for text, problem in pairs:
        where.setdefault(text, []).append(problem)
    return [
        text if len(names) == total else f"{text} (on {len(names)} of {total} problems, e.g. {names[0]})"
        for text, names in where.items()
    ]


class _Subject:
    """The estimator on one problem: what is known so far, and how to know more.

    Attributes:
        trouble: why it cannot be evaluated; empty if it can.
        verdict: of all claims on this problem so far.
        rarest: see `Verdict`.
        vanishing: for each layer whose exact gradient is zero, whether the mean one is too (holds, fails, undecided).
    """

    def __init__(
        self,
        name: str,
        estimator: Estimator,
        problem: Problem,
        seed: int,
        alpha: float,
        detect: float,
        max_draws: int,
        claims: Claims,
    ) -> None:
        self.problem, self.claims, self.detect = problem, claims, detect
        self.alpha, self.max_draws, self.seed = alpha, max_draws, (seed, problem.fingerprint(), name)
        self.findings: list[Finding] = []
        self.vanishing: dict[str, str] = {}
        self.value: Value | None = None
        self.verdict, self.trouble, self.notes = "undecided", "", list[str]()
        self.replicates: _Replicates | None = None
        self.exactly, self.rarest = False, 0.0
        try:
            estimator = fit(estimator, name, problem, seed).estimator
            self.uniforms, self.notes = probe(problem, estimator)
            self.estimator = estimator
            self.sampler = Sampler(problem, name, estimator)
        except GradevalError as error:
            self.trouble = str(error)
            return
        except Exception as error:
            self.trouble = f"raises {describe(error)}"
            return
        self.notes += [note for note in self.sampler.notes if "randomness of its own" not in note]
        self.truth = exact_gradient(problem)
        self.place = _place(problem, estimator)
        self.exactly = self._can_be_enumerated()

    def _can_be_enumerated(self) -> bool:
        if not self.sampler.vectorised or self.sampler.own_chance:
            return False
        try:
            check_pointwise(self.problem, self.estimator)
            bits, continuous = count_chance(self.problem, self.estimator)
        except GradevalError as error:
            self.notes.append(f"not decided exactly: {error}")
            return False
        affordable = bits <= MAX_BITS and 2**bits * self.problem.points * len(self.truth.vector) <= EXACT_ENTRIES
        return not continuous and affordable

    def refine(self, radius: float | None) -> None:
        """Draw until every claim is decided, or every mean gradient is known within ``radius`` of ‖g*‖."""
        try:
            if self.exactly:
                if not self.findings:
                    self._enumerate()
                return
            if self.replicates is None:
                self.replicates = _Replicates(self.sampler, self.truth, self.uniforms, self.seed)
            while not (self._enough(radius) or self._hopeless()):
                first = FIRST_POINTS if self.sampler.vectorised else FIRST_IN_A_LOOP
                first = min(first, 2 ** int(math.log2(self.max_draws // REPLICATES)))
                points = max(first, self.replicates.points)
                if REPLICATES * (self.replicates.points + points) > self.max_draws:
                    break
                self.replicates.add(points)
                self._look()
        except GradevalError as error:
            self.trouble = str(error)

    def _enough(self, radius: float | None) -> bool:
        if not self.findings:
            return False
        if self.claims.words() and self.verdict == "holds":
            return True
        if self.claims.words() and self.verdict == "undecided" and radius is None:
            return False
        # a failure is diagnosed, and figures without a claim are shown, from means that are known so well
        return all(f.radius <= (radius or max(COARSE, self.detect / 2)) for f in self.findings)

    def _hopeless(self) -> bool:
        """Whether a mean gradient has more directions than the replicates can test, however many draws there are."""
        return any(math.isinf(f.detectable) for f in self.findings)

    def _enumerate(self) -> None:
        moments = exact_moments(self.problem, self.estimator, workers=1)
        for _, layer, where, norm in self._layers():
            exact, mean = (v[where].cpu().numpy() / norm for v in (self.truth.vector, moments.mean))
            variance = max(0.0, float(moments.variance[where].sum())) / norm**2
            unequal = bool(np.linalg.norm(mean - exact) > EXACT)
            spread = (variance, variance, variance)
            self._found(layer, exact, mean, 0.0, 0.0, spread, unequal, 0.0, 0)
        whole = float(self.truth.vector.norm())
        for _, layer, where in self._without_gradient():
            self.vanishing[layer] = _state(float(moments.mean[where].norm()) > EXACT * (whole or 1.0), True)
        tolerance = EXACT * max(abs(self.truth.value), 1e-300)
        unequal = abs(moments.value - self.truth.value) > tolerance
        self.value = Value(self.place, self.truth.value, moments.value, 0.0, unequal)
        self._judge()

    def _look(self) -> None:
        replicates = self.replicates
        assert replicates is not None
        level, draws = level_of_look(self.alpha, replicates.looks), REPLICATES * replicates.points
        means, values, squares = replicates.means()
        sizes = np.sqrt(replicates.largest)

        # by the first look, which may reject already, events of this probability have been seen
        self.rarest = self.rarest or math.log(1 / level) / draws

        def floor(index: int, scale: float) -> float:
            return max(self.detect / 100, rare_event_error(float(sizes[index]) / scale, draws, level))

        self.findings = []
        for index, layer, where, norm in self._layers():
            exact = self.truth.vector[where].cpu().numpy() / norm
            test = mean_test(means[:, where] / norm - exact, level, floor(index, norm))
            rare = rare_event_error((float(sizes[index]) / norm) ** 2, draws, level)
            error = mean_test(squares[:, index, None] / norm**2, level, rare)
            bias = float(np.linalg.norm(test.mean))
            low, high = max(0.0, bias - test.radius), bias + test.radius
            square = float(error.mean[0])
            variance = (
                max(0.0, square - max(0.0, bias**2 - test.noise)),
                max(0.0, square - error.radius - high**2),
                square + error.radius - low**2,
            )
            self._found(
                layer,
                exact,
                test.mean + exact,
                test.radius,
                test.noise,
                variance,
                test.rejected,
                test.detectable,
                draws,
            )
        whole = float(self.truth.vector.norm())
        for index, layer, where in self._without_gradient():  # on the scale of the whole gradient
            test = mean_test(means[:, where] / (whole or 1.0), level, floor(index, whole or 1.0))
            self.vanishing[layer] = _state(test.rejected, test.detectable <= self.detect)
        scale = max(abs(self.truth.value), 1e-300)
        error = mean_test(values[:, None] - self.truth.value, level, floor(-1, scale) * scale)
        self.value = Value(
            self.place, self.truth.value, float(error.mean[0]) + self.truth.value, error.radius, error.rejected
        )
        self._judge()

    def _layers(self) -> list[tuple[int, str, slice, float]]:
        """Number, name, place and norm of the exact gradient of the layers where that is not zero."""
        whole = float(self.truth.vector.norm())
        layers = [(k, where, float(self.truth.vector[where].norm())) for k, where in self.truth.slices.items()]
        return [(i, *row) for i, row in enumerate(layers) if row[0] != "all" and row[2] > 1e-12 * whole]

    def _without_gradient(self) -> list[tuple[int, str, slice]]:
        """The other layers."""
        known = {layer for _, layer, _, _ in self._layers()}
        layers = enumerate(self.truth.slices.items())
        return [(i, layer, where) for i, (layer, where) in layers if layer not in known | {"all"}]

    def _found(
        self,
        layer: str,
        exact: Float[np.ndarray, " p"],
        mean: Float[np.ndarray, " p"],
        radius: float,
        noise: float,
        variance: tuple[float, float, float],
        unequal: bool,
        detectable: float,
        draws: int,
    ) -> None:
        shape = _shape(self.problem, layer)
        numbers = (radius, noise, *variance, unequal, detectable, draws)
        self.findings.append(Finding(self.place, layer, shape, exact, mean, *numbers))

    def _judge(self) -> None:
        states = [state for f in self.findings for state in self.claims.judge(f, self.detect).values()]
        if self.claims.unbiased:
            states += self.vanishing.values()
        if not self.findings:
            states.append("undecided")
        if self.claims.unbiased and self.value and self.value.unequal:
            states.append("fails")
        self.verdict = _worst(states)

    def add_densities(self) -> None:
        """The mean gradients with another noise's density in place of F', for the diagnosis."""
        if not any(f.unequal for f in self.findings):
            return
        for name, noise in NOISES.items():
            if name == self.place.noise:
                continue
            network = deepcopy(self.problem.network)
            for layer in network.layers:
                layer.noise = _OtherDensity(self.problem.network.noise, noise)
            vector = exact_gradient(
                Problem(network, self.problem.inputs, self.problem.targets, self.problem.loss), "joint"
            ).vector
            for finding in self.findings:
                where = self.truth.slices[finding.layer]
                finding.others[name] = (vector[where] / self.truth.vector[where].norm()).cpu().numpy()

    def rows(self) -> list[dict[str, Any]]:
        """Of the table."""
        value = self.value
        error = math.nan if value is None else (value.mean - value.exact) / max(abs(value.exact), 1e-300)
        rows = []
        for f in self.findings:
            bias, low, high = f.relative_bias
            cosine, cosine_low, cosine_high = f.cosine
            judged = self.claims.judge(f, self.detect)
            value_fails = self.claims.unbiased and value is not None and value.unequal
            state = "fails: value" if value_fails and _worst(judged.values()) != "fails" else _worst(judged.values())
            rows.append(
                {
                    "problem": self.place.name,
                    "layer": f.layer,
                    "method": "sampled" if f.draws else "exact",
                    "draws": f.draws,
                    "scale": f.scale,
                    "cosine": cosine,
                    "cosine_low": cosine_low,
                    "cosine_high": cosine_high,
                    "relative_bias": bias,
                    "relative_bias_low": low,
                    "relative_bias_high": high,
                    "relative_variance": f.variance,
                    "relative_variance_low": f.variance_low,
                    "relative_variance_high": f.variance_high,
                    "value_error": error,
                    "detectable": f.detectable,
                    "verdict": state if judged else "",
                }
            )
        return rows


class _OtherDensity(Noise):
    """F of one noise, whose derivative is the density of another: the gradient by F' on all states uses that."""

    def __init__(self, truth: Noise, other: Noise) -> None:
        self.name, self.truth, self.other = truth.name, truth, other

    def cdf(self, a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        other = self.other.cdf(a)
        return self.truth.cdf(a).detach() + (other - other.detach())


class _Replicates:
    """Means over the points of independently scrambled Sobol sequences that stand for an estimator's uniform variables.

    The digits beyond a point's 30 are random, so that every variable is uniform as exactly as a random one.
    """

    def __init__(self, sampler: Sampler, truth: ExactGradient, uniforms: int, seed: tuple[object, ...]) -> None:
        self.sampler, self.truth = sampler, truth
        self.uniforms = uniforms if uniforms <= MAX_SOBOL else 0
        self.random = generator(sampler.problem.network.device, *seed, "replicates")
        self.engines = [
            torch.quasirandom.SobolEngine(self.uniforms, scramble=True, seed=derived_seed(*seed, "scramble", r))
            for r in range(REPLICATES if self.uniforms else 0)
        ]
        self.points = self.looks = 0
        self.sums: list[Tensor] = []
        self.largest = np.zeros(0)  # ‖g − g*‖² of one draw by layer, and the value's squared error

    def add(self, points: int) -> None:
        """So many further points in every replicate; counts as a look."""
        at_once = max(1, ROWS_AT_ONCE // REPLICATES)
        for start in range(0, points, at_once):
            self._add(min(at_once, points - start))
        self.points += points
        self.looks += 1

    def _add(self, count: int) -> None:
        dtype = self.sampler.problem.network.dtype
        if self.engines:
            rows = torch.cat([engine.draw(count, dtype=dtype) for engine in self.engines])
            rows = (rows + 2.0**-30 * torch.rand(rows.shape, generator=self.random, dtype=dtype)).clamp(
                2.0**-54, 1 - 2.0**-53
            )
        else:
            rows = torch.empty(REPLICATES * count, 0, dtype=dtype)
        gradients, values = self.sampler.given(rows, self.random)
        if not bool(torch.isfinite(values).all()):
            raise GradevalError(
                f"gave NaN or infinite values in {int((~torch.isfinite(values)).sum())} of {len(values)} draws"
            )
        errors = (gradients - self.truth.vector) ** 2
        layers = [errors[:, w].sum(1) for w in self.truth.slices.values()]
        squares = torch.stack([*layers, (values - self.truth.value).reshape(-1) ** 2], 1)
        parts = [part.reshape(REPLICATES, count, -1).sum(1) for part in (gradients, values, squares)]
        largest = squares.amax(0).cpu().numpy()
        self.largest = np.maximum(self.largest, largest) if self.sums else largest
        self.sums = [a + b for a, b in zip(self.sums, parts, strict=True)] if self.sums else parts

    def means(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of every replicate: gradient [replicates, P]; value [replicates]; ‖g − g*‖² by layer and the value's squared
        error [replicates, layers + 1]."""
        gradients, values, squares = ((total / self.points).cpu().numpy() for total in self.sums)
        return gradients, values[:, 0], squares


def _place(problem: Problem, estimator: Estimator) -> Place:
    with torch.no_grad():
        outputs = problem.network.head(torch.zeros(1, problem.widths[-1], dtype=problem.network.dtype)).shape[-1]
    loss = problem.loss if isinstance(problem.loss, str) else "own"
    return Place(
        problem.name,
        problem.inputs[0].numel(),
        tuple(problem.widths),
        outputs,
        problem.network.noise.name,
        problem.network.states,
        loss,
        problem.points,
        samples_of(estimator),
    )


def _shape(problem: Problem, layer: str) -> tuple[int, int]:
    network = problem.network
    map = network.head if layer == "head" else network.layers[int(layer) - 1].map
    weight: Tensor = map.weight  # type: ignore[assignment]
    return weight.shape[0], weight[0].numel()
