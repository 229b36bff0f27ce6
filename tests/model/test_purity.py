"""Maps and losses that are no functions of one data point are refused in one line; each fault is planted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradeval import GradevalError, Problem, StochasticBinaryNetwork

DOUBLE = torch.float64
INPUTS = torch.linspace(-1, 1, 18, dtype=DOUBLE).reshape(6, 3)
TARGETS = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, -1.0])


def linear(inputs: int, outputs: int) -> nn.Linear:
    map = nn.utils.skip_init(nn.Linear, inputs, outputs, dtype=DOUBLE)
    with torch.no_grad():
        for parameter in map.parameters():
            parameter.copy_(torch.linspace(-0.7, 1.1, parameter.numel(), dtype=DOUBLE).reshape(parameter.shape))
    return map


class OfManyPoints(nn.Module):
    """Leaves up to four points alone, and subtracts the mean of more."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0) if len(x) > 4 else x


class TooLarge(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 1e308 * 10


class Counting(nn.Module):
    """Gives other numbers from call to call, without any chance."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls


def problem(
    part: nn.Module | None = None, place: str = "head", loss: object = "logistic", scale: float = 1.0
) -> Problem:
    """Two layers and a head, one of them behind ``part``."""
    maps: dict[str, nn.Module] = {"1": linear(3, 3), "2": linear(3, 3), "head": linear(3, 1)}
    if part is not None:
        maps[place] = nn.Sequential(part, maps[place])
    network = StochasticBinaryNetwork([maps["1"], maps["2"]], maps["head"])
    with torch.no_grad():
        maps["2"].get_parameter("1.weight" if place == "2" else "weight")[0, 0] *= scale
    return Problem(network, INPUTS, TARGETS, loss)  # type: ignore[arg-type]


@pytest.mark.parametrize("place", ["1", "2", "head"])
@pytest.mark.parametrize(
    ("part", "message"),
    [
        (nn.Dropout(0.02), "has chance of its own"),
        (nn.BatchNorm1d(3, dtype=DOUBLE), "batch normalisation in training mode"),
        (nn.BatchNorm1d(3, dtype=DOUBLE, track_running_stats=False), "mixes data points"),
        (OfManyPoints(), "mixes data points"),
        (Counting(), "gives other numbers when it is called again"),
    ],
    ids=["dropout", "batch norm", "batch statistics", "of many points", "counting"],
)
def test_what_is_no_function_of_a_point_is_refused(part: nn.Module, message: str, place: str) -> None:
    before = [buffer.clone() for buffer in part.buffers()]
    with pytest.raises(GradevalError, match=message) as caught:
        problem(part, place)
    assert str(caught.value).startswith("the head" if place == "head" else f"layer {place}")
    assert "\n" not in str(caught.value)
    assert all(map(torch.equal, before, part.buffers()))  # it was put back


@pytest.mark.parametrize(
    "part", [nn.Dropout(0.5).eval(), nn.BatchNorm1d(3, dtype=DOUBLE).eval(), nn.LayerNorm(3, dtype=DOUBLE), nn.Tanh()]
)
def test_functions_are_accepted(part: nn.Module) -> None:
    random = torch.get_rng_state()
    assert problem(part).points == problem(part, "1").points == 6
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda h, y: (h.squeeze(-1) - h.mean()) ** 2, "the loss mixes data points"),
        (lambda h, y: h.squeeze(-1) * torch.arange(6), "the loss mixes data points"),
        (lambda h, y: h.squeeze(-1) + torch.rand(1), "the loss has chance of its own"),
        (lambda h, y: h.squeeze(-1) + 0 * torch.rand(1), "the loss has chance of its own"),
        (lambda h, y: h[:, 0] * y, "the loss must accept leading axes|the loss mixes data points"),
        (lambda h, y: h.squeeze(-1) / 0, "the loss gives infinite numbers or NaN"),
    ],
)
def test_losses_too(loss: object, message: str) -> None:
    with pytest.raises(GradevalError, match=message):
        problem(loss=loss)


def test_overflow_is_refused_and_large_numbers_are_not() -> None:
    assert problem(scale=1e200).points == 6
    with pytest.raises(GradevalError, match="layer 1 gives infinite numbers or NaN: its parameters, the states or"):
        problem(TooLarge(), "1")


def test_a_network_without_trainable_parameters_is_refused() -> None:
    network = problem().network
    network.requires_grad_(False)
    with pytest.raises(GradevalError, match="no parameter of the network requires a gradient"):
        Problem(network, INPUTS, TARGETS)
