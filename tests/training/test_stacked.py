"""Runs side by side: the same numbers in any stack, and the updates of torch.optim."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradeval.estimators import get_estimator
from gradeval.model.randomness import GivenUniforms, RandomDraws, generator
from gradeval.problems.catalogue import load_task
from gradeval.problems.tasks import Task, with_parameters
from gradeval.training.optimisers import OPTIMISERS
from gradeval.training.stacked import Recipe, Stack


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("expclass", units="3-2", points=30)


def stack(task: Task, name: str = "psa", seeds=(0, 1), rates=(0.1, 0.1), optimiser: str = "sgd") -> Stack:
    return Stack(Recipe(task, name, get_estimator(name), optimiser, 10), seeds, rates)


NAMES = ["reinforce", "arm", "concrete", "tanh", "st", "psa", "adf", "muprop", "rloo", "exact"]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_the_same_alone_beside_others_and_in_a_loop(task: Task, name: str) -> None:
    together, alone, loop = stack(task, name), stack(task, name, (1,), (0.1,)), stack(task, name)
    assert together.gradients.vectorised
    loop.gradients.vectorised = False
    for runs in (together, alone, loop):
        for _ in range(2):
            runs.train_epoch()
    torch.testing.assert_close(together.theta[1:], alone.theta, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(together.theta, loop.theta, rtol=1e-9, atol=1e-11)
    assert not torch.allclose(together.theta[0], together.theta[1])


OF_TORCH = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.05, amsgrad=True),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.05),
}


@pytest.mark.parametrize("optimiser", list(OPTIMISERS))
def test_updates_are_those_of_torch_optim(task: Task, optimiser: str) -> None:
    ours = stack(task, "tanh", (3,), (0.05,), optimiser)
    network = with_parameters(task.train, ours.theta[0]).network
    theirs = OF_TORCH[optimiser](network.parameters())
    for epoch in range(3):
        order = torch.randperm(30, generator=generator("cpu", "order", 3, epoch))
        for batch in order.split(10):
            theirs.zero_grad()
            loss = task.train.loss_function(network, task.train.targets[batch])
            get_estimator("tanh")(
                network, task.train.inputs[batch], loss, RandomDraws(generator("cpu"))
            ).mean().backward()
            theirs.step()
        ours.train_epoch()
    expected = nn.utils.parameters_to_vector(network.parameters()).detach()
    torch.testing.assert_close(ours.theta[0], expected, rtol=1e-9, atol=1e-12)


def test_fitted_estimators_are_fitted_to_every_run(task: Task) -> None:
    fitted = stack(task, "nvil")
    fitted.train_epoch()
    assert not fitted.gradients.vectorised
    assert len(fitted.gradients.fitted) == 2
    start = torch.stack([task.initial_parameters(seed) for seed in (0, 1)])
    assert not torch.allclose(fitted.theta, start)


def test_given_uniforms_have_the_laws_they_should() -> None:
    """Means of 100,000 draws within 5 standard errors: each fails by chance once in 1.7 million."""
    given = torch.rand(300_000, generator=generator("cpu", 1), dtype=torch.float64)
    chance = GivenUniforms(given, generator("cpu", 2))
    n = 100_000
    s = chance.bernoulli(torch.full((n,), 0.3, dtype=torch.float64))
    assert abs(float(s.mean()) - 0.3) < 5 * (0.21 / n) ** 0.5
    z = chance.normal([n])
    assert abs(float(z.mean())) < 5 * n**-0.5
    assert abs(float((z**2).mean()) - 1) < 5 * (2 / n) ** 0.5
    assert chance.taken == 2 * n


def test_forgetting_the_optimisers_state_would_be_seen(task: Task) -> None:
    """The fault that the test of kills must catch: a checkpoint that does not restore the velocity."""
    whole, broken = stack(task), stack(task)
    for runs in (whole, broken):
        runs.train_epoch()
    broken.restore(broken.saved() | {"state": [torch.zeros_like(broken.theta)]})
    for runs in (whole, broken):
        runs.train_epoch()
    assert not torch.equal(whole.theta, broken.theta)
