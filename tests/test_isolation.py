"""Code that runs alone: what it changes is put back, what ends a program is an error, Ctrl-C still interrupts."""

from __future__ import annotations

import contextlib
import random
import signal
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

import gradeval
from gradeval.errors import GradevalError
from gradeval.estimators.moments import MeanField
from gradeval.isolation import ProcessState, alone, contained, in_company
from gradeval.model.randomness import RandomDraws, generator
from gradeval.sampling import probes
from gradeval.sampling.independence import independent_points
from gradeval.sampling.sampler import Sampler
from gradeval.sampling.surrogates import Surrogate
from gradeval.sampling.timing import further_times
from gradeval.studies.costs import cost_table


def test_generators_and_settings_are_put_back() -> None:
    before = ProcessState.now()
    with alone() as footprint:
        torch.manual_seed(3)
        np.random.seed(3)
        random.seed(3)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(before.settings["number of threads"] + 1)
    assert random.random() != random.Random(3).random()
    after = ProcessState.now()
    assert before.changed_generators(after) == before.changed_settings(after) == []
    assert footprint.generators == ["torch's", "numpy's"]
    assert footprint.settings == ["grad mode", "default precision", "number of threads"]
    assert footprint.intrudes
    assert "changes torch's grad mode and default precision and number of threads" in footprint.notes[0]


def test_a_seed_is_given_and_does_not_count_as_use() -> None:
    found = []
    for _ in range(2):
        with alone(7):
            found.append((torch.rand(1).item(), np.random.rand(), random.random()))
    assert found[0] == found[1]
    with alone(7) as footprint:
        pass
    assert not footprint.intrudes
    assert footprint.notes == []


@pytest.mark.parametrize("where", [alone, in_company, contained])
def test_what_would_end_the_program_is_an_error(where: Callable) -> None:
    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    for error, message in (
        (SystemExit(3), r"^raised SystemExit \(3\), which would have ended the program$"),
        (KeyboardInterrupt(), "^raised KeyboardInterrupt, which"),
    ):
        with pytest.raises(GradevalError, match=message), where():
            raise error
    with pytest.raises(ZeroDivisionError), where():
        raise ZeroDivisionError
    assert (torch.is_grad_enabled(), torch.get_default_dtype()) == (grad, dtype)


def swallow() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def disguise() -> None:
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise ValueError("something else") from None


def leave() -> None:
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        sys.exit(0)


@pytest.mark.parametrize("code", [lambda: signal.raise_signal(signal.SIGINT), swallow, disguise, leave])
@pytest.mark.parametrize("where", [alone, in_company])
def test_ctrl_c_is_no_error_of_the_code(where: Callable, code: Callable[[], None]) -> None:
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), where():
            code()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_standard_output_goes_to_error_in_this_thread_only(capsys: pytest.CaptureFixture[str]) -> None:
    inside, printed = threading.Event(), threading.Event()

    def other() -> None:
        inside.wait(5)
        print("from the other")
        printed.set()

    thread = threading.Thread(target=other)
    thread.start()
    before = sys.stdout
    with alone():
        print("from the code")
        inside.set()
        assert printed.wait(5)
    thread.join()
    print("after")
    assert sys.stdout is before
    found = capsys.readouterr()
    assert (found.out, found.err) == ("from the other\nafter\n", "from the code\n")


def test_nobody_runs_beside_what_runs_alone() -> None:
    """Planted: `in_company` for both, which overlap."""
    for first, overlaps in ((alone, False), (in_company, True)):
        running, seen = threading.Event(), []

        def one(first: Callable = first, running: threading.Event = running) -> None:
            with first():
                running.set()
                time.sleep(0.2)
                running.clear()

        thread = threading.Thread(target=one)
        thread.start()
        running.wait(5)
        with in_company():
            seen.append(running.is_set())
        thread.join()
        assert seen == [overlaps]


def test_nested_code_does_not_wait_for_itself() -> None:
    with alone(), in_company(), alone() as inner:
        torch.rand(1)
    assert inner.generators == ["torch's"]
    with in_company(), alone(1):
        pass


@pytest.fixture
def unruly() -> Callable:
    """An estimator that changes all that `ProcessState` watches, whenever it is called."""

    def estimator(network, inputs, loss, randomness):
        torch.manual_seed(3)
        np.random.seed(3)
        torch.set_default_dtype(torch.float16)
        return MeanField()(network, inputs, loss, randomness)

    return estimator


def draws() -> RandomDraws:
    return RandomDraws(generator("cpu", 0), torch.float64)


WAYS_IN = {
    "a surrogate by hand": lambda problem, e: Surrogate(problem, e)(problem.inputs, problem.targets, draws()),
    "sampler": lambda problem, e: Sampler(problem, "unruly", e).chunk(5, "a"),
    "times": lambda problem, e: further_times(Sampler(problem, "unruly", e), 50, [(1, 0.1)]),
    "points": lambda problem, e: (probes.check_pointwise(problem, e), independent_points(problem, e)),
    "shared chance": lambda problem, e: probes.shares_chance(problem, e),
    "probe": lambda problem, e: probes.probe(problem, e),
    "counts": lambda problem, e: probes.count_evaluations(problem, e),
    "moments": lambda problem, e: gradeval.exact_moments(problem, e),
    "run": lambda problem, e: gradeval.evaluate(problem, [e], draws=50),
    "check": lambda problem, e: gradeval.check(e, problems=[problem], draws=200),
    "cost": lambda problem, e: cost_table(problem, [e], budget=0.0),
}


@pytest.mark.parametrize("way", WAYS_IN)
def test_every_way_in_leaves_the_process_as_it_was(way: str, unruly: Callable) -> None:
    """Planted: shared chance, times and counts without a turn."""
    problem = gradeval.load_problem("expclass", units="2-2", stage=0, points=3)
    before = ProcessState.now()
    try:
        with contextlib.suppress(GradevalError):
            WAYS_IN[way](problem, unruly)
    finally:
        after = ProcessState.now()
        before.put_back()
    assert before.changed_settings(after) == []
    assert before.changed_generators(after) == []
