"""Large work of the reference is shared among threads: the same bits with any number of them, the truth at any edge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from gradeval import threads
from gradeval.errors import GradevalError
from gradeval.estimators import get_estimator
from gradeval.model.problem import Problem
from gradeval.reference import exact_gradient, exact_moments, layerwise, layerwise_values
from gradeval.reference.rare import rare_states


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """All work counts as large, and chunks are small."""
    monkeypatch.setattr(threads, "SHARED_FROM", 0)
    monkeypatch.setattr(layerwise, "CHUNK_BYTES", 2**9)


def with_threads(number: int, call: Callable[[], Tensor]) -> Tensor:
    with torch_threads(number):
        found = call()
        assert torch.get_num_threads() == number
    return found


@pytest.mark.parametrize("method", ["layerwise", "joint"])
@pytest.mark.parametrize("loss", ["logistic", "squared"])  # many points a target, and one
def test_the_same_bits_with_any_number_of_threads(make_problem, shared: None, method: str, loss: str) -> None:
    problem = make_problem((5, 4, 3), points=30, loss=loss)

    def gradient() -> Tensor:
        exact = exact_gradient(problem, method)
        return torch.cat([exact.vector, torch.tensor([exact.value])])

    one = with_threads(1, gradient)
    for number in (2, 2, 5):
        assert torch.equal(with_threads(number, gradient), one)


@pytest.mark.parametrize("pieces", [1, 2, 64])
@pytest.mark.parametrize("chunk", [2**6, 2**9, 3 * 2**8, 2**20])  # a row, some, a number that divides nothing, all
@pytest.mark.parametrize(("points", "loss"), [(1, "logistic"), (7, "logistic"), (7, "cross-entropy"), (7, "squared")])
def test_edges_of_pieces(
    make_problem, shared: None, monkeypatch: pytest.MonkeyPatch, pieces: int, chunk: int, points: int, loss: str
) -> None:
    monkeypatch.setattr(layerwise, "MOST_PIECES", pieces)
    monkeypatch.setattr(layerwise, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(layerwise, "TABLE_BYTES", 2 * chunk)  # several targets at once, or one
    for grouped in (1, 256):  # every target's points by themselves, or together
        monkeypatch.setattr(layerwise, "GROUPED_POINTS", grouped)
        problem = make_problem((3, 1, 4), points=points, loss=loss)
        right = exact_gradient(problem, "joint")
        with torch_threads(3):
            found = exact_gradient(problem, "layerwise")
        assert found.value == pytest.approx(right.value, rel=1e-14)
        torch.testing.assert_close(found.vector, right.vector, rtol=1e-12, atol=1e-14)


def test_pieces_are_all_rows_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layerwise, "CHUNK_BYTES", 5 * 8 * 2**2)  # five rows of four units
    monkeypatch.setattr(layerwise, "MOST_PIECES", 4)
    for rows in (1, 5, 6, 20, 21, 99):
        pieces = layerwise._pieces(torch.zeros(rows, 4, dtype=torch.float64), 1, start=3)
        assert len(pieces) <= 4
        numbers = [n for piece in pieces for chunk in piece for n in range(chunk.start, chunk.stop)]
        assert numbers == list(range(3, 3 + rows))
        assert max(chunk.stop - chunk.start for piece in pieces for chunk in piece) <= 5


def test_values_are_differentiated_when_their_threads_are_gone(make_problem, shared: None) -> None:
    problem = make_problem((4, 3), points=20, loss="squared")

    def gradient() -> Tensor:
        total = layerwise_values(problem).sin().sum()  # other weights than those of J
        return torch.cat([g.flatten() for g in torch.autograd.grad(total, list(problem.network.parameters()))])

    assert torch.equal(with_threads(3, gradient), with_threads(1, gradient))


def test_the_callers_threads_after_an_error(make_problem, shared: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a piece of the work, and in a user's loss."""
    problem = make_problem((4, 3), points=20)

    def wrong(output: Tensor, target: Tensor) -> Tensor:
        if torch.is_grad_enabled():  # a problem's loss is tried without
            raise ValueError("not today")
        return (output.squeeze(-1) - target) ** 2

    refused = Problem(problem.network, problem.inputs, problem.targets, wrong)

    def broken(*_: object) -> Tensor:
        raise ValueError("not today")

    with torch_threads(3):
        for method in ("layerwise", "plain", "joint"):
            with pytest.raises(ValueError, match="not today"):
                exact_gradient(refused, method)
            assert torch.get_num_threads() == 3
        with pytest.raises(GradevalError, match="not today"):
            exact_moments(problem, broken)
        assert torch.get_num_threads() == 3
        monkeypatch.setattr(layerwise, "_product", broken)
        with pytest.raises(ValueError, match="not today"):
            exact_gradient(problem, "layerwise")
        assert torch.get_num_threads() == 3


def test_moments_and_rare_states_have_the_same_bits(make_problem, shared: None) -> None:
    problem = make_problem((3, 2), points=3)

    def moments() -> Tensor:
        found = exact_moments(problem, get_estimator("psa"), memory=2**12)
        return torch.cat([found.mean, found.covariance.flatten()])

    def rare() -> Tensor:
        found = rare_states(problem, memory=2**12)
        return torch.cat([torch.as_tensor(part).flatten() for part in (found.cells, found.usual)])

    for call in (moments, rare):
        assert torch.equal(with_threads(4, call), with_threads(1, call))
