"""Sweeps: cells that are done stay; regressions find the slopes that were put in."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import numpy as np
import pandas as pd
import pytest

from gradeval import GradevalError
from gradeval.analysis.sweep import Sweep, build_sweep_figures, regress
from gradeval.errors import Incomplete
from gradeval.files import sealed
from gradeval.program.sweep import report_sweep
from gradeval.studies.sweeps import is_sweep, read_sweep, rebuild_sweep, run_sweep, sweep_status

FILE = """
[problem]
name = "expclass"
units = ["2", "2-2", "3-3"]
seed = [0, 1]
stage = 0
points = 10

[evaluate]
estimators = ["reinforce", "psa"]
draws = 40
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[Path, Path, Sweep]:
    place = tmp_path_factory.mktemp("sweep")
    (place / "sweep.toml").write_text(FILE)
    return place / "sweep.toml", place / "out", run_sweep(place / "sweep.toml", place / "out")


def test_one_tidy_table(swept) -> None:
    _, folder, sweep = swept
    table = sweep.table
    whole = table[table["layer"] == "all"]
    assert len(whole) == 3 * 2 * 2
    assert set(whole["depth"]) == {1, 2}
    assert whole.loc[whole["units"] == "3-3", "width"].to_numpy() == pytest.approx(3.0)
    assert whole["exact_relative_bias"].notna().all()
    one = whole[(whole["units"] == "2") & (whole["estimator"] == "psa")]
    assert (one["relative_bias"] == 0).all()  # in one layer PSA is exact
    for name in ("sweep.csv", "sweep.parquet", "regressions.csv", "regressions.parquet"):
        assert (folder / name).exists(), name
    loaded = Sweep.load(folder)
    assert list(loaded.options) == list(sweep.options)
    pd.testing.assert_frame_equal(
        loaded.table.reindex(columns=table.columns)[whole.columns[:6]], table[whole.columns[:6]]
    )


def test_figures(swept, tmp_path: Path) -> None:
    build_sweep_figures(swept[2], tmp_path)
    assert {path.name for path in (tmp_path / "figures").glob("*.svg")} == {"depth.svg", "width.svg"}


def test_what_is_done_is_not_done_again_and_what_is_missing_is(swept) -> None:
    file, folder, sweep = swept
    cells = {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    lost = min(cells)
    key = lost.stem.partition("-")[0]
    lost.unlink()
    again = run_sweep(file, folder)
    assert {path for path in cells if not path.exists() or path.stat().st_mtime_ns != cells[path]} <= {lost}
    assert len(list((folder / "cells").glob(f"{key}-*.parquet"))) == 1  # timings are in it: its digest may be another
    assert len(list((folder / "cells").iterdir())) == len(cells)
    kept = [c for c in sweep.table if not c.startswith("seconds")]
    pd.testing.assert_frame_equal(again.table[kept], sweep.table[kept])


def test_the_status_of_a_sweep_and_its_tables_made_again(swept, tmp_path: Path) -> None:
    """Also of a folder of an older version, which has no sweep.json, and of one where a cell is missing."""
    _, folder, sweep = swept
    found = sweep_status(folder)
    assert json.loads(json.dumps(found)) == found
    assert (found["cells"], found["done"], found["missing"], found["complete"]) == (6, 6, [], True)
    before = (folder / "sweep.csv").read_bytes()
    copytree(folder, tmp_path / "some")
    lost = min((tmp_path / "some" / "cells").iterdir())
    lost.unlink()
    found = sweep_status(tmp_path / "some")
    assert (found["cells"], found["done"], len(found["missing"]), found["complete"]) == (6, 5, 1, False)
    assert found["missing"][0].startswith("name=expclass units=")
    rebuilt = rebuild_sweep(tmp_path / "some").table
    assert set(rebuilt["net"]) == set(sweep.table["net"]) - set(found["missing"])
    copytree(folder, tmp_path / "old")
    (tmp_path / "old" / "sweep.json").unlink()
    assert is_sweep(tmp_path / "old")
    assert sweep_status(tmp_path / "old")["done"] == 6
    for again in (folder, tmp_path / "old"):
        rebuild_sweep(again)
        assert (again / "sweep.csv").read_bytes() == before
    assert not is_sweep(tmp_path)
    with pytest.raises(GradevalError, match=r"is not a sweep: it has neither sweep\.json nor sweep\.parquet"):
        sweep_status(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"settings"', '"setting"', r"sweep\.json: Object missing required field `settings`"),
        ('"problem": {', '"problem": 3, "more": {', r"sweep\.json: cells\[0\]\.problem: expected `object`, got `int`"),
        ("gradeval-sweep/2", "gradeval-sweep/9", "this version reads 'gradeval-sweep/2', found 'gradeval-sweep/9'"),
        ('"stage": 0', '"stage": 1', "its digest is wrong"),
    ],
)
def test_a_damaged_plan_is_one_line_with_the_place(swept, tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (swept[1] / "sweep.json").read_text()
    assert old in text
    document = json.loads(text.replace(old, new))
    if "digest" not in message:  # a stranger can forge it
        document = json.loads(sealed({key: value for key, value in document.items() if key != "digest"}))
    (tmp_path / "sweep.json").write_text(json.dumps(document))
    with pytest.raises(GradevalError, match=message) as caught:
        sweep_status(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_damaged_cell_is_evaluated_again(swept, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A flipped bit went into the tables in silence."""
    file, folder, sweep = swept
    copytree(folder, tmp_path / "s")
    cell = sorted((tmp_path / "s" / "cells").iterdir())[1]
    content = bytearray(cell.read_bytes())
    content[len(content) // 2] ^= 1
    cell.write_bytes(content)
    (missing,) = sweep_status(tmp_path / "s")["missing"]
    report_sweep(tmp_path / "s")
    assert capsys.readouterr().err == f"missing, or damaged: {missing}\n"
    assert len(rebuild_sweep(tmp_path / "s").table["net"].unique()) == len(sweep.table["net"].unique()) - 1
    again = run_sweep(file, tmp_path / "s").table
    kept = [c for c in again if not c.startswith("seconds")]
    pd.testing.assert_frame_equal(again[kept], sweep.table[kept])
    assert missing in set(again["net"])


def test_processes_give_the_same_table(swept, tmp_path: Path) -> None:
    file, _, sweep = swept
    (tmp_path / "some.toml").write_text(file.read_text().replace(', "3-3"', ""))
    some = run_sweep(tmp_path / "some.toml", tmp_path / "two", workers=2).table
    kept = [c for c in some if not c.startswith("seconds")]
    same = sweep.table.loc[sweep.table["units"] != "3-3", kept].reset_index(drop=True)
    pd.testing.assert_frame_equal(some[kept], same)


def test_a_cell_that_fails_leaves_the_others(tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(FILE.replace('"2-2", "3-3"', '"40-40"').replace("[0, 1]", "0"))
    with pytest.raises(Incomplete, match=r"^cell 'name=expclass units=40-40 .*; the tables in .* have 1 of 2 cells\.$"):
        run_sweep(tmp_path / "sweep.toml", tmp_path / "out")
    assert set(Sweep.load(tmp_path / "out").table["units"]) == {"2"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[problem", "not a TOML file"),
        ("[problms]\nname = 'expclass'", "unknown table 'problms': did you mean problem"),
        ("[problem]\nunits = '2'", "needs a name"),
        ("[problem]\nname = 'expclass'", "needs estimators"),
        ("[problem]\nname = 'expclass'\n[evaluate]\nestimators = ['pas']", "unknown estimator 'pas'"),
        ("[problem]\nname = 'expclass'\n[evaluate]\ndrawz = 3", "unknown setting 'drawz': did you mean draws"),
        ("[problem]\nname = 'expclass'\nseed = []\n[evaluate]\nestimators = ['psa']", "seed is an empty list"),
        ("[problem]\nname = 'expclass'\nstage = ['a']\n[evaluate]\nestimators = ['psa']", "stage must be an integer"),
        ("[problem]\nname = 'expclass'\n[evaluate]\nestimators = ['psa']\ndraws = 500.5", "draws must be an integer"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "sweep.toml").write_text(text)
    with pytest.raises(GradevalError, match=message):
        read_sweep(tmp_path / "sweep.toml", tmp_path)


def planted(rng: np.random.Generator, depth_slope: float) -> pd.DataFrame:
    """40 nets with an effect of their own: log₁₀ variance = slope · depth + 0.5 log₂ width + net + noise."""
    rows = []
    for net in range(40):
        depth, width, effect = rng.integers(1, 5), float(rng.integers(2, 7)), rng.normal(0, 0.3)
        for estimator in ("a", "b"):
            for stage in (1, 100):
                log = depth_slope * depth + 0.5 * np.log2(width) + effect + 0.2 * (stage == 100) + rng.normal(0, 0.05)
                row = {"units": f"{net}", "seed": net, "stage": stage, "net": f"{net} {stage}", "depth": depth}
                row |= {"width": width, "estimator": estimator, "layer": "all", "relative_variance": 10**log}
                rows.append(row)
    return pd.DataFrame(rows)


def test_regression_finds_planted_slopes_with_honest_intervals() -> None:
    """Of 120 intervals of 95 % at least 104 hold the truth; fewer have probability 1e-4. Naive ones hold too few."""
    rng, held, naive = np.random.default_rng(0), 0, 0
    for _ in range(60):
        table = planted(rng, 0.3)
        found = regress(table, "relative_variance", ["units", "seed", "stage"])
        rows = found[(found["estimator"] == "a")].set_index("term")
        for term, truth in (("depth", 0.3), ("log2_width", 0.5)):
            low, high = rows.loc[term, ["slope_low", "slope_high"]]
            held += low <= truth <= high
            # the planted fault: every row a cluster of its own, which forgets that stages share a net
            middle, half = (low + high) / 2, (high - low) / 2 / 2**0.5
            naive += abs(truth - middle) <= half
    assert held >= 104
    assert naive < 104
    assert set(found["nets"]) == {40}


def test_no_effect_is_not_found() -> None:
    found = regress(planted(np.random.default_rng(1), 0.0), "relative_variance", ["units", "seed", "stage"])
    row = found[(found["estimator"] == "b") & (found["term"] == "depth")].iloc[0]
    assert row["slope_low"] < 0 < row["slope_high"]


def test_nets_of_a_seed_can_be_one_cluster() -> None:
    """Each net is there four times, as if in four shapes of the same seed: by seeds, that adds nothing."""
    table = planted(np.random.default_rng(2), 0.3)
    table = table.assign(seed=table["net"].astype("category").cat.codes, units="a")
    copies = pd.concat([table.assign(units=shape, net=table["net"].astype(str) + shape) for shape in "abcd"])
    options = ["units", "seed", "stage"]
    once = regress(table, "relative_variance", options)
    many, by_seed = (regress(copies, "relative_variance", options, clusters=by) for by in ([], ["seed"]))
    assert set(by_seed["nets"]) == set(once["nets"])
    assert set(many["nets"]) == {4 * int(once["nets"].iloc[0])}
    width = {
        name: (f["slope_high"] - f["slope_low"]).to_numpy()
        for name, f in (("once", once), ("seed", by_seed), ("net", many))
    }
    assert width["seed"] == pytest.approx(width["once"], rel=0.05)
    assert (width["net"] < 0.6 * width["once"]).all()
