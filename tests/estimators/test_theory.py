"""Facts of theory about the estimators, by exact moments wherever their chance can be enumerated."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from gradeval.estimators import Estimator, get_estimator
from gradeval.estimators.protocol import learns
from gradeval.estimators.straight_through import with_backward_factor
from gradeval.estimators.surrogate import carry, one_unit, sample_path
from gradeval.estimators.without_replacement import _another
from gradeval.model.problem import Problem
from gradeval.model.randomness import EnumeratedStates, generator
from gradeval.reference import exact_gradient, exact_moments
from gradeval.sampling.probes import count_evaluations
from gradeval.sampling.sampler import Sampler

pytestmark = pytest.mark.no_shapes
NOISY = ["logistic", "normal", "cauchy", "uniform"]
ENCODINGS = [(0.0, 1.0), (-1.0, 1.0)]
Z = 5.5  # standard errors; a false alarm in one of the some hundred comparisons has a probability below 1e-5


def ready(spec: str, problem: Problem) -> Estimator:
    estimator = get_estimator(spec)
    return estimator.fit(problem, seed=1) if learns(estimator) else estimator


def gradient(problem: Problem, estimator: Estimator, seed: int = 3) -> Tensor:
    """One draw, flattened."""
    sampler = Sampler(problem, "estimator", estimator)
    return sampler.chunk(1, seed)[0][0]


def sampled_variance(problem: Problem, estimator: Estimator, layer: str, draws: int = 20_000) -> tuple[float, float]:
    """tr Cov of a layer's gradient and its standard error."""
    gradients, _ = Sampler(problem, "estimator", estimator).chunk(draws, "variance")
    where = exact_gradient(problem).slices[layer]
    squares = ((gradients[:, where] - gradients[:, where].mean(0)) ** 2).sum(1)
    return float(squares.mean()), float(squares.std() / draws**0.5)


def exact_variance(problem: Problem, estimator: Estimator, layer: str = "1") -> float:
    moments = exact_moments(problem, estimator)
    return float(moments.variance[moments.slices[layer]].sum())


@pytest.mark.parametrize("noise", NOISY)
@pytest.mark.parametrize("states", ENCODINGS)
def test_one_layer_psa_is_ram_is_leg(make_problem, noise: str, states) -> None:
    """The same numbers in every draw for θ; psa alone averages the head's gradient."""
    problem = make_problem((3,), noise=noise, states=states, scale=0.6)
    where = exact_gradient(problem).slices["1"]
    psa, ram, leg = (gradient(problem, get_estimator(name))[where] for name in ("psa", "ram", "leg"))
    torch.testing.assert_close(ram, psa, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(leg, psa, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("states", ENCODINGS)
def test_reinmax_is_its_original_form(make_problem, states) -> None:
    """2q(1 − q) − ½p(1 − p) with q = (p + s)/2, for logistic noise."""
    problem = make_problem((3, 2), states=states)

    def original(network, inputs, loss, randomness):
        def backward(layer, a, s):
            p = layer.probability(a).detach()
            q = (p + s) / 2
            return (2 * q * (1 - q) - 0.5 * p * (1 - p)) * a

        return with_backward_factor(network, inputs, loss, randomness, backward)

    torch.testing.assert_close(gradient(problem, get_estimator("reinmax")), gradient(problem, original))


@pytest.mark.parametrize("noise", NOISY)
def test_mve_lies_between_straight_through_and_reinmax(make_problem, noise: str) -> None:
    problem = make_problem((3, 2), noise=noise, scale=0.6, states=(-1.0, 1.0))
    st, reinmax = (gradient(problem, get_estimator(name)) for name in ("st", "reinmax"))
    torch.testing.assert_close(gradient(problem, get_estimator("mve:strength=0")), st)
    torch.testing.assert_close(gradient(problem, get_estimator("mve:strength=1e12")), reinmax)
    assert not torch.allclose(st, reinmax)
    one = make_problem((3,), noise=noise, scale=0.4, points=1)  # where c enters once
    st, middle, reinmax = (gradient(one, get_estimator(name)) for name in ("st", "mve", "reinmax"))
    assert ((middle - st) * (middle - reinmax) <= 1e-16).all()


@pytest.mark.parametrize("noise", NOISY)
def test_reinmax_is_second_order(make_problem, noise: str) -> None:
    """One unit, one layer: E[f'(x)/2P(s)] is the trapezoidal rule for f(1) − f(0), exact for a quadratic f."""
    problem = make_problem((1,), noise=noise, loss="squared", scale=0.6)
    assert exact_moments(problem, get_estimator("reinmax")).relative_bias()["1"] < 1e-12
    assert exact_moments(problem, get_estimator("st")).relative_bias()["1"] > 1e-3


ONE_LAYER = [{"noise": n, "states": s} for n, s in itertools.product(NOISY, ENCODINGS)]


@pytest.mark.parametrize("facts", ONE_LAYER, ids=str)
def test_one_layer_ram_has_the_least_variance(make_problem, facts) -> None:
    """Of all single-path estimators with any of the control variates: integrating one unit is Rao–Blackwell's best."""
    problem = make_problem((3,), **facts, scale=0.6)
    least = exact_variance(problem, get_estimator("ram"))
    for spec in ("reinforce", "reinforce:baseline=0.5", "nvil", "muprop", "stochastic-ad"):
        assert least <= exact_variance(problem, ready(spec, problem)) * (1 + 1e-12), spec
    for spec in ("rebar", "relax", "arm"):
        variance, error = sampled_variance(problem, ready(spec, problem), "1")
        assert least <= variance + Z * error, spec
    for spec in ("rloo:samples=2", "double-cv:samples=2"):  # two independent paths: compared at twice the variance
        assert least <= 2 * exact_variance(problem, get_estimator(spec)) * (1 + 1e-12), spec


@pytest.mark.parametrize("facts", ONE_LAYER, ids=str)
def test_disarm_varies_less_than_arm(make_problem, facts) -> None:
    """It is ARM with u integrated out given (b, b̃)."""
    problem = make_problem((2, 2), **facts, scale=0.6)
    for layer in ("1", "2"):
        arm, error = sampled_variance(problem, get_estimator("arm"), layer)
        assert exact_variance(problem, get_estimator("disarm"), layer) <= arm + Z * error


@pytest.mark.parametrize("facts", ONE_LAYER, ids=str)
@pytest.mark.parametrize("loss", ["squared", "cross-entropy"])
def test_one_layer_ugc_varies_less_than_disarm(make_problem, facts, loss: str) -> None:
    """In every parameter, and all that differs is the layer: the head's gradient is the same."""
    scale = 0.4 if facts["noise"] == "uniform" else 0.8
    for seed in range(2):
        problem = make_problem((2,), **facts, loss=loss, scale=scale, points=2, seed=seed)
        ugc, disarm = (exact_moments(problem, get_estimator(name)).variance for name in ("ugc", "disarm"))
        assert (ugc <= disarm * (1 + 1e-10) + 1e-14).all()


class Product:
    """f = Π xⱼ, or with ``linear`` Σ xⱼ."""

    def __init__(self, linear: bool) -> None:
        self.linear = linear

    def bind(self, network, inputs, targets):
        return lambda x: x.sum(-1) if self.linear else x.prod(-1)


def variance_by_p(problem: Problem, name: str, p: float) -> float:
    """The exact variance of ∂f/∂P(s₁ = 1) where the units of one layer have the probabilities p and ½."""
    with torch.no_grad():
        layer = problem.network.layers[0]
        layer.map.weight.zero_()
        layer.map.bias.copy_(layer.noise.icdf(torch.tensor([p, 0.5], dtype=torch.float64)))
        slope = float(layer.noise.pdf(layer.map.bias)[0])
    at = problem.network.layers[0].map.weight.numel()  # the first bias
    return float(exact_moments(problem, get_estimator(name)).variance[at]) / slope**2


@pytest.mark.parametrize("noise", NOISY)
def test_ugc_varies_less_than_disarm_where_units_do_not_interact_and_may_vary_more_where_they_do(
    make_problem, noise
) -> None:
    """For f = x₁x₂ of ±1 and P(s₂ = 1) = ½ an antithetic pair has the same f: DisARM does not vary, one flip does."""
    problem = make_problem((2,), noise=noise, states=(-1.0, 1.0), points=1)
    added = Problem(problem.network, problem.inputs, problem.targets, Product(linear=True))
    assert variance_by_p(added, "ugc", 0.05) < 0.5 * variance_by_p(added, "disarm", 0.05)
    product = Problem(problem.network, problem.inputs, problem.targets, Product(linear=False))
    assert variance_by_p(product, "disarm", 0.05) < 1e-20
    assert variance_by_p(product, "ugc", 0.05) > 1


def test_bitflips_variance_stays_bounded_where_disarms_grows(make_problem) -> None:
    """DisARM's grows as 1/min(p, 1 − p), BitFlip-1's does not."""
    problem = make_problem((2,), points=1, seed=1)
    bounded, growing = ([variance_by_p(problem, name, p) for p in (1e-2, 1e-4)] for name in ("bitflip", "disarm"))
    assert bounded[1] < 1.1 * bounded[0]
    assert growing[1] > 50 * growing[0]


@pytest.mark.parametrize("noise", NOISY)
@pytest.mark.parametrize("units", [(2,), (2, 2)])
def test_the_unordered_set_is_the_mean_of_sum_and_sample_over_both_orders(make_problem, units, noise: str) -> None:
    problem = make_problem(units, noise=noise, scale=0.4 if noise == "uniform" else 0.8, points=2)
    mean, ordered = (exact_moments(problem, get_estimator(name)) for name in ("unordered-set", "sum-and-sample"))
    torch.testing.assert_close(mean.mean, ordered.mean, rtol=0, atol=1e-12)
    layers = slice(0, mean.slices["head"].start)
    assert (mean.variance <= ordered.variance * (1 + 1e-10) + 1e-14)[layers].all()
    assert mean.variance[layers].sum() < 0.99 * ordered.variance[layers].sum()


def test_two_distinct_states_of_one_unit_are_all(make_problem) -> None:
    """The estimate is exact then."""
    moments = exact_moments(make_problem((1,)), get_estimator("unordered-set"))
    assert moments.relative_variance()["all"] < 1e-14
    assert moments.relative_bias()["all"] < 1e-12


def test_another_state_is_drawn_from_what_is_left(make_problem) -> None:
    """The law of t given s on all states of three units, enumerated: p(t)/(1 − p(s)), and 0 at s."""
    (layer,) = make_problem((3,)).network.layers
    a = torch.tensor([[0.3, -1.2, 2.0]], dtype=torch.float64)
    p, every = layer.probability(a), list(itertools.product([0.0, 1.0], repeat=3))
    chances = {state: float(layer.log_prob(torch.tensor([state], dtype=p.dtype), a).exp()) for state in every}
    for state in every:
        s = torch.tensor([state], dtype=p.dtype)
        found = dict.fromkeys(chances, 0.0)
        for bits in itertools.product([0.0, 1.0], repeat=4):
            chance = EnumeratedStates(torch.tensor(bits, dtype=p.dtype), generator("cpu", 1))
            other = _another(layer, a, p, s, chance)
            found[tuple(other[0].tolist())] += float(chance.weight.detach())
        for other, weight in found.items():
            expected = 0.0 if other == state else chances[other] / (1 - chances[state])
            assert weight == pytest.approx(expected, abs=1e-14)


def test_one_unit_is_chosen_with_equal_chances() -> None:
    found = torch.zeros(4, dtype=torch.float64)
    for bits in itertools.product([0.0, 1.0], repeat=3):
        chance = EnumeratedStates(torch.tensor(bits, dtype=torch.float64), generator("cpu", 1))
        found += one_unit(torch.zeros(4, dtype=torch.float64), chance) * chance.weight
    torch.testing.assert_close(found, torch.full_like(found, 0.25))


@pytest.mark.parametrize("noise", NOISY)
def test_measure_valued_is_indecater(make_problem, noise: str) -> None:
    """IndeCateR for binary units is Σᵢ Σ_c ∇P(sᵢ = c) f(x | sᵢ = c).

    With a sample shared by the units the draws are the same; with a sample of the others for every unit, the mean and
    the variance of each unit's derivative are.
    """
    assert get_estimator("indecater") == get_estimator("measure-valued")
    problem = make_problem((2,), noise=noise, scale=0.4 if noise == "uniform" else 0.8, points=1)
    with torch.no_grad():
        problem.network.layers[0].map.weight.zero_()

    def indecater(shared: bool):
        def estimator(network, inputs, loss, randomness):
            (layer,) = network.layers
            p = layer.probability(layer.preactivation(inputs))
            x = layer.encode(randomness.bernoulli(p))
            value = loss(x)
            for i in range(p.shape[-1]):
                own = x if shared else layer.encode(randomness.bernoulli(p))
                unit = torch.eye(p.shape[-1], dtype=p.dtype)[i]
                for c, chance in ((1.0, p[..., i]), (0.0, 1 - p[..., i])):
                    f = loss(own * (1 - unit) + layer.encode(torch.full_like(own, c)) * unit)
                    value = value + f.detach() * carry(chance)
            return value

        return estimator

    ours = get_estimator("measure-valued")
    torch.testing.assert_close(gradient(problem, ours), gradient(problem, indecater(shared=True)))
    mine, theirs = (exact_moments(problem, estimator) for estimator in (ours, indecater(shared=False)))
    torch.testing.assert_close(mine.mean, theirs.mean)
    torch.testing.assert_close(mine.variance, theirs.variance, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("noise", NOISY)
def test_measure_valued_is_ram_where_the_phantoms_share_the_noises(make_problem, noise: str) -> None:
    """The same numbers with one layer, and in the last of several; below it, RAM's coupling lowers the variance."""
    one = make_problem((3,), noise=noise, scale=0.6)
    torch.testing.assert_close(*(gradient(one, get_estimator(name)) for name in ("ram", "measure-valued")))
    deep = make_problem((2, 2), noise=noise, scale=0.6)
    ram, error = sampled_variance(deep, get_estimator("ram"), "1", draws=4000)
    assert ram - Z * error < exact_variance(deep, get_estimator("measure-valued"))
    last, error = sampled_variance(deep, get_estimator("ram"), "2", draws=4000)
    assert abs(last - exact_variance(deep, get_estimator("measure-valued"), "2")) < Z * error


@pytest.mark.parametrize("noise", NOISY)
def test_the_mean_of_stochastic_derivatives_over_the_unit_is_ram(make_problem, noise: str) -> None:
    """A unit that is off has the weight 1/(1 − p) and one that is on none: on average the weight is 1."""
    problem = make_problem((1,), noise=noise, points=1, scale=0.6)
    right, ram = (exact_moments(problem, get_estimator(name)) for name in ("stochastic-ad", "ram"))
    torch.testing.assert_close(right.mean, ram.mean)
    layer = problem.network.layers[0]
    p = float(layer.probability(layer.preactivation(problem.inputs)).detach())
    where = right.slices["1"]
    torch.testing.assert_close(right.variance[where], right.mean[where] ** 2 * p / (1 - p))


def test_arms_of_two_samples_is_disarm(make_problem) -> None:
    problem = make_problem((2, 2), states=(-1.0, 1.0))
    for layer in ("1", "2", "head"):
        variance, error = sampled_variance(problem, get_estimator("arms:samples=2"), layer)
        assert abs(exact_variance(problem, get_estimator("disarm"), layer) - variance) < Z * error


def test_rloo_approaches_the_mean_as_the_baseline(make_problem) -> None:
    """K · Var(rloo) falls to the variance of (f − E f) ∇ℓ, the constant baseline of each point."""
    problem = make_problem((2,), points=1, states=(-1.0, 1.0))
    limit = exact_variance(problem, get_estimator(f"reinforce:baseline={exact_gradient(problem).value}"))
    excess = [k * exact_variance(problem, get_estimator(f"rloo:samples={k}")) - limit for k in (2, 4, 8)]
    assert excess[0] > excess[1] > excess[2] > 0
    # K Var = limit + c/(K − 1) exactly: the leave-one-out mean has variance Var f/(K − 1)
    torch.testing.assert_close(torch.tensor(excess) * torch.tensor([1.0, 3.0, 7.0]), torch.full((3,), excess[0]))


def test_concretes_bias_falls_and_its_variance_grows_as_the_temperature_falls(make_problem) -> None:
    problem = make_problem((2, 2), states=(-1.0, 1.0))
    exact = exact_gradient(problem).vector
    bias, variance = [], []
    for temperature in (2.0, 1.0, 0.5, 0.1):
        gradients, _ = Sampler(problem, "c", get_estimator(f"concrete:temperature={temperature}")).chunk(40_000, 1)
        spread = gradients.var(0).sum()
        bias.append(float((gradients.mean(0) - exact).square().sum() - spread / len(gradients)) ** 0.5)
        variance.append(float(spread))
        error = float(spread / len(gradients)) ** 0.5
        assert len(bias) == 1 or bias[-1] < bias[-2] - Z * error
    assert variance == sorted(variance)


def test_gumbel_rao_varies_less_with_more_samples_and_has_the_same_mean(make_problem) -> None:
    problem = make_problem((2, 2), states=(-1.0, 1.0))
    draws = [
        Sampler(problem, spec, get_estimator(spec)).chunk(20_000, spec)[0]
        for spec in ("st-gumbel:temperature=0.3", "gumbel-rao:temperature=0.3,samples=20")
    ]
    error = sum(d.var(0) / len(d) for d in draws).sqrt()
    assert ((draws[0].mean(0) - draws[1].mean(0)).abs() < Z * error).all()
    assert draws[1].var(0).sum() < 0.9 * draws[0].var(0).sum()


def test_ram_costs_quadratically_many_layers_and_psa_linearly(make_problem) -> None:
    """At fixed width n: L + n L(L − 1)/2 layers and 1 + nL losses against 2L − 1 and 1 + n."""
    width = 2
    for depth in (1, 2, 4, 8):
        problem = make_problem((width,) * depth, points=1)
        assert count_evaluations(problem, get_estimator("ram")) == (
            depth + width * depth * (depth - 1) // 2,
            1 + width * depth,
        )
        assert count_evaluations(problem, get_estimator("psa")) == (2 * depth - 1, 1 + width)


def test_leg_is_reinforce_with_each_unit_summed_out(make_problem) -> None:
    """A draw of LEG is the mean of REINFORCE's term of every unit over that unit's law given all other states."""
    problem = make_problem((2, 2), points=1, states=(-1.0, 1.0))

    def summed_out(network, inputs, loss, randomness):
        steps, x = sample_path(network, inputs, randomness)
        states = [step.s for step in steps]

        def follow(states):
            x, log_prob, own = inputs, 0.0, []
            for layer, s in zip(network.layers, states, strict=True):
                a = layer.preactivation(x)
                terms = layer.noise.log_cdf((2 * s - 1) * a)
                own.append(terms)
                log_prob, x = log_prob + terms.sum(-1), layer.encode(s)
            return loss(x), log_prob, own

        value = loss(x)
        for k, s in enumerate(states):
            for i in range(s.shape[-1]):
                flipped = network.layers[k].flip(s)[i]
                followed = [follow([*states[:k], t, *states[k + 1 :]]) for t in (s, flipped)]
                weights = torch.softmax(torch.stack([log_prob for _, log_prob, _ in followed]), 0).detach()
                # the other units' preactivations are those of the path: only this unit's own term is differentiated
                for weight, (f, _, own) in zip(weights, followed, strict=True):
                    value = value + weight * f.detach() * carry(own[k][..., i])
        return value

    torch.testing.assert_close(gradient(problem, get_estimator("leg")), gradient(problem, summed_out))
