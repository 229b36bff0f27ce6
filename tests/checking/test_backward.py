"""What counts is the gradient that plain backward() gives, however the draws are made."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradeval.checking import limits
from gradeval.checking.battery import ROWS, make_problem
from gradeval.checking.procedure import check
from gradeval.estimators import get_estimator
from gradeval.estimators.surrogate import carry
from gradeval.model.randomness import generator
from gradeval.sampling.sampler import Sampler

QUIET = make_problem(ROWS[3])


def reinforce(network, inputs, loss, randomness):
    return get_estimator("reinforce")(network, inputs, loss, randomness)


def double(parameter) -> None:
    parameter.grad.mul_(2)


def hooked(network, inputs, loss, randomness):
    """A hook doubles the gradient once it has been accumulated: backward() alone runs it."""
    bias = network.head.bias
    if isinstance(bias, nn.Parameter):
        bias.register_post_accumulate_grad_hook(double)
    return reinforce(network, inputs, loss, randomness)


def parameters_only(network, inputs, loss, randomness):
    """The gradient of the network's own parameters is doubled, not that of tensors in their place."""
    f = reinforce(network, inputs, loss, randomness)
    return f + carry(f) if isinstance(network.head.bias, nn.Parameter) else f


def calls_backward(network, inputs, loss, randomness):
    """Its own backward() adds to .grad."""
    reinforce(network, inputs, loss, randomness).mean().backward()
    return reinforce(network, inputs, loss, randomness)


def branches_on_its_inputs(network, inputs, loss, randomness):
    """An .item() that vectorised draws allow, as their inputs are plain, and joint states of single points do not."""
    return reinforce(network, inputs, loss, randomness) * (1 if inputs.sum().item() < 1e9 else 2)


@pytest.mark.parametrize("fault", [hooked, parameters_only, calls_backward])
def test_draws_are_what_backward_gives(fault) -> None:
    sampler, plain = Sampler(QUIET, "fault", fault), Sampler(QUIET, "plain", reinforce)
    assert not sampler.vectorised
    assert any("drawn in a loop" in note for note in sampler.notes)
    head = QUIET.network.layer_slices()["head"]
    found, right = (s.given(torch.full((2, 6), 0.4).double(), generator("cpu", 1))[0] for s in (sampler, plain))
    torch.testing.assert_close(found[:, head][:, -1], 2 * right[:, head][:, -1])  # the last one is a bias


def test_the_verdict_is_on_what_backward_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LEAST_POINTS", 8)  # a loop takes its time
    verdict = check(parameters_only, unbiased=True, problems=[QUIET], detect=0.5, max_draws=2**9, workers=1)
    assert verdict.verdict == "fails", verdict
    assert any("plain backward()" in note for note in verdict.notes)
    assert "all layers and the head: the exact gradient times 2" in verdict.diagnosis[0]


def test_an_item_of_the_inputs_is_no_traceback() -> None:
    verdict = check(branches_on_its_inputs, unbiased=True, problems=[QUIET], workers=1)
    assert verdict.verdict == "holds", verdict
    assert any("not decided exactly" in note for note in verdict.notes)
