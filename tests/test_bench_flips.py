"""PSA on large nets against one forward–backward pass of the same net (F(a) for the states), both in this run.

Two threads, single precision; the products of all layers are checked before anything is timed. Run alone:
tox -e bench -- -k bench_flips
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import nn

from gradeval.estimators import get_estimator
from gradeval.estimators.surrogate import sample_path
from gradeval.model.flips import flip_differences
from gradeval.model.maps import ImageMap
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.problem import Problem
from gradeval.model.randomness import RandomDraws, generator
from gradeval.studies.costs import count_operations, one_gradient

CONVOLUTIONS = [  # channels, channels, size, stride
    *((3, 128, 32, 1), (128, 128, 32, 2), (128, 256, 16, 1), (256, 256, 16, 2)),
    *((256, 256, 8, 1), (256, 512, 8, 2), (512, 512, 4, 1), (512, 512, 4, 1)),
]


def linear_net() -> Problem:
    """512-512-512-512-10 at batch 128, weights as torch initialises them."""
    network = StochasticBinaryNetwork([nn.Linear(512, 512) for _ in range(3)], nn.Linear(512, 10), states=(-1.0, 1.0))
    return Problem(network, torch.randn(128, 512), torch.randint(0, 10, (128,)), "cross-entropy")


def convolutional_net() -> Problem:
    """Eight 3×3 convolutions with 128 to 512 channels on 32×32 images at batch 8."""
    maps = [ImageMap((c, n, n), nn.Conv2d(c, d, 3, stride, 1)) for c, d, n, stride in CONVOLUTIONS]
    network = StochasticBinaryNetwork(maps, nn.Linear(512 * 16, 10), states=(-1.0, 1.0))
    return Problem(network, torch.randn(8, 3 * 32 * 32), torch.randint(0, 10, (8,)), "cross-entropy")


@pytest.mark.parametrize(("make", "limit", "rounds"), [(linear_net, 4.0, 30), (convolutional_net, 3.5, 5)])
def test_psa_in_units_of_back_propagation(benchmark, make: Callable[[], Problem], limit: float, rounds: int) -> None:
    """Time ≤ 4 (linear) or 3.5 (convolutional) and memory ≤ 3 times those of back-propagation; product to 1e-5."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        subject = make()
        errors = product_errors(subject)
    assert max(errors) < 1e-5
    psa, standard = (one_gradient(subject, get_estimator(name)) for name in ("psa", "tanh"))
    memory = count_operations(psa)["bytes"] / count_operations(standard)["bytes"]
    assert memory <= 3
    torch.set_num_threads(2)
    try:
        benchmark.pedantic(psa, rounds=rounds, warmup_rounds=2)
        if benchmark.disabled:
            return
        # both in turn, so that a machine that slows down slows down both
        pairs = [(seconds(psa), seconds(standard)) for _ in range(rounds)]
    finally:
        torch.set_num_threads(threads)
    ratio = min(p for p, _ in pairs) / min(s for _, s in pairs)
    benchmark.extra_info |= {"times_back_propagation": ratio, "memory": memory, "largest_error": max(errors)}
    assert ratio <= limit


def product_errors(subject: Problem) -> list[float]:
    """The relative error of each layer's product on a sampled path, against the direct form in double precision."""
    chance = RandomDraws(generator("cpu", "path"), torch.float32)
    with torch.no_grad():
        steps, _ = sample_path(subject.network, subject.inputs[:1], chance)
    errors = []
    for layer, x, a, _, _ in steps[1:]:
        g = torch.randn(a.shape)
        found = layer.flip_response(x, a, g)
        double, x, g = deepcopy(layer).double(), x.double(), g.double()
        with torch.no_grad():
            right = flip_differences(double.flips(x), double.preactivation(x), g, method="direct")
        errors.append(float((found - right).norm() / right.norm()))
    return errors


def seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began
