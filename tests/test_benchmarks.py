"""Speed, measured: vectorised draws with all statistics against a loop of single draws, in the same run.

Correctness is asserted before timing. Run alone: tox -e bench.
"""

from __future__ import annotations

import time

import pytest
import torch

from gradeval import load_problem
from gradeval.estimators import TABLE, get_estimator
from gradeval.estimators.protocol import learns
from gradeval.model.problem import Problem
from gradeval.reference import exact_gradient
from gradeval.sampling.extent import CHUNK
from gradeval.sampling.sampler import Sampler
from gradeval.sampling.streaming import Scorer, reduce_chunk

SPECS = ["st", "reinforce", "arm", "psa", "concrete:temperature=1.0"]


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Problem:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADEVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load_problem("expclass", stage=1)


@pytest.mark.parametrize("spec", SPECS)
def test_a_draw_with_statistics(benchmark, task: Problem, spec: str) -> None:
    """The ratio to a loop of single draws (extra_info) must be at least 3; measured, it is above 5."""
    sampler = Sampler(task, spec, get_estimator(spec))
    exact = exact_gradient(task)
    scorer = Scorer(exact.vector, exact.slices)
    gradients, values = sampler.chunk(CHUNK, "check")
    joint = reduce_chunk(scorer, gradients, values).joint
    torch.testing.assert_close(torch.as_tensor(joint.mean)[: len(exact.vector)], (gradients - exact.vector).mean(0))

    def chunk() -> None:
        reduce_chunk(scorer, *sampler.chunk(CHUNK, "timed"))

    benchmark.pedantic(chunk, rounds=5, warmup_rounds=1)
    if benchmark.disabled:
        return
    sampler.vectorised = False
    loop = min(_seconds(lambda: sampler.chunk(50, "loop")) for _ in range(3)) / 50
    per_draw = benchmark.stats.stats.min / CHUNK
    benchmark.extra_info |= {"microseconds_per_draw": 1e6 * per_draw, "loop_over_vectorised": loop / per_draw}
    assert loop / per_draw > 3


@pytest.mark.parametrize("name", TABLE)
def test_the_cost_of_a_draw_relative_to_st(benchmark, task: Problem, name: str) -> None:
    """Compute per draw of every estimator, gradients only, over that of `st`, in turns in the same run."""
    samplers = []
    for spec in (name, "st"):
        estimator = get_estimator(spec)
        samplers.append(Sampler(task, spec, estimator.fit(task, 0) if learns(estimator) else estimator))
    mine, st = samplers
    gradients, values = mine.chunk(100, "check")
    assert gradients.isfinite().all()
    assert values.isfinite().all()
    benchmark.pedantic(mine.chunk, (100, "timed"), rounds=5, warmup_rounds=1)
    if benchmark.disabled:
        return
    pairs = [(_seconds(lambda: mine.chunk(100, "a")), _seconds(lambda: st.chunk(100, "b"))) for _ in range(5)]
    benchmark.extra_info |= {"times_st": min(a for a, _ in pairs) / min(b for _, b in pairs)}


def test_the_exact_gradient(benchmark, task: Problem) -> None:
    """5-5-5 with 200 points; the joint enumeration's time, in the same run, is at least 50 times as long."""
    torch.testing.assert_close(
        exact_gradient(task).vector, exact_gradient(task, "joint").vector, rtol=1e-12, atol=1e-15
    )
    benchmark(exact_gradient, task)
    if benchmark.disabled:
        return
    joint_seconds = _seconds(lambda: exact_gradient(task, "joint"))
    ratio = joint_seconds / benchmark.stats.stats.min
    benchmark.extra_info |= {"joint_over_layerwise": ratio}
    assert ratio > 50


def _seconds(function) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began
