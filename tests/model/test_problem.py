"""Problem files: every bit comes back, and a damaged file is refused in one line that names the place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gradeval import GradevalError, Problem, load_problem


@pytest.mark.parametrize("loss", ["logistic", "squared", "cross-entropy", "bernoulli"])
@pytest.mark.parametrize("noise", ["logistic", "cauchy"])
def test_save_and_load_keep_every_bit(make_problem, tmp_path: Path, loss: str, noise: str) -> None:
    problem = make_problem((2, 3), loss=loss, noise=noise, states=(-1.0, 1.0))
    problem.save(tmp_path / "p.json")
    again = Problem.load(tmp_path / "p.json")
    assert again.fingerprint() == problem.fingerprint()
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]


def test_fingerprint_sees_every_part(make_problem) -> None:
    variants = [
        make_problem(seed=1),
        make_problem(seed=2),
        make_problem(noise="normal"),
        make_problem(states=(-1.0, 1.0)),
    ]
    assert len({problem.fingerprint() for problem in variants}) == 4


def set_in(document: dict, place: list, value: object) -> None:
    for key in place[:-1]:
        document = document[key]
    document[place[-1]] = value


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["format"], "gradeval-problem/2", r"reads 'gradeval-problem/1', found 'gradeval-problem/2'"),
        (["noise"], "logistik", "unknown noise 'logistik': did you mean logistic"),
        (["noise"], 3, "noise: expected `str`, got `int`"),
        (["noise"], "a\nb", r"noise: must be printable text, found 'a\\nb'"),
        (["loss"], "square", "unknown loss 'square': did you mean squared"),
        (["name"], "a\x1b[31m", "name: must be printable text"),
        (["description"], 3, "description: expected `str`, got `int`"),
        (["states"], "\ud800", "not a JSON file .*surrogates not allowed"),
        (["descripton"], "a typing error", "descripton: unknown key 'descripton': did you mean description"),
        (["layers", 1, "wieght"], [], r"layers\[1\].wieght: unknown key 'wieght': did you mean weight"),
        (["head", "a\nb"], [], r"head.a\\nb: unknown key 'a\\nb': known are bias, weight"),
        (["states"], [0], "states: expected `array` of length 2, got 1"),
        (["states"], [1, 0], r"states must be \[lo, hi\] with lo < hi"),
        (["layers"], [], "layers: expected `array` of length >= 1"),
        (["layers"], "2-3", "layers: expected `array`, got `str`"),
        (["layers", 1], {"bias": [0]}, r"layers\[1\]: object missing required field `weight`"),
        (["layers", 1, "weight", 2, 1], float("nan"), r"layers\[1\].weight\[2\]\[1\]: must be a finite number"),
        (["layers", 1, "weight", 2, 1], -float("inf"), r"layers\[1\].weight\[2\]\[1\]: must be a finite number"),
        (["layers", 1, "weight", 2, 1], 1e300, r"layers\[1\].weight\[2\]\[1\]: expected `float` < 1e\+300"),
        (["layers", 1, "weight", 2, 1], -(10**400), r"layers\[1\].weight\[2\]\[1\]: number out of range"),
        (["layers", 1, "weight", 2, 1], "1", r"layers\[1\].weight\[2\]\[1\]: expected `float`, got `str`"),
        (["layers", 1, "weight", 2, 1], True, r"layers\[1\].weight\[2\]\[1\]: expected `float`, got `bool`"),
        (["layers", 1, "weight", 2], [1.0], r"layers\[1\].weight\[2\]: must have 2 entries, found 1"),
        (["layers", 1, "bias"], [0.0], r"layers\[1\].bias: must have 3 entries, found 1"),
        (["layers", 0, "weight"], [], r"layers\[0\].weight: expected `array` of length >= 1"),
        (["head", "weight", 0], [1.0], r"head.weight\[0\]: must have 3 entries, found 1"),
        (["inputs"], [], "inputs: expected `array` of length >= 1"),
        (["inputs", 2], [1.0], r"inputs\[2\]: must have 2 entries, found 1"),
        (["targets"], [1.0], "targets: must have 4 entries, found 1"),
        (["targets", 0], 0.5, "needs one target per point, each -1 or 1"),
        (["targets", 3], [0.5], r"targets\[3\]: must be a number as targets\[0\] is, found a list"),
        (["targets"], [[1.0], [1.0], 1.0, [1.0]], r"targets\[2\]: must be a list as targets\[0\] is, found a number"),
        (["targets"], [[1.0], [1.0], [1.0, 2.0], [1.0]], r"targets\[2\]: must have 1 entries, found 2"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused(make_problem, tmp_path: Path, place: list, value: object, message: str) -> None:
    path = tmp_path / "p.json"
    make_problem((2, 3)).save(path)
    document = json.loads(path.read_text())
    set_in(document, place, value)
    path.write_text(json.dumps(document))
    with pytest.raises(GradevalError, match=message) as caught:
        Problem.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("key", ["noise", "states", "layers", "head", "loss", "inputs", "targets"])
def test_missing_keys_are_named(make_problem, tmp_path: Path, key: str) -> None:
    path = tmp_path / "p.json"
    make_problem((2, 3)).save(path)
    document = json.loads(path.read_text())
    del document[key]
    path.write_text(json.dumps(document))
    with pytest.raises(GradevalError, match=f"missing required field `{key}`"):
        Problem.load(path)


def test_a_key_that_stands_twice_is_refused(make_problem, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    make_problem().save(path)
    path.write_text(path.read_text().replace('"noise":', '"noise": "normal", "noise":', 1))
    with pytest.raises(GradevalError, match="the key 'noise' stands twice"):
        Problem.load(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe\x00", b"[" * 100_000, b"3"])
def test_files_that_are_no_problem(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(content)
    with pytest.raises(GradevalError, match=r"not a JSON file|must hold a JSON object"):
        Problem.load(path)


def test_unknown_names_and_absent_files(tmp_path: Path) -> None:
    with pytest.raises(GradevalError, match="unknown problem 'expclas': did you mean expclass"):
        load_problem("expclas")
    with pytest.raises(GradevalError, match=r"cannot read .*absent.json: No such file"):
        load_problem(str(tmp_path / "absent.json"))
    with pytest.raises(GradevalError, match="unknown option of problem 'expclass' 'unit': did you mean units"):
        load_problem("expclass", unit="5-5")


def test_problems_with_bad_numbers_are_refused(make_problem) -> None:
    problem = make_problem()
    with torch.no_grad():
        problem.network.layers[0].map.weight[1, 0] = torch.nan
    with pytest.raises(GradevalError, match=r"layers.0.map.weight\[1, 0\] is nan"):
        Problem(problem.network, problem.inputs, problem.targets)
    fine = make_problem()
    with pytest.raises(GradevalError, match="no data points"):
        Problem(fine.network, fine.inputs[:0], fine.targets[:0])
    with pytest.raises(GradevalError, match="inputs has 4 points but targets has 3"):
        Problem(fine.network, fine.inputs, fine.targets[:3])
    with pytest.raises(GradevalError, match="layer 1 does not accept"):
        Problem(fine.network, fine.inputs[:, :1], fine.targets)


def test_a_loss_of_ones_own(make_problem, tmp_path: Path) -> None:
    problem = make_problem()
    own = Problem(problem.network, problem.inputs, problem.targets, lambda output, target: output.squeeze(-1) * target)
    assert own.loss_function()(torch.zeros(7, 4, 3, dtype=torch.float64)).shape == (7, 4)
    with pytest.raises(GradevalError, match="cannot be saved"):
        own.save(tmp_path / "p.json")
    with pytest.raises(GradevalError, match=r"one number per point, \[4\], found \[\]"):
        Problem(problem.network, problem.inputs, problem.targets, lambda output, target: output.sum())
