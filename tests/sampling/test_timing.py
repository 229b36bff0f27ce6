"""Timed batches: how many, of what, and that they change no draw."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from gradeval import Problem, evaluate, load_problem
from gradeval.estimators import get_estimator
from gradeval.sampling.sampler import Sampler
from gradeval.sampling.timing import FEWEST_BATCHES, LOOP, TIMED_BATCHES, further_times
from gradeval.studies.costs import Meter
from gradeval.threads import one_thread


@pytest.fixture(scope="module")
def problem() -> Problem:
    return load_problem("expclass", units="2-2", stage=0, points=20)


@pytest.fixture(autouse=True)
def thread() -> Iterator[None]:
    with one_thread():
        yield


def times_of(problem: Problem, name: str, planned: int) -> list[tuple[int, float]]:
    sampler, times = Sampler(problem, name, get_estimator(name)), []
    sampler.chunk(2 if sampler.deterministic else planned, "test", times=times)
    return further_times(sampler, planned, times, "test")


@pytest.mark.parametrize("name", ["st", "tanh"])
def test_small_runs_have_enough_timed_batches(problem: Problem, name: str) -> None:
    """Each is of as many draws as a batch of the run; a deterministic estimator's own two draws do not count."""
    found = times_of(problem, name, 100)
    assert FEWEST_BATCHES <= len(found) <= TIMED_BATCHES
    assert {draws for draws, _ in found} == {100}
    assert all(seconds >= 0 for _, seconds in found)


def test_runs_of_many_batches_are_timed_by_their_own(problem: Problem) -> None:
    sampler, times = Sampler(problem, "st", get_estimator("st")), []
    sampler.batch = 10
    sampler.chunk(85, "test", times=times)
    assert [draws for draws, _ in times] == [10] * 8 + [5]
    assert further_times(sampler, 85, times, "test") == times


def test_a_deterministic_estimator_computes_every_draw_that_is_timed(problem: Problem) -> None:
    """FLOPs grow with the draws as an estimator's that samples; planted: vmap over draws that are all the same."""
    flops = {}
    for planned in (50, 100):
        with Meter() as meter:
            batches = len(times_of(problem, "tanh", planned))
        flops[planned] = meter.products / batches
    assert flops[100] / flops[50] == pytest.approx(2, rel=0.2)


def test_a_deterministic_estimator_costs_about_what_others_cost(problem: Problem) -> None:
    """Its time was that of one call, 65 times st's; planted too: copies, a hundredth of it. Within a factor of 5."""
    table = evaluate(problem, ["st", "tanh"], draws=4000, exact="never", workers=1).timings.set_index("estimator")
    assert 1 / 5 < table.loc["tanh", "seconds_per_draw"] / table.loc["st", "seconds_per_draw"] < 5
    assert (table["seconds_per_draw_low"] <= table["seconds_per_draw"]).all()
    assert (table["seconds_per_draw"] <= table["seconds_per_draw_high"]).all()


def test_draws_in_a_loop_are_timed_in_short_batches(problem: Problem) -> None:
    sampler = Sampler(problem, "st", get_estimator("st"))
    sampler.vectorised = False
    times: list[tuple[int, float]] = []
    sampler.chunk(60, "test", times=times)
    found = further_times(sampler, 60, times, "test")
    assert [draws for draws, _ in found][:2] == [60, LOOP]


def test_an_error_in_a_further_draw_is_none_of_the_run(problem: Problem) -> None:
    unlucky = []

    def mine(network, inputs, loss, randomness):
        p = network.layers[0].probability(network.layers[0].preactivation(inputs))
        if unlucky:
            raise ValueError("no more")
        return loss(network.layers[1].encode(network.layers[1].probability(p)) * randomness.bernoulli(p))

    sampler = Sampler(problem, "mine", mine)
    times: list[tuple[int, float]] = []
    sampler.chunk(10, "test", times=times)
    unlucky.append(True)
    assert further_times(sampler, 10, times, "test") == times


def test_timing_leaves_the_draws_and_the_global_generator_alone(problem: Problem) -> None:
    sampler = Sampler(problem, "st", get_estimator("st"))
    before = torch.random.get_rng_state()
    first, _ = sampler.chunk(10, "a")
    further_times(sampler, 10, [(10, 0.1)], "a")
    again, _ = sampler.chunk(10, "a")
    assert torch.equal(first, again)
    assert torch.equal(before, torch.random.get_rng_state())
