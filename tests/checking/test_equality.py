"""Equality with a built-in estimator: what a biased estimator is, by definition."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from gradeval import Problem, StochasticBinaryNetwork
from gradeval.checking.battery import ROWS, make_problem
from gradeval.checking.procedure import check
from gradeval.errors import GradevalError
from gradeval.estimators import get_estimator
from gradeval.estimators.straight_through import with_backward_factor
from gradeval.estimators.surrogate import carry
from gradeval.model.randomness import Randomness

ONE = [make_problem(ROWS[0])]
SIGNS = [make_problem(ROWS[2])]  # states −1 and 1
DEEP = [make_problem(ROWS[0]), make_problem(ROWS[5])]


def reinmax_twice(network, inputs, loss, randomness):
    """ReinMax with F'/P(s) in place of F'/(2 P(s))."""

    def backward(layer, a, s):
        sign = 2 * s - 1
        return sign * layer.noise.log_cdf(sign * a)

    return with_backward_factor(network, inputs, loss, randomness, backward)


def st_without_delta(network, inputs, loss, randomness):
    """Straight-through whose states are encoded before the backward part is added: δ is forgotten."""
    x = inputs
    for layer in network.layers:
        a = layer.preactivation(x)
        s = randomness.bernoulli(layer.probability(a))
        x = layer.encode(s) + carry(layer.probability(a))
    return loss(x)


def st_with_noise(network, inputs, loss, randomness):
    """Straight-through and a fair coin of mean zero: the mean is the same, the variance is not."""
    f = get_estimator("st")(network, inputs, loss, randomness)
    coin = randomness.bernoulli(torch.full_like(f.detach(), 0.5)) - 0.5
    return f + coin * carry(sum(p.sum() for p in network.parameters()))


@dataclass(frozen=True)
class Mirror(Randomness):
    """The same distribution (all noises are symmetric) in other draws."""

    inner: Randomness

    def uniform(self, shape):
        return 1 - self.inner.uniform(shape)

    def bernoulli(self, probability):
        return 1 - self.inner.bernoulli(1 - probability)

    def normal(self, shape):
        return -self.inner.normal(shape)

    def noise(self, distribution, shape):
        return -self.inner.noise(distribution, shape)


def mirrored(spec: str, value: float = 0.0):
    estimator = get_estimator(spec)

    def other_draws(network, inputs, loss, randomness):
        return estimator(network, inputs, loss, Mirror(randomness)) + value

    return other_draws


# --- exactly ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "equals"), [("reinmax", "zgr"), ("mve:strength=0", "st"), ("reinforce", "reinforce")])
def test_what_is_equal_holds_exactly(spec: str, equals: str) -> None:
    verdict = check(spec, equals=equals, problems=DEEP, workers=1)
    assert verdict.verdict == "holds", verdict
    assert set(verdict.table["method"]) == {"exact"}
    assert "no false alarm is possible" in verdict.guarantee
    other = verdict.against
    assert verdict.claims == [f"the mean of {other}", f"the variance of {other}"]


def test_a_factor_of_two_on_reinmax_fails() -> None:
    """No claim about its bias notices it: ReinMax is biased anyway."""
    verdict = check(reinmax_twice, equals="reinmax", problems=ONE, workers=1)
    assert verdict.verdict == "fails"
    assert verdict.exit_code == 1
    assert verdict.diagnosis[0].startswith("all layers: the mean of reinmax times 2 (scale 2): these problems"), verdict
    assert verdict.table["variance_ratio"].iloc[0] == pytest.approx(4)
    head = verdict.table.iloc[-1]
    assert (head["layer"], head["verdict"]) == ("head", "holds")


def test_a_forgotten_delta_fails_where_delta_is_not_one() -> None:
    assert check(st_without_delta, equals="st", problems=ONE, workers=1).verdict == "holds"
    verdict = check(st_without_delta, equals="st", problems=[*ONE, *SIGNS], workers=1)
    assert verdict.verdict == "fails"
    assert "the mean of st times" in verdict.diagnosis[0]
    assert "the states are {-1, 1}" in verdict.diagnosis[1]


def test_the_variance_counts_unless_only_the_mean_is_claimed() -> None:
    verdict = check(st_with_noise, equals="st", problems=ONE, workers=1)
    assert verdict.verdict == "fails"
    assert set(verdict.table["verdict"]) == {"fails: variance"}
    assert "times that of st" in verdict.diagnosis[0]
    assert verdict.failing.equals(verdict.table)
    only_mean = check(st_with_noise, equals_mean="st", problems=ONE, workers=1)
    assert only_mean.verdict == "holds", only_mean
    assert only_mean.claims == ["the mean of st"]


def test_covariances_count_where_they_are_exact() -> None:
    """A coin moves two entries of the gradient together, or against each other: the variances are the same."""

    def moved(sign: float):
        def estimator(network, inputs, loss, randomness):
            f = get_estimator("st")(network, inputs, loss, randomness)
            coin = randomness.bernoulli(torch.full_like(f.detach(), 0.5)) - 0.5
            bias = network.layers[0].map.bias
            return f + coin * carry(bias[0] + sign * bias[1])

        return estimator

    assert check(moved(1.0), equals=moved(1.0), problems=ONE, workers=1).verdict == "holds"
    verdict = check(moved(1.0), equals=moved(-1.0), problems=ONE, workers=1)
    assert verdict.verdict == "fails"
    assert "other variances or covariances" in verdict.diagnosis[0], verdict


def test_a_wrong_value_fails() -> None:
    def twice_the_value(network, inputs, loss, randomness):
        f = get_estimator("st")(network, inputs, loss, randomness)
        return f + f.detach()

    verdict = check(twice_the_value, equals="st", problems=ONE, workers=1)
    assert verdict.verdict == "fails"
    assert set(verdict.table["verdict"]) == {"fails: value"}
    assert verdict.diagnosis[0].startswith("the value: E[value] is")


def test_nan_in_some_states_is_not_equality() -> None:
    def rarely_nan(network, inputs, loss, randomness):
        f = get_estimator("st")(network, inputs, loss, randomness)
        coin = randomness.bernoulli(torch.full_like(f.detach(), 0.01))
        return f + torch.where(coin > 0, math.nan, 0.0) * carry(sum(p.sum() for p in network.parameters()))

    assert check(rarely_nan, equals="st", problems=ONE, workers=1).verdict == "fails"


def test_a_mean_of_zero_is_compared_on_the_scale_of_the_exact_gradient() -> None:
    """The head ignores its inputs: the first layer has no gradient, exact or by st."""
    network = StochasticBinaryNetwork.linear(2, [2], 1)
    with torch.no_grad():
        network.layers[0].map.weight.fill_(0.5)
        network.head.bias.fill_(0.3)
    inputs, targets = torch.ones(2, 2, dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    problem = Problem(network, inputs, targets, "logistic")

    def stray(network, inputs, loss, randomness):
        f = get_estimator("st")(network, inputs, loss, randomness)
        return f + 0.01 * carry(sum(p.sum() for p in network.layers[0].parameters()))

    assert check("reinmax", equals="st", problems=[problem], workers=1).verdict == "holds"  # both means are zero
    verdict = check(stray, equals="st", problems=[problem], workers=1)
    assert verdict.verdict == "fails"
    assert "the mean of st is zero, but the mean gradient is not" in " ".join(verdict.diagnosis), verdict


# --- by tests ---------------------------------------------------------------------------------------------------------


def test_the_same_in_other_draws_holds_with_the_power_that_is_stated() -> None:
    verdict = check(
        mirrored("concrete:temperature=1"), equals="concrete:temperature=1", detect=0.05, problems=ONE, workers=1
    )
    assert verdict.verdict == "holds", verdict
    assert set(verdict.table["method"]) == {"sampled"}
    assert verdict.table["detectable"].max() <= 0.05
    assert verdict.table["detectable_variance"].max() <= 0.25
    assert "A relative difference of" in verdict.guarantee
    assert (verdict.table["variance_ratio_low"] <= 1).all()
    assert (verdict.table["variance_ratio_high"] >= 1).all()


def test_tests_see_a_difference_of_means_values_and_variances() -> None:
    other = check(
        mirrored("concrete:temperature=0.8"), equals="concrete:temperature=1", detect=0.05, problems=ONE, workers=1
    )
    assert other.verdict == "fails"
    assert not (other.table["relative_bias_low"] <= 0).all()
    value = check(
        mirrored("concrete:temperature=1", value=0.1),
        equals="concrete:temperature=1",
        detect=0.05,
        problems=ONE,
        workers=1,
    )
    assert "fails: value" in set(value.table["verdict"])
    samples = {"equals": "gumbel-rao:samples=2", "detect": 0.1, "problems": ONE, "workers": 1}
    fewer = check("gumbel-rao:samples=1", **samples)
    assert "fails: variance" in set(fewer.table["verdict"]), fewer
    row = fewer.table.iloc[0]
    assert 1 < row["variance_ratio_low"] <= row["variance_ratio"] <= row["variance_ratio_high"]
    assert (
        check("gumbel-rao:samples=1", equals_mean="gumbel-rao:samples=2", **dict(list(samples.items())[1:])).verdict
        == "holds"
    )


def test_an_exact_and_a_sampled_side_are_compared() -> None:
    """DisARM is enumerated, ARM is not; the means are the same, and the variance of ARM is higher."""
    verdict = check("arm", equals_mean="disarm", detect=0.1, problems=ONE, workers=1)
    assert verdict.verdict == "holds", verdict
    assert set(verdict.table["method"]) == {"sampled"}
    exact = check("disarm", equals="arm", detect=0.1, problems=ONE, workers=1)
    assert exact.verdict == "fails"
    assert exact.table["variance_ratio_high"].min() < 1


def test_false_alarms_are_as_rare_as_stated() -> None:
    """Eight checks at α = 0.05: with a rate of at most 0.05, four or more fail with probability 4e-4."""
    verdicts = [
        check(
            mirrored("concrete:temperature=1"),
            equals="concrete:temperature=1",
            alpha=0.05,
            detect=0.2,
            problems=ONE,
            workers=1,
            seed=seed,
        )
        for seed in range(8)
    ]
    assert sum(verdict.verdict == "fails" for verdict in verdicts) < 4


def test_too_few_draws_are_undecided() -> None:
    verdict = check(
        mirrored("concrete:temperature=1"), equals="concrete:temperature=1", max_draws=4096, problems=ONE, workers=1
    )
    assert (verdict.verdict, verdict.exit_code) == ("undecided", 3)
    assert "of the variances, would have been found" in verdict.notes[-1]


# --- input and output -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"equals": "reinmx"}, "unknown estimator 'reinmx': did you mean reinmax"),
        ({"equals": "st", "equals_mean": "st"}, "equals and equals_mean are claims of two checks"),
        ({"equals": "st", "unbiased": True}, "equals and unbiased are claims of two checks"),
        ({"equals_mean": "st", "min_cosine": 0.5}, "equals_mean and min_cosine are claims of two checks"),
        ({"equals": "st", "problems": []}, "problems is empty"),
    ],
)
def test_unusable_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(GradevalError, match=message):
        check("st", **arguments)


def test_an_estimator_that_raises_is_its_own_fault_and_the_other_is_the_callers() -> None:
    def broken(network, inputs, loss, randomness):
        raise ZeroDivisionError("by zero")

    assert "raises ZeroDivisionError" in check(broken, equals="st", problems=ONE, workers=1).diagnosis[0]
    with pytest.raises(GradevalError, match=r"equals: on .*broken raises ZeroDivisionError"):
        check("st", equals=broken, problems=ONE, workers=1)


def test_the_program_takes_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from gradeval.checking import procedure
    from gradeval.program.app import main

    monkeypatch.setattr(procedure, "battery_problems", lambda: ONE)
    mine = f"{Path(__file__)}:reinmax_twice"
    for extra in ((), ("--json",)):
        monkeypatch.setattr(sys, "argv", ["gradeval", "check", mine, "--equals", "reinmax", *extra])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 1
    out = capsys.readouterr().out
    text, _, data = out.rpartition("\n{")
    assert "against E[g] of reinmax" in text
    assert json.loads("{" + data)["against"] == "reinmax"
