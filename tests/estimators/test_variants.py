"""Variants of straight-through, Concrete and PSA: what they are in the limits, and their originals restated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gradeval.errors import GradevalError
from gradeval.estimators import Estimator, get_estimator
from gradeval.estimators.straight_through import with_backward_factor
from gradeval.model.problem import Problem
from gradeval.model.randomness import RandomDraws, generator
from gradeval.reference import exact_gradient, exact_moments
from gradeval.sampling.sampler import Sampler

NOISY = ["logistic", "normal", "cauchy", "uniform"]


def gradient(problem: Problem, estimator: str | Estimator, seed: int = 3) -> Tensor:
    """One draw, flattened."""
    estimator = get_estimator(estimator) if isinstance(estimator, str) else estimator
    return Sampler(problem, "estimator", estimator).chunk(1, seed)[0][0]


@pytest.mark.parametrize("noise", NOISY)
def test_decoupled_st_is_st_at_one_temperature_and_scales_its_derivative(make_problem, noise: str) -> None:
    problem = make_problem((3, 2), noise=noise, scale=0.6, states=(-1.0, 1.0))
    torch.testing.assert_close(gradient(problem, "decoupled-st:backward=1"), gradient(problem, "st"))

    def halved(network, inputs, loss, randomness):
        def backward(layer, a, s):
            return layer.noise.pdf(a.detach() / 2) / 2 * a

        return with_backward_factor(network, inputs, loss, randomness, backward)

    torch.testing.assert_close(gradient(problem, "decoupled-st:backward=2"), gradient(problem, halved))


def test_decoupled_st_samples_at_its_forward_temperature(make_problem) -> None:
    """With one layer the head's mean gradient is that of a network whose weights are divided by the temperature."""
    problem, cooled = make_problem((3,)), make_problem((3,))
    with torch.no_grad():
        for parameter in cooled.network.layers.parameters():
            parameter.div_(0.5)
    exact = exact_gradient(cooled)
    found = exact_moments(problem, get_estimator("decoupled-st:forward=0.5"))
    torch.testing.assert_close(found.mean[exact.slices["head"]], exact.by_layer()["head"])
    assert found.value == pytest.approx(exact.value)


@pytest.mark.parametrize("spec", ["decoupled-st:forward=0", "reinmax-rao:temperature=-1", "bayesbinn:temperature=0"])
def test_temperatures_must_be_positive(spec: str) -> None:
    with pytest.raises(GradevalError, match=r"must be positive, found"):
        get_estimator(spec)


def test_what_bayesbinn_and_reinmax_rao_cannot_take() -> None:
    with pytest.raises(GradevalError, match="epsilon must be at least 0, found -1"):
        get_estimator("bayesbinn:epsilon=-1")
    with pytest.raises(GradevalError, match="samples must be at least 1, found 0"):
        get_estimator("reinmax-rao:samples=0")


@pytest.mark.parametrize("noise", NOISY)
def test_bayesbinn_is_a_quarter_of_identity_st_as_published_and_concrete_without_epsilon(make_problem, noise) -> None:
    """In every draw: the uniform variables of the noise are those of the states."""
    problem = make_problem((3, 2), noise=noise, scale=0.3, states=(-1.0, 1.0))

    def quarter(network, inputs, loss, randomness):
        return with_backward_factor(network, inputs, loss, randomness, lambda layer, a, s: a / 4)

    torch.testing.assert_close(gradient(problem, "bayesbinn"), gradient(problem, quarter), rtol=1e-7, atol=1e-9)
    without = gradient(problem, "bayesbinn:temperature=0.5,epsilon=0")
    torch.testing.assert_close(without, gradient(problem, "concrete:temperature=0.5"))


def test_bayesbinn_is_its_original_form(make_problem) -> None:
    """For logistic noise and states ±1: a = 2λ, w = tanh((λ + δ)/τ) and ∂/∂μ = f'(w)(1 − w² + ε)/(τ(1 − μ² + ε))."""
    problem = make_problem((3,), states=(-1.0, 1.0), points=1)
    temperature, epsilon = 0.7, 0.2

    def original(network, inputs, loss, randomness):
        (layer,) = network.layers
        a = layer.preactivation(inputs)
        noise = -randomness.noise(layer.noise, a.shape) / 2
        w = torch.tanh((a / 2 + noise) / temperature).detach()
        mean = torch.tanh(a / 2)
        scale = (1 - w**2 + epsilon) / temperature / (1 - mean**2 + epsilon)
        return loss(w + scale.detach() * (mean - mean.detach()))

    ours = gradient(problem, f"bayesbinn:temperature={temperature},epsilon={epsilon}")
    torch.testing.assert_close(ours, gradient(problem, original))


def factors(make_problem, spec: str, a: Tensor, noise: str = "logistic", seed: int = 1) -> tuple[Tensor, Tensor]:
    """The states of one layer that an estimator samples, and its backward factors of these: f is their sum."""
    network = make_problem((len(a),), noise=noise).network
    with torch.no_grad():
        network.layers[0].map.weight.zero_()
        network.layers[0].map.bias.copy_(a)
    states = []

    def loss(x):
        states.append(x.detach()[0])
        return x.sum(-1)

    chance = RandomDraws(generator("cpu", seed))
    value = get_estimator(spec)(network, torch.zeros(1, 2, dtype=a.dtype), loss, chance)
    return states[0], torch.autograd.grad(value.sum(), network.layers[0].map.bias)[0]


A = torch.tensor([-0.6, -0.4, -0.2, 0.3, 0.5, 0.6], dtype=torch.float64)


def test_reinmax_rao_is_the_authors_form_for_two_categories(make_problem) -> None:
    """2 J_GR − ½ J(π) with exponential variables, as they write it, by the first logit; six standard errors."""
    temperature, samples = 0.7, 40_000
    s, found = factors(make_problem, f"reinmax-rao:temperature={temperature},samples={samples}", A)
    assert 0 < s.sum() < len(A)
    one_hot, pi = torch.stack([s, 1 - s]), torch.stack([torch.sigmoid(A), torch.sigmoid(-A)])  # [2, units]
    e = -torch.log(torch.rand(samples, *pi.shape, dtype=A.dtype, generator=torch.Generator().manual_seed(5)))
    of_chosen = (one_hot * e).sum(1, keepdim=True)
    perturbed = -torch.log((1 - one_hot) * e / ((pi + one_hot) / 2) + of_chosen)
    soft = torch.softmax(perturbed / temperature, 1)
    slopes = 2 * soft[:, 0] * soft[:, 1] / temperature
    theirs, error = slopes.mean(0) - 0.5 * pi[0] * pi[1], slopes.std(0) / samples**0.5
    assert ((found - theirs).abs() < 6 * 2**0.5 * error).all()
    assert (6 * 2**0.5 * error < 0.1 * found.abs()).all()


@pytest.mark.parametrize("noise", NOISY)
def test_reinmax_rao_at_a_low_temperature(make_problem, noise: str) -> None:
    """The factor by the logit tends to ½ (1 − P(s))², where ReinMax has ½ (1 − P(s)).

    The mean of K noises has the relative error 1/√(6τfK), f = (1 − P(s))/2 their density there, and a bias of order τ²;
    six standard errors.
    """
    temperature, samples = 0.02, 200_000
    s, found = factors(make_problem, f"reinmax-rao:temperature={temperature},samples={samples}", A, noise)
    layer, a = make_problem((1,), noise=noise).network.layers[0], A.clone().requires_grad_()
    other = layer.probability(((1 - 2 * s) * A)[None])[0]
    logit = torch.autograd.grad(layer.noise.log_odds(a).sum(), a)[0]
    whole = 0.5 * other * logit
    error = whole * (6 * (3 * temperature * other * samples) ** -0.5 + temperature**2)
    assert ((found - whole * other).abs() < error).all()
    assert (error < 0.5 * whole * (1 - other)).all()
    torch.testing.assert_close(factors(make_problem, "reinmax", A, noise)[1], whole)


# --- SA --------------------------------------------------------------------------------------------


def by_flip_probabilities(problem: Problem, path: list[Tensor]) -> Tensor:
    """SA as its authors' code has it: flip probabilities q, zero in value, travel up; θ's gradient for a given path."""
    network, loss = problem.network, problem.loss_function()
    x, q = problem.inputs, None
    for layer, s in zip(network.layers, path, strict=True):
        a, y = layer.preactivation(x), 2 * s - 1
        chosen = layer.probability(y * a).detach()
        p = -y * layer.probability(a) / 2
        p = p - p.detach()
        if q is not None:
            below = (x - layer.lo) / layer.delta
            for i in range(below.shape[-1]):
                flipped = below.clone()
                flipped[..., i] = 1 - flipped[..., i]
                moved = layer.preactivation(layer.encode(flipped)).detach()
                fall = layer.probability(a).detach() - layer.probability(moved)
                p = p + y * fall * ((moved - a.detach()) * y < 0) * q[..., i, None]
        q, x = p / chosen, layer.encode(s)
    f, total = loss(x), 0.0
    for i in range(s.shape[-1]):
        flipped = s.clone()
        flipped[..., i] = 1 - flipped[..., i]
        total = total + (loss(layer.encode(flipped)) - f).detach() * q[..., i]
    parameters = [p for layer in network.layers for p in layer.parameters()]
    return torch.cat([g.flatten() for g in torch.autograd.grad(total.mean(), parameters)])


@pytest.mark.parametrize("noise", NOISY)
@pytest.mark.parametrize("states", [(0.0, 1.0), (-1.0, 1.0)])
def test_sa_is_what_flip_probabilities_give(make_problem, noise: str, states) -> None:
    problem, path = make_problem((3, 2, 4), noise=noise, states=states, scale=0.5), []

    class Kept(RandomDraws):
        def bernoulli(self, probability):
            path.append(super().bernoulli(probability).detach())
            return path[-1]

    value = get_estimator("sa")(problem.network, problem.inputs, problem.loss_function(), Kept(generator("cpu", 3)))
    parameters = [p for layer in problem.network.layers for p in layer.parameters()]
    found = torch.cat([g.flatten() for g in torch.autograd.grad(value.mean(), parameters)])
    torch.testing.assert_close(found, by_flip_probabilities(problem, path), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("noise", NOISY)
def test_sa_on_one_layer_is_unbiased_and_psa_varies_less(make_problem, noise: str) -> None:
    problem = make_problem((3,), noise=noise, scale=0.6)
    sa, psa = (exact_moments(problem, get_estimator(name)) for name in ("sa", "psa"))
    assert sa.relative_bias()["all"] < 1e-12
    layer = sa.slices["1"]  # the head's is the same
    assert (psa.variance <= sa.variance * (1 + 1e-10) + 1e-14)[layer].all()
    assert psa.variance[layer].sum() < 0.9 * sa.variance[layer].sum()


@pytest.mark.parametrize("noise", NOISY)
def test_sa_is_second_order_in_the_layer_above(make_problem, noise: str) -> None:
    """It takes a flip from either side: exact where two units of the layer above flip at most, not where three do."""
    scale = 0.3 if noise == "uniform" else 0.6
    two, three = (make_problem((2, n), noise=noise, scale=scale, points=2) for n in (2, 3))
    assert exact_moments(two, get_estimator("sa")).relative_bias()["all"] < 1e-12
    assert exact_moments(two, get_estimator("psa")).relative_bias()["1"] > 1e-4
    sa, psa = (exact_moments(three, get_estimator(name)).relative_bias()["1"] for name in ("sa", "psa"))
    assert 1e-10 < sa < 0.5 * psa
