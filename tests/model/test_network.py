"""Networks: probabilities, encodings, flips and the order of parameters."""

from __future__ import annotations

import itertools

import pytest
import torch

from gradeval.errors import GradevalError
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.noise import NOISES


@pytest.mark.parametrize("noise", NOISES)
def test_probabilities_of_all_states_sum_to_one(make_problem, noise: str) -> None:
    problem = make_problem((3,), noise=noise, scale=0.3)
    layer = problem.network.layers[0]
    a = layer.preactivation(problem.inputs)
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    total = sum(layer.log_prob(s.expand_as(a), a).exp() for s in states)
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("states", [(0.0, 1.0), (-1.0, 1.0), (-0.5, 2.0)])
def test_flips_of_states_and_what_they_add(make_problem, states) -> None:
    first, second = make_problem((3, 4), states=states).network.layers
    s = (torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(1)) < 0.5).double()
    x, found = first.encode(s), first.flip(s)
    for i in range(3):
        flipped = s.clone()
        flipped[..., i] = 1 - flipped[..., i]
        torch.testing.assert_close(found[i], flipped)
        torch.testing.assert_close((first.encode(flipped) - x)[..., i], second.flips(x).change[..., i])


def test_layer_slices_are_weight_then_bias(make_problem) -> None:
    network = make_problem((2, 3)).network
    flat = torch.cat([p.flatten() for p in network.parameters()])
    slices = network.layer_slices()
    assert list(slices) == ["1", "2", "head", "all"]
    second = network.layers[1].map
    torch.testing.assert_close(flat[slices["2"]], torch.cat([second.weight.flatten(), second.bias]))
    assert len(flat[slices["all"]]) == len(flat) == 2 * 2 + 2 + 2 * 3 + 3 + 3 + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"inputs": 2, "units": [3, 0], "outputs": 1},
            "every width must be at least 1; found '3-0'",
        ),
        ({"inputs": 2, "units": [], "outputs": 1}, "units must be widths"),
        ({"inputs": 2, "units": [3], "outputs": 1, "states": (1.0, 1.0)}, r"lo < hi, found \[1.0, 1.0\]"),
        ({"inputs": 2, "units": [3], "outputs": 1, "noise": "gaussian"}, "unknown noise 'gaussian'"),
    ],
)
def test_bad_networks_are_refused(arguments, message: str) -> None:
    with pytest.raises(GradevalError, match=message):
        StochasticBinaryNetwork.linear(**arguments)
