"""Maps that are affine by structure, all flips of their inputs, and PSA on deep and convolutional nets."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from statistics import NormalDist

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradeval.errors import GradevalError
from gradeval.estimators import TABLE, get_estimator
from gradeval.evaluation.run import evaluate
from gradeval.model import flips, head_loss
from gradeval.model.affine import affine_form
from gradeval.model.flips import Flips, flip_differences, terms_needed
from gradeval.model.forms import Dense, Windows
from gradeval.model.maps import ImageMap, Residual, ScaleBias
from gradeval.model.network import BinaryLayer, FlipCost, StochasticBinaryNetwork
from gradeval.model.noise import NOISES, Noise
from gradeval.model.problem import Problem
from gradeval.model.randomness import EnumeratedStates, generator
from gradeval.reference import exact_gradient, exact_moments
from gradeval.sampling.probes import count_evaluations
from gradeval.sampling.sampler import Sampler
from gradeval.studies.costs import one_gradient

SMOOTH = ("logistic", "normal", "cauchy")


def scale_bias(*shape: int) -> ScaleBias:
    module = ScaleBias(*shape)
    with torch.no_grad():
        module.weight.copy_(torch.linspace(-1.0, 1.3, shape[0]).reshape(shape))
        module.bias.copy_(torch.linspace(0.5, -1.0, shape[0]).reshape(shape))
    return module


class Doubled(nn.Linear):
    """A linear map with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) ** 2


# name: (inputs, the map, what its matrix is found as; None: not affine by structure)
MAPS: dict[str, tuple[int, Callable[[], nn.Module], type | None]] = {
    "linear": (5, lambda: nn.Linear(5, 4), Dense),
    "linear twice": (5, lambda: nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 4)), Dense),
    "scaled linear": (5, lambda: nn.Sequential(nn.Linear(5, 4), scale_bias(4)), Dense),
    "scale": (4, lambda: scale_bias(4), Windows),
    "identity": (4, lambda: nn.Identity(), Windows),
    "skip": (4, lambda: Residual(nn.Identity(), nn.Linear(4, 4)), Dense),
    "conv": (18, lambda: ImageMap((2, 3, 3), nn.Conv2d(2, 3, 2)), Windows),
    "strided": (32, lambda: ImageMap((2, 4, 4), nn.Conv2d(2, 3, 2, stride=2)), Windows),
    "strided with a rest": (50, lambda: ImageMap((2, 5, 5), nn.Conv2d(2, 3, 2, stride=2)), Windows),
    "gaps between windows": (16, lambda: ImageMap((1, 4, 4), nn.Conv2d(1, 2, 1, stride=3)), Windows),
    "padded": (12, lambda: ImageMap((1, 3, 4), nn.Conv2d(1, 2, 3, padding=1)), Windows),
    "strided and padded": (40, lambda: ImageMap((2, 5, 4), nn.Conv2d(2, 2, (3, 2), (2, 1), (1, 0))), Windows),
    "dilated": (16, lambda: ImageMap((1, 4, 4), nn.Conv2d(1, 2, 2, dilation=2)), Windows),
    "channelwise": (18, lambda: ImageMap((2, 3, 3), nn.Conv2d(2, 2, 2, groups=2)), Windows),
    "in groups": (36, lambda: ImageMap((4, 3, 3), nn.Conv2d(4, 6, 2, groups=2)), Windows),
    "pooled": (25, lambda: ImageMap((1, 5, 5), nn.Conv2d(1, 3, 2), nn.AvgPool2d(2)), Windows),
    "pooling": (16, lambda: ImageMap((1, 4, 4), nn.AvgPool2d(3, 1, 1), scale_bias(1, 1, 1)), Windows),
    "overlapping pools": (36, lambda: ImageMap((1, 6, 6), nn.Conv2d(1, 2, 3, 1, 1), nn.AvgPool2d(3, 2)), Windows),
    "pool first": (32, lambda: ImageMap((2, 4, 4), nn.AvgPool2d(2), nn.Conv2d(2, 2, 3, padding=1)), Windows),
    "pool first with a rest": (25, lambda: ImageMap((1, 5, 5), nn.AvgPool2d(2), nn.Conv2d(1, 2, 3, padding=1)), Dense),
    "two padded": (9, lambda: ImageMap((1, 3, 3), nn.Conv2d(1, 2, 3, 1, 1), nn.Conv2d(2, 1, 3, 1, 1)), Dense),
    "two plain": (16, lambda: ImageMap((1, 4, 4), nn.Conv2d(1, 2, 2), nn.Conv2d(2, 3, 2, 1)), Windows),
    "channelwise twice": (32, lambda: ImageMap((2, 4, 4), nn.Conv2d(2, 2, 2, groups=2), nn.AvgPool2d(2, 1)), Windows),
    "normalised": (18, lambda: ImageMap((2, 3, 3), nn.Conv2d(2, 2, 2), scale_bias(2, 1, 1)), Windows),
    "residual": (18, lambda: ImageMap((2, 3, 3), Residual(nn.Identity(), nn.Conv2d(2, 2, 3, padding=1))), Windows),
    "strided residual": (
        25,
        lambda: ImageMap(
            (1, 5, 5), Residual(nn.Conv2d(1, 2, 1, 2), nn.Conv2d(1, 2, 3, 2, 1), nn.Conv2d(1, 2, 2, 2, 1))
        ),
        Windows,
    ),
    "residual, pooled": (
        32,
        lambda: ImageMap((2, 4, 4), Residual(nn.Identity(), nn.Conv2d(2, 2, 3, padding=1)), nn.AvgPool2d(2)),
        Windows,
    ),
    "unequal branches": (
        16,
        lambda: ImageMap((1, 4, 4), Residual(nn.Conv2d(1, 1, 1, 2), nn.Sequential(nn.AvgPool2d(1), nn.AvgPool2d(2)))),
        Windows,
    ),
    "mean of the image": (18, lambda: ImageMap((2, 3, 3), nn.AdaptiveAvgPool2d(1)), Windows),
    "mean of uneven parts": (18, lambda: ImageMap((2, 3, 3), nn.AdaptiveAvgPool2d(2)), Dense),
    "to a linear map": (32, lambda: nn.Sequential(ImageMap((2, 4, 4), nn.AvgPool2d(2)), nn.Linear(8, 3)), Dense),
    "flattened": (
        9,
        lambda: ImageMap((1, 3, 3), nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(8, 4)),
        Dense,
    ),
    "from a linear map": (3, lambda: nn.Sequential(nn.Linear(3, 9), ImageMap((1, 3, 3), nn.Conv2d(1, 2, 2))), Dense),
    "same padding": (9, lambda: ImageMap((1, 3, 3), nn.Conv2d(1, 2, 3, padding="same")), Dense),
    "circular": (9, lambda: ImageMap((1, 3, 3), nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")), Dense),
    "one-dimensional": (
        6,
        lambda: ImageMap((1, 1, 6), nn.Flatten(1, 2), nn.Conv1d(1, 2, 3), nn.AvgPool1d(2)),
        Dense,
    ),
    "largest of a pool": (16, lambda: ImageMap((1, 4, 4), nn.Conv2d(1, 2, 1), nn.MaxPool2d(2)), None),
    "not what it looks": (4, lambda: Doubled(4, 3), None),
    "tanh within": (4, lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)), None),
}
AFFINE = [name for name, (_, _, kind) in MAPS.items() if kind]


def make_layer(
    name: str, noise: str = "logistic", states: tuple[float, float] = (-1.0, 1.0)
) -> tuple[int, BinaryLayer]:
    inputs, make, _ = MAPS[name]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return inputs, BinaryLayer(make().double(), NOISES[noise], states)


def states_and_gains(layer: BinaryLayer, inputs: int, batch: tuple[int, ...] = (2, 3)) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(2)
    x = layer.encode((torch.rand(*batch, inputs, generator=random, dtype=torch.float64) < 0.5).double())
    a = layer.preactivation(x).detach()
    return x, a, torch.randn(a.shape, generator=random, dtype=torch.float64)


def one_by_one(layer: BinaryLayer, x: Tensor, a: Tensor, g: Tensor) -> Tensor:
    found = []
    for i in range(x.shape[-1]):
        flipped = x.clone()
        flipped[..., i] = 2 * layer.lo + layer.delta - flipped[..., i]
        found.append((g * (layer.probability(a) - layer.probability(layer.preactivation(flipped)))).sum(-1))
    return torch.stack(found, -1).detach()


@pytest.mark.parametrize("name", MAPS)
def test_the_matrix_of_a_map(name: str) -> None:
    inputs, layer = make_layer(name)
    form = affine_form(layer.map, inputs, torch.empty(0, dtype=torch.float64))
    kind = MAPS[name][2]
    assert type(form) is (kind or type(None))
    if form is None:
        return
    x, a, g = states_and_gains(layer, inputs)
    constant = layer.map(torch.zeros_like(x[0]))[0]
    torch.testing.assert_close(form.forward(x), a - constant, rtol=0, atol=1e-12)
    matrix = (layer.map(torch.eye(inputs).double()) - constant).mT
    torch.testing.assert_close(form.transposed(g), g @ matrix, rtol=0, atol=1e-12)
    torch.testing.assert_close(form.transposed(g, form.weight**2), g @ matrix**2, rtol=0, atol=1e-12)
    torch.testing.assert_close(form.forward(x, form.weight**2), x @ (matrix**2).mT, rtol=0, atol=1e-12)
    assert form.pairs >= int((matrix != 0).sum())
    parameters = list(layer.parameters())
    if not parameters:
        return
    found, right = (
        torch.autograd.grad((y * g).sum(), parameters, allow_unused=True, materialize_grads=True)
        for y in (form.forward(x), layer.map(x) - layer.map(torch.zeros_like(x)))
    )
    torch.testing.assert_close(found, right, rtol=0, atol=1e-11)


@pytest.mark.parametrize("states", [(-1.0, 1.0), (0.0, 1.0)])
@pytest.mark.parametrize("name", MAPS)
def test_all_flips_equal_flips_one_by_one(name: str, states: tuple[float, float], monkeypatch) -> None:
    monkeypatch.setattr("gradeval.model.forms.CHUNK_ENTRIES", 7)  # in parts
    monkeypatch.setattr("gradeval.model.network.CHUNK_ENTRIES", 50)
    inputs, layer = make_layer(name, states=states)
    x, a, g = states_and_gains(layer, inputs)
    right = one_by_one(layer, x, a, g)
    if name in AFFINE:
        for method in ("direct", "separable", "auto"):
            found = flip_differences(layer.flips(x), a, g, method=method)
            torch.testing.assert_close(found.detach(), right, rtol=0, atol=1e-10)
        torch.testing.assert_close(layer.flip_response(x, a, g), right, rtol=0, atol=1e-12)
    else:
        with pytest.warns(FlipCost, match=f"its {inputs} flips cost {inputs} evaluations"):
            torch.testing.assert_close(layer.flip_response(x, a, g), right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["linear", "strided and padded", "channelwise", "residual, pooled"])
@pytest.mark.parametrize("noise", NOISES)
def test_every_noise(name: str, noise: str) -> None:
    inputs, layer = make_layer(name, noise)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter *= 0.5
    x, a, g = states_and_gains(layer, inputs)
    right, arguments = one_by_one(layer, x, a, g), (layer.flips(x), a, g)
    for method in ("direct", "auto") + (("separable",) if noise in SMOOTH else ()):
        torch.testing.assert_close(flip_differences(*arguments, method=method).detach(), right, rtol=0, atol=1e-10)
    if noise not in SMOOTH:
        with pytest.raises(ValueError, match=f"no separable form for {noise}"):
            flip_differences(*arguments, method="separable")


def test_no_weights_no_change() -> None:
    form = Dense(torch.zeros(3, 2, dtype=torch.float64))
    x, a = torch.ones(4, 2, dtype=torch.float64), torch.ones(4, 3, dtype=torch.float64)
    assert not flip_differences(Flips(form, NOISES["logistic"], -2 * x, 2.0), a, a, method="separable").any()


def wrong_parity(monkeypatch) -> None:
    separable = flips._separable

    def of_absolute_sign(found: Flips, *rest):
        return separable(dataclasses.replace(found, change=-found.change.abs()), *rest)

    monkeypatch.setattr(flips, "_separable", of_absolute_sign)


def swapped_parts(monkeypatch) -> None:
    coefficients = flips._coefficients
    monkeypatch.setattr(flips, "_coefficients", lambda *a: coefficients(*a[:-2], 3 - a[-2], a[-1]))


def half_the_change(monkeypatch) -> None:
    separable = flips._separable

    def of_half(found: Flips, *rest):
        return separable(dataclasses.replace(found, change=found.change / 2, delta=found.delta / 2), *rest)

    monkeypatch.setattr(flips, "_separable", of_half)


def wrong_stride(monkeypatch) -> None:
    form = BinaryLayer.form
    monkeypatch.setattr(BinaryLayer, "form", lambda self, x: dataclasses.replace(form(self, x), stride=(1, 1)))


def wrong_padding(monkeypatch) -> None:
    form = BinaryLayer.form
    monkeypatch.setattr(BinaryLayer, "form", lambda self, x: dataclasses.replace(form(self, x), padding=(0, 1)))


@pytest.mark.parametrize("fault", [wrong_parity, swapped_parts, half_the_change, wrong_stride, wrong_padding])
def test_planted_faults_in_flips_are_caught(fault: Callable[..., None], monkeypatch) -> None:
    inputs, layer = make_layer("strided and padded")
    x, a, g = states_and_gains(layer, inputs)
    right = one_by_one(layer, x, a, g)
    fault(monkeypatch)
    try:
        found = flip_differences(layer.flips(x), a, g, method="separable")
    except RuntimeError:  # shapes that do not fit are caught, too
        assert fault in (wrong_stride, wrong_padding)
        return
    assert (found - right).abs().max() > 1e-3


def worst_error(noise: Noise, reach: float, tolerance: float) -> float:
    """The largest error of the separable form over a grid of a and w, as a multiple of |w| F′(0)."""
    a = torch.linspace(-12, 12, 481, dtype=torch.float64)[:, None]
    w = reach * torch.linspace(0.01, 1, 100, dtype=torch.float64)
    sign = torch.ones(len(a), len(w), dtype=torch.float64)
    each = Flips(Dense(w[None]), noise, -sign, 1.0)
    found = flip_differences(each, a, torch.ones_like(a), tolerance, "separable")
    right = -torch.stack(noise.differences(a[:, 0], w.tolist()), -1)
    return float(((found - right).abs() / (w * noise.pdf(torch.zeros((), dtype=torch.float64)))).max())


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SMOOTH), st.floats(1e-3, 1.5), st.floats(-11, -1))
def test_the_error_bound_bounds(name: str, reach: float, exponent: float) -> None:
    """With 1e-13 for rounding."""
    tolerance = 10**exponent
    assume(terms_needed(NOISES[name], reach, tolerance) is not None)
    assert worst_error(NOISES[name], reach, tolerance) <= tolerance + 1e-13 / reach


@pytest.mark.parametrize("reach", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-7])
def test_one_term_fewer_breaks_the_promise_soon(reach: float, tolerance: float, monkeypatch) -> None:
    """The bound is not idle: with a term fewer in each part the error is beyond it (for changes of up to 1)."""
    terms = terms_needed(NOISES["logistic"], reach, tolerance)
    assert terms is not None
    if min(terms) < 2:
        return
    monkeypatch.setattr(flips, "terms_needed", lambda *_: (terms[0] - 1, terms[1] - 1))
    assert worst_error(NOISES["logistic"], reach, tolerance) > tolerance


def test_where_there_is_no_separable_form() -> None:
    assert terms_needed(NOISES["laplace"], 0.1, 1e-6) is None
    assert terms_needed(NOISES["logistic"], 6.5, 1e-6) is None  # beyond 2π the bound does not fall
    assert terms_needed(NOISES["cauchy"], 2.1, 1e-6) is None
    assert terms_needed(NOISES["logistic"], 0.088, 1e-5) == (2, 1)


@pytest.mark.parametrize("name", SMOOTH)
def test_derivative_bounds(name: str) -> None:
    """Against derivatives by automatic differentiation; at most 3 times too large."""
    noise = NOISES[name]
    function: Callable[[Tensor], Tensor] = noise.cdf
    grid = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    for order in range(1, 8):
        function = torch.func.grad(function)
        largest = float(torch.func.vmap(function)(grid).abs().max())
        assert largest <= noise.derivative_bound(order) * (1 + 1e-10) <= 3 * largest


def test_the_logistic_difference_does_not_cancel() -> None:
    """Single against double precision, relative to the difference itself: a few roundings."""
    a = torch.linspace(-8, 8, 101, dtype=torch.float64)
    shifts = (1e-4, -0.01, 0.3, -1.0)
    found = NOISES["logistic"].differences(a.float(), shifts)
    for w, single, right in zip(shifts, found, NOISES["logistic"].differences(a, shifts), strict=True):
        torch.testing.assert_close(right, torch.sigmoid(a - w) - torch.sigmoid(a), rtol=1e-8, atol=1e-15)
        assert ((single.double() - right) / right).abs().max() < 1e-6


def test_single_precision_is_good_to_its_tolerance() -> None:
    """The relative error (of the sum over units) of the form chosen for a wide layer, against double precision."""
    layer = BinaryLayer(nn.utils.skip_init(nn.Linear, 256, 256), NOISES["logistic"], (-1.0, 1.0))
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        layer.map.weight.uniform_(-0.06, 0.06, generator=random)
        layer.map.bias.zero_()
    x = 2.0 * (torch.rand(64, 256, generator=random) < 0.5) - 1
    g = torch.randn(64, 256, generator=random)
    found = layer.flip_response(x, layer.preactivation(x).detach(), g)
    layer.double()
    x, g = x.double(), g.double()
    a = layer.preactivation(x).detach()
    right = flip_differences(layer.flips(x), a, g, method="direct")
    assert (found - right).norm() / right.norm() < 1e-5


# networks

NETS: dict[str, tuple[int, Callable[[], list[nn.Module]], Callable[[], nn.Module]]] = {
    "convolutions": (
        9,
        lambda: [ImageMap((1, 3, 3), nn.Conv2d(1, 1, 2)), ImageMap((1, 2, 2), nn.Conv2d(1, 2, 2, padding=1, stride=2))],
        lambda: nn.Linear(8, 1),
    ),
    "strides, pools and scales": (
        16,
        lambda: [
            ImageMap((1, 4, 4), nn.Conv2d(1, 2, 3, 2, 1), scale_bias(2, 1, 1)),
            ImageMap((2, 2, 2), nn.Conv2d(2, 2, 3, padding=1), nn.AvgPool2d(2)),
        ],
        lambda: nn.Linear(2, 1),
    ),
    "residuals": (
        4,
        lambda: [
            ImageMap((1, 2, 2), nn.Conv2d(1, 1, 3, padding=1)),
            ImageMap((1, 2, 2), Residual(nn.Identity(), nn.Conv2d(1, 1, 3, padding=1)), scale_bias(1, 1, 1)),
            nn.Sequential(nn.Linear(4, 1), scale_bias(1)),
        ],
        lambda: nn.Linear(1, 1),
    ),
}


def make_net(name: str, noise: str = "logistic", states: tuple[float, float] = (-1.0, 1.0), points: int = 2) -> Problem:
    inputs, maps, head = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = StochasticBinaryNetwork([m.double() for m in maps()], head().double(), noise, states)
        x = torch.randn(points, inputs).double()
    return Problem(network, x, torch.tensor([1.0, -1.0] * points)[:points])


def small(problem: Problem) -> Problem:
    assert sum(problem.widths) <= 12
    return problem


ENUMERATED = ["reinforce", "muprop", "leg"]  # all their chance is Bernoulli states, few of them


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", ENUMERATED)
def test_unbiased_estimators_on_convolutional_nets_exactly(net: str, name: str) -> None:
    subject = small(make_net(net, points=1))
    moments = exact_moments(subject, get_estimator(name))
    torch.testing.assert_close(moments.mean, moments.exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in TABLE if TABLE[n].unbiased and n not in ENUMERATED])
def test_unbiased_estimators_on_a_convolutional_net_by_sampling(name: str) -> None:
    """z of every coordinate, Bonferroni at a false-alarm rate of 1e-6."""
    subject = make_net("residuals", points=2)
    estimator = get_estimator(name)
    if TABLE[name].fitted:
        estimator = estimator.fit(subject, seed=0)
    gradients, _ = Sampler(subject, name, estimator).chunk(4000, name)
    exact = exact_gradient(subject).vector
    error = gradients.std(0) / 4000**0.5 + 1e-12 * exact.norm()  # rounding of what does not vary
    z = (gradients.mean(0) - exact) / error
    assert z.abs().max() < NormalDist().inv_cdf(1 - 1e-6 / (2 * len(exact)))


@pytest.mark.parametrize("name", [n for n in TABLE if not TABLE[n].unbiased])
@pytest.mark.parametrize("net", NETS)
def test_biased_estimators_run_vectorised_on_convolutional_nets(net: str, name: str) -> None:
    subject = make_net(net)
    sampler = Sampler(subject, name, get_estimator(name))
    gradients, _ = sampler.chunk(3, "some")
    assert sampler.vectorised
    assert gradients.isfinite().all()
    assert gradients.any()
    plain = torch.cat([g.flatten() for g in one_gradient(subject, get_estimator(name))()])
    assert plain.shape == gradients.shape[1:]
    assert plain.isfinite().all()


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("noise", ["logistic", "normal"])
def test_psas_exact_bias_is_the_same_in_every_form(net: str, noise: str, monkeypatch) -> None:
    subject = make_net(net, noise)
    found = {}
    for form, cost in (("direct", 0.0), ("separable", 1e12)):
        monkeypatch.setattr(flips, "DIRECT_PAIR", cost)
        found[form] = exact_moments(subject, get_estimator("psa")).bias
    monkeypatch.setattr(BinaryLayer, "form", lambda self, x: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FlipCost)
        one_by_one = exact_moments(subject, get_estimator("psa")).bias
    assert one_by_one.norm() > 1e-5
    torch.testing.assert_close(found["direct"], one_by_one, rtol=0, atol=1e-12)
    torch.testing.assert_close(found["separable"], one_by_one, rtol=0, atol=1e-10)


def test_a_pool_of_largest_costs_an_evaluation_per_flip() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        maps = [
            nn.Linear(2, 4).double(),
            ImageMap((1, 2, 2), nn.Conv2d(1, 2, 1), nn.MaxPool2d(2)).double(),
        ]
        network = StochasticBinaryNetwork(maps, nn.Linear(2, 1).double())
        subject = Problem(network, torch.randn(3, 2).double(), torch.tensor([1.0, -1, 1]))
    with pytest.warns(FlipCost, match="its 4 flips cost 4 evaluations"):
        assert count_evaluations(subject, get_estimator("psa")) == (2 + 4, 1 + 2)
    sampler = Sampler(subject, "psa", get_estimator("psa"))
    assert sampler.vectorised
    assert any("not affine by structure" in note for note in sampler.notes)
    evaluation = evaluate(subject, ["psa"], draws=20)
    assert "not affine by structure" in evaluation.manifest["estimators"]["psa"]["notes"][0]
    assert not Sampler(subject, "st", get_estimator("st")).notes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FlipCost)
        moments = exact_moments(subject, get_estimator("leg"))
    torch.testing.assert_close(moments.mean, moments.exact, rtol=0, atol=1e-12)
    with pytest.raises(GradevalError, match=r"adf.*needs maps that are affine by structure"):
        Sampler(subject, "adf", get_estimator("adf"))


def test_psa_vectorised_over_parameters(monkeypatch) -> None:
    """Stacked training does so: nothing may depend on the values of weights, and no part is made again."""
    subject = make_net("strides, pools and scales", points=3)
    estimator = get_estimator("psa")
    parameters = {name: p.detach() for name, p in subject.network.named_parameters()}

    class Surrogate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = subject.network

        def forward(self) -> Tensor:
            chance = EnumeratedStates(torch.ones(100).double(), generator("cpu", "x"))
            return estimator(self.network, subject.inputs, subject.loss_function(self.network), chance).mean()

    def gradient(parameters: dict[str, Tensor]) -> Tensor:
        named = {f"network.{name}": p for name, p in parameters.items()}
        found = torch.func.grad(lambda p: torch.func.functional_call(Surrogate(), p, ()))(named)
        return torch.cat([g.flatten() for g in found.values()])

    right = gradient(parameters)
    monkeypatch.setattr(flips, "OVERHEAD", -1)
    monkeypatch.setattr(head_loss, "FLIP_ENTRIES", 1)
    stacked = torch.func.vmap(gradient)({name: torch.stack([p, p]) for name, p in parameters.items()})
    torch.testing.assert_close(stacked, torch.stack([right, right]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("head", ["linear", "pooled", "not affine"])
def test_the_loss_of_flips(head: str, monkeypatch) -> None:
    """Value and gradient, in one part and in several, against flips one by one."""
    heads = {
        "linear": lambda: nn.Linear(8, 3),
        "pooled": lambda: nn.Sequential(ImageMap((2, 2, 2), nn.AvgPool2d(2)), nn.Linear(2, 3)),
        "not affine": lambda: nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3)),
    }
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = StochasticBinaryNetwork([nn.Linear(2, 8).double()], heads[head]().double())
        subject = Problem(network, torch.randn(3, 2).double(), torch.tensor([0.0, 2, 1]), "cross-entropy")
        s = (torch.rand(3, 8) < 0.5).double()
        weight = torch.randn(8, 3).double()
    layer, loss = network.layers[0], subject.loss_function()
    right = loss(layer.encode(layer.flip(s)))
    parameters = list(network.head.parameters())
    wanted = torch.autograd.grad((weight * right).sum(), parameters)
    for entries in (2**22, 20):
        monkeypatch.setattr(head_loss, "FLIP_ENTRIES", entries)
        found = loss.flipped(layer, s)
        torch.testing.assert_close(found, right, rtol=0, atol=1e-12)
        torch.testing.assert_close(torch.autograd.grad((weight * found).sum(), parameters), wanted, rtol=0, atol=1e-12)


def test_images_refuse_another_size() -> None:
    with pytest.raises(RuntimeError):
        ImageMap((1, 6, 6), nn.Conv2d(1, 1, 3))(torch.zeros(4, 9))
    assert repr(ImageMap((1, 6, 6))) != repr(ImageMap((1, 4, 9)))  # the fingerprint of a problem sees it


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["linear", "strided and padded", "residual, pooled"])
def test_flips_on_a_gpu(name: str) -> None:
    inputs, layer = make_layer(name)
    x, a, g = states_and_gains(layer, inputs)
    right = one_by_one(layer, x, a, g)
    layer.cuda()
    x, a, g = x.cuda(), a.cuda(), g.cuda()
    for method in ("direct", "separable"):
        found = flip_differences(layer.flips(x), a, g, method=method)
        torch.testing.assert_close(found.detach().cpu(), right, rtol=0, atol=1e-10)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_psa_on_a_gpu() -> None:
    subject = make_net("residuals")
    right = exact_moments(subject, get_estimator("psa")).mean
    found = exact_moments(subject.to("cuda"), get_estimator("psa")).mean
    torch.testing.assert_close(found.cpu(), right, rtol=0, atol=1e-10)
