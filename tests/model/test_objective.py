"""Losses that are bound to a network: the live one, the same points, every estimator; what cannot be is refused."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gradeval import GradevalError, Problem, StochasticBinaryNetwork, check, evaluate, exact_gradient, exact_moments
from gradeval.estimators import TABLE, get_estimator
from gradeval.estimators.protocol import learns
from gradeval.model.objective import loss_identity, loss_title
from gradeval.model.randomness import RandomDraws, generator
from gradeval.problems.tasks import Task
from gradeval.sampling.surrogates import Surrogate
from gradeval.training.prediction import expected_loss, score
from gradeval.training.stacked import Recipe, Stack


class Mine:
    """f depends on the encoder's parameters, a layer's weight, the inputs, and on the states beyond the head.

    Args:
        strength: of what depends on the encoder.
    """

    def __init__(self, strength: float = 0.3) -> None:
        self.strength = strength

    def bind(self, network: StochasticBinaryNetwork, inputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
        a = network.layers[0].preactivation(inputs)
        weight = network.layers[-1].map.weight

        def loss(x: Tensor) -> Tensor:
            fit = torch.nn.functional.softplus(-targets * network.head(x).squeeze(-1))
            return fit + self.strength * torch.tanh(a).sum(-1) * x.sum(-1) + 0.1 * ((x @ weight) ** 2).sum(-1)

        return loss


class AnotherNetwork(Mine):
    """Binds to the network it was made with, whatever it is given."""

    def __init__(self, network: StochasticBinaryNetwork) -> None:
        super().__init__()
        self.network = network

    def bind(self, network: StochasticBinaryNetwork, inputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
        return super().bind(self.network, inputs, targets)


def bound(problem: Problem, loss: object = None) -> Problem:
    return Problem(problem.network, problem.inputs, problem.targets, loss or Mine())  # type: ignore[arg-type]


def ready(spec: str, problem: Problem):
    estimator = get_estimator(spec)
    return estimator.fit(problem, seed=1) if learns(estimator) else estimator


UNBIASED = [
    f"{name}:samples=2" if "samples" in facts.defaults else name
    for name, facts in TABLE.items()
    if facts.unbiased and facts.randomness == "bernoulli"
]


@pytest.mark.parametrize("units", [(2,), (2, 2), (1, 2, 2)])
def test_every_method_of_enumeration_agrees(make_problem, units: tuple[int, ...]) -> None:
    problem = bound(make_problem(units, states=(-1.0, 1.0)))
    joint = exact_gradient(problem, "joint")
    for method in ("layerwise", "plain"):
        found = exact_gradient(problem, method)
        assert found.value == pytest.approx(joint.value, rel=1e-12)
        torch.testing.assert_close(found.vector, joint.vector, rtol=1e-12, atol=1e-14)
    # finite differences, of the value alone
    step, parameters = 1e-6, list(problem.network.parameters())
    theta = nn.utils.parameters_to_vector(parameters).detach()
    for k in range(len(theta)):
        values = []
        for sign in (1, -1):
            moved = theta.clone()
            moved[k] += sign * step
            nn.utils.vector_to_parameters(moved, parameters)
            values.append(exact_gradient(problem, "joint").value)
        assert float(joint.vector[k]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("units", [(2,), (2, 2), (1, 2, 1)])
@pytest.mark.parametrize("spec", UNBIASED)
def test_unbiased_estimators_stay_unbiased(make_problem, spec: str, units: tuple[int, ...]) -> None:
    problem = bound(make_problem(units, points=2, scale=0.8))
    moments = exact_moments(problem, ready(spec, problem))
    exact = exact_gradient(problem, "joint")
    assert moments.value == pytest.approx(exact.value, rel=1e-11)
    assert moments.bias.norm() < 1e-11 * exact.vector.norm()


def test_the_direct_gradient_left_out_is_seen(make_problem) -> None:
    """Planted: an estimator that detaches f has the head's and the encoder's direct gradient missing."""

    def without(network, inputs, loss, randomness):
        return get_estimator("reinforce")(network, inputs, lambda x: loss(x).detach(), randomness)

    bias = exact_moments(bound(make_problem((2,), points=2)), without).relative_bias()
    assert bias["1"] > 0.01
    assert bias["head"] == pytest.approx(1)


def test_what_is_bound_is_the_network_that_runs(make_problem) -> None:
    """Under a functional call with other parameters f is that of a network with these, for the points that run."""
    problem, other = bound(make_problem((2, 2))), make_problem((2, 2), seed=5)
    surrogate = Surrogate(problem, get_estimator("reinforce"))
    parameters = {f"network.{name}": p for name, p in other.network.named_parameters()}
    some = problem.inputs[1:3], problem.targets[1:3]
    value = torch.func.functional_call(surrogate, parameters, (*some, RandomDraws(generator("cpu", 1))))
    moved = Surrogate(bound(other), get_estimator("reinforce"))
    torch.testing.assert_close(value, moved(*some, RandomDraws(generator("cpu", 1))))


def test_it_works_in_every_room(make_problem, tmp_path: Path) -> None:
    """Evaluated in a folder, checked, predicted. (It was "Can't call numpy() on Tensor that requires grad".)"""
    problem = bound(make_problem((2, 2), points=3))
    found = evaluate(problem, ["reinforce", "st", "rebar"], draws=50, folder=tmp_path / "run")
    assert found.manifest["problem"]["loss"] == "Mine"
    verdict = check("disarm", problems=[problem])
    assert verdict.verdict == "holds", verdict
    total = expected_loss(problem, RandomDraws(generator("cpu", 3)), 4000)
    assert total == pytest.approx(exact_gradient(problem).value, rel=0.05)
    assert math.isnan(score(problem, torch.zeros(3, 1, dtype=torch.float64))["loss"])  # it is no function of outputs


def test_training_runs_side_by_side_as_alone(make_problem) -> None:
    """Each run is bound to its own parameters and to the points of its own batch, vectorised or in a loop."""
    recipe = Recipe(Task(bound(make_problem((2, 2), points=6))), "disarm", get_estimator("disarm"), "sgd", 2)
    together, loop = Stack(recipe, (0, 1), (0.1, 0.1)), Stack(recipe, (0, 1), (0.1, 0.1))
    assert together.gradients.vectorised
    loop.gradients.vectorised = False
    start = together.theta.clone()
    for runs in (together, loop):
        runs.train_epoch()
    torch.testing.assert_close(together.theta, loop.theta, rtol=1e-9, atol=1e-11)
    assert not torch.equal(together.theta, start)


def test_points_and_targets_come_together(make_problem) -> None:
    problem = bound(make_problem())
    inputs, targets, x = problem.inputs[:2], problem.targets[:2], torch.ones(5, 2, 3, dtype=torch.float64)
    both = problem.loss_function(targets=targets, inputs=inputs)
    torch.testing.assert_close(both(x), problem.loss_function()(torch.ones(5, 4, 3, dtype=torch.float64))[:, :2])
    for some in ({"targets": targets}, {"inputs": inputs}):
        with pytest.raises(GradevalError, match="the loss Mine is bound to inputs and targets: give both"):
            problem.loss_function(**some)
    assert problem.output_loss is None
    assert make_problem().objective is None


# --- what is refused --------------------------------------------------------------------------------


def wrong(what: Callable[..., Tensor]) -> object:
    """An objective whose f is ``what(x, network, inputs, targets)``."""

    class Wrong:
        def bind(self, network: StochasticBinaryNetwork, inputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
            return lambda x: what(x, network, inputs, targets)

    return Wrong()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda x, n, i, t: x.sum(-1) - x.mean(), "the loss mixes data points"),
        (lambda x, n, i, t: x.sum(-1) + i.mean(), "the loss mixes data points"),
        (lambda x, n, i, t: x.sum(-1) + torch.rand(1), "the loss has chance of its own"),
        (lambda x, n, i, t: x.sum(), r"the loss must give one number per point, \[4\], found \[\]"),
        (lambda x, n, i, t: "f", r"the loss must give one number per point, \[4\], found str"),
        (lambda x, n, i, t: x.sum(-1) / 0, "the loss gives infinite numbers or NaN"),
        (lambda x, n, i, t: x[:, 0] + t, "the loss must accept leading axes|the loss mixes data points"),
        (lambda x, n, i, t: n.head(x[..., :2]).sum(-1), r"the loss cannot take states of shape \[4, 3\]"),
        (lambda x, n, i, t: 0 * n.head.bias.data.add_(1) + x.sum(-1), "the loss changes its 'head.bias'"),
    ],
)
def test_what_is_no_function_of_a_point_is_refused(make_problem, what, message: str) -> None:
    with pytest.raises(GradevalError, match=message) as caught:
        bound(make_problem(), wrong(what))
    assert "\n" not in str(caught.value)


def test_losses_that_close_over_parameters_are_told_to_bind(make_problem) -> None:
    """Their gradient would be lost on the copies that estimators run on."""
    problem = make_problem()
    head, network = problem.network.head, problem.network
    for loss in (
        lambda h, y: (h.squeeze(-1) - y) ** 2 + (head.weight**2).sum(),
        functools.partial(lambda w, h, y: w * (h.squeeze(-1) - y) ** 2, nn.Parameter(torch.ones(()))),
    ):
        with pytest.raises(GradevalError, match=r"uses a parameter .* not one of its arguments.* an object with bind"):
            bound(problem, loss)
    for other in (network, deepcopy(network).requires_grad_(requires_grad=False)):
        if other is network:
            with pytest.raises(GradevalError, match="bind uses another network than the one it is given"):
                bound(problem, AnotherNetwork(other))
        else:
            bound(problem, AnotherNetwork(other))  # constants: a network that is frozen is no parameter


def test_a_file_cannot_hold_it_and_says_so(make_problem, tmp_path: Path) -> None:
    with pytest.raises(GradevalError, match=r"with the loss Mine cannot be saved: a file names its loss, one of logis"):
        bound(make_problem()).save(tmp_path / "p.json")


def test_fingerprints_tell_settings_apart(make_problem) -> None:
    problem = make_problem()
    prints = [bound(problem, loss).fingerprint() for loss in (Mine(), Mine(), Mine(0.4))]
    assert prints[0] == prints[1]
    assert prints[0] != prints[2]
    weights = functools.partial(Mine().bind, torch.ones(2)), functools.partial(Mine().bind, torch.zeros(2))
    assert loss_identity(weights[0]) != loss_identity(weights[1])
    assert "0x" not in loss_identity(weights[0])
    assert loss_title(Mine()) == "Mine"
