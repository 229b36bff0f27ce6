"""The paper's task: its data, its initial weights, its training and its cache."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gradeval import GradevalError, Problem, load_problem
from gradeval.cache import cache_folder, clear_cache, keep
from gradeval.expclass import expclass_data
from gradeval.model.problem import problem_bytes
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


def of_a_changed_weight(path: Path, other: Path) -> None:
    document = json.loads(path.read_text())
    document["head"]["weight"][0][0] += 0.5
    path.write_text(json.dumps(document))


def of_another_network(path: Path, other: Path) -> None:
    other.rename(path)


def of_another_network_with_its_digest(path: Path, other: Path) -> None:
    """Renamed, as a person would who wants to take the one for the other."""
    path.unlink()
    label, key, _ = path.stem.rsplit("-", 2)
    other.rename(path.with_name(f"{label}-{key}-{other.stem.rpartition('-')[2]}.json"))


@pytest.mark.parametrize("spoil", [of_a_changed_weight, of_another_network, of_another_network_with_its_digest])
def test_a_cached_network_is_the_one_that_was_asked_for(spoil: Callable[[Path, Path], None]) -> None:
    """A changed weight, even another network, was used in silence."""
    trained = load_problem("expclass", units="2", stage=1)
    load_problem("expclass", units="2", stage=1, seed=3)
    key = next(p for p in cache_folder().iterdir() if Problem.load(p).fingerprint() == trained.fingerprint())
    (other,) = [path for path in cache_folder().iterdir() if path != key]
    spoil(key, other)
    with pytest.warns(UserWarning, match=r"damaged and is trained again: .*its digest is wrong"):
        assert load_problem("expclass", units="2", stage=1).fingerprint() == trained.fingerprint()
    assert load_problem("expclass", units="2", stage=1).fingerprint() == trained.fingerprint()  # without a warning


def test_what_was_forged_is_compared_with_the_request() -> None:
    load_problem("expclass", units="2", stage=1)
    (path,) = cache_folder().iterdir()
    label, key, _ = path.stem.rsplit("-", 2)
    path.unlink()
    keep(label, key, problem_bytes(load_problem("expclass", units="2-2", stage=0)))
    with pytest.warns(UserWarning, match="holds another network than was asked for"):
        assert load_problem("expclass", units="2", stage=1).widths == [2]


def test_clearing_the_cache_removes_only_what_is_the_cache_s(tmp_path: Path) -> None:
    """It deleted a foreign package.json."""
    load_problem("expclass", units="2", stage=0)
    (ours,) = cache_folder().iterdir()
    (tmp_path / "precious.json").write_text("{}")
    for name in ("package.json", "package.json.part", "expclass-notes.json", "expclass-2-0-abc.json"):
        (cache_folder() / name).write_text("{}")
    (cache_folder() / ours.name.replace("expclass-2", "expclass-3")).symlink_to(tmp_path / "precious.json")
    (cache_folder() / f"{ours.name}.{'0' * 16}.part").write_text("{")
    assert clear_cache() == 2
    assert (tmp_path / "precious.json").exists()
    assert len(list(cache_folder().iterdir())) == 5


def test_two_first_trainings_at_once_leave_one_good_file(tmp_path: Path) -> None:
    code = "import gradeval; print(gradeval.load_problem('expclass', units='3-3', stage=3).fingerprint())"
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = {process.communicate()[0].strip() for process in both}
    assert len(found) == 1
    assert [Problem.load(path).fingerprint() for path in cache_folder().iterdir()] == list(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": "5-x"}, "units must be widths joined by '-'"),
        ({"units": "5-0"}, "every width must be at least 1"),
        ({"stage": -1}, "stage must be at least 0"),
        ({"points": 1}, "at least 2 points"),
        ({"noise": "gauss"}, "unknown noise"),
    ],
)
def test_bad_options_are_refused(options, message: str) -> None:
    with pytest.raises(GradevalError, match=message):
        load_problem("expclass", **({"stage": 0} | options))
