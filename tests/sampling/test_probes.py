"""Probes: what an estimator takes of chance, what it costs, and what it does wrong, each seen on a planted case."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradeval.errors import GradevalError
from gradeval.estimators import get_estimator
from gradeval.estimators.surrogate import carry
from gradeval.model.problem import Problem
from gradeval.sampling.probes import check_pointwise, count_chance, count_evaluations, describe, probe


def reinforce(network, inputs, loss, randomness):
    return get_estimator("reinforce")(network, inputs, loss, randomness)


def raising(network, inputs, loss, randomness):
    raise ValueError("first line\nsecond line")


def of_wrong_type(network, inputs, loss, randomness):
    return 1.0


def mean_over_points(network, inputs, loss, randomness):
    return reinforce(network, inputs, loss, randomness).mean()


def detached(network, inputs, loss, randomness):
    return reinforce(network, inputs, loss, randomness).detach()


def without_graph(network, inputs, loss, randomness):
    return torch.ones(len(inputs), dtype=torch.float64, requires_grad=True)


def twice_differentiated(network, inputs, loss, randomness):
    f = reinforce(network, inputs, loss, randomness)
    torch.autograd.grad(f.sum(), list(network.parameters()), allow_unused=True)
    return f


def infinite_value(network, inputs, loss, randomness):
    f = reinforce(network, inputs, loss, randomness)
    return f + torch.inf


def nan_gradient(network, inputs, loss, randomness):
    f = reinforce(network, inputs, loss, randomness)
    return f + torch.nan * carry(f)


def writes_inputs(network, inputs, loss, randomness):
    f = reinforce(network, inputs.clone(), loss, randomness)
    inputs += 1
    return f


def writes_parameters(network, inputs, loss, randomness):
    f = reinforce(network, inputs, loss, randomness).clone()
    with torch.no_grad():
        network.head.bias.copy_(network.head.bias + 1)
    return f


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (raising, r"^raises ValueError: first line \(test_probes.py, line \d+\)$"),
        (of_wrong_type, "returns float, not a tensor of one number per point"),
        (mean_over_points, r"returns the wrong shape: \[\] where one number per point is needed \(points = 4\)"),
        (detached, "returns a value without a gradient"),
        (twice_differentiated, "has no gradient that autograd can take"),
        (infinite_value, "gives NaN or infinite values"),
        (nan_gradient, "gives NaN or infinite gradients"),
        (writes_inputs, r"writes to the data \(inputs\)"),
        (writes_parameters, r"writes to the network's parameters \(head.bias\)"),
    ],
)
def test_what_an_estimator_does_wrong_is_said(small: Problem, estimator, message: str) -> None:
    before = [p.clone() for p in small.network.parameters()], small.inputs.clone()
    with pytest.raises(GradevalError, match=message):
        probe(small, estimator)
    assert all(map(torch.equal, before[0], small.network.parameters()))  # it worked on copies
    assert torch.equal(before[1], small.inputs)


def test_a_good_estimator_is_only_counted(small: Problem) -> None:
    """Two units, four points; an estimator may also ignore the parameters."""
    found = probe(small, reinforce)
    assert (found.uniforms, found.notes) == (8, [])
    assert probe(small, without_graph).uniforms == 0


def test_global_randomness_and_a_state_are_noted(small: Problem) -> None:
    def torchs(network, inputs, loss, randomness):
        return reinforce(network, inputs, loss, randomness) + torch.rand(1).double()

    def both(network, inputs, loss, randomness):
        return torchs(network, inputs, loss, randomness) + float(np.random.rand())

    calls = []

    def counting(network, inputs, loss, randomness):
        calls.append(1)
        return reinforce(network, inputs, loss, randomness) + len(calls)

    assert ["uses global randomness (torch's): draws do not" in note for note in probe(small, torchs).notes] == [True]
    assert ["uses global randomness (torch's, numpy's)" in note for note in probe(small, both).notes] == [True]
    assert ["gives other numbers for the same" in note for note in probe(small, counting).notes] == [True]


def test_estimators_that_cannot_be_enumerated_are_refused(small: Problem) -> None:
    """A baseline from the batch; chance of its own; code that needs two points."""

    def mixing(network, inputs, loss, randomness):
        f = reinforce(network, inputs, loss, randomness)
        return f + carry(f) * f.detach().mean()

    def careless(network, inputs, loss, randomness):
        return reinforce(network, inputs, loss, randomness) * torch.rand(1).item()

    def needs_two(network, inputs, loss, randomness):
        inputs[1]
        return reinforce(network, inputs, loss, randomness)

    check_pointwise(small, reinforce)
    for estimator, message in (
        (mixing, "^what the estimator returns for one data point depends on the other points$"),
        (careless, "^the estimator has randomness of its own, which cannot be enumerated$"),
        (needs_two, r"^the estimator cannot be run on one data point alone \(IndexError"),
    ):
        with pytest.raises(GradevalError, match=message):
            check_pointwise(small, estimator)


def test_chance_and_evaluations_are_counted(make_problem) -> None:
    problem = make_problem((2, 3))
    assert count_chance(problem, get_estimator("reinforce")) == (5, False)
    assert count_chance(problem, get_estimator("arm")) == (3, True)  # other paths from layer 1
    assert count_evaluations(problem, get_estimator("reinforce")) == (2, 1)
    assert count_evaluations(problem, get_estimator("rloo:samples=4")) == (8, 4)


def test_an_exception_is_described_in_one_line() -> None:
    for error, text in (
        (KeyError(), "KeyError (test_probes.py, line "),
        (ValueError("a\nb"), "ValueError: a (test_pro"),
    ):
        with pytest.raises(type(error)) as caught:
            raise error
        assert describe(caught.value).startswith(text)
