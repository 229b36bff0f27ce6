"""Each estimator against exact moments or an independent calculation; planted faults are seen."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
import torch

from gradeval.errors import GradevalError
from gradeval.estimators import (
    TABLE,
    Estimator,
    claims_unbiased,
    get_estimator,
    hyper_parameters,
    resolve,
    spec_of,
    split_specs,
)
from gradeval.estimators.facts import Count
from gradeval.estimators.moments import gaussian_moments
from gradeval.estimators.protocol import learns
from gradeval.estimators.psa import PathSampleAnalytic
from gradeval.model.noise import NOISES
from gradeval.model.problem import Problem
from gradeval.model.randomness import RandomDraws, generator
from gradeval.reference import exact_gradient, exact_moments

ENUMERABLE = [name for name, facts in TABLE.items() if facts.randomness in ("none", "bernoulli")]


def ready(estimator: Estimator, problem: Problem) -> Estimator:
    """The estimator, fitted to the problem where it must be."""
    return estimator.fit(problem, seed=1) if learns(estimator) else estimator


UNITS = [(3,), (2, 2), (2, 1, 2)]


@pytest.mark.parametrize("name", TABLE)
def test_the_table_states_the_facts(make_problem, name: str) -> None:
    """The row's class, defaults and randomness are those of the code."""
    facts, estimator = TABLE[name], get_estimator(name)
    given = hyper_parameters(type(estimator))
    assert ",".join(f"{key}={'fitted' if value is None else value}" for key, value in given.items()) == facts.defaults
    # no baseline, no tolerance of its own and what is fitted are not shown
    shown = "" if name in ("reinforce", "rebar", "psa") else facts.defaults
    assert spec_of(estimator) == (f"{name}:{shown}" if shown else name)
    assert get_estimator(spec_of(estimator)) == estimator
    assert [get_estimator(alias) for alias in facts.aliases] == [estimator] * len(facts.aliases)
    assert claims_unbiased(estimator) == facts.unbiased
    assert learns(estimator) == facts.fitted
    asked: set[str] = set()

    class Recording(RandomDraws):
        def uniform(self, shape):
            asked.add("continuous")
            return super().uniform(shape)

        def normal(self, shape):
            asked.add("continuous")
            return super().normal(shape)

        def bernoulli(self, probability):
            asked.add("bernoulli")
            return super().bernoulli(probability)

    problem = make_problem((2, 2))
    estimator = ready(estimator, problem)
    surrogate = estimator(problem.network, problem.inputs, problem.loss_function(), Recording(generator("cpu", 1)))
    assert surrogate.shape == (4,)
    used = "continuous" if "continuous" in asked else "bernoulli" if asked else "none"
    assert used == facts.randomness


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("states", [(0.0, 1.0), (-1.0, 1.0)])
def test_reinforce_is_unbiased(make_problem, units, noise: str, states) -> None:
    moments = exact_moments(make_problem(units, noise=noise, states=states, scale=0.6), get_estimator("reinforce"))
    torch.testing.assert_close(moments.mean, moments.exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in ENUMERABLE if TABLE[name].unbiased or name in ("st", "psa")])
@pytest.mark.parametrize("loss", ["logistic", "squared", "cross-entropy"])
def test_value_and_head_gradient_are_unbiased(make_problem, name: str, loss: str) -> None:
    """Estimators that follow a sampled path have unbiased values and head gradients."""
    problem = make_problem((2, 2), loss=loss, states=(-1.0, 1.0))
    spec = f"{name}:samples=2" if "samples" in TABLE[name].defaults else name
    moments = exact_moments(problem, ready(get_estimator(spec), problem))
    assert moments.value == pytest.approx(exact_gradient(problem).value, rel=1e-12)
    assert moments.relative_bias()["head"] < 1e-12


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("states", [(0.0, 1.0), (-1.0, 1.0)])
def test_psa_is_unbiased_on_one_layer_and_in_the_last(make_problem, noise: str, states) -> None:
    psa = get_estimator("psa")
    assert exact_moments(make_problem((4,), noise=noise, states=states), psa).relative_bias()["all"] < 1e-12
    deep = exact_moments(make_problem((3, 2), noise=noise, states=states, scale=0.5), psa).relative_bias()
    assert deep["2"] < 1e-12
    assert deep["head"] < 1e-12
    assert deep["1"] > 1e-6


def with_linear_loss(problem: Problem) -> Problem:
    return Problem(problem.network, problem.inputs, problem.targets, lambda output, y: y * output.squeeze(-1))


def test_straight_through_equals_psa_for_a_linear_loss_on_one_layer(make_problem) -> None:
    linear = with_linear_loss(make_problem((3,), states=(-1.0, 1.0)))
    st, psa = (exact_moments(linear, get_estimator(name)) for name in ("st", "psa"))
    torch.testing.assert_close(st.mean, psa.mean)
    assert st.relative_bias()["1"] < 1e-12


def test_psa_minus_st_vanishes_quadratically_with_inner_weights(make_problem) -> None:
    """Fact 3, for a linear f (else the last layer differs): halving the inner weights quarters the difference."""

    def difference(shrink: float) -> float:
        problem = with_linear_loss(make_problem((3, 3), scale=0.5, states=(-1.0, 1.0)))
        with torch.no_grad():
            problem.network.layers[1].map.weight.mul_(shrink)
        st, psa = (exact_moments(problem, get_estimator(name)) for name in ("st", "psa"))
        where = st.slices["1"]
        return float((st.mean[where] - psa.mean[where]).norm())

    # the next order is the cube: its share is about the shrinkage itself
    assert difference(0.02) / difference(0.01) == pytest.approx(4, rel=0.02)


def one_by_one_psa(problem, path):
    """PSA's layer gradients as written, flip by flip, for one fixed path of states; all in plain loops."""
    network, loss = problem.network, problem.loss_function()
    x, record = problem.inputs, []
    for layer, s in zip(network.layers, path, strict=True):
        a = layer.preactivation(x)
        record.append((layer, x, a, s))
        x = layer.encode(s)
    layer, _, _, s = record[-1]
    flips = []
    for i in range(s.shape[-1]):
        t = s.clone()
        t[..., i] = 1 - t[..., i]
        flips.append(loss(x) - loss(layer.encode(t)))
    u = [torch.stack(flips, -1)]
    for below, above in zip(record[-2::-1], record[:0:-1], strict=True):
        layer, _, _, s = below
        upper, _, a, sigma = above
        flips = []
        for i in range(s.shape[-1]):
            t = s.clone()
            t[..., i] = 1 - t[..., i]
            change = upper.probability(a) - upper.probability(upper.preactivation(layer.encode(t)))
            flips.append(((2 * sigma - 1) * change * u[0]).sum(-1))
        u.insert(0, torch.stack(flips, -1))
    total = sum(
        ((2 * s - 1) * v.detach() * layer.probability(layer.map(x))).sum(-1)
        for (layer, x, _, s), v in zip(record, u, strict=True)
    )
    parameters = [p for layer in network.layers for p in layer.parameters()]
    return torch.cat([g.flatten() for g in torch.autograd.grad(total.mean(), parameters)])


@pytest.mark.parametrize("states", [(0.0, 1.0), (-1.0, 1.0)])
def test_psa_equals_flips_one_by_one(make_problem, states) -> None:
    problem = make_problem((3, 2, 4), states=states)

    class Fixed(RandomDraws):
        def __init__(self) -> None:
            super().__init__(generator("cpu", 3))
            self.path: list[torch.Tensor] = []

        def bernoulli(self, probability):
            self.path.append(super().bernoulli(probability).detach())
            return self.path[-1]

    chance = Fixed()
    surrogate = get_estimator("psa")(problem.network, problem.inputs, problem.loss_function(), chance)
    parameters = [p for layer in problem.network.layers for p in layer.parameters()]
    found = torch.cat([g.flatten() for g in torch.autograd.grad(surrogate.mean(), parameters)])
    torch.testing.assert_close(found, one_by_one_psa(problem, chance.path), rtol=1e-12, atol=1e-14)


def arm_by_quadrature(problem) -> torch.Tensor:
    """E[ARM] of a one-unit layer on one point, ∫₀¹ [f(1[u > 1 − p]) − f(1[u < p])] (u − ½) du, times ∇ log-odds."""
    layer, loss = problem.network.layers[0], problem.loss_function()
    a = layer.preactivation(problem.inputs)
    p = layer.probability(a).detach()
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5)[:, None, None] / 200_000
    f = [loss(layer.encode(s.double())) for s in (u > 1 - p, u < p)]
    coefficient = ((f[0] - f[1]) * (u.squeeze(-1) - 0.5)).mean(0).detach()
    logit = layer.noise.log_odds(a).squeeze(-1)
    gradients = torch.autograd.grad((coefficient * logit).mean(), list(layer.parameters()))
    return torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize("noise", ["logistic", "normal", "cauchy", "uniform"])
def test_arms_formula_is_unbiased_by_quadrature(make_problem, noise: str) -> None:
    problem = make_problem((1,), noise=noise, scale=0.4, states=(-1.0, 1.0))
    exact = exact_gradient(problem).by_layer()["1"]
    torch.testing.assert_close(arm_by_quadrature(problem), exact, rtol=1e-4, atol=1e-8)


def test_saturated_units_give_finite_gradients(make_problem) -> None:
    """Of the noises that the conformance table leaves out."""
    for noise in set(NOISES) - {"logistic", "normal", "cauchy", "uniform"}:
        problem = make_problem((2, 2), noise=noise)
        with torch.no_grad():
            problem.network.layers[0].map.bias.copy_(torch.tensor([40.0, -40.0]))
            problem.network.layers[1].map.bias.copy_(torch.tensor([-40.0, 40.0]))
        for name in TABLE:
            chance = RandomDraws(generator("cpu", 1))
            estimator = ready(get_estimator(name), problem)
            surrogate = estimator(problem.network, problem.inputs, problem.loss_function(), chance)
            gradients = torch.autograd.grad(surrogate.mean(), list(problem.network.parameters()))
            assert all(torch.isfinite(g).all() for g in gradients), (noise, name)


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
    m, v = gaussian_moments(second, first.encode(p), first.delta**2 * p * (1 - p))
    torch.testing.assert_close(m, mean)
    torch.testing.assert_close(v, square - mean**2)


def test_planted_faults_are_seen_by_exact_moments(make_problem) -> None:
    """A scale, a missing layer, a sign, a wrong density: each makes an unbiased estimator visibly biased."""
    problem = make_problem((2, 2), states=(-1.0, 1.0))

    def scaled(network, inputs, loss, randomness):
        f = get_estimator("reinforce")(network, inputs, loss, randomness)
        return f.detach() + 1.02 * (f - f.detach())

    def first_layer_missing(network, inputs, loss, randomness):
        x, log_prob = inputs, 0.0
        for k, layer in enumerate(network.layers):
            a = layer.preactivation(x)
            s = randomness.bernoulli(layer.probability(a))
            log_prob = log_prob + (layer.log_prob(s, a) if k else 0.0)
            x = layer.encode(s)
        f = loss(x)
        return f + f.detach() * (log_prob - log_prob.detach())

    def wrong_density(network, inputs, loss, randomness):
        x, log_prob = inputs, 0.0
        for layer in network.layers:
            a = layer.preactivation(x)
            s = randomness.bernoulli(layer.probability(a))
            log_prob = log_prob + NOISES["normal"].log_cdf((2 * s - 1) * a).sum(-1)
            x = layer.encode(s)
        f = loss(x)
        return f + f.detach() * (log_prob - log_prob.detach())

    for fault in (scaled, first_layer_missing, wrong_density):
        assert exact_moments(problem, fault).relative_bias()["1"] > 0.01, fault.__name__

    one_layer = make_problem((3,))

    def wrong_sign(network, inputs, loss, randomness):
        f = PathSampleAnalytic()(network, inputs, loss, randomness)
        return 2 * f.detach() - f

    assert exact_moments(one_layer, wrong_sign).relative_bias()["1"] > 1


def test_counts_texts_are_their_functions() -> None:
    """What `gradeval list` shows is what is computed. Planted: a factor left out of the function."""

    def differ(count: Count) -> bool:
        for n, K in itertools.product(([3], [2, 5], [4, 1, 3], [5, 4, 3, 2, 1]), (0, 1, 4)):
            names = {"L": len(n), "n": n, "K": K, "sum": sum, "range": range, "__builtins__": {}}
            if eval(count.text, names) != count.number(len(n), n, K):
                return True
        return False

    for facts in TABLE.values():
        assert not differ(facts.layer_evaluations), facts.name
        assert not differ(facts.loss_evaluations), facts.name
    assert differ(Count("K * L", lambda L, n, K: L))


def test_facts_are_data() -> None:
    for facts in TABLE.values():
        data = json.loads(json.dumps(facts.as_data()))
        assert list(data) == [field.name for field in dataclasses.fields(facts)]
        assert data["layer_evaluations"] == facts.layer_evaluations.text


def test_specs() -> None:
    assert split_specs("psa, concrete:temperature=0.1,arm") == ["psa", "concrete:temperature=0.1", "arm"]
    assert split_specs("gumbel-rao:temperature=1,samples=10,st") == ["gumbel-rao:temperature=1,samples=10", "st"]
    with pytest.raises(GradevalError, match="unknown estimator 'reinforc': did you mean reinforce"):
        get_estimator("reinforc")
    with pytest.raises(GradevalError, match="unknown hyper-parameter of 'concrete' 'temp': did you mean temperature"):
        get_estimator("concrete:temp=1")
    with pytest.raises(GradevalError, match="temperature must be a number, found 'hot'"):
        get_estimator("concrete:temperature=hot")
    with pytest.raises(GradevalError, match="temperature must be positive, found -1"):
        get_estimator("concrete:temperature=-1")
    with pytest.raises(GradevalError, match="'st' takes no hyper-parameters"):
        get_estimator("st:scale=2")
    with pytest.raises(GradevalError, match="given twice"):
        resolve(["st", "st"])
    with pytest.raises(GradevalError, match="no estimators"):
        resolve([])


def test_a_users_own_estimator(tmp_path, monkeypatch) -> None:
    (tmp_path / "mine_for_test.py").write_text("def st(network, inputs, loss, randomness):\n    return loss(inputs)\n")
    monkeypatch.chdir(tmp_path)
    for spec in ("mine_for_test:st", f"{tmp_path / 'mine_for_test.py'}:st"):
        assert list(resolve([spec])) == [spec]
    with pytest.raises(GradevalError, match="in 'mine_for_test': unknown estimator 'sx': did you mean st"):
        get_estimator("mine_for_test:sx")
    with pytest.raises(GradevalError, match="cannot import 'absent_module'"):
        get_estimator("absent_module:st")
    (tmp_path / "broken_for_test.py").write_text("1 / 0\n")
    with pytest.raises(GradevalError, match="importing 'broken_for_test' raised ZeroDivisionError"):
        get_estimator("broken_for_test:st")
