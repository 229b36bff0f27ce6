"""The atlas says what the code says: a part of it is computed anew in every run of the tests, all of it on request.

GRADEVAL_ATLAS=full recomputes every entry. `python docs/make_atlas.py` makes them.
"""

from __future__ import annotations

import copy
import datetime
import json
import os
import runpy
from pathlib import Path

import pytest

from gradeval import GradevalError
from gradeval.atlas import Entry, load, names
from gradeval.atlas.make import differences, results_of
from tests.programs import gradeval

QUICK = [name for name in names() if not name.startswith(("vae", "paper", "three", "two-layers-16", "convolution"))]
TODAY = QUICK[datetime.date.today().toordinal() % len(QUICK)]
CHOSEN = names() if os.environ.get("GRADEVAL_ATLAS") == "full" else [TODAY]


@pytest.mark.no_shapes
@pytest.mark.parametrize("name", CHOSEN)
def test_computed_anew(name: str) -> None:
    """Planted in the next test."""
    entry = load(name)
    assert not differences(entry.results, results_of(name, entry.problem))


def test_a_change_of_two_per_cent_in_one_layer_is_seen() -> None:
    entry = load("two-layers-2-2")
    changed = copy.deepcopy(entry.results)
    changed.accuracy["st"]["1"][0] *= 1.02  # type: ignore[operator]
    changed.accuracy.pop("psa")
    (missing, line) = sorted(differences(entry.results, changed))
    assert missing == "psa: missing"
    assert line.startswith("st, layer 1, relative_bias: ")


@pytest.mark.parametrize("name", names())
def test_every_entry_is_whole(name: str) -> None:
    """The problem is the one that the results are of; methods agree to rounding."""
    entry = load(name)
    assert isinstance(entry, Entry)
    assert entry.results.name == name
    assert max(entry.results.methods.values()) < 1e-12
    if entry.results.accuracy:
        unbiased = entry.accuracy.query("estimator == 'reinforce'")["relative_bias"].dropna()
        assert unbiased.lt(1e-9).all()
    if not name.startswith(("vae", "paper")):
        assert entry.problem.fingerprint() == entry.results.fingerprint


def test_near_matches_are_listed() -> None:
    with pytest.raises(GradevalError, match="did you mean toy"):
        load("toi")


def test_the_commands(tmp_path: Path) -> None:
    shown = gradeval("reference", "toy", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "J = 0.250001" in shown.stdout
    assert json.loads(gradeval("reference", "toy", "--json", cwd=tmp_path).stdout)["value"] == 0.250001
    assert "tied-logit: " in gradeval("atlas", cwd=tmp_path).stdout
    none = gradeval("atlas", "--with", "arm", cwd=tmp_path)
    assert none.returncode == 2
    assert "no exact accuracy on any problem of the atlas: it has chance beyond Bernoulli states" in none.stderr
    assert "`gradeval run` draws it" in none.stderr
    (tmp_path / "mine.py").write_text("from gradeval.estimators import get_estimator\n\nmine = get_estimator('st')\n")
    (row, *_) = json.loads(gradeval("atlas", "--with", "mine.py:mine", "--json", cwd=tmp_path).stdout)
    known = load("toy").accuracy.query("layer == 'all'").set_index("estimator")["relative_rmse"]
    assert (row["problem"], row["best"], row["relative_rmse"]) == ("toy", known.idxmin(), pytest.approx(known["st"]))


def test_the_page_is_of_the_data() -> None:
    """Planted: an estimator that is missing on the page."""
    docs = Path(__file__).parents[2] / "docs"
    made = runpy.run_path(str(docs / "make_atlas_page.py"))
    table = made["figures"]()
    outdated = "run python docs/make_atlas_page.py and commit what it writes"
    assert made["page"](table) == (docs / "atlas.md").read_text(), outdated
    assert made["csv"](table) == (docs / "atlas.csv").read_text(), outdated
    assert made["page"](table[table["estimator"] != "psa"]) != (docs / "atlas.md").read_text()
