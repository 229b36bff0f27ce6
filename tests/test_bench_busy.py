"""A busy machine: small and large work beside two processes of two threads each that multiply matrices.

Results are asserted before they are timed. The ratios of busy to quiet means are in extra_info: a fair share of two
cores beside four other threads is a ratio of 2.5 for work on one thread, and of 3 for work on two. Run alone:
tox -e bench -- -k bench_busy
"""

from __future__ import annotations

import runpy
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gradeval.estimators import get_estimator
from gradeval.reference import exact_gradient
from gradeval.sampling.sampler import Sampler
from gradeval.threads import one_thread

study = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "studies" / "busy.py"), run_name="busy")


@pytest.mark.parametrize(("n", "rounds"), [(5, 200), (10, 100), (12, 30), (16, 3)])
def test_the_exact_gradient_beside_others(benchmark, make_problem, n: int, rounds: int) -> None:
    problem = make_problem((n, n, n), points=200, states=(-1.0, 1.0), scale=0.3)
    if benchmark.disabled and n > 12:
        pytest.skip("takes seconds")
    exact = exact_gradient(problem)
    with one_thread():
        alone = exact_gradient(problem)
    if n == 5:
        torch.testing.assert_close(exact.vector, exact_gradient(problem, "joint").vector, rtol=1e-12, atol=1e-14)
    assert (exact.value, exact.vector.tolist()) == (alone.value, alone.vector.tolist())
    measure(benchmark, lambda: exact_gradient(problem), rounds)


def test_a_psa_run_beside_others(benchmark, make_problem) -> None:
    problem = make_problem((5, 5, 5), points=200, states=(-1.0, 1.0))
    sampler = Sampler(problem, "psa", get_estimator("psa"))
    gradients, _ = sampler.chunk(2000, "check")
    error = gradients.std(0) / len(gradients) ** 0.5
    bias = gradients.mean(0) - exact_gradient(problem).vector
    assert float(bias.norm()) < 0.2 * float(gradients.mean(0).norm()) + 5 * float(error.norm())
    measure(benchmark, lambda: sampler.chunk(1000, "timed"), 5)


def measure(benchmark, call: Callable[[], object], rounds: int) -> None:
    benchmark.pedantic(call, rounds=rounds, warmup_rounds=1)
    if benchmark.disabled:
        return
    with study["rivals"]():
        began = time.perf_counter()
        for _ in range(rounds):
            call()
        busy = (time.perf_counter() - began) / rounds
    benchmark.extra_info |= {"busy_seconds": busy, "busy_over_quiet": busy / benchmark.stats.stats.mean}
