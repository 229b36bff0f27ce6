"""Initial parameters of tasks."""

from __future__ import annotations

import torch
from torch import nn

from gradeval.model.network import StochasticBinaryNetwork
from gradeval.problems.catalogue import load_task
from gradeval.problems.tasks import standardise


def test_preactivations_start_with_mean_zero_and_variance_one() -> None:
    task = load_task("digits", units="3c-5", points=400)
    network, inputs = task.train.network, task.train.inputs
    a = network.layers[0].preactivation(inputs).reshape(400, 3, 16)  # channels × places
    torch.testing.assert_close(a.mean((0, 2)), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(a.std((0, 2)), torch.ones(3, dtype=torch.float64))
    again = [task.initial_parameters(seed) for seed in (0, 0, 1)]
    assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], again[2])
    assert torch.equal(again[0], nn.utils.parameters_to_vector(network.parameters()))


def test_a_unit_that_sees_nothing_keeps_finite_parameters() -> None:
    network = StochasticBinaryNetwork.linear(2, [3], 1)
    standardise(network, torch.zeros(5, 2, dtype=torch.float64), 0)
    assert all(bool(torch.isfinite(p).all()) for p in network.parameters())
