"""The negative ELBO: against numpy, by three methods of enumeration, with every estimator; each fault is planted."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from gradeval import GradevalError, Problem, StochasticBinaryNetwork, exact_gradient, exact_moments
from gradeval.estimators import TABLE, get_estimator
from gradeval.estimators.protocol import learns
from gradeval.estimators.surrogate import flipped_losses
from gradeval.model import elbo
from gradeval.model.elbo import KL_FORMS, NegativeElbo
from gradeval.model.head_loss import HeadLoss
from gradeval.model.losses import bernoulli
from gradeval.model.maps import BernoulliDecoder
from gradeval.model.noise import NOISES
from gradeval.model.objective import WithConstant
from gradeval.model.randomness import RandomDraws, generator
from gradeval.reference import predicted_cost
from gradeval.sampling.sampler import Sampler
from gradeval.sampling.surrogates import Surrogate

DOUBLE = torch.float64
ENCODINGS = [(0.0, 1.0), (-1.0, 1.0), (-0.3, 1.2)]
CDF = {
    "logistic": stats.logistic(), "normal": stats.norm(), "uniform": stats.uniform(-1, 2),
    "laplace": stats.laplace(), "cauchy": stats.cauchy(), "triangular": stats.triang(0.5, -1, 2),
}  # fmt: skip


def variational(
    kl: str = "sampled",
    *,
    noise: str = "logistic",
    states: tuple[float, float] = (0.0, 1.0),
    units: int = 3,
    hidden: bool = False,
    scale: float = 0.8,
) -> Problem:
    """Four grey pixels, three points, random parameters everywhere, the prior's logits too."""
    random = torch.Generator().manual_seed(7)
    encoder: nn.Module = nn.Linear(4, units, dtype=DOUBLE)
    decoder: nn.Module = nn.Linear(units, 4, dtype=DOUBLE)
    if hidden:
        encoder = nn.Sequential(nn.Linear(4, 2, dtype=DOUBLE), nn.Tanh(), nn.Linear(2, units, dtype=DOUBLE))
        decoder = nn.Sequential(decoder, nn.Tanh(), nn.Linear(4, 4, dtype=DOUBLE))
    head = BernoulliDecoder(decoder, torch.zeros(units, dtype=DOUBLE))
    network = StochasticBinaryNetwork([encoder], head, noise, states)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=random, dtype=DOUBLE))
    pixels = torch.rand(3, 4, generator=random, dtype=DOUBLE)
    return Problem(network, pixels, pixels, NegativeElbo(kl))


def by_numpy(problem: Problem) -> float:
    """J from the formula, state by state, with none of gradeval's functions."""
    network, total = problem.network, 0.0
    weight, bias = (t.detach().numpy() for t in (network.layers[0].map.weight, network.layers[0].map.bias))
    decoder = network.head.map
    prior = 1 / (1 + np.exp(-network.head.prior_logits.detach().numpy()))
    for x, y in zip(problem.inputs.numpy(), problem.targets.numpy(), strict=True):
        q = CDF[network.noise.name].cdf(weight @ x + bias)
        for s in itertools.product([0, 1], repeat=len(q)):
            chance = math.prod(qj if sj else 1 - qj for qj, sj in zip(q, s, strict=True))
            if chance == 0:
                continue
            lo, hi = network.states
            logits = decoder.weight.detach().numpy() @ (lo + (hi - lo) * np.array(s)) + decoder.bias.detach().numpy()
            pixel = 1 / (1 + np.exp(-logits))
            likelihood = (y * np.log(pixel) + (1 - y) * np.log(1 - pixel)).sum()
            log_prior = sum(math.log(pj if sj else 1 - pj) for pj, sj in zip(prior, s, strict=True))
            total += chance * (math.log(chance) - log_prior - likelihood)
    return total / problem.points


def check_exactly(problem: Problem) -> None:
    """Value by every method, and the gradient by that of finite differences in every parameter."""
    assert exact_gradient(problem, "joint").value == pytest.approx(by_numpy(problem), rel=1e-12), "value"
    found = exact_gradient(problem, "joint").vector
    theta = torch.cat([p.detach().flatten() for p in problem.network.parameters()])
    parameters = list(problem.network.parameters())
    step = 1e-5
    for k in range(len(theta)):
        values = []
        for sign in (1, -1):
            moved = theta.clone()
            moved[k] += sign * step
            nn.utils.vector_to_parameters(moved, parameters)
            values.append(by_numpy(problem))
        assert float(found[k]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-8), "gradient"
    nn.utils.vector_to_parameters(theta, parameters)


@pytest.mark.parametrize("kl", KL_FORMS)
@pytest.mark.parametrize(("noise", "states"), [("logistic", (0.0, 1.0)), ("normal", (-1.0, 1.0))])
def test_value_and_gradient_are_those_of_the_formula(kl: str, noise: str, states: tuple[float, float]) -> None:
    check_exactly(variational(kl, noise=noise, states=states))


def changed(kl: str, where: str, change: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elbo, where, change(getattr(elbo, where)))
    with pytest.raises(AssertionError, match="value"):
        check_exactly(variational(kl))


@pytest.mark.parametrize("kl", KL_FORMS)
@pytest.mark.parametrize(
    "fault",
    [
        lambda right: lambda *given: tuple(-t for t in right(*given)),  # the KL with the wrong sign
        lambda right: lambda *given: tuple(0 * t for t in right(*given)),  # no KL at all
        lambda right: lambda *given: right(*given)[::-1],  # on and off swapped
    ],
    ids=["wrong sign", "left out", "swapped"],
)
def test_a_wrong_kl_is_seen(kl: str, fault, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(kl, "_log_ratios", fault, monkeypatch)


@pytest.mark.parametrize("kl", KL_FORMS)
def test_a_prior_left_out_and_a_missing_log_q_are_seen(kl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``logsigmoid`` is the prior's in elbo; log q is the noise's log_cdf."""
    with monkeypatch.context() as patch:
        changed(kl, "logsigmoid", lambda right: torch.zeros_like, patch)
    monkeypatch.setattr(type(NOISES["logistic"]), "log_cdf", lambda self, a: torch.zeros_like(a))
    with pytest.raises(AssertionError, match="value"):
        check_exactly(variational(kl))


@pytest.mark.parametrize("kl", KL_FORMS)
def test_a_head_bias_left_out_is_seen(kl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        HeadLoss, "__call__", lambda self, x: self.loss(self.head(x) - self.head(torch.zeros_like(x)), self.targets)
    )
    with pytest.raises(AssertionError, match="value"):
        check_exactly(variational(kl))


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("states", ENCODINGS)
@pytest.mark.parametrize("noise", NOISES)
def test_all_methods_and_both_forms_agree(noise: str, states: tuple[float, float], hidden: bool) -> None:
    problems = [variational(kl, noise=noise, states=states, units=4, hidden=hidden) for kl in KL_FORMS]
    truth = exact_gradient(problems[0], "joint")
    for problem, method in itertools.product(problems, ("joint", "layerwise", "plain")):
        found = exact_gradient(problem, method)
        assert found.value == pytest.approx(truth.value, rel=1e-12)
        assert (found.vector - truth.vector).norm() < 1e-12 * truth.vector.norm()
    if not hidden:
        assert truth.value == pytest.approx(by_numpy(problems[0]), rel=1e-12)


def test_equal_targets_with_other_inputs_are_no_common_target() -> None:
    """Tables that points with equal targets shared would give every point the first one's KL."""
    problem = variational("sampled")
    same = Problem(problem.network, problem.inputs, problem.targets[:1].expand(3, -1), problem.loss)
    joint = exact_gradient(same, "joint")
    for method in ("layerwise", "plain"):
        torch.testing.assert_close(exact_gradient(same, method).vector, joint.vector, rtol=1e-12, atol=1e-14)
    one_at_a_time = predicted_cost(same, "layerwise").bytes
    few = exact_gradient(same, "layerwise", memory=one_at_a_time)
    torch.testing.assert_close(few.vector, joint.vector, rtol=1e-12, atol=1e-14)


# --- estimators -------------------------------------------------------------------------------------


def ready(spec: str, problem: Problem):
    estimator = get_estimator(spec)
    return estimator.fit(problem, seed=1) if learns(estimator) else estimator


@pytest.mark.parametrize("name", TABLE)
def test_the_analytic_kl_adds_the_same_gradient_to_every_draw(name: str) -> None:
    """For the same chance: the draw with the analytic KL less the draw without any KL is ∇KL, for every estimator."""
    problem = variational("analytic")
    plain = Problem(problem.network, problem.inputs, problem.targets, "bernoulli")
    estimator = ready(name, plain)
    differences, values = [], []
    for subject in (problem, plain):
        surrogate = Surrogate(subject, estimator)
        chance = RandomDraws(generator("cpu", "the same"))
        value = surrogate(surrogate.inputs, surrogate.targets, chance)
        parameters = list(surrogate.trainable().values())
        found = torch.autograd.grad(value.mean(), parameters, allow_unused=True, materialize_grads=True)
        differences.append(torch.cat([g.flatten() for g in found]))
        values.append(value.detach())
    kl = NegativeElbo().divergence(problem.network, problem.inputs)
    parameters = list(problem.network.parameters())
    exact = torch.autograd.grad(kl.mean(), parameters, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(values[0] - values[1], kl.detach(), rtol=1e-12, atol=1e-12)
    expected = torch.cat([g.flatten() for g in exact])
    torch.testing.assert_close(differences[0] - differences[1], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kl", KL_FORMS)
@pytest.mark.parametrize("noise", ["logistic", "normal", "uniform"])
@pytest.mark.parametrize("name", TABLE)
def test_saturated_units_give_finite_numbers(name: str, noise: str, kl: str) -> None:
    """q of 0 and of 1, exactly where the noise is bounded: no 0 · ∞."""
    problem = variational(kl, noise=noise, states=(-1.0, 1.0))
    with torch.no_grad():
        problem.network.layers[0].map.bias.copy_(torch.tensor([60.0, -60.0, 0.1]))
    draws, values = Sampler(problem, name, ready(name, problem)).chunk(100, "saturated")  # raises where not finite
    assert torch.isfinite(draws).all()
    assert torch.isfinite(values).all()
    exact = exact_gradient(problem, "joint")
    assert exact.value == pytest.approx(by_numpy(problem), rel=1e-9)


@pytest.mark.parametrize("name", ["psa", "ram", "leg"])
def test_those_that_sum_out_units_are_unbiased_with_flipped_log_q(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cheap flips equal the plain ones; flips that keep log q of the sample are seen."""
    problem = variational("sampled", states=(-1.0, 1.0))
    assert exact_moments(problem, get_estimator(name)).relative_bias()["all"] < 1e-12
    if name != "ram":  # which evaluates f at the flips itself
        flipped = elbo._SampledElbo.flipped
        monkeypatch.setattr(
            elbo._SampledElbo,
            "flipped",
            lambda self, layer, s: self.reconstruction.flipped(layer, s) + self._log_ratio(s).sum(-1),
        )
        assert exact_moments(problem, get_estimator(name)).relative_bias()["all"] > 0.01
        monkeypatch.setattr(elbo._SampledElbo, "flipped", flipped)


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("states", ENCODINGS)
def test_flipped_is_f_at_the_flips(states: tuple[float, float], hidden: bool) -> None:
    problem = variational("sampled", states=states, hidden=hidden)
    layer, loss = problem.network.layers[0], problem.loss_function()
    s = (torch.rand(5, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    torch.testing.assert_close(flipped_losses(loss, layer, s), loss(layer.encode(layer.flip(s))))


def test_relaxed_states_have_the_multilinear_extension() -> None:
    """f is affine in every unit, and so its mean over independent units is f at their means, but for p(x|s)."""
    problem = variational("sampled", states=(-1.0, 1.0))
    layer, loss = problem.network.layers[0], problem.loss_function()
    reconstruction = HeadLoss(problem.network.head, bernoulli, problem.targets)
    p = layer.probability(layer.preactivation(problem.inputs))
    kl = loss(layer.encode(p)) - reconstruction(layer.encode(p))
    torch.testing.assert_close(kl, NegativeElbo().divergence(problem.network, problem.inputs))


# --- what is refused --------------------------------------------------------------------------------


def test_what_it_has_no_meaning_for_is_refused_in_one_line() -> None:
    problem = variational()
    network, pixels = problem.network, problem.inputs
    linear = StochasticBinaryNetwork.linear(4, [3], 4)
    decoder = BernoulliDecoder(nn.Linear(3, 4), torch.zeros(3))
    deep = StochasticBinaryNetwork([nn.Linear(4, 3), nn.Linear(3, 3)], decoder)
    short = StochasticBinaryNetwork([nn.Linear(4, 3)], BernoulliDecoder(nn.Linear(3, 4), torch.zeros(2)))
    for subject, targets, message in (
        (linear, pixels, r"needs a head with prior logits, BernoulliDecoder\(map, prior_logits\); found .* Linear"),
        (deep, pixels, "defined for one stochastic layer, found 2"),
        (short, pixels, r"prior_logits must have the shape \[3\], one a unit, found \[2\]"),
        (network, pixels + 1, "needs targets from 0 to 1, found 1"),
        (network, pixels[:, :2], r"needs targets of shape \[points, 4\], found \[3, 2\]"),
    ):
        with pytest.raises(GradevalError, match=message) as caught:
            Problem(subject, pixels, targets, NegativeElbo())
        assert "\n" not in str(caught.value)
    with pytest.raises(GradevalError, match="unknown form of the KL 'analytical': did you mean analytic"):
        NegativeElbo("analytical")
    with pytest.raises(GradevalError, match=r"is a class: give an object of it, NegativeElbo\(…\)"):
        Problem(network, pixels, pixels, NegativeElbo)  # type: ignore[arg-type]


class Whole:
    """The analytic form as one function, whose constant is not told apart."""

    def bind(self, network: StochasticBinaryNetwork, inputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
        loss = NegativeElbo("analytic").bind(network, inputs, targets)
        assert isinstance(loss, WithConstant)
        return lambda x: loss(x)


def test_a_constant_that_is_not_told_apart_is_a_factor_of_the_score_and_no_bias() -> None:
    problem = variational("analytic")
    whole = Problem(problem.network, problem.inputs, problem.targets, Whole())
    told, hidden = (exact_moments(p, get_estimator("reinforce")) for p in (problem, whole))
    assert told.relative_bias()["all"] < 1e-12
    assert hidden.relative_bias()["all"] < 1e-12
    assert abs(told.relative_variance()["1"] / hidden.relative_variance()["1"] - 1) > 0.01


@pytest.mark.parametrize("kl", KL_FORMS)
def test_a_file_holds_it_with_the_prior(kl: str, tmp_path: Path) -> None:
    problem, path = variational(kl, states=(-1.0, 1.0)), tmp_path / "p.json"
    problem.save(path)
    by_name = Problem(problem.network, problem.inputs, problem.targets, f"negative-elbo:kl={kl}")
    assert by_name.fingerprint() == problem.fingerprint()
    again = Problem.load(path)
    assert again.fingerprint() == problem.fingerprint()
    assert exact_gradient(again).value == exact_gradient(problem).value
    content = json.loads(path.read_text())
    assert content["loss"] == f"negative-elbo:kl={kl}"
    for key, value, message in (
        ("prior_logits", [0.0], "prior_logits: must have 3 entries, found 1"),
        ("prior_logits", [0.0, 1.0, "2"], r"prior_logits\[2\]: expected `float`, got `str`"),
        ("prior_logits", None, "needs a head with prior logits"),
        ("loss", "negative-elbo", "unknown loss 'negative-elbo': did you mean negative-elbo:kl="),
    ):
        path.write_text(json.dumps(content | {key: value}))
        with pytest.raises(GradevalError, match=message) as caught:
            Problem.load(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(GradevalError, match=r"layers\[0\] is Sequential; only linear maps"):
        variational(kl, hidden=True).save(path)
