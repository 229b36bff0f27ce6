"""Verdicts: claims that hold, fail and stay undecided; estimators that behave badly; networks of other maps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from gradeval import Problem, StochasticBinaryNetwork, load_problem
from gradeval.checking import limits, replicates
from gradeval.checking.battery import ROWS, battery_problems, make_problem
from gradeval.checking.places import is_saturated
from gradeval.checking.procedure import check
from gradeval.checking.sequential import mean_test
from gradeval.errors import GradevalError
from gradeval.estimators import get_estimator
from gradeval.estimators.surrogate import carry, sample_path
from gradeval.sampling.sampler import Sampler

pytestmark = pytest.mark.no_shapes  # the other files of this room look at them
ONE = [make_problem(ROWS[0])]
QUIET = [make_problem(ROWS[3])]  # little variance: few draws of what is drawn in a loop
PAIR = [make_problem(ROWS[0]), make_problem(ROWS[5])]


def wrong_sign(network, inputs, loss, randomness):
    f = get_estimator("reinforce")(network, inputs, loss, randomness)
    return 2 * f.detach() - f


# --- verdicts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["reinforce", "leg", "muprop"])
def test_those_of_bernoulli_states_hold_exactly(spec: str) -> None:
    problems = None if spec == "reinforce" else battery_problems()  # the edges, too, for one of them
    verdict = check(spec, problems=problems, workers=1)
    assert verdict.verdict == "holds", verdict
    assert set(verdict.table["method"]) == {"exact"}
    assert "no false alarm is possible" in verdict.guarantee
    assert verdict.table["relative_bias"].max() < 1e-9


@pytest.mark.parametrize("spec", ["arm", "rebar"])
def test_sampled_ones_hold_with_the_power_that_is_stated(spec: str) -> None:
    verdict = check(spec, detect=0.05, problems=PAIR, workers=1)
    assert verdict.verdict == "holds", verdict
    assert set(verdict.table["method"]) == {"sampled"}
    assert verdict.table["detectable"].max() <= 0.05
    assert (verdict.table["relative_bias_low"] <= 1e-12).all()
    assert "err with probability ≤ 1e-06" in verdict.guarantee


def test_fitted_ones_are_fitted() -> None:
    assert check("nvil", problems=PAIR, workers=1).verdict == "holds"


def test_biased_ones_fail_the_claim_and_keep_bounds() -> None:
    problems = battery_problems()[:6]
    verdict = check("psa", unbiased=True, problems=problems, workers=1)
    assert verdict.verdict == "fails"
    assert "the layers below the last: relative bias" in verdict.diagnosis[0]  # one layer, and the last: exact
    bias, cosine = verdict.table["relative_bias"].max(), verdict.table["cosine"].min()
    variance = verdict.table["relative_variance"].max()
    bounds = {"max_relative_bias": bias, "min_cosine": cosine, "max_relative_variance": variance}
    assert check("psa", **bounds, problems=problems, workers=1).verdict == "holds"
    for name, bound in bounds.items():
        tighter = (1 + bound) / 2 if name == "min_cosine" else 0.9 * bound
        beyond = check("psa", **{name: tighter}, problems=problems, workers=1)
        assert beyond.verdict == "fails", name
        assert "the bound is" in beyond.diagnosis[0]


def test_bounds_are_decided_by_sampling_too() -> None:
    """concrete: the exact figures are not known, so bounds far on either side."""
    wide = check("concrete", max_relative_bias=0.9, min_cosine=0.1, max_relative_variance=50.0, problems=ONE, workers=1)
    assert wide.verdict == "holds", wide
    found = wide.table.iloc[0]
    for name in ("relative_bias", "cosine", "relative_variance"):
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
    assert check("concrete", max_relative_variance=1e-4, problems=ONE, workers=1).verdict == "fails"


def test_nothing_claimed_is_undecided() -> None:
    verdict = check("st", problems=ONE, workers=1)
    assert (verdict.verdict, verdict.exit_code) == ("undecided", 3)
    assert "nothing is claimed" in verdict.notes[-1]
    assert not verdict.table.empty


def test_too_few_draws_are_undecided() -> None:
    verdict = check("arm", max_draws=4096, problems=ONE, workers=1)
    assert (verdict.verdict, verdict.exit_code) == ("undecided", 3)
    (needed,) = re.findall(r"raise max-draws, to about (\S+), or detect", verdict.notes[-1])
    assert 8192 <= float(needed) <= 2**23
    assert check("arm", max_draws=int(float(needed)), problems=ONE, workers=1).verdict == "holds"


def test_the_same_seed_gives_the_same_verdict_whatever_the_workers() -> None:
    tables = [check("arm", detect=0.1, problems=PAIR, workers=n, seed=s).table for n, s in ((1, 3), (2, 3), (1, 4))]
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.0}, "alpha must be above 0"),
        ({"detect": 2.0}, "detect must be above 0 and at most 1"),
        ({"min_cosine": -2.0}, "min_cosine must be at least -1"),
        ({"max_draws": 1}, "max_draws must be at least"),
        ({"problems": []}, "problems is empty"),
        ({"detct": 0.1}, "unknown option of check 'detct': did you mean detect"),
    ],
)
def test_unusable_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(GradevalError, match=message):
        check("st", **arguments)


# --- estimators that behave badly ------------------------------------------------------------------


def test_global_randomness_is_noted() -> None:
    def own_chance(network, inputs, loss, randomness):
        x, log_prob = inputs, 0.0
        for layer in network.layers:
            a = layer.preactivation(x)
            s = (torch.rand(a.shape, dtype=a.dtype) < layer.probability(a)).to(a.dtype)
            log_prob, x = log_prob + layer.log_prob(s, a), layer.encode(s)
        f = loss(x)
        return f + f.detach() * carry(log_prob)

    verdict = check(own_chance, unbiased=True, detect=0.4, problems=ONE, workers=1)
    assert verdict.verdict == "holds", verdict
    assert any("uses global randomness (torch's)" in note for note in verdict.notes)
    assert set(verdict.table["method"]) == {"sampled"}  # states it draws itself cannot be enumerated


def test_a_draw_that_ignores_the_generator_it_was_given_is_not_taken_for_exact() -> None:
    """Bernoulli states from `randomness`, and further chance from its generator: not enumerable."""

    def mixed(network, inputs, loss, randomness):
        f = get_estimator("reinforce")(network, inputs, loss, randomness)
        return f + (torch.rand(1, generator=randomness.generator, dtype=f.dtype) - 0.5) * carry(f)

    assert set(check(mixed, unbiased=True, detect=0.2, problems=ONE, workers=1).table["method"]) == {"sampled"}


def test_what_cannot_be_vectorised_runs_in_a_loop_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LEAST_POINTS", 8)  # a loop takes its time

    def branching(network, inputs, loss, randomness):
        steps, x = sample_path(network, inputs, randomness)
        f = loss(x)
        if f.mean().item() > 1e9:
            return f
        return f + f.detach() * carry(sum(step.layer.log_prob(step.s, step.a) for step in steps))

    verdict = check(branching, unbiased=True, detect=0.6, alpha=0.01, max_draws=2**11, problems=QUIET, workers=1)
    assert verdict.verdict == "holds", verdict
    assert any("drawn in a loop" in note for note in verdict.notes)


# --- problems at the edge ---------------------------------------------------------------------------


def test_nothing_to_compare_with_is_no_green_light() -> None:
    """All parameters zero: no layer has a gradient, so an estimator of anything whatever has not been tested."""
    network = StochasticBinaryNetwork.linear(2, [2], 1)
    inputs, targets = torch.ones(2, 2, dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    verdict = check("reinforce", unbiased=True, problems=[Problem(network, inputs, targets, "logistic")])
    assert verdict.verdict == "undecided"
    assert "there is nothing to compare with" in " ".join(verdict.notes)


@dataclass(frozen=True)
class Stray:
    """REINFORCE with a bias of the first layer only, of a size that is much where that layer's gradient is zero."""

    size: float
    noise: float = 0.0  # with chance of its own the test is sequential

    def __call__(self, network, inputs, loss, randomness):
        value = get_estimator("reinforce")(network, inputs, loss, randomness)
        first = sum(p.sum() for p in network.layers[0].parameters())
        chance = self.noise * (randomness.uniform((len(inputs), 1))[..., 0] - 0.5) if self.noise else 0.0
        return value + (self.size + chance) * (first - first.detach())


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_a_bias_where_the_exact_gradient_is_zero_is_seen(noise: float) -> None:
    """The head ignores its inputs, so the first layer has no gradient; the head has one."""
    network = StochasticBinaryNetwork.linear(2, [2], 1)
    with torch.no_grad():
        network.layers[0].map.weight.fill_(0.5)
        network.head.bias.fill_(0.3)
    inputs, targets = torch.ones(2, 2, dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    problem = Problem(network, inputs, targets, "logistic")
    honest = check(Stray(0.0, noise), unbiased=True, problems=[problem])
    assert honest.verdict == "holds", str(honest)
    found = check(Stray(1.0, noise), unbiased=True, problems=[problem])
    assert found.verdict == "fails"
    assert "layer 1: the exact gradient is zero, but the mean gradient is not" in str(found)


def test_more_directions_than_replicates_can_test_are_undecided() -> None:
    """T² of 80 standard normal variables from 64 replicates: without the guard it rejects always."""
    random = np.random.default_rng(0)
    for directions in (53, 64, 80):
        found = mean_test(random.normal(size=(64, directions)), 0.05, 1e-4)
        assert not found.rejected
        assert found.detectable == np.inf
    random = torch.Generator().manual_seed(0)
    network = StochasticBinaryNetwork.linear(20, [4], 1)
    for parameter in network.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=random, dtype=torch.float64)
    inputs = torch.randn(40, 20, generator=random, dtype=torch.float64)
    verdict = check("arm", problems=[Problem(network, inputs, torch.ones(40, dtype=torch.float64), "logistic")])
    assert verdict.verdict == "undecided"
    assert "varies in more than 52 directions" in " ".join(verdict.notes)
    assert "In some layer no bias would have been found" in verdict.guarantee  # it said: a bias of inf
    assert verdict.table["draws"].max() < 2**20  # more draws are of no use


@pytest.mark.parametrize(
    ("name", "options", "verdict"),
    [
        ("digits", {"units": "1c-2c"}, "undecided"),  # its head varies in more directions than replicates can test
        ("autoencoder", {"units": "3-2", "encoder": "4", "decoder": "4"}, "holds"),
    ],
)
def test_networks_of_other_maps_are_checked(name: str, options: dict[str, str], verdict: str) -> None:
    """Convolutions, and layers and heads of several maps, have no single weight. (It was an AttributeError.)"""
    problem = load_problem(name, points=20, **options)
    found = check("reinforce", problems=[problem], detect=0.3, max_draws=2**14, workers=1)
    assert found.verdict == verdict, found
    assert set(found.table["layer"]) == {"1", "2", "head"}
    wrong = check(wrong_sign, unbiased=True, problems=[problem], detect=0.3, max_draws=2**14, workers=1)
    assert wrong.verdict == "fails"
    assert any("the sign is wrong" in line for line in wrong.diagnosis), wrong


def test_the_memory_of_many_parameters_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws come in smaller parts where their gradients are long, and the verdict is the same but for rounding."""
    whole = check("arm", detect=0.2, problems=ONE, workers=1).table
    rows: list[int] = []
    given = Sampler.given
    monkeypatch.setattr(
        Sampler, "given", lambda self, part, random: rows.append(len(part)) or given(self, part, random)
    )
    monkeypatch.setattr(replicates, "ENTRIES_AT_ONCE", 64 * 9 * 100)
    parts = check("arm", detect=0.2, problems=ONE, workers=1).table
    assert max(rows) == 64 * 100  # nine parameters
    assert whole["verdict"].equals(parts["verdict"])


def test_progress_has_two_steps_for_each_problem() -> None:
    """The contract: a task is started, advanced to its total and finished."""
    told: list[tuple[Any, ...]] = []

    class Told:
        def start(self, task: str, total: int) -> None:
            told.append(("start", task, total))

        def advance(self, task: str, steps: int) -> None:
            told.append(("advance", task, steps))

        def finish(self, task: str, note: str = "") -> None:
            told.append(("finish", task, note))

    check("reinforce", problems=PAIR, workers=2, progress=Told())
    assert told == [("start", "checking", 4), *4 * [("advance", "checking", 1)], ("finish", "checking", "")]


def test_saturated_units_are_seen() -> None:
    for row in ROWS:
        assert is_saturated(make_problem(row)) == row.saturated
