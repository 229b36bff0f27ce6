"""Frozen parameters are left out on both sides; tied ones agree with enumeration and finite differences everywhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.func import functional_call

import gradeval
from gradeval import GradevalError, Problem, StochasticBinaryNetwork, exact_gradient, exact_moments
from gradeval.estimators import get_estimator
from gradeval.model.randomness import RandomDraws, generator
from gradeval.problems.tasks import Task, with_parameters
from gradeval.reference import finite_differences, layerwise_values
from gradeval.sampling.sampler import Sampler
from gradeval.sampling.surrogates import Surrogate
from gradeval.training.stacked import Recipe, Stack


def tie_weights(network: StochasticBinaryNetwork) -> None:
    network.layers[1].map.weight = network.layers[0].map.weight


def share_a_map(network: StochasticBinaryNetwork) -> None:
    network.layers[1].map = network.layers[0].map


def tie_with_the_head(network: StochasticBinaryNetwork) -> None:
    network.head = nn.Sequential(network.layers[1].map, network.head)


TIES: list[Callable[[StochasticBinaryNetwork], None]] = [tie_weights, share_a_map, tie_with_the_head]


@pytest.fixture(params=TIES, ids=lambda tie: tie.__name__)
def tied(request, make_problem) -> Problem:
    problem = make_problem((2, 2))  # two inputs, too: all maps of layers have the same shape
    request.param(problem.network)
    return Problem(problem.network, problem.inputs, problem.targets)


def test_every_method_agrees_on_tied_parameters(tied: Problem) -> None:
    right = exact_gradient(tied, "joint")
    for method in ("plain", "layerwise"):
        torch.testing.assert_close(exact_gradient(tied, method).vector, right.vector, rtol=1e-11, atol=1e-13)
    differences = finite_differences(tied, lambda p: layerwise_values(p).mean(), step=1e-2)
    found = torch.cat([d.flatten() for d in differences])
    torch.testing.assert_close(found, right.vector, rtol=0, atol=1e-9)
    assert right.slices["all"] == slice(0, len(right.vector))
    parts = [where for layer, where in right.slices.items() if layer != "all"]
    assert [where.start for where in parts] == [0, *(where.stop for where in parts[:-1])]
    assert parts[-1].stop == len(right.vector)


def test_estimators_agree_on_tied_parameters(tied: Problem) -> None:
    """Unbiased ones are so; plain draws are the vectorised ones; a second call meets the same network as the first."""
    for name in ("reinforce", "leg", "muprop"):
        assert max(exact_moments(tied, get_estimator(name)).relative_bias().values()) < 1e-11
    sampler = Sampler(tied, "reinforce", get_estimator("reinforce"))
    assert sampler.vectorised
    first = sampler.chunk(20, "tied")
    assert torch.equal(sampler.chunk(20, "tied")[0], first[0])
    verdict = gradeval.check("reinforce", problems=[tied], unbiased=True)
    assert verdict.verdict == "holds"


def test_a_functional_call_leaves_the_networks_own_parameters(tied: Problem) -> None:
    """Of a map that stands twice torch puts back what it was called with. Planted: no modules of their own."""
    surrogate = Surrogate(tied, get_estimator("tanh"))
    before, chance = dict(surrogate.named_parameters(remove_duplicate=False)), RandomDraws(generator("cpu"))
    given = {name: p.detach() + 1 for name, p in surrogate.trainable().items()}
    functional_call(surrogate, given, (surrogate.inputs, surrogate.targets, chance))
    after = dict(surrogate.named_parameters(remove_duplicate=False))
    assert all(after[name] is parameter for name, parameter in before.items())


def test_plain_backward_gives_what_is_measured_on_tied_parameters(tied: Problem) -> None:
    """Of an estimator without chance: `backward()` on the network's own parameters is the vectorised gradient."""
    mean_field = get_estimator("tanh")
    value = mean_field(tied.network, tied.inputs, tied.loss_function(), RandomDraws(generator("cpu"))).mean()
    own = torch.autograd.grad(value, list(tied.network.trainable().values()))
    found = Sampler(tied, "tanh", mean_field).chunk(1, "once")[0][0]
    torch.testing.assert_close(found, torch.cat([g.flatten() for g in own]), rtol=1e-12, atol=1e-14)


@pytest.fixture
def frozen(make_problem) -> Problem:
    problem = make_problem((2, 2))
    problem.network.layers[0].map.requires_grad_(False)
    problem.network.head.bias.requires_grad_(False)
    return problem


def test_frozen_parameters_are_left_out_on_both_sides(frozen: Problem, make_problem) -> None:
    """The row "all" of REINFORCE had a relative bias of 25, since only one side had zeros."""
    whole = exact_gradient(make_problem((2, 2))).gradient
    for method in ("joint", "plain", "layerwise"):
        exact = exact_gradient(frozen, method)
        assert list(exact.slices) == ["2", "head", "all"]
        assert list(exact.gradient) == ["layers.1.map.weight", "layers.1.map.bias", "head.weight"]
        for name, gradient in exact.gradient.items():
            torch.testing.assert_close(gradient, whole[name], rtol=1e-11, atol=1e-13)
    found = gradeval.evaluate(frozen, ["reinforce", "st", "nvil"], draws=200)
    assert set(found.summary["layer"]) == {"2", "head", "all"}
    bias = found.summary.set_index(["estimator", "layer"])["exact_relative_bias"]
    assert float(bias["reinforce"].max()) < 1e-12
    assert max(exact_moments(frozen, get_estimator("reinforce")).relative_bias().values()) < 1e-12
    assert gradeval.check("reinforce", problems=[frozen], unbiased=True).verdict == "holds"
    assert gradeval.check("st", problems=[frozen], unbiased=True).verdict == "fails"


def test_frozen_and_tied_parts_count_in_the_fingerprint_and_cannot_be_saved(
    frozen: Problem, make_problem, tmp_path
) -> None:
    tied = make_problem((2, 2))
    tie_weights(tied.network)
    loose = make_problem((2, 2))
    with torch.no_grad():
        loose.network.layers[1].map.weight.copy_(loose.network.layers[0].map.weight)
    assert len({frozen.fingerprint(), make_problem((2, 2)).fingerprint()}) == 2
    assert len({tied.fingerprint(), loose.fingerprint()}) == 2
    for problem in (frozen, tied):
        with pytest.raises(GradevalError, match="frozen or tied parameters cannot be saved"):
            problem.save(tmp_path / "p.json")
    again = tied.to(dtype=torch.float32).network
    assert again.layers[1].map.weight is again.layers[0].map.weight


def test_frozen_parameters_are_not_trained(frozen: Problem) -> None:
    task = Task(frozen)
    for name in ("st", "nvil"):
        stack = Stack(Recipe(task, name, get_estimator(name)), seeds=[0, 1], rates=[0.1, 0.1])
        start = stack.theta.clone()
        stack.train_epoch()
        assert stack.theta.shape == (2, sum(p.numel() for p in frozen.network.trainable().values()))
        assert not torch.equal(stack.theta, start)
        trained = with_parameters(frozen, stack.theta[0]).network
        assert torch.equal(trained.layers[0].map.weight, frozen.network.layers[0].map.weight)
        assert torch.equal(trained.head.bias, frozen.network.head.bias)


def test_tied_parameters_stay_tied_in_training(make_problem) -> None:
    problem = make_problem((2, 2))
    share_a_map(problem.network)
    stack = Stack(Recipe(Task(problem), "reinforce", get_estimator("reinforce")), seeds=[0], rates=[0.1])
    loop = Stack(Recipe(Task(problem), "reinforce", get_estimator("reinforce")), seeds=[0], rates=[0.1])
    assert stack.gradients.vectorised
    loop.gradients.vectorised = False
    for runs in (stack, loop):
        runs.train_epoch()
        runs.train_epoch()
    torch.testing.assert_close(stack.theta, loop.theta, rtol=1e-10, atol=1e-12)
