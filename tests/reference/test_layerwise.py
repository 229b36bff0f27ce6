"""Layerwise enumeration as matrix products, against joint enumeration, an oracle in numpy and sampled REINFORCE."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradeval.errors import GradevalError
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.noise import NOISES
from gradeval.model.problem import Problem
from gradeval.reference import exact_gradient, layerwise, layerwise_values, predicted_cost
from gradeval.reference.cost import method_costs

FALSE_ALARM = 1e-6


def largest_error(found: Tensor, right: Tensor) -> float:
    """max |found − right| relative to max |right|."""
    return float((found - right).abs().max() / right.abs().max().clamp(min=1e-12))


def own_loss(output: Tensor, target: Tensor) -> Tensor:
    """Not of the affine-head form: couples outputs and target."""
    return torch.sin(output.sum(-1) * (1 + target)) + output.abs().amax(-1)


@st.composite
def nets(draw: st.DrawFn) -> dict[str, Any]:
    """What `make_problem` takes."""
    return {
        "units": draw(st.lists(st.integers(1, 7), min_size=1, max_size=4).filter(lambda widths: sum(widths) <= 16)),
        "noise": draw(st.sampled_from(sorted(NOISES))),
        "states": draw(st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (-0.5, 2.0)])),
        "loss": draw(st.sampled_from(["logistic", "squared", "cross-entropy"])),
        "points": draw(st.integers(1, 3)),
        "scale": draw(st.sampled_from([0.1, 1.0, 4.0])),  # at 4 most uniform and triangular probabilities are 0 or 1
        "seed": draw(st.integers(0, 2**20)),
    }


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(nets(), st.booleans(), st.sampled_from([2**7, 2**12, 2**23]), st.booleans(), st.sampled_from([1, 256]))
def test_every_small_net_equals_joint_enumeration(
    make_problem, net: dict[str, Any], own: bool, chunk: int, one_target_at_a_time: bool, grouped: int
) -> None:
    problem = make_problem(**net)
    if own and net["loss"] == "logistic":
        problem = Problem(problem.network, problem.inputs, problem.targets, own_loss)
    joint = exact_gradient(problem, "joint")
    memory = predicted_cost(problem, "layerwise").bytes if one_target_at_a_time else 2**32
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layerwise, "CHUNK_BYTES", chunk)
        patch.setattr(layerwise, "GROUPED_POINTS", grouped)
        found = [exact_gradient(problem, "layerwise", memory=memory), exact_gradient(problem, "plain")]
    for exact in found:
        assert exact.value == pytest.approx(joint.value, rel=1e-12, abs=1e-12)
        assert largest_error(exact.vector, joint.vector) < 1e-12


FAULTS: dict[str, tuple[str, Callable[..., object]]] = {
    "order of the units in each half": ("_product", lambda right: lambda chance, *out: right(chance.flip(0), *out)),
    "halves swapped": ("_chances_off_on", lambda right: lambda p: right(p).flip(0)),
    "off and on swapped": ("_product", lambda right: lambda chance, *out: right(chance.flip(1), *out)),
    "rows displaced": ("_product", lambda right: lambda chance, *out: right(chance.roll(1, -1), *out)),
    "slopes a thousandth too large": ("_slopes", lambda right: lambda *given: right(*given) * 1.001),
    "order of the slopes": ("_slopes", lambda right: lambda *given: right(*given).flip(1)),
    "targets swapped": (
        "distinct_points",
        lambda right: lambda targets: (right(targets)[0].flip(0), right(targets)[1]),
    ),
    "a chunk counted twice": ("_pieces", lambda right: lambda *given: [*right(*given), *right(*given)][:-1]),
    "zeros replaced by too much": ("TINY", lambda right: 1e-6),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_seen(make_problem, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layerwise, "GROUPED_POINTS", 1)
    monkeypatch.setattr(layerwise, "CHUNK_BYTES", 2**9)
    problem = make_problem((5, 4, 3), noise="uniform", points=6, scale=2.0)
    joint = exact_gradient(problem, "joint").vector
    assert largest_error(exact_gradient(problem, "layerwise").vector, joint) < 1e-12
    name, plant = FAULTS[fault]
    monkeypatch.setattr(layerwise, name, plant(getattr(layerwise, name)))
    found = exact_gradient(problem, "layerwise").vector
    assert not largest_error(found, joint) < 1e-10


def numpy_value(parameters: list[np.ndarray], problem: Problem) -> float:
    """J of a net of linear layers, shares no code: P(s) from sums of logarithms, tables for every data point."""
    noise = {"logistic": scipy.stats.logistic, "normal": scipy.stats.norm}[problem.network.noise.name]
    lo, hi = problem.network.states
    *layers, (head, head_bias) = zip(parameters[::2], parameters[1::2], strict=True)
    rows, maps = problem.inputs.numpy(), []
    for weight, bias in layers:
        a = rows @ weight.T + bias
        s = np.array(list(itertools.product([0, 1], repeat=len(bias))))
        maps.append(np.exp(noise.logcdf(a) @ s.T + noise.logsf(a) @ (1 - s).T))
        rows = lo + (hi - lo) * s
    table = np.logaddexp(0, -problem.targets.numpy() * (rows @ head.T + head_bias))  # [states, points]
    for chances in maps[:0:-1]:
        table = chances @ table
    return float((maps[0] * table.T).sum(1).mean())


@pytest.mark.parametrize("noise", ["logistic", "normal"])
def test_the_oracle_in_numpy_where_joint_is_impossible(make_problem, noise: str) -> None:
    """8-9-8, 2^25 joint states: the value, and the gradient along random directions and coordinates."""
    problem = make_problem((8, 9, 8), noise=noise, states=(-1.0, 1.0), points=10, scale=0.5)
    exact = exact_gradient(problem, "layerwise")
    centre = [p.detach().numpy().copy() for p in problem.network.parameters()]
    assert exact.value == pytest.approx(numpy_value(centre, problem), rel=1e-13)
    random = np.random.default_rng(0)
    directions = [[random.standard_normal(p.shape) for p in centre] for _ in range(4)]
    for which in range(len(centre)):
        directions.append([np.zeros(p.shape) for p in centre])
        directions[-1][which].flat[random.integers(centre[which].size)] = 1

    for direction in directions:

        def slope(h: float, direction: list[np.ndarray] = direction) -> float:
            above, below = (
                numpy_value([c + step * d for c, d in zip(centre, direction, strict=True)], problem) for step in (h, -h)
            )
            return (above - below) / (2 * h)

        found = (16 * (4 * slope(5e-4) - slope(1e-3)) / 3 - (4 * slope(1e-3) - slope(2e-3)) / 3) / 15
        along = sum(float(np.vdot(g.numpy(), d)) for g, d in zip(exact.gradient.values(), direction, strict=True))
        assert found == pytest.approx(
            along, abs=2e-11 * max(1, np.abs(np.concatenate([d.ravel() for d in direction])).sum())
        )


def sampled_reinforce(problem: Problem, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error of f(x) Σ ∇ log P + ∇f over ``draws`` single paths of random points, in numpy."""
    random = np.random.default_rng(1)
    (w1, b1), (w2, b2), (head, head_bias) = (
        (layer.weight.detach().numpy(), layer.bias.detach().numpy())
        for layer in (*(layer.map for layer in problem.network.layers), problem.network.head)
    )
    total, squares, chunk = 0.0, 0.0, 20_000
    for _ in range(draws // chunk):
        point = random.integers(problem.points, size=chunk)
        x0, y = problem.inputs.numpy()[point], problem.targets.numpy()[point]
        p1 = 1 / (1 + np.exp(-(x0 @ w1.T + b1)))
        x1 = (random.random(p1.shape) < p1).astype(float)
        p2 = 1 / (1 + np.exp(-(x1 @ w2.T + b2)))
        x2 = (random.random(p2.shape) < p2).astype(float)
        margin = y * (x2 @ head[0] + head_bias[0])
        f, slope = np.logaddexp(0, -margin)[:, None], (-y / (1 + np.exp(margin)))[:, None]
        parts = []
        for error, x in ((f * (x1 - p1), x0), (f * (x2 - p2), x1), (slope, x2)):
            parts += [(error[:, :, None] * x[:, None]).reshape(chunk, -1), error]
        g = np.concatenate(parts, 1)
        total, squares = total + g.sum(0), squares + (g**2).sum(0)
    mean = total / draws
    return mean, np.sqrt((squares / draws - mean**2) / draws)


def test_sampled_reinforce_agrees_at_10_10(make_problem) -> None:
    """z of every coordinate, Bonferroni at a false-alarm rate of 1e-6; a layer scaled by 1.2 is rejected."""
    problem = make_problem((10, 10), points=50)
    mean, error = sampled_reinforce(problem, 200_000)
    exact = exact_gradient(problem).vector.numpy()
    limit = NormalDist().inv_cdf(1 - FALSE_ALARM / (2 * len(exact)))
    assert np.abs((mean - exact) / error).max() < limit
    assert np.abs((mean - 1.2 * exact) / error).max() > limit


def convolutional_pair(hidden: bool) -> tuple[Problem, Problem]:
    """A convolution over 3×3 images with two channels between linear layers, and the same net with it as a matrix."""
    torch.manual_seed(0)
    convolution = nn.Sequential(nn.Unflatten(-1, (1, 3, 3)), nn.Conv2d(1, 2, 2), nn.Flatten()).double()
    with torch.no_grad():
        dense = nn.Linear(9, 8).double()
        dense.bias.copy_(convolution(torch.zeros(1, 9).double())[0])
        dense.weight.copy_((convolution(torch.eye(9).double()) - dense.bias).T)
    rest = [nn.Linear(2, 9).double()] if hidden else []
    head = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.AvgPool1d(2)).double()
    inputs = torch.randn(30, 2 if hidden else 9).double()
    targets = torch.randn(30, 2).double()
    return tuple(  # type: ignore[return-value]
        Problem(StochasticBinaryNetwork([*rest, map], head), inputs, targets, "squared") for map in (convolution, dense)
    )


@pytest.mark.parametrize("hidden", [True, False])
def test_a_convolution_is_the_matrix_it_stands_for(hidden: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernel's gradient too: the matrix's, summed over the places of the kernel (the Jacobian of the matrix)."""
    monkeypatch.setattr(layerwise, "CHUNK_BYTES", 2**14)
    convolution, dense = convolutional_pair(hidden)
    found, right = exact_gradient(convolution, "layerwise"), exact_gradient(dense, "plain")
    assert found.value == pytest.approx(right.value, rel=1e-12)
    for name in found.gradient.keys() & right.gradient.keys():
        assert largest_error(found.gradient[name], right.gradient[name]) < 1e-12
    layer = int(hidden)
    map = convolution.network.layers[layer].map
    by_weight = right.gradient[f"layers.{layer}.map.weight"]  # [8, 9]
    chained = map(torch.eye(9).double()) - map(torch.zeros(1, 9).double())
    (kernel,) = torch.autograd.grad((chained * by_weight.T).sum(), [map[1].weight])
    assert largest_error(found.gradient[f"layers.{layer}.map.1.weight"], kernel) < 1e-12


def test_maps_in_sequence_and_unequal_widths(make_problem) -> None:
    problem = make_problem((6, 1, 5), loss="squared", points=3)
    torch.manual_seed(0)
    problem.network.layers[2].map = nn.Sequential(nn.Linear(1, 3), nn.Linear(3, 5)).double()
    joint, found = exact_gradient(problem, "joint"), exact_gradient(problem, "layerwise")
    assert largest_error(found.vector, joint.vector) < 1e-12


def test_groups_of_targets_of_all_sizes(make_problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large and small groups, mixed, out of order, and points' own values (not only their mean)."""
    monkeypatch.setattr(layerwise, "GROUPED_POINTS", 7)
    problem = make_problem((4, 3), loss="cross-entropy", points=40)
    labels = torch.tensor([0] * 25 + [1] * 3 + [2] * 12)[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    problem = Problem(problem.network, problem.inputs, labels, "cross-entropy")
    values = layerwise_values(problem)
    one_by_one = [
        layerwise_values(Problem(problem.network, problem.inputs[i : i + 1], labels[i : i + 1], "cross-entropy"))
        for i in range(40)
    ]
    torch.testing.assert_close(values, torch.cat(one_by_one), rtol=1e-13, atol=0)


def test_certain_units_have_finite_gradients(make_problem) -> None:
    """Uniform noise, weights of 50: nearly every probability is exactly 0 or 1."""
    problem = make_problem((6, 6), noise="uniform", scale=50.0, points=5)
    for parameter in problem.network.head.parameters():
        parameter.data /= 50
    joint, found = exact_gradient(problem, "joint"), exact_gradient(problem, "layerwise")
    assert bool(torch.isfinite(found.vector).all())
    assert largest_error(found.vector, joint.vector) < 1e-12


def test_single_precision_has_single_precision_error(make_problem) -> None:
    """To 16 rounding units of float32, relative to the largest entry."""
    problem = make_problem((8, 8, 8), points=50)
    single = exact_gradient(problem.to(dtype=torch.float32), "layerwise", precision="network").vector
    assert single.dtype == torch.float32
    assert largest_error(single.double(), exact_gradient(problem, "layerwise").vector) < 16 * 2**-23


def test_parameters_without_gradient_are_left_out(make_problem) -> None:
    problem = make_problem((3, 3))
    right = exact_gradient(problem, "joint").gradient
    problem.network.layers[0].map.weight.requires_grad_(False)
    for method in ("joint", "plain", "layerwise"):
        found = exact_gradient(problem, method).gradient
        assert "layers.0.map.weight" not in found
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, right[name], rtol=1e-12, atol=1e-15)


def test_the_predicted_multiply_adds_are_those_done(make_problem) -> None:
    problem = make_problem((7, 6, 5), points=100)
    done: list[int] = []
    layerwise.layerwise_value_and_gradient(problem, 2, done.append)
    assert sum(done) == predicted_cost(problem, "layerwise").multiply_adds == 3 * (2 * (2**13 + 2**11) + 2 * 100 * 2**7)


def test_auto_takes_the_cheapest(make_problem) -> None:
    assert predicted_cost(make_problem((3, 3))).method == "plain"
    assert predicted_cost(make_problem((9, 9, 9))).method == "layerwise"
    for widths in itertools.product([1, 2, 5, 8], repeat=2):
        found = method_costs(widths, 20, 2)
        assert found["joint"].seconds >= found["plain"].seconds


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ((30, 30), r"layer 1 \(30 units\) and layer 2 \(30 units\) together have 2\^60 = 1.15e\+18 states"),
        ((3, 4, 30), r"layer 2 \(4 units\) and layer 3 \(30 units\) together have 2\^34 .* TiB of memory.* 3-4-21;"),
        ((40,), r"layer 1 \(40 units\) has 2\^40 .* is 40 to 21;"),
    ],
)
def test_too_wide_is_refused_at_once(make_problem, units: tuple[int, ...], message: str) -> None:
    with pytest.raises(GradevalError, match=message) as error:
        exact_gradient(make_problem(units), "layerwise")
    assert "\n" not in str(error.value)


def test_the_change_that_fits_does_fit(make_problem) -> None:
    """And one unit more does not: the message's widths for a limit of memory."""
    with pytest.raises(GradevalError, match="smallest change that fits is 25-3 to 20-3;") as error:
        exact_gradient(make_problem((25, 3)), "layerwise", memory=2**31)
    assert "the limits are 60 minutes and 2 GiB" in str(error.value)
    assert method_costs((20, 3), 4, 2)["layerwise"].bytes <= 2**31 < method_costs((21, 3), 4, 2)["layerwise"].bytes


def test_limits_can_be_set(make_problem) -> None:
    problem = make_problem((12, 12))
    with pytest.raises(GradevalError, match=r"2\^24 .* limits are 0.001 seconds"):
        exact_gradient(problem, seconds=0.001)
    with pytest.raises(GradevalError, match="joint enumeration is too large"):
        exact_gradient(problem, "joint", seconds=1.0)


class Recorder:
    """A progress that keeps all calls."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, int | str]] = []

    def start(self, task: str, total: int) -> None:
        self.events.append(("start", task, total))

    def advance(self, task: str, steps: int) -> None:
        self.events.append(("advance", task, steps))

    def finish(self, task: str, note: str = "") -> None:
        self.events.append(("finish", task, note))


def test_long_computations_report_their_progress(make_problem, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """Planted: percents so far instead of percents since the last call add up to far more than 100."""
    problem, short, long = make_problem((8, 8)), Recorder(), Recorder()
    quiet = exact_gradient(problem, "layerwise", progress=short)
    assert short.events == []
    monkeypatch.setattr("gradeval.reference.exact.PATIENCE", 0.0)
    reported = exact_gradient(problem, "layerwise", progress=long)
    assert reported.value == quiet.value
    first, *steps, last = long.events
    assert (first, last) == (("start", "exact gradient", 100), ("finish", "exact gradient", ""))
    assert {(event, task) for event, task, _ in steps} == {("advance", "exact gradient")}
    assert 90 <= sum(int(percent) for _, _, percent in steps) <= 100
    exact_gradient(problem, "layerwise")
    assert capfd.readouterr() == ("", "")
