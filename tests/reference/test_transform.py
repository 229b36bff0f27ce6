"""The transform against enumeration, its bounds against the truth, and what it refuses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradeval import threads
from gradeval.errors import GradevalError
from gradeval.model.elbo import KL_FORMS, NegativeElbo
from gradeval.model.maps import BernoulliDecoder
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.problem import Problem, with_network
from gradeval.problems.tasks import with_parameters
from gradeval.reference import characteristic, exact_gradient, predicted_cost, series
from gradeval.reference.characteristic import sum_of_cosines
from gradeval.reference.series import Series
from gradeval.reference.transform import LastLayer, transform_value_and_gradient, why_not
from gradeval.threads import Crew

OUTPUTS = {"logistic": 1, "bernoulli": 3, "squared": 2, "cross-entropy": 2}


def network_problem(
    maps: list[nn.Module],
    head: nn.Module,
    loss: str,
    *,
    points: int = 4,
    seed: int = 0,
    scale: float = 1.0,
    **net: object,
) -> Problem:
    """Normal parameters of a scale, normal inputs, and targets that suit the loss."""
    random = torch.Generator().manual_seed(seed)
    network = StochasticBinaryNetwork(maps, head, **net).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=random, dtype=torch.float64))
    inputs = torch.randn(points, 2, generator=random, dtype=torch.float64)
    chance = torch.rand(points, OUTPUTS[loss], generator=random, dtype=torch.float64)
    labels = (chance[:, 0] < 0.5).double()
    targets = {"logistic": 2 * labels - 1, "cross-entropy": labels}.get(loss, chance)
    return Problem(network, inputs, targets, loss)


def linear(widths: list[int], loss: str, **options: object) -> Problem:
    sizes = [2, *widths]
    maps: list[nn.Module] = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    return network_problem(maps, nn.Linear(widths[-1], OUTPUTS[loss]), loss, **options)  # type: ignore[arg-type]


def check_against(problem: Problem, method: str = "layerwise", relative: float | None = 1e-11) -> None:
    """Value and gradient equal an enumeration's, within the bound of every layer."""
    truth, found = exact_gradient(problem, method), exact_gradient(problem, "transform")
    assert found.method == "transform"
    assert set(found.error) == set(truth.slices)
    for layer, part in truth.by_layer().items():
        distance = float((found.by_layer()[layer] - part).norm())
        # what enumeration itself rounds
        assert distance <= found.error[layer] + 1e-14 * float(part.norm())
        if relative is not None:
            assert distance <= relative * float(part.norm())
    if relative is not None:
        assert found.value == pytest.approx(truth.value, rel=relative)


@pytest.mark.parametrize("loss", OUTPUTS)
@pytest.mark.parametrize("widths", [[1], [14], [6, 11], [1, 1], [3, 4, 5], [4, 2, 9]], ids=str)
@pytest.mark.parametrize("states", [(0.0, 1.0), (-1.0, 1.0), (0.5, 2.0)], ids=str)
def test_equals_layerwise(loss: str, widths: list[int], states: tuple[float, float]) -> None:
    check_against(linear(widths, loss, states=states))


@pytest.mark.parametrize("loss", OUTPUTS)
@pytest.mark.parametrize("widths", [[3], [2, 3], [2, 1, 2]], ids=str)
@pytest.mark.parametrize("noise", ["logistic", "normal", "uniform", "cauchy"])
def test_equals_joint(loss: str, widths: list[int], noise: str) -> None:
    check_against(linear(widths, loss, noise=noise), "joint")


@given(
    units=st.integers(1, 16),
    below=st.integers(0, 4),
    loss=st.sampled_from(list(OUTPUTS)),
    scale=st.floats(0.1, 10),
    shift=st.sampled_from([0.0, 0.0, 4.0, -12.0, 30.0]),
    outputs=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_the_true_error_is_within_its_bound(
    units: int, below: int, loss: str, scale: float, shift: float, outputs: int, seed: int
) -> None:
    """For all sizes of weights, saturated units and tiny probabilities."""
    outputs = outputs if loss in ("bernoulli", "squared") else OUTPUTS[loss]
    sizes = [2, below, units] if below else [2, units]
    maps: list[nn.Module] = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    problem = network_problem(maps, nn.Linear(units, OUTPUTS[loss]), loss, seed=seed, scale=scale)
    network = problem.network
    if outputs != OUTPUTS[loss]:
        network.head = nn.Linear(units, outputs).double()
        random = torch.Generator().manual_seed(seed)
        problem = Problem(network, problem.inputs, torch.rand(4, outputs, generator=random, dtype=torch.float64), loss)
    with torch.no_grad():
        network.layers[-1].map.bias[::2] += shift  # type: ignore[index,operator]
    check_against(problem, relative=None)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_no_cancellation_at_large_weights(scale: float) -> None:
    check_against(linear([12], "bernoulli", scale=scale), relative=1e-13)


@pytest.mark.parametrize(
    "map",
    [
        nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 6)),
        nn.Sequential(nn.Linear(2, 6), nn.Unflatten(-1, (1, 6)), nn.Conv1d(1, 1, 3, padding=1), nn.Flatten(1)),
    ],
    ids=["tanh", "conv"],
)
@pytest.mark.parametrize("loss", ["bernoulli", "cross-entropy"])
def test_any_map_below_and_any_affine_head(map: nn.Module, loss: str) -> None:
    head = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, OUTPUTS[loss], bias=False))
    check_against(network_problem([map], head, loss))
    above = nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 6))
    check_against(network_problem([map, above], head, loss))


@pytest.mark.parametrize("kl", KL_FORMS)
@pytest.mark.parametrize("states", [(0.0, 1.0), (-1.0, 1.0)], ids=str)
@pytest.mark.parametrize("encoder", [nn.Linear(2, 5), nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 5))])
def test_a_negative_elbo(kl: str, states: tuple[float, float], encoder: nn.Module) -> None:
    """Of the encoder, the decoder and the prior; and a divergence that is left out is seen."""
    problem = network_problem([encoder], BernoulliDecoder(nn.Linear(5, 3), torch.zeros(5)), "bernoulli", states=states)
    elbo = Problem(problem.network, problem.inputs, problem.targets, NegativeElbo(kl))
    check_against(elbo, "joint")
    without = exact_gradient(replace(elbo, network=_with_head(problem), loss="bernoulli"), "transform")
    assert abs(without.value - exact_gradient(elbo, "joint").value) > 1e-3


def _with_head(problem: Problem) -> StochasticBinaryNetwork:
    network = deepcopy(problem.network)
    network.head = network.head.get_submodule("map")
    return network


def test_frozen_and_tied_parameters() -> None:
    problem = linear([6], "bernoulli")
    problem.network.layers[0].map.weight.requires_grad_(False)  # type: ignore[union-attr,operator]
    check_against(problem)
    shared = nn.Linear(3, 3)
    tied = network_problem([nn.Linear(2, 3), shared, shared], nn.Linear(3, 1), "logistic")
    check_against(tied)


@pytest.mark.parametrize("loss", OUTPUTS)
def test_differences_of_the_value_at_200_units(loss: str) -> None:
    """Along directions, by steps h and h/2 extrapolated: error of order h⁴."""
    problem = linear([200], loss, scale=0.3)
    exact, random = exact_gradient(problem, "transform"), np.random.default_rng(0)
    theta = nn.utils.parameters_to_vector(problem.network.parameters()).detach()

    def value(step: float, direction: Tensor) -> float:
        return exact_gradient(with_parameters(problem, theta + step * direction), "transform").value

    for _ in range(3):
        direction = torch.from_numpy(random.normal(size=len(theta)))
        h = 1e-3
        wide, narrow = ((value(s, direction) - value(-s, direction)) / (2 * s) for s in (h, h / 2))
        assert (4 * narrow - wide) / 3 == pytest.approx(float(exact.vector @ direction), rel=1e-7, abs=1e-8)


def h(z: Tensor) -> Tensor:
    return torch.logaddexp(z / 2, -z / 2)


@given(weight=st.floats(0.01, 20), units=st.integers(1, 300), depth=st.floats(2, 37))
@settings(max_examples=100, deadline=None)
def test_the_series_is_within_its_error(weight: float, units: int, depth: float) -> None:
    """At any depth, wherever z can be; where the range is cut, up to R."""
    ends = Series.of(torch.full((1, units), weight), torch.zeros(1), torch.tensor([weight * units / 2]), depth)
    reach = min(weight * units, float(2 * ends.half_period - max(depth, 36.0)))
    z = torch.linspace(-reach, reach, 200, dtype=torch.float64)
    rounding = 1e-15 * len(ends.output) ** 0.5 * (1 + reach)
    assert float((ends(z, 0) - h(z)).abs().max()) <= float(ends.value_error) + rounding


def test_too_few_terms_are_seen_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: a series cut short is wrong, and its bound says so."""
    problem = linear([9], "bernoulli")
    truth = exact_gradient(problem, "layerwise")
    whole = Series.of
    monkeypatch.setattr(Series, "of", lambda *arguments: whole(*arguments, depth=6.0))
    found = exact_gradient(problem, "transform")
    wrong = float((found.vector - truth.vector).norm())
    assert 1e-6 < wrong <= found.error["all"]


@pytest.mark.parametrize("part", ["value_error", "slope_error"])
def test_the_range_may_be_cut_where_it_is_never_left(part: str) -> None:
    """200 units: the cut range is shorter, and the result that of the whole one."""
    weight = torch.full((1, 400), 0.3, dtype=torch.float64)
    offset, p = torch.tensor([-60.0]).double(), torch.full((1, 400), 0.5, dtype=torch.float64)
    work = Crew(p.device), lambda done: None
    found, terms = [], []
    for mean in (0.0, 1000.0):  # of the latter nothing is cut
        cosines = Series.of(weight, offset, torch.tensor([mean]))
        square = (p * (1 - p)) @ (weight**2).mT
        even = sum_of_cosines(p, weight, offset, cosines, work) + square / (4 * cosines.half_period)
        found.append(float(even))
        terms.append(len(cosines.output))
        assert float(getattr(cosines, part)) < 1e-15
    assert terms[0] < 0.8 * terms[1]
    assert found[0] == pytest.approx(found[1], rel=1e-13)


def test_the_same_bits_with_any_number_of_threads_and_any_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "SHARED_FROM", 0)
    monkeypatch.setattr(characteristic, "BLOCK_ENTRIES", 64)
    monkeypatch.setattr(characteristic, "BLOCK_ROWS", 3)
    problem, found = linear([4, 30], "bernoulli"), []
    before = torch.get_num_threads()
    for number, memory in ((1, 2**28), (2, 2**28), (4, 0)):
        monkeypatch.setattr(characteristic, "KEPT_BYTES", memory)
        torch.set_num_threads(number)
        found.append(exact_gradient(problem, "transform"))
    torch.set_num_threads(before)
    assert all(torch.equal(other.vector, found[0].vector) and other.value == found[0].value for other in found[1:])


@pytest.mark.parametrize(
    ("head", "loss", "message"),
    [
        (nn.Sequential(nn.Linear(3, 2), nn.Tanh()), "squared", "the head is not affine by structure"),
        (nn.Linear(3, 3), "cross-entropy", "the cross-entropy of 3 classes, and two are needed"),
        (nn.Linear(3, 1), lambda z, y: z.squeeze(-1) ** 4, "the loss is not 'logistic'"),
    ],
    ids=["head", "classes", "loss"],
)
def test_what_it_is_not_for(head: nn.Module, loss: str | Callable[..., Tensor], message: str) -> None:
    network = StochasticBinaryNetwork([nn.Linear(2, 3)], head).double()
    targets = torch.zeros(1, 2) if loss == "squared" else torch.zeros(1)
    problem = Problem(network, torch.ones(1, 2), targets, loss)
    assert message in why_not(problem)
    with pytest.raises(GradevalError, match=f"method 'transform' does not apply: .*{message}"):
        LastLayer.of(problem)


@pytest.mark.parametrize("widths", [[6], [3, 5]], ids=str)
def test_a_network_in_single_precision(widths: list[int]) -> None:
    """In double precision unless its own is asked for; then to the rounding of that."""
    problem = linear(widths, "bernoulli").to(dtype=torch.float32)
    truth = exact_gradient(problem, "layerwise")
    torch.testing.assert_close(exact_gradient(problem, "transform").vector, truth.vector, rtol=1e-11, atol=1e-13)
    own = exact_gradient(problem, "transform", precision="network").vector
    assert own.dtype == torch.float32
    torch.testing.assert_close(own.double(), truth.vector, rtol=1e-5, atol=1e-6)


def test_weights_that_are_too_large_are_refused_in_a_line() -> None:
    """Auto enumerates where it can."""
    problem = linear([15], "bernoulli", scale=1e12)
    with pytest.raises(
        GradevalError, match=r"too large for the transform: the outputs reach .*e\+1\d and .* the limit is"
    ):
        exact_gradient(problem, "transform")
    assert predicted_cost(linear([20, 14], "bernoulli", scale=1e12)).method == "layerwise"


def test_a_loss_without_a_hash_is_not_known() -> None:
    @dataclass
    class Fourth:
        power: int = 4

        def __call__(self, z: Tensor, y: Tensor) -> Tensor:
            return z.squeeze(-1) ** self.power + 0 * y

    problem = linear([3], "logistic")
    assert "the loss is not" in why_not(Problem(problem.network, problem.inputs, problem.targets, Fourth()))


def test_auto_takes_it_where_enumeration_is_long() -> None:
    assert predicted_cost(linear([5], "logistic")).method == "plain"
    wide = linear([300], "logistic", scale=0.1)
    assert predicted_cost(wide).method == "transform"
    assert exact_gradient(wide).method == "transform"


def test_the_layers_below_are_still_enumerated() -> None:
    with pytest.raises(GradevalError, match=r"layer 1 \(64 units\) has 2\^64 .* 64-40 to \d\d-40;"):
        exact_gradient(linear([64, 40], "logistic"))


def test_a_refusal_of_enumeration_says_why_there_is_no_transform() -> None:
    network = StochasticBinaryNetwork([nn.Linear(2, 3000)], nn.Linear(3000, 3)).double()
    problem = Problem(network, torch.ones(1, 2), torch.zeros(1), "cross-entropy")
    with pytest.raises(
        GradevalError, match=r"2\^3000 states; predicted more years .* cross-entropy of 3 classes"
    ) as error:
        exact_gradient(problem)
    assert "\n" not in str(error.value)


def test_the_predicted_work_is_done() -> None:
    """What is told to the progress adds up to what was predicted, but for what is not shared."""
    problem = linear([3, 40], "bernoulli", scale=0.3)
    cost, done = predicted_cost(problem, "transform"), list[int]()
    transform_value_and_gradient(problem, done.append)
    assert 0.8 < sum(done) / cost.multiply_adds < 1.2


def test_depth_is_that_of_double_precision() -> None:
    assert math.exp(-series.DEPTH) < np.finfo(float).eps / 2


def test_values_of_points_do_not_depend_on_others() -> None:
    """Rows are expected one by one: leaving one out changes no other."""
    problem = linear([20], "bernoulli", points=5)
    values = [
        exact_gradient(
            Problem(problem.network, problem.inputs[[i]], problem.targets[[i]], "bernoulli"), "transform"
        ).value
        for i in range(5)
    ]
    assert exact_gradient(with_network(problem, problem.network), "transform").value == pytest.approx(
        sum(values) / 5, rel=1e-13
    )


@pytest.mark.parametrize("loss", ["squared", "bernoulli"])
def test_a_head_without_parameters(loss: str) -> None:
    """Planted: a bound that looks for the slopes of the head's parameters ended in an IndexError."""
    network = StochasticBinaryNetwork([nn.Linear(2, 4).double()], nn.Identity())
    problem = Problem(network, torch.eye(2).double(), torch.full((2, 4), 0.499).double(), loss)
    found = exact_gradient(problem, "transform")
    torch.testing.assert_close(found.vector, exact_gradient(problem, "joint").vector, rtol=1e-13, atol=1e-15)
    assert set(found.error) == {"1", "all"}
