"""The conformance table: every estimator on small networks of 1–3 layers × noises × encodings × losses.

* Claims of no bias of estimators whose chance is Bernoulli states, or none: exact, by `exact_moments`, to 1e-10 of
  ‖g*‖; their values and the head's gradient too. Of biased estimators that follow a sampled path, the value and the
  head's gradient are tested. By default on 24 of the 96 combinations, which hold every (layers, noise, encoding) and
  every pair of anything with a loss; `tox -e conformance` takes all 96.
* Those with further chance (`SAMPLED`): on 12 combinations that hold every pair of (layers, noise), (noise, encoding),
  (noise, loss), (layers, loss), (layers, encoding), and on networks chosen, by the seed, for a gradient that stands out
  of its noise. Averages over scrambled Sobol points, in `REPLICATES` independent scrambles, are compared with the exact
  gradient in every coordinate, along every layer's g* and in the value, by t-tests at a family-wise false-alarm rate
  of 1e-6. That a bias of 2 % of a layer's ‖g*‖ (all: 1 %), in a coordinate or along g*, would be seen with a
  probability of 0.95 is asserted.

Each new estimator in the table of gradeval.estimators is tested without a change here.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable

import pytest
import torch
from scipy.stats import t as student
from torch import Tensor

from gradeval.errors import GradevalError
from gradeval.estimators import TABLE, Estimator, control_variates, get_estimator
from gradeval.estimators.protocol import learns, samples_of
from gradeval.estimators.surrogate import carry, noise_given_state, sample_path
from gradeval.evaluation.run import evaluate
from gradeval.model.elbo import NegativeElbo
from gradeval.model.losses import bernoulli
from gradeval.model.maps import BernoulliDecoder
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.noise import NOISES
from gradeval.model.problem import Problem
from gradeval.model.randomness import RandomDraws, generator
from gradeval.reference import exact_gradient, exact_moments
from gradeval.sampling.probes import count_evaluations, probe
from gradeval.sampling.sampler import Sampler

UNITS = {1: (2,), 2: (2, 2), 3: (1, 2, 1)}
MANY_BITS = {"ugc": {3: (2, 1, 1)}}  # of those that would take 2^17 joint states, here 2^15
CHAIN = {1: (2,), 2: (2, 2), 3: (1, 1, 1)}  # of those that are sampled: three layers have little gradient in much noise
NOISY = ["logistic", "normal", "cauchy", "uniform"]
ENCODINGS = [(0.0, 1.0), (-1.0, 1.0)]
LOSSES = ["logistic", "squared", "cross-entropy", "bernoulli"]
EXACT = 1e-10
WHOLE = os.environ.get("GRADEVAL_CONFORMANCE") == "full"

ALARM, POWER, DETECTABLE = 1e-6, 0.95, 0.01 if WHOLE else 0.02
REPLICATES, FIRST_POINTS, MOST_POINTS = 64, 2**9, 2**17
COMPARISONS = 30  # at most, in one combination
COMBINATIONS = [  # layers, noise, encoding, loss, scale and seed of the weights
    (1, "logistic", 0, "logistic", 0.8, 31),
    (1, "normal", 0, "squared", 0.8, 2),
    (1, "cauchy", 1, "cross-entropy", 0.8, 16),
    (1, "uniform", 1, "logistic", 0.75, 4),
    (2, "logistic", 1, "squared", 2.5, 9),
    (2, "normal", 1, "cross-entropy", 0.8, 23),
    (2, "cauchy", 0, "logistic", 2.5, 3),
    (2, "uniform", 0, "squared", 1.25, 2),
    (3, "logistic", 0, "cross-entropy", 0.8, 19),
    (3, "normal", 0, "logistic", 1.5, 5),
    (3, "cauchy", 1, "squared", 0.8, 16),
    (3, "uniform", 1, "cross-entropy", 0.4, 19),
]


def small(name: str) -> str:
    """The estimator's spec with two samples, where it has samples: few enough to be enumerated."""
    return f"{name}:samples=2" if "samples" in TABLE[name].defaults else name


UNBIASED = [name for name, facts in TABLE.items() if facts.unbiased]
ENUMERATED = ["reinforce:baseline=0.5", *(small(n) for n in UNBIASED if TABLE[n].randomness != "continuous")]
SAMPLED = ["arms:samples=3" if n == "arms" else n for n in UNBIASED if TABLE[n].randomness == "continuous"]
FOLLOWS_A_PATH = [
    n for n in TABLE if n not in UNBIASED and n not in ("concrete", "tanh", "adf", "local-reparam", "bayesbinn")
]


def ready(spec: str, problem: Problem) -> Estimator:
    """The estimator, fitted to the problem where it must be."""
    estimator = get_estimator(spec)
    return estimator.fit(problem, seed=1) if learns(estimator) else estimator


# --- the checkers: they raise AssertionError -------------------------------------------------------


def check_exactly(problem: Problem, estimator: Estimator, layers: tuple[str, ...] = ("all",)) -> None:
    """E[value] = J and E[gradient] = ∇J in the given layers, all chance enumerated (or not entering these)."""
    moments, exact = exact_moments(problem, estimator, samples=2), exact_gradient(problem)
    assert abs(moments.value - exact.value) < EXACT * max(1, abs(exact.value)), "value"
    for layer in layers:
        where = exact.slices[layer]
        assert moments.bias[where].norm() < EXACT * exact.vector.norm(), layer


class Draw:
    """(gradient, value) of an estimator, flattened, as a function of the uniform variables it is given."""

    def __init__(self, problem: Problem, estimator: Estimator) -> None:
        self.sampler = Sampler(problem, "tested", estimator)
        assert self.sampler.vectorised, self.sampler.notes
        behaviour = probe(problem, estimator)
        assert not behaviour.notes
        self.uniforms = behaviour.uniforms

    def __call__(self, uniforms: Tensor, vectorised: bool = True) -> Tensor:
        self.sampler.vectorised = vectorised
        gradients, values = self.sampler.given(uniforms, generator("cpu", "all are given"))
        return torch.cat([gradients, values[:, None]], 1)


def replicates(draw: Draw, count: int, points: int, first_seed: int) -> Tensor:
    """Means over scrambled Sobol points of (gradient, value), one row per independent scramble."""
    rows = []
    for seed in range(first_seed, first_seed + count):
        sobol = torch.quasirandom.SobolEngine(draw.uniforms, scramble=True, seed=seed)
        uniforms = sobol.draw(points, dtype=torch.float64).clamp(2.0**-40, 1 - 2.0**-40)
        rows.append(torch.cat([draw(part).mean(0, keepdim=True) for part in uniforms.split(2**11)]).mean(0))
    return torch.stack(rows)


def check_by_sampling(problem: Problem, estimator: Estimator) -> float:
    """E[value] = J and E[gradient] = ∇J by t-tests; returns the relative bias that would have been seen."""
    draw, exact = Draw(problem, estimator), exact_gradient(problem)
    tests = len(SAMPLED) * len(COMBINATIONS) * COMPARISONS
    critical = student.ppf(1 - ALARM / (2 * tests), REPLICATES - 1)
    seen = critical + student.ppf(POWER, REPLICATES - 1)

    def statistics(count: int, points: int, seed: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Differences from the truth and their standard errors: value, coordinates, along each layer's g*."""
        error = replicates(draw, count, points, seed) - torch.cat([exact.vector, torch.tensor([exact.value])])
        along = {k: error[:, w] @ exact.vector[w] / exact.vector[w].norm() for k, w in exact.slices.items()}
        error = torch.cat([error, torch.stack(list(along.values()), 1)], 1)
        spread = error.std(0) / count**0.5
        worst = {
            k: torch.cat([spread[w], spread[len(exact.vector) + 1 + i, None]]).max() / exact.vector[w].norm()
            for i, (k, w) in enumerate(exact.slices.items())
        }
        return error.mean(0), spread, worst

    points, detectable = FIRST_POINTS, float("inf")
    while detectable > DETECTABLE:  # looks at the spread only
        assert points <= MOST_POINTS, f"a bias of {detectable} can be seen, not of {DETECTABLE}"
        mean, spread, worst = statistics(REPLICATES, points, 0)
        detectable = float(seen * max(worst.values()))
        # the error falls about like points^−0.65, between plain sampling's −0.5 and −1
        points *= 2 ** max(1, math.ceil(math.log2(max(1.0, detectable / DETECTABLE)) / 0.65))
    assert mean.numel() <= COMPARISONS
    wrong = (mean.abs() > critical * spread + EXACT * exact.vector.norm()).nonzero().flatten().tolist()
    assert not wrong, f"entries {wrong}: {(mean / spread)[wrong].tolist()} standard errors"
    return detectable


# --- the table -------------------------------------------------------------------------------------

EVERY = pytest.mark.parametrize(
    ("layers", "noise"),
    [
        pytest.param(layers, noise, marks=[pytest.mark.no_shapes] if noise != NOISY[0] else [])
        for layers, noise in itertools.product(UNITS, NOISY)
    ],
)


def units_of(spec: str, layers: int) -> tuple[int, ...]:
    return MANY_BITS.get(spec, {}).get(layers, UNITS[layers])


def combined(layers: int, noise: str) -> list[tuple[int, int]]:
    """The (encoding, loss) to be tested with these: all, or a loss for each encoding, which changes from set to set."""
    every = list(itertools.product(range(len(ENCODINGS)), range(len(LOSSES))))
    turn = layers + NOISY.index(noise)
    return every if WHOLE else [(e, k) for e, k in every if k == (turn + 2 * e) % len(LOSSES)]


def small_problems(make_problem, units: tuple[int, ...], noise: str):
    for encoding, loss in combined(len(units), noise):
        # bounded noise: weights at which some units saturate, and not all
        settings = {"noise": noise, "scale": 0.4 if noise == "uniform" else 0.8}
        settings |= {"states": ENCODINGS[encoding], "loss": LOSSES[loss], "seed": len(LOSSES) * encoding + loss}
        yield make_problem(units, points=2, **settings)


@EVERY
@pytest.mark.parametrize("spec", ENUMERATED)
def test_unbiased_claims_are_exact(make_problem, spec: str, layers: int, noise: str) -> None:
    for problem in small_problems(make_problem, units_of(spec, layers), noise):
        check_exactly(problem, ready(spec, problem))


@EVERY
@pytest.mark.parametrize("spec", FOLLOWS_A_PATH)
def test_biased_ones_have_exact_values_and_head_gradients(make_problem, spec: str, layers: int, noise: str) -> None:
    for problem in small_problems(make_problem, units_of(spec, layers), noise):
        check_exactly(problem, ready(spec, problem), ("head",))


@pytest.mark.no_shapes
@pytest.mark.parametrize(("layers", "noise", "encoding", "loss", "scale", "seed"), COMBINATIONS)
@pytest.mark.parametrize("spec", SAMPLED)
def test_unbiased_claims_hold_by_sampling(make_problem, spec, layers, noise, encoding, loss, scale, seed) -> None:
    turn = SAMPLED.index(spec) + COMBINATIONS.index((layers, noise, encoding, loss, scale, seed))
    if turn % 12 and not WHOLE:
        pytest.skip("one in twelve by default, each estimator once: tox -e conformance runs all")
    points = 2 if layers == 1 else 1
    states = ENCODINGS[encoding]
    problem = make_problem(CHAIN[layers], noise=noise, states=states, loss=loss, points=points, scale=scale, seed=seed)
    check_by_sampling(problem, ready(spec, problem))


class OfTheEncoder:
    """An objective that depends on the first layer's parameters and on the inputs, and on the states not linearly."""

    def bind(self, network, inputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
        a = network.layers[0].preactivation(inputs)
        return lambda x: bernoulli(network.head(x), targets) + (torch.tanh(a) * x[..., :1] * (1 + x[..., -1:])).sum(-1)


def with_objective(problem: Problem, kind: str) -> Problem:
    """A problem of Bernoulli outputs with an objective that depends on the encoder."""
    network, loss = problem.network, OfTheEncoder()
    if kind != "own":
        decoder = BernoulliDecoder(network.head, torch.tensor([0.4, -0.7], dtype=torch.float64))
        network = StochasticBinaryNetwork([network.layers[0].map], decoder, network.noise.name, network.states)
        loss = NegativeElbo(kind)
    return Problem(network, problem.inputs, problem.targets, loss)


@pytest.mark.no_shapes
@pytest.mark.parametrize(("kind", "layers"), [("sampled", 1), ("analytic", 1), ("own", 1), ("own", 2), ("own", 3)])
@pytest.mark.parametrize("spec", ENUMERATED)
def test_unbiased_claims_are_exact_for_objectives_of_the_encoder(make_problem, spec: str, kind: str, layers) -> None:
    for k, (noise, states) in enumerate(itertools.product(NOISY, ENCODINGS)):
        if not WHOLE and (k + k // 2 + layers) % 2:  # an encoding for each noise, the other one with other layers
            continue
        scale = 0.4 if noise == "uniform" else 0.8
        settings = {"noise": noise, "states": states, "points": 2, "scale": scale, "seed": k}
        problem = with_objective(make_problem(units_of(spec, layers), loss="bernoulli", **settings), kind)
        check_exactly(problem, ready(spec, problem))


@pytest.mark.no_shapes
@pytest.mark.parametrize("kind", ["sampled", "analytic", "own"])
@pytest.mark.parametrize("spec", SAMPLED)
def test_unbiased_claims_hold_by_sampling_for_objectives_of_the_encoder(make_problem, spec: str, kind: str) -> None:
    if (SAMPLED.index(spec) + ["sampled", "analytic", "own"].index(kind)) % 3 and not WHOLE:
        pytest.skip("one in three by default, each estimator once: tox -e conformance runs all")
    problem = make_problem((2,), loss="bernoulli", points=1, scale=1.0, seed=3)
    problem = with_objective(problem, kind)
    check_by_sampling(problem, ready(spec, problem))


def direct_gradient_left_out(network, inputs, loss, randomness):
    """REINFORCE that takes f for a black box in the encoder's parameters, too."""
    return get_estimator("reinforce")(network, inputs, lambda x: loss(x).detach(), randomness)


def relaxed_with_a_direct_gradient(network, inputs, loss, randomness):
    """REBAR-like: a zero-mean control variate whose c is not cut from the parameters that f depends on."""
    f = get_estimator("reinforce")(network, inputs, loss, randomness)
    (layer,) = network.layers
    return f + carry(loss(layer.encode(layer.probability(layer.preactivation(inputs)).detach())))


@pytest.mark.parametrize("kind", ["sampled", "own"])
@pytest.mark.parametrize("fault", [direct_gradient_left_out, relaxed_with_a_direct_gradient])
def test_a_wrong_direct_gradient_is_caught(make_problem, kind: str, fault: Callable[..., Tensor]) -> None:
    """With the sampled KL the encoder's direct gradient is E[∇log q(s)] = 0: only the head's is missing."""
    problem = with_objective(make_problem((2,), loss="bernoulli", points=2, states=(-1.0, 1.0)), kind)
    check_exactly(problem, get_estimator("reinforce"))
    for layer in ("head",) if kind == "sampled" else ("1", "head"):
        with pytest.raises(AssertionError, match=layer):
            check_exactly(problem, fault, (layer,))


def test_the_combinations_hold_every_pair() -> None:
    exact = [(layers, noise, *one) for layers in UNITS for noise in NOISY for one in combined(layers, noise)]
    assert len({combination[:3] for combination in exact}) == len(UNITS) * len(NOISY) * len(ENCODINGS)
    for i in range(3):
        kinds = {(combination[i], combination[3]) for combination in exact}
        assert len(kinds) == len({combination[i] for combination in exact}) * len(LOSSES), i
    for (i, a), (j, b) in itertools.combinations(enumerate(zip(*COMBINATIONS, strict=True)), 2):
        if j < 4 and (i, j) != (2, 3):
            assert len(set(zip(a, b, strict=True))) == len(set(a)) * len(set(b)), (i, j)


@pytest.mark.parametrize("name", TABLE)
def test_a_vectorised_draw_is_a_plain_one(make_problem, name: str) -> None:
    """With the same uniform variables the two are equal, so their distributions are."""
    for noise, layers in (("logistic", 1), ("logistic", 3), ("uniform", 2)):
        problem = make_problem(UNITS[layers], noise=noise, scale=0.5, states=(-1.0, 1.0), points=3)
        draw = Draw(problem, ready(name, problem))
        uniforms = torch.rand(8, draw.uniforms, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(draw(uniforms), draw(uniforms, vectorised=False), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("noise", NOISY if WHOLE else ("logistic", "uniform"))
@pytest.mark.parametrize("name", TABLE)
def test_saturated_units_give_finite_gradients(make_problem, name: str, noise: str) -> None:
    problem = make_problem((2, 2), noise=noise, states=(-1.0, 1.0))
    with torch.no_grad():
        for layer, sign in zip(problem.network.layers, (1, -1), strict=True):
            layer.map.bias.copy_(sign * torch.tensor([40.0, -40.0]))
    draws, values = Sampler(problem, name, ready(name, problem)).chunk(200, "saturated")  # raises where not finite
    assert torch.isfinite(draws).all()
    assert torch.isfinite(values).all()


@pytest.mark.parametrize("name", TABLE)
def test_one_point_one_unit_and_duplicate_points(make_problem, name: str) -> None:
    """One unit and one point work; duplicates are drawn independently: the variance of their mean is half."""
    one = make_problem((1,), points=1, states=(-1.0, 1.0), seed=4)
    if small(name) in ENUMERATED:
        check_exactly(one, ready(small(name), one))
    one = make_problem((2,), points=1, states=(-1.0, 1.0), seed=4)  # psa has no variance with one unit
    both = Problem(one.network, one.inputs.repeat(2, 1), one.targets.repeat(2), one.loss)
    squares = []
    for problem in (one, both):
        sampler = Sampler(problem, name, ready(name, one))
        gradients, _ = sampler.chunk(4000, "duplicates")
        squares.append(((gradients - gradients.mean(0)) ** 2).sum(1))
    if sampler.deterministic:
        return
    single, double = (s.mean() for s in squares)
    error = sum((weight * s.std() / len(s) ** 0.5) ** 2 for weight, s in zip((0.5, 1), squares, strict=True)) ** 0.5
    critical = student.ppf(1 - ALARM / (2 * len(TABLE)), 4000)
    assert critical * error < 0.25 * single  # sharing chance would double the variance
    assert abs(double - single / 2) < critical * error


@pytest.mark.parametrize("widths", [(3,), (3, 2, 4)])
@pytest.mark.parametrize("name", TABLE)
def test_evaluations_are_those_of_the_formula(make_problem, name: str, widths: tuple[int, ...]) -> None:
    problem = make_problem(widths)
    estimator = ready(name, problem)
    expected = TABLE[name].evaluations(widths, samples_of(estimator))
    assert count_evaluations(problem, estimator) == expected


@pytest.mark.parametrize("name", [name for name, facts in TABLE.items() if not facts.differentiable])
def test_those_that_need_no_derivative_of_the_loss_take_a_step_function(make_problem, name: str) -> None:
    """The layers' gradients are the same when f has no derivative in the states."""
    problem = make_problem((2, 2))
    loss = problem.loss_function()
    draws = []
    for f in (loss, lambda x: loss(x.detach())):
        estimator, chance = ready(name, problem), RandomDraws(generator("cpu", 3))
        value = estimator(problem.network, problem.inputs, f, chance).mean()
        draws.append(torch.autograd.grad(value, list(problem.network.layers.parameters())))
    torch.testing.assert_close(*draws)


# --- fitting ---------------------------------------------------------------------------------------

FITTED = [name for name, facts in TABLE.items() if facts.fitted]


@pytest.mark.parametrize("name", FITTED)
def test_fitting(make_problem, name: str) -> None:
    """Unfitted ones say so; a fit follows from its seed, lowers the variance and is recorded in the manifest."""
    problem, plain = make_problem((3, 2), states=(-1.0, 1.0)), get_estimator(name)
    with pytest.raises(GradevalError, match=f"{name} must be fitted first"):
        plain(problem.network, problem.inputs, problem.loss_function(), RandomDraws(generator("cpu", 1)))
    done: list[int] = []
    fitted = plain.fit(problem, 1, done.append)
    assert sum(done) == fitted.budget
    first, again, other = (Sampler(problem, name, plain.fit(problem, seed)).chunk(2000, "fit")[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    without, _ = Sampler(problem, "reinforce", get_estimator("reinforce")).chunk(2000, "fit")
    layers = slice(0, exact_gradient(problem).slices["head"].start)
    assert first[:, layers].var(0).sum() < 0.9 * without[:, layers].var(0).sum()
    facts = evaluate(problem, [name], draws=20).manifest["estimators"][name]
    assert facts["fit"]["seconds"] > 0
    assert fitted.budget in facts["fit"]["learned"].values()


def test_what_rebar_is_given_is_not_fitted_and_what_is_fitted_is_the_better(make_problem) -> None:
    problem = make_problem((3,), states=(-1.0, 1.0))
    layer = exact_gradient(problem).slices["1"]

    def variance(spec: str) -> tuple[float, float]:
        draws, _ = Sampler(problem, spec, ready(spec, problem)).chunk(4000, "rebar")
        squares = ((draws - draws.mean(0))[:, layer] ** 2).sum(1)
        return float(squares.mean()), float(squares.std() / len(squares) ** 0.5)

    given = get_estimator("rebar:temperature=0.3,eta=0")
    assert given.fit(problem, 1) is given
    half = get_estimator("rebar:temperature=0.3").fit(problem, 1)
    assert half.temperature == 0.3
    assert half.eta is not None
    best, error = variance("rebar")
    for spec in ("rebar:temperature=0.1,eta=1.0", "rebar:temperature=2.0,eta=1.0", "rebar:temperature=0.5,eta=0.0"):
        other, other_error = variance(spec)
        # one-sided, false-alarm rate 1e-6 in all
        assert best < other + 5.2 * math.hypot(error, other_error), spec


# --- planted faults --------------------------------------------------------------------------------


def factor_of_width(network, inputs, loss, randomness):
    """MuProp whose last layer's and head's gradients are multiplied by the width, as if units were summed twice."""
    f = get_estimator("muprop")(network, inputs, loss, randomness)
    return f.detach() + network.head.weight.shape[1] * carry(f)


def head_too_large(network, inputs, loss, randomness):
    """REINFORCE whose head has its gradient twice."""
    f = get_estimator("reinforce")(network, inputs, loss, randomness)
    return f + carry(loss(sample_path(network, inputs, randomness)[1]))


def missing_stop_gradient(network, inputs, loss, randomness):
    """REINFORCE whose f is not stopped in f ∇ℓ: the head gets f's gradient times ℓ."""
    steps, x = sample_path(network, inputs, randomness)
    f = loss(x)
    return f + carry(f * sum(layer.log_prob(s, a) for layer, _, a, _, s in steps))


def baseline_sees_its_draw(network, inputs, loss, randomness):
    """RLOO whose baseline is the mean of all samples, its own with them."""
    steps, x = sample_path(network, inputs.expand(2, *inputs.shape), randomness)
    f = loss(x)
    value = f.mean(0)
    for layer, _, a, _, s in steps:
        value = value + ((f - f.mean(0)).detach() * carry(layer.log_prob(s, a))).mean(0)
    return value


def unnormalised_leg(network, inputs, loss, randomness):
    """LEG with w_s = P(s) P(xᵏ⁺¹ | xᵏ with s), not divided by its sum."""
    steps, x = sample_path(network, inputs, randomness)
    value = f = loss(x)
    for (layer, _, _, p, s), above in zip(steps, [*steps[1:], None], strict=True):
        if above is None:
            weight = (f - loss(layer.encode(layer.flip(s)))).movedim(0, -1)
        else:
            flipped = above.layer.preactivation(layer.encode(layer.flip(s))).movedim(0, -2)
            stay = torch.exp(above.layer.log_prob(above.s, above.a))[..., None]
            weight = f[..., None] * (
                stay - torch.exp(above.layer.log_prob(above.s[..., None, :].expand_as(flipped), flipped))
            )
        value = value + ((2 * s - 1) * weight.detach() * carry(p)).sum(-1)
    return value


def wrong_density(network, inputs, loss, randomness):
    """One-layer LEG that differentiates the logistic F, whatever the noise."""
    ((layer, _, a, _, s),), x = sample_path(network, inputs, randomness)
    f = loss(x)
    weight = (f - loss(layer.encode(layer.flip(s)))).movedim(0, -1).detach()
    return f + ((2 * s - 1) * weight * carry(NOISES["logistic"].cdf(a))).sum(-1)


@pytest.mark.parametrize(
    ("fault", "units", "where"),
    [
        (factor_of_width, (2, 2), "all"),
        (head_too_large, (2, 2), "all"),
        (missing_stop_gradient, (2,), "all"),
        (baseline_sees_its_draw, (2, 2), "all"),
        (unnormalised_leg, (2, 2), "all"),
        (wrong_density, (2,), "all"),
    ],
)
def test_planted_faults_are_caught_exactly(make_problem, fault: Callable[..., Tensor], units, where: str) -> None:
    with pytest.raises(AssertionError, match=where):
        check_exactly(make_problem(units, noise="normal", states=(-1.0, 1.0), points=2), fault)


def wrong_side(layer, a, s, v):
    """z given the other state."""
    return noise_given_state(layer, a, 1 - s, v)


def not_differentiated(layer, a, s, v):
    """z̃'s dependence on the parameters left out."""
    return noise_given_state(layer, a, s, v).detach()


@pytest.mark.parametrize("fault", [wrong_side, not_differentiated])
def test_a_wrong_conditional_in_rebar_is_caught(make_problem, monkeypatch, fault: Callable[..., Tensor]) -> None:
    problem = make_problem(UNITS[1], states=ENCODINGS[0], points=2, scale=0.8, seed=31)
    check_by_sampling(problem, get_estimator("rebar:temperature=0.5,eta=1.0"))
    monkeypatch.setattr(control_variates, "noise_given_state", fault)
    with pytest.raises(AssertionError, match="standard errors"):
        check_by_sampling(problem, get_estimator("rebar:temperature=0.5,eta=1.0"))


def test_a_scale_of_two_percent_is_caught_by_sampling(make_problem) -> None:
    problem = make_problem(UNITS[1], states=ENCODINGS[0], points=2, scale=0.8, seed=31)

    def scaled(network, inputs, loss, randomness):
        f = get_estimator("arm")(network, inputs, loss, randomness)
        return f.detach() + 1.02 * carry(f)

    with pytest.raises(AssertionError, match="standard errors"):
        check_by_sampling(problem, scaled)
