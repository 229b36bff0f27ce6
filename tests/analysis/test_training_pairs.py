"""Estimators compared at common seeds: paired intervals and tests, Holm over the pairs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel
from statsmodels.stats.multitest import multipletests

from gradeval.analysis.training import Training
from gradeval.analysis.training_folder import TRAINING_TABLES
from gradeval.analysis.training_pairs import against, paired_differences
from gradeval.analysis.training_report import build_training_report, training_answer

NAMES = ("a", "b", "c")
SHIFT = {"a": 0.0, "b": 0.01, "c": 0.1}
NOISE = {"a": 0.02, "b": 0.1, "c": 0.02}  # b is hard to tell from a


def predictions(seeds: int = 8, spread: float = 1.0) -> pd.DataFrame:
    """Losses whose seeds differ by much more than their estimators."""
    random = np.random.default_rng(0)
    start = spread * random.normal(size=seeds)
    rows = [
        (name, seed, "train", "expected", 2 + start[seed] + SHIFT[name] + NOISE[name] * random.normal(), math.nan)
        for name in NAMES
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows, columns=TRAINING_TABLES["predictions"])


def training_of(table: pd.DataFrame) -> Training:
    names = list(dict.fromkeys(table["estimator"]))
    curves = table.rename(columns={"loss": "objective"}).assign(epoch=1, rate=0.1)
    tables = {name: pd.DataFrame(columns=columns) for name, columns in TRAINING_TABLES.items()}
    tables |= {"predictions": table, "curves": curves.reindex(columns=TRAINING_TABLES["curves"])}
    manifest = {
        "estimators": {name: {"unbiased_claim": True} for name in names},
        "problem": {"name": "made up", "description": ""},
        "kind": {"protocol": {"ensemble": 1}},
        "versions": {"gradeval": "0"},
        "created": "today",
        "failures": {},
    }
    return Training(manifest, tables)


def test_intervals_and_p_values_are_those_of_the_paired_t_test() -> None:
    table = predictions()
    pairs = paired_differences(table.sample(frac=1, random_state=0))  # the order of the rows does not pair them
    runs = table.pivot(index="seed", columns="estimator", values="loss")
    found = {frozenset((row["first"], row["second"])): row for _, row in pairs.iterrows()}
    assert len(found) == 3
    raw = []
    for row in found.values():
        expected = ttest_rel(runs[row["first"]], runs[row["second"]])
        ends = expected.confidence_interval(0.95)
        assert row["pvalue"] == pytest.approx(expected.pvalue, rel=1e-9)
        assert (row["difference_low"], row["difference_high"]) == pytest.approx(tuple(ends), rel=1e-9)
        raw.append(row["pvalue"])
    assert pairs["pvalue_adjusted"].to_list() == pytest.approx(list(multipletests(raw, method="holm")[1]))


def test_pairs_see_what_means_alone_do_not() -> None:
    """The seeds' spread is ten times the largest difference: unpaired intervals overlap, paired ones are narrow."""
    training = training_of(predictions())
    summary = training.summary.set_index("estimator")
    assert summary.loc["c", "loss_low"] < summary.loc["a", "loss"]
    row = training.pairs.query("first == 'a' and second == 'c'").iloc[0]
    assert row["better"] == "a"
    unpaired = math.hypot(*(summary.loc[n, "loss_high"] - summary.loc[n, "loss"] for n in "ac"))
    assert unpaired > 10 * (row["difference_high"] - row["difference"])


def test_only_common_seeds_are_paired() -> None:
    table = predictions()
    cut = table[~((table["estimator"] == "c") & (table["seed"] < 3))]
    assert paired_differences(cut)["seeds"].to_list() == [8, 5, 5]
    one = paired_differences(table[(table["estimator"] == "a") | ((table["estimator"] == "b") & (table["seed"] == 0))])
    assert one["seeds"].to_list() == [1]
    assert math.isnan(one["pvalue_adjusted"].iloc[0])
    assert one["better"].to_list() == [""]


def test_equal_runs_are_undecided() -> None:
    table = predictions()
    same = pd.concat([table[table["estimator"] == "a"], table[table["estimator"] == "a"].assign(estimator="d")])
    row = paired_differences(same).iloc[0]
    assert (row["difference"], row["pvalue_adjusted"], row["better"]) == (0.0, 1.0, "")


def test_more_accuracy_is_better() -> None:
    table = predictions().assign(predictor="ensemble", split="test")
    table["accuracy"] = table["loss"] / 10
    pairs = paired_differences(table).query("first == 'a' and second == 'c'").set_index("measure")
    assert pairs["better"].to_dict() == {"loss": "a", "accuracy": "c"}


def test_differences_from_one_estimator_have_its_sign() -> None:
    rows = against(paired_differences(predictions()), "b", "train", "expected").set_index("estimator")
    runs = predictions().pivot(index="seed", columns="estimator", values="loss")
    for other in ("a", "c"):
        assert rows.loc[other, "difference"] == pytest.approx((runs[other] - runs["b"]).mean())
    for _, row in rows.iterrows():
        assert row["difference_low"] < row["difference"] < row["difference_high"]


def test_the_report_says_that_it_compares_in_pairs(tmp_path: Path) -> None:
    training = training_of(predictions())
    (answer,) = training_answer(training)
    assert "in pairs of runs with the same seed, it is not told from b." in answer
    text = build_training_report(training, tmp_path).read_text()
    assert "The comparison is paired" in text
    assert "undecided" in text
    assert "a is better" in text
    training.save(tmp_path)
    assert len(pd.read_csv(tmp_path / "pairs.csv")) == 3
    apart = training_of(predictions().query("estimator != 'b'"))
    assert "it is below every other one (Holm, 5 % in all)" in training_answer(apart)[0]
    alone = training_of(predictions().query("estimator == 'a'"))
    assert "in pairs" not in training_answer(alone)[0]
    build_training_report(alone, tmp_path)
