"""Own estimators with hyper-parameters: specs, names, crossing, and the same in a run, its processes and a sweep."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from gradeval.errors import GradevalError
from gradeval.estimators import get_estimator, hyper_settings, resolve, spec_of, specs_of
from gradeval.estimators.relaxation import Concrete
from gradeval.evaluation.run import evaluate
from gradeval.studies.sweeps import read_sweep


@dataclass(frozen=True)
class Tempered:
    """Straight-through with a slope."""

    temperature: float = 1.0
    sharp: bool = False

    def __call__(self, network, inputs, loss, randomness):
        return get_estimator("st")(network, inputs, loss, randomness) / self.temperature


class Plain:
    """The same without dataclass."""

    unbiased = True

    def __init__(self, scale=2, other=None):
        self.scale, self.other = scale, other

    def __call__(self, network, inputs, loss, randomness):
        return self.scale * get_estimator("st")(network, inputs, loss, randomness)


def tempered(network, inputs, loss, randomness, temperature=1.0):
    return get_estimator("st")(network, inputs, loss, randomness) / temperature


tempered.unbiased = True
HERE = f"{__file__}:"


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ([Tempered(), Tempered(0.5)], [f"{__name__}:Tempered", f"{__name__}:Tempered:temperature=0.5"]),
        ([Tempered(0.5, sharp=True)], [f"{__name__}:Tempered:temperature=0.5,sharp=True"]),
        ([Plain(), Plain(3, object())], [f"{__name__}:Plain", f"{__name__}:Plain:scale=3"]),
        ([Tempered], [f"{__name__}:Tempered"]),
        ([partial(tempered, temperature=2.0)], [f"{__name__}:tempered:temperature=2.0"]),
        ([Concrete(0.1), Concrete(0.3)], ["concrete:temperature=0.1", "concrete:temperature=0.3"]),
        ({"cold": Tempered(0.1), "hot": "st"}, ["cold", "hot"]),
        ("concrete:temperature=0.1|1, st", ["concrete:temperature=0.1", "concrete:temperature=1.0", "st"]),
        (["gumbel-rao:temperature=1,samples=2|3"], [f"gumbel-rao:temperature=1.0,samples={k}" for k in (2, 3)]),
    ],
)  # fmt: skip
def test_names(given, names: list[str]) -> None:
    assert list(resolve(given)) == names


@pytest.mark.parametrize("name", ["Tempered", "tempered"])
def test_own_specs_have_hyper_parameters(name: str) -> None:
    made = get_estimator(f"{HERE}{name}:temperature=0.5")
    assert hyper_settings(made)["temperature"] == 0.5
    assert spec_of(made).endswith(f":{name}:temperature=0.5")
    assert specs_of(f"{HERE}{name}:temperature=0.5|2")[1] == f"{HERE}{name}:temperature=2"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("Tempered:temp=1", "unknown hyper-parameter of"),
        ("Tempered:temperature=hot", "temperature must be a number, found 'hot'."),
        ("Tempered:sharp=perhaps", "sharp must be true or false, found 'perhaps'."),
        ("tempered:warmth=1", "unknown hyper-parameter of"),
        ("Plain:scale=2.5", "scale must be a whole number, found '2.5'."),
    ],
)
def test_hyper_parameters_that_cannot_be(spec: str, message: str) -> None:
    with pytest.raises(GradevalError, match=re.escape(message)):
        get_estimator(HERE + spec)


def test_two_that_only_differ_where_no_name_shows_it(small) -> None:
    with pytest.raises(GradevalError, match="given twice"):
        evaluate(small, [Plain(2, object()), Plain(2, object())], draws=20)


def test_hyper_parameters_of_a_run(small, tmp_path: Path) -> None:
    """Also where they are made again by processes, and from the folder."""
    given = {"cold": f"{HERE}Tempered:temperature=0.5", "hot": f"{HERE}Tempered:temperature=2", "rao": "gumbel-rao"}
    run = evaluate(small, given, draws=40, executor="processes", workers=1, folder=tmp_path / "run")
    table = type(run).load(tmp_path / "run").hyper_parameters.set_index("estimator")
    assert table["temperature"].tolist() == [0.5, 2.0, 1.0]
    assert table["samples"].dropna().to_dict() == {"rao": 10}
    assert table.loc["cold", "family"] == table.loc["hot", "family"] != "gumbel-rao"
    spread = run.summary[run.summary["layer"] == "all"].set_index("estimator")["relative_variance"]
    assert spread["cold"] == pytest.approx(16 * spread["hot"], rel=1e-9)
    assert "temperature" not in run.summary  # existing tables keep their columns


def test_lists_cross_in_sweep_files(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(
        '[problem]\nname = "expclass"\n[evaluate]\n'
        'estimators = ["st", {name = "concrete", temperature = [0.1, 1.0]}, "gumbel-rao:samples=1|2"]\n'
    )
    (cell,) = read_sweep(path, tmp_path / "out")
    names = ["st", "concrete:temperature=0.1", "concrete:temperature=1.0"]
    assert list(resolve(cell.settings["estimators"])) == [
        *names,
        "gumbel-rao:temperature=1.0,samples=1",
        "gumbel-rao:temperature=1.0,samples=2",
    ]
    path.write_text('[problem]\nname = "expclass"\n[evaluate]\nestimators = [{temperature = 1}]\n')
    with pytest.raises(GradevalError, match="a table needs a name"):
        read_sweep(path, tmp_path / "out")
