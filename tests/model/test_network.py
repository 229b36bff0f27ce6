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
@pytest.mark.parametrize("linear", [True, False])
def test_flipped_preactivations_equal_flips_one_by_one(make_problem, states, linear: bool) -> None:
    problem = make_problem((3, 4), states=states)
    first, second = problem.network.layers
    if not linear:
        second.map = torch.nn.Sequential(second.map)
    s = (torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(1)) < 0.5).double()
    x = first.encode(s)
    found = second.flipped_preactivations(x, second.preactivation(x))
    for i in range(3):
        flipped = s.clone()
        flipped[..., i] = 1 - flipped[..., i]
        torch.testing.assert_close(found[..., i, :], second.preactivation(first.encode(flipped)))
        torch.testing.assert_close(first.flip(s)[i], flipped)


def test_layer_slices_are_weight_then_bias(make_problem) -> None:
    network = make_problem((2, 3)).network
    flat = torch.cat([p.flatten() for p in network.parameters()])
    slices = network.layer_slices()
    assert list(slices) == ["1", "2", "head", "all"]
    second = network.layers[1].map
    torch.testing.assert_close(flat[slices["2"]], torch.cat([second.weight.flatten(), second.bias]))
    assert len(flat[slices["all"]]) == len(flat) == 2 * 2 + 2 + 2 * 3 + 3 + 3 + 1


def test_gaussian_moments_equal_those_of_all_states(make_problem) -> None:
    """Mean and variance of a linear map of independent binary inputs, by enumeration."""
    problem = make_problem((3, 2), states=(-1.0, 1.0))
    first, second = problem.network.layers
    p = first.probability(first.preactivation(problem.inputs))
    mean, square = torch.zeros(4, 2, dtype=p.dtype), torch.zeros(4, 2, dtype=p.dtype)
    for bits in itertools.product([0.0, 1.0], repeat=3):
        s = torch.tensor(bits, dtype=p.dtype).expand_as(p)
        weight = torch.where(s > 0.5, p, 1 - p).prod(-1, keepdim=True)
        a = second.preactivation(first.encode(s))
        mean, square = mean + weight * a, square + weight * a**2
    m, v = second.gaussian_moments(first.encode(p), first.delta**2 * p * (1 - p))
    torch.testing.assert_close(m, mean)
    torch.testing.assert_close(v, square - mean**2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"inputs": 2, "units": [3, 0], "outputs": 1},
            "every width must be at least 1, found 2 inputs, units 3-0",
        ),
        ({"inputs": 2, "units": [], "outputs": 1}, "at least one layer"),
        ({"inputs": 2, "units": [3], "outputs": 1, "states": (1.0, 1.0)}, r"lo < hi, found \[1.0, 1.0\]"),
        ({"inputs": 2, "units": [3], "outputs": 1, "noise": "gaussian"}, "unknown noise 'gaussian'"),
    ],
)
def test_bad_networks_are_refused(arguments, message: str) -> None:
    with pytest.raises(GradevalError, match=message):
        StochasticBinaryNetwork.linear(**arguments)
