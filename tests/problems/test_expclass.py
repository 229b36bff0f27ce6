"""The paper's task: its data, its initial weights, its training and its cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gradeval import GradevalError, load_problem
from gradeval.cache import cache_folder, clear_cache
from gradeval.expclass import expclass_data
from gradeval.reference import exact_gradient


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADEVAL_CACHE", str(tmp_path / "cache"))


class Told:
    """Progress that is kept."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def start(self, task: str, total: int) -> None:
        self.events.append(("start", total))

    def advance(self, task: str, steps: int) -> None:
        self.events.append(("advance", steps))

    def finish(self, task: str, note: str = "") -> None:
        self.events.append(("finish", 0))


def test_data_lie_where_they_should() -> None:
    inputs, targets = expclass_data(2000, 1)
    above, below = inputs[targets > 0], inputs[targets < 0]
    assert len(above) == len(below) == 1000
    assert (inputs[:, 0].abs() <= torch.pi / 2).all()
    assert ((above[:, 1] >= 0) & (above[:, 1] <= 1)).all()
    assert ((below[:, 1] >= -1) & (below[:, 1] < below[:, 0].cos())).all()
    # uniform below the curve: the mean height is ∫(cos²x − 1)/2 dx / ∫(cos x + 1) dx = −π/4 / (2 + π), at 5 σ
    assert float(below[:, 1].mean()) == pytest.approx(-torch.pi / 4 / (2 + torch.pi), abs=5 * 0.6 / 1000**0.5)
    assert float(above[:, 1].mean()) == pytest.approx(0.5, abs=5 * 0.29 / 1000**0.5)


def test_preactivations_start_with_mean_zero_and_variance_one() -> None:
    problem = load_problem("expclass", units="7-6", stage=0)
    first, second = problem.network.layers
    variance = problem.inputs.var(0)
    torch.testing.assert_close((first.map.weight**2) @ variance, torch.ones(7, dtype=torch.float64))
    torch.testing.assert_close(first.preactivation(problem.inputs).mean(0), torch.zeros(7, dtype=torch.float64))
    torch.testing.assert_close((second.map.weight**2).sum(1) / 4, torch.ones(6, dtype=torch.float64))


def test_training_lowers_the_objective_and_is_cached() -> None:
    told = Told()
    start = exact_gradient(load_problem("expclass", units="3-3", stage=0)).value
    trained = load_problem("expclass", units="3-3", stage=12, progress=told)
    assert told.events == [("start", 12), *[("advance", 1)] * 12, ("finish", 0)]
    assert exact_gradient(trained).value < start
    told.events.clear()
    again = load_problem("expclass", units="3-3", stage=12, progress=told)
    assert not told.events
    assert again.fingerprint() == trained.fingerprint()
    assert load_problem("expclass", units="3-3", stage=12, seed=1).fingerprint() != trained.fingerprint()


def test_a_damaged_cache_is_trained_anew_and_said() -> None:
    trained = load_problem("expclass", units="2", stage=1)
    (path,) = cache_folder().glob("*-1-*.json")
    path.write_text("{")
    with pytest.warns(UserWarning, match="the cached network is damaged and is trained again"):
        assert load_problem("expclass", units="2", stage=1).fingerprint() == trained.fingerprint()
    assert clear_cache() >= 1
    assert clear_cache() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": "5-x"}, "units must be widths joined by '-'"),
        ({"units": "5-0"}, "every width must be at least 1"),
        ({"stage": -1}, "stage must be a number of epochs"),
        ({"points": 1}, "at least 2 points"),
        ({"noise": "gauss"}, "unknown noise"),
    ],
)
def test_bad_options_are_refused(options, message: str) -> None:
    with pytest.raises(GradevalError, match=message):
        load_problem("expclass", **({"stage": 0} | options))
