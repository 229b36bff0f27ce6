"""Executors of the caller's: they are left running, and one that breaks gives one line."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from gradeval.errors import GradevalError
from gradeval.workers.executors import Assignment, Lost, Workers
from gradeval.workers.processes import Allowance


def test_an_executor_that_breaks_gives_one_line() -> None:
    calls = [Assignment(k, os._exit, (1,)) for k in range(3)]
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor,
        Workers(executor, 1) as workers,
        pytest.raises(GradevalError, match=r"^the executor takes no more work: .*process.*terminated abruptly.*$"),
    ):
        list(workers.in_order(calls, lambda finished: None))


def test_a_call_that_an_executor_cannot_make_is_lost_after_three_attempts() -> None:
    with ThreadPoolExecutor(1) as executor, Workers(executor, 1) as workers:
        calls = [Assignment("bad", int, ("x",), owner="bad"), Assignment("good", int, ("3",), owner="good")]
        (_, lost), (_, three) = workers.in_order(calls, lambda finished: None)
    assert lost == Lost("ValueError: invalid literal for int() with base 10: 'x' (3 times)")
    assert three == 3


@pytest.mark.parametrize(
    ("executor", "allowance", "message"),
    [
        ("threads", Allowance(seconds=1.0), "a timeout needs processes"),
        ("threads", Allowance(memory=2**30), "a limit on memory needs processes of this machine"),
        ("processes", Allowance(memory=0), "the limit on memory must be positive, found 0"),
    ],
)
def test_a_limit_that_cannot_be_kept_is_refused(executor: str, allowance: Allowance, message: str) -> None:
    with pytest.raises(GradevalError, match=message):
        Workers(executor, 1, allowance)
