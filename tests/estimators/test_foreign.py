"""Foreign code that samples and calls backward itself, as an estimator."""

from __future__ import annotations

import functools
import importlib.util
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gradeval import exact_moments
from gradeval.checking.battery import ROWS, make_problem
from gradeval.checking.procedure import check
from gradeval.errors import GradevalError
from gradeval.estimators import get_estimator
from gradeval.estimators.foreign import Foreign
from gradeval.model.randomness import RandomDraws, generator
from gradeval.sampling.sampler import Sampler

ONE = [make_problem(ROWS[0])]
DEEP = make_problem(ROWS[7])
QUIET = [make_problem(ROWS[3])]  # little variance: few draws of what is drawn in a loop


def module_of(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def test_the_documents_example_of_foreign_code_runs(tmp_path: Path) -> None:
    """The first Python block of docs/foreign.md, in plain torch, is a file that `gradeval check` takes."""
    text = (Path(__file__).parents[2] / "docs" / "foreign.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) == 3
    block = blocks[0]
    for other in blocks[1:]:  # of libraries that are not installed here
        compile(other, "docs/foreign.md", "exec")
    (tmp_path / "theirs.py").write_text(block)
    adapter = module_of(tmp_path / "theirs.py").theirs
    verdict = check(adapter, detect=0.3, alpha=0.01, problems=QUIET, workers=1)
    assert verdict.verdict == "holds", verdict
    assert any("it owns its sampling" in note for note in verdict.notes)
    first, again, other = (Sampler(QUIET[0], "theirs", adapter).chunk(5, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)  # its draws follow from the seed
    assert not torch.equal(first, other)


def foreign(scale: float, value: object = None, backward: bool = True):
    def sample(network, inputs, loss):
        x, log_prob = inputs, 0.0
        for layer in network.layers:
            a = layer.preactivation(x)
            s = torch.bernoulli(layer.probability(a).detach())
            log_prob, x = log_prob + layer.log_prob(s, a), layer.encode(s)
        f = loss(x)
        if backward:
            (f + scale * f.detach() * log_prob).mean().backward()
        return f.detach() if value is None else value

    return Foreign(sample, unbiased=True, repeats=64)


def test_foreign_code_that_is_wrong_fails() -> None:
    before = torch.get_rng_state()
    verdict = check(foreign(2.0), detect=0.3, alpha=0.01, problems=QUIET, workers=1)
    assert torch.equal(before, torch.get_rng_state())
    assert verdict.diagnosis[0].startswith("all layers: the exact gradient times 2"), verdict
    left = check(foreign(1.0, backward=False), problems=ONE)
    assert "left no gradient" in left.diagnosis[0]
    no_value = check(foreign(1.0, value="text"), problems=ONE)
    assert "must return its estimate of the loss" in no_value.diagnosis[0]


# --- what foreign code does, and what it is given ---------------------------------------------------------------------


def reinforce_of(backward=lambda total: total.backward(), dtype: torch.dtype | None = None, repeats: int = 1):
    """REINFORCE on torch.distributions; ``backward`` is how it takes the gradient of its mean."""

    def sample(network, inputs, loss):
        assert inputs.dtype == (dtype or torch.float64)
        x, log_prob = inputs, 0.0
        for layer in network.layers:
            states = torch.distributions.Bernoulli(layer.probability(layer.preactivation(x)))
            s = states.sample()
            log_prob, x = log_prob + states.log_prob(s).sum(-1), layer.encode(s)
        f = loss(x)
        backward((f + f.detach() * log_prob).mean())
        return f.detach()

    return Foreign(sample, unbiased=True, dtype=dtype, repeats=repeats)


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
def test_gradients_that_keep_their_graph_are_the_same_gradients() -> None:
    """backward(create_graph=True): a right RELAX had a scale of 2.19, since the gradient of .grad was added."""
    plain, graph = (
        Sampler(DEEP, "theirs", reinforce_of(backward)).chunk(20, 0)
        for backward in (lambda total: total.backward(), lambda total: total.backward(create_graph=True))
    )
    assert torch.equal(plain[0], graph[0])
    assert torch.equal(plain[1], graph[1])


def test_gradients_are_not_left_behind() -> None:
    estimator = reinforce_of()
    network = DEEP.network
    estimator(network, DEEP.inputs, DEEP.loss_function(), RandomDraws(generator("cpu", 0)))
    assert all(parameter.grad is None for parameter in network.parameters())


def test_repeated_points_are_independent_draws() -> None:
    """A draw is then the mean of K: the exact mean of one draw, and the exact variance divided by K."""
    problem, count, repeats = make_problem(ROWS[1]), 200, 50
    gradients, _ = Sampler(problem, "theirs", reinforce_of(repeats=repeats)).chunk(count, 5)
    exact = exact_moments(problem, get_estimator("reinforce"))
    error = (exact.variance / repeats / count).sqrt()
    assert ((gradients.mean(0) - exact.mean).abs() < 6 * error).all()  # 2e-9 for each of the 21 entries
    ratio = float(gradients.var(0).sum() / exact.variance.sum())
    assert 0.5 < ratio * repeats < 1.5  # of 200 draws: 1 ± 0.1 at most, where one direction has all the variance


def test_a_slow_library_is_decided_in_fewer_calls() -> None:
    calls = 0

    def counted(repeats: int):
        inner = reinforce_of(repeats=repeats)

        def sample(network, inputs, loss):
            nonlocal calls
            calls += 1
            return inner.sample(network, inputs, loss)

        return Foreign(sample, unbiased=True, repeats=repeats)

    verdict = check(counted(64), detect=0.1, problems=QUIET, workers=1)
    assert verdict.verdict == "holds", verdict
    assert calls < 10_000
    assert verdict.table["draws"].min() > 60 * calls  # one by one these would have been as many calls
    assert verdict.rarest < 1e-2


def test_code_without_chance_is_run_once() -> None:
    """An enumeration by foreign code has no variance: it is decided exactly, from one draw."""
    calls, factor = 0, 1.0

    def sample(network, inputs, loss):
        nonlocal calls
        calls += 1
        (layer,) = network.layers
        states = torch.tensor([[0.0], [1.0]], dtype=torch.float64)[:, None].expand(2, len(inputs), 1)
        a = layer.preactivation(inputs).expand(2, len(inputs), 1)
        weights = layer.log_prob(states, a).exp()
        values = (weights * loss(layer.encode(states))).sum(0)
        values.mean().backward()
        return values.detach() * factor

    for given, verdict in ((1.0, "holds"), (2.0, "fails")):
        calls, factor = 0, given
        found = check(Foreign(sample, unbiased=True), problems=QUIET, workers=1)
        assert found.verdict == verdict, found
        assert set(found.table["method"]) == {"exact"}
        assert calls < 10


def test_chance_of_numpys_and_pythons_is_chance() -> None:
    """Code whose first draws agree, but that takes chance from elsewhere than torch, is not taken for exact."""
    for chance in (random.random, np.random.random):

        def sample(network, inputs, loss, chance=chance):
            chance()
            x = inputs
            for layer in network.layers:
                x = layer.encode(layer.probability(layer.preactivation(x)))
            f = loss(x)
            f.mean().backward()
            return f.detach()

        assert not Sampler(DEEP, "theirs", Foreign(sample)).deterministic
    assert Sampler(DEEP, "theirs", Foreign(lambda *given: sample(*given, chance=lambda: None))).deterministic


def test_the_loss_has_a_name() -> None:
    """Libraries that decorate functions ask for it."""
    names = []

    def sample(network, inputs, loss):
        names.append(functools.wraps(loss)(lambda x: loss(x)).__name__)
        return reinforce_of().sample(network, inputs, loss)

    Sampler(DEEP, "theirs", Foreign(sample))
    assert set(names) == {"loss"}


def test_code_of_single_precision_is_served() -> None:
    gradients, _ = Sampler(DEEP, "theirs", reinforce_of(dtype=torch.float32)).chunk(2, 1)
    assert gradients.dtype == torch.float64
    verdict = check(reinforce_of(dtype=torch.float32, repeats=64), detect=0.1, problems=QUIET, workers=1)
    assert verdict.verdict == "holds", verdict
    assert QUIET[0].network.dtype == torch.float64


def test_repeats_below_one_are_refused() -> None:
    with pytest.raises(GradevalError, match="repeats must be at least 1, found 0"):
        Foreign(print, repeats=0)
