"""Norms of scores without gradients are those of the gradients; networks of another kind are left to these."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import nn

from gradeval import Problem, StochasticBinaryNetwork
from gradeval.model.elbo import NegativeElbo
from gradeval.model.maps import BernoulliDecoder
from gradeval.model.randomness import EnumeratedStates, generator
from gradeval.model.states import binary_digits
from gradeval.reference import rare, scores
from gradeval.reference.rare import rare_states
from gradeval.reference.scores import LinearScores
from gradeval.sampling.surrogates import Surrogate, weighted_gradients
from gradeval.torch_private import quiet_vmap

pytestmark = pytest.mark.no_shapes


def problem_of(
    inputs: int, units: tuple[int, ...], outputs: int, points: int, head: nn.Module | None = None
) -> Problem:
    random = torch.Generator().manual_seed(0)
    network = StochasticBinaryNetwork.linear(inputs, units, outputs).double()
    network.head = head or network.head
    for parameter in network.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=random, dtype=torch.float64)
    x, y = (torch.randn(points, size, generator=random, dtype=torch.float64) for size in (inputs, outputs))
    return Problem(network, x, y, "squared")


@pytest.mark.parametrize("units", [(3,), (3, 2), (20,), (9, 8)])
def test_sizes_are_those_of_the_gradients(monkeypatch: pytest.MonkeyPatch, units: tuple[int, ...]) -> None:
    """Enumerated and drawn paths, of one and two layers. Planted: a norm that forgets the bias."""
    problem = problem_of(6, units, 4, 5)
    assert LinearScores.of(problem) is not None
    by_gradients = rare_states(problem)
    monkeypatch.setattr(rare, "LARGE_NETWORK", 1)
    monkeypatch.setattr(rare, "MANY_NUMBERS", 2**60)
    without = rare_states(problem)
    np.testing.assert_allclose(without.usual, by_gradients.usual, rtol=1e-9)
    np.testing.assert_allclose(without.cells.sum(0)[2:], by_gradients.cells.sum(0)[2:], rtol=1e-9)
    right = scores._outer
    monkeypatch.setattr(scores, "_outer", lambda delta, x, bias: right(delta, x, False))
    assert np.abs(rare_states(problem).usual / by_gradients.usual - 1).max() > 0.01


def test_a_decoder_with_a_prior_is_linear_too() -> None:
    """Norms of the gradient of every path of a negative ELBO; the encoder's has the score a second time, from log q."""
    decoder = BernoulliDecoder(nn.Linear(3, 4).double(), torch.zeros(3, dtype=torch.float64))
    problem = problem_of(6, (3,), 4, 5, decoder)
    elbo = Problem(problem.network, problem.inputs, problem.targets.sigmoid(), NegativeElbo())
    scores, rows = LinearScores.of(elbo), binary_digits(torch.arange(8), 0, 3).double()
    assert scores is not None
    found, weights = scores(rows, least=None)
    random, slices = generator("cpu", "rows"), elbo.network.layer_slices()
    with quiet_vmap():
        surrogate = Surrogate(elbo, rare._yardstick)
        scaled, _, by_states = weighted_gradients(
            surrogate, rows, lambda row: EnumeratedStates(row, random, rows.dtype)
        )
    torch.testing.assert_close(weights, by_states)
    for layer, factor in (("1", 4), ("head", 1)):
        squares = (scaled[..., slices[layer]] ** 2).sum(-1)
        torch.testing.assert_close(squares, factor * found[layer] * weights)


def test_other_networks_draw_fewer_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that is no linear map, or a frozen layer, has no closed form; few paths give about the same sizes."""
    problem = problem_of(6, (14,), 4, 5, nn.Sequential(nn.Linear(14, 8), nn.Tanh(), nn.Linear(8, 4)).double())
    assert LinearScores.of(problem) is None
    whole = rare_states(problem)
    monkeypatch.setattr(rare, "LARGE_NETWORK", 1)
    monkeypatch.setattr(rare, "MANY_NUMBERS", 1)
    assert rare._fewer(problem, 4096) == 256
    few = rare_states(problem)
    np.testing.assert_allclose(few.usual, whole.usual, rtol=0.3)
    frozen = problem_of(6, (3,), 4, 5)
    frozen.network.layers[0].map.bias.requires_grad_(False)
    assert LinearScores.of(frozen) is None


def test_many_points_have_fewer_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred thousand points took minutes. All points have as many paths as before, and each has 256 at least."""
    problem = problem_of(6, (5, 5), 4, 40)
    whole = rare_states(problem)
    monkeypatch.setattr(rare, "MANY_POINTS", 4)
    assert [len(rows) for rows, _, _ in rare._rows(problem, 10**6)] == [409]
    few = rare_states(problem)
    np.testing.assert_allclose(few.usual, whole.usual, rtol=0.3)
    assert few.unseen("all", 1000, 0.01).share > 0
    monkeypatch.setattr(rare, "MANY_POINTS", 2)
    assert [len(rows) for rows, _, _ in rare._rows(problem, 10**6)] == [256]


def test_a_loss_that_uses_the_head_twice_has_no_closed_form() -> None:
    problem = problem_of(6, (3,), 4, 5)
    problem.network.head.register_forward_pre_hook(lambda _module, _inputs: None)
    assert LinearScores.of(problem) is None


def test_many_parameters_are_affordable() -> None:
    """27,000 parameters and 100 points: seconds; 4096 paths of gradients would be 88 GB of numbers."""
    problem = problem_of(200, (66,), 200, 100)
    began = time.thread_time()
    found = rare_states(problem)
    assert time.thread_time() - began < 60
    assert np.isfinite(found.cells).all()
    assert (found.usual > 0).all()
