"""Evaluation where no covariance is kept: the same answers, resumable, for any number of workers, in bounded memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import gradeval
from gradeval import Problem, StochasticBinaryNetwork
from gradeval.analysis.comparison.baseline import Baseline
from gradeval.analysis.comparison.changes import compare
from gradeval.analysis.run.evaluation import Evaluation
from gradeval.errors import GradevalError
from gradeval.evaluation.curves import joint_states
from gradeval.evaluation.plan import Plan
from gradeval.sampling.sampler import Sampler

pytestmark = pytest.mark.no_shapes
MEMORY = 2**15  # far less than a covariance of the problem's 65 parameters


def problem(seed: int = 0) -> Problem:
    random = torch.Generator().manual_seed(seed)
    network = StochasticBinaryNetwork.linear(12, (3, 2), 6).double()
    for parameter in network.parameters():
        parameter.data = 0.6 * torch.randn(parameter.shape, generator=random, dtype=torch.float64)
    x, y = (torch.randn(6, size, generator=random, dtype=torch.float64) for size in (12, 6))
    return Problem(network, x, y, "squared")


def without_times(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=[column for column in table if "seconds" in column])


@pytest.fixture(scope="module")
def runs() -> tuple[Evaluation, Evaluation]:
    """The same draws with a covariance, and at size."""
    names = ["st", "reinforce", "disarm", "tanh"]
    small, large = (
        gradeval.evaluate(problem(), names, draws=1000, exact="always", working_memory=memory)
        for memory in (2**30, MEMORY)
    )
    assert not small.moments["st"].at_size
    assert large.moments["st"].at_size
    return small, large


def test_answers_are_those_of_a_run_with_a_covariance(runs: tuple[Evaluation, Evaluation]) -> None:
    """Other chunks have other random numbers: estimates agree within their errors (z = 5 of each of 12)."""
    small, large = (run.summary.set_index(["estimator", "layer"]) for run in runs)
    assert list(small.columns) == list(large.columns)
    for key in ("relative_variance", "cosine", "scale", "relative_rmse"):
        error = np.hypot(*((one[f"{key}_high"] - one[f"{key}_low"]) / 3.92 for one in (small, large)))
        assert ((small[key] - large[key]).abs() <= 5 * error + 1e-9).all(), key
    assert (small["verdict"] == large["verdict"]).mean() > 0.8


def test_intervals_hold_the_exact_figures(runs: tuple[Evaluation, Evaluation]) -> None:
    """Of 24 intervals of 95 % at most 6 miss: with probability 5e-4 by chance, were they independent."""
    table = runs[1].summary.dropna(subset=["exact_relative_bias"])
    table = table[~table["deterministic"]]
    assert len(table) == 12
    misses = 0
    for key in ("relative_bias", "relative_variance"):
        exact = table[f"exact_{key}"]
        misses += int(((exact < table[f"{key}_low"] - 1e-9) | (exact > table[f"{key}_high"] + 1e-9)).sum())
    assert misses <= 6


def test_a_wrong_estimator_is_refuted_at_size() -> None:
    """Planted: twice the gradient, said to be unbiased."""

    def twice(network, inputs, loss, randomness):
        value = gradeval.estimators.get_estimator("disarm")(network, inputs, loss, randomness)
        return 2 * value - value.detach()

    twice.unbiased = True
    summary = gradeval.evaluate(problem(), [twice], draws=3000, exact="never", working_memory=MEMORY).summary
    assert (summary["bias_pvalue_adjusted"] < 0.01).any()
    assert summary["verdict"].str.contains("refuted").any()


def test_tables_do_not_depend_on_workers_or_on_being_resumed(tmp_path: Path) -> None:
    names = ["st", "disarm"]
    whole = gradeval.evaluate(problem(), names, draws=250, working_memory=MEMORY, workers=1)
    apart = gradeval.evaluate(problem(), names, draws=250, working_memory=MEMORY, workers=3, folder=tmp_path / "run")
    pd.testing.assert_frame_equal(without_times(whole.summary), without_times(apart.summary))
    pd.testing.assert_frame_equal(whole.curves, apart.curves)
    loaded = Evaluation.load(tmp_path / "run")
    pd.testing.assert_frame_equal(without_times(loaded.summary), without_times(whole.summary))
    extent = Plan.read(tmp_path / "run").extent
    assert extent.blocks > 0
    removed = sorted((tmp_path / "run" / "chunks").rglob("*.safetensors"))[::2]
    for path in removed:
        path.unlink()
    again = gradeval.evaluate(problem(), names, draws=250, working_memory=MEMORY, folder=tmp_path / "run")
    pd.testing.assert_frame_equal(without_times(again.summary), without_times(whole.summary))
    longer = gradeval.evaluate(problem(), names, draws=400, working_memory=MEMORY, folder=tmp_path / "run")
    afresh = gradeval.evaluate(problem(), names, draws=400, working_memory=MEMORY)
    columns = ["relative_bias", "relative_bias_low", "relative_bias_high", "cosine"]  # p-values know of two looks
    pd.testing.assert_frame_equal(longer.summary[columns], afresh.summary[columns])


def test_another_working_memory_is_another_run(tmp_path: Path) -> None:
    gradeval.evaluate(problem(), ["st"], draws=100, working_memory=MEMORY, folder=tmp_path / "run")
    with pytest.raises(GradevalError, match="another working memory"):
        gradeval.evaluate(problem(), ["st"], draws=100, folder=tmp_path / "run")
    with pytest.raises(GradevalError, match="must be positive"):
        gradeval.evaluate(problem(), ["st"], draws=100, working_memory=0)


def test_pairs_break_even_and_comparisons_work_at_size(
    runs: tuple[Evaluation, Evaluation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = runs
    assert len(large.pairs) == len(small.pairs)
    assert len(large.breakeven) == len(small.breakeven)
    other = gradeval.evaluate(problem(), ["st", "disarm"], draws=1000, seed=5, exact="never", working_memory=MEMORY)
    first = gradeval.evaluate(problem(), ["st", "disarm"], draws=1000, seed=6, exact="never", working_memory=MEMORY)
    assert not len(compare(Baseline.of(first), Baseline.of(other), cost_factor=np.inf).changed)
    baseline = Baseline.of(first)
    with monkeypatch.context() as patched:
        patched.setattr("gradeval.analysis.comparison.baseline.MAX_BASELINE_BYTES", 100)
        with pytest.raises(GradevalError, match="compare the runs' folders"):
            baseline.save(tmp_path / "large.json")
    saved = Baseline.read(Baseline.of(first).save(tmp_path / "baseline.json"))
    assert not len(compare(saved, Baseline.of(other), cost_factor=np.inf).changed)


def test_a_damaged_run_at_size_is_refused(tmp_path: Path) -> None:
    gradeval.evaluate(problem(), ["st"], draws=100, working_memory=MEMORY, folder=tmp_path / "run")
    run = Evaluation.load(tmp_path / "run")
    for field, wrong in (("products", run.moments["st"].products.products[:, :-1]),
                         ("deviations", run.moments["st"].products.deviations[:2]),
                         ("draws", np.array([10**9]))):  # fmt: skip
        again = Evaluation.load(tmp_path / "run")
        object.__setattr__(again.moments["st"].products, field, wrong)
        _save_as_is(again, tmp_path / field)
        with pytest.raises(GradevalError, match="damaged"):
            Evaluation.load(tmp_path / field)


def _save_as_is(run: Evaluation, folder: Path) -> None:
    """Save a run with arrays that do not fit, and the tables that it has had."""
    from gradeval.analysis.run.folder import create_run

    create_run(folder, run, {"curves": run.curves, "exact_moments": run.exact_moments})


def test_a_wide_network_of_27_000_parameters_end_to_end() -> None:
    """Layerwise enumeration of 4 units is its exact gradient; unbiased claims are not refuted, st is biased."""
    random = torch.Generator().manual_seed(0)
    network = StochasticBinaryNetwork.linear(3000, (4,), 3000).double()
    for parameter in network.parameters():
        parameter.data = (
            torch.randn(parameter.shape, generator=random, dtype=torch.float64) / parameter.shape[-1] ** 0.5
        )
    x = (torch.rand(10, 3000, generator=random) < 0.3).double()
    y = (torch.rand(10, 3000, generator=random) < 0.3).double()
    wide = Problem(network, x, y, "squared")
    run = gradeval.evaluate(wide, ["st", "reinforce", "disarm"], draws=200)
    assert run.moments["st"].at_size
    assert run.exact_moments.empty
    table = run.summary.set_index(["estimator", "layer"])
    assert table.loc[("st", "1"), "verdict"] == "biased"
    assert not table["verdict"].str.contains("refuted").any()
    assert (table["bias_pvalue"].loc[["reinforce", "disarm"]] > 1e-4).all()


def test_no_exact_covariance_is_made_of_many_parameters() -> None:
    sampler = Sampler(problem(), "st", gradeval.estimators.get_estimator("st"))
    assert joint_states(sampler, "auto", 65) > 0
    assert joint_states(sampler, "auto", 27_000) == 0
    with pytest.raises(GradevalError, match="covariance of 27000 parameters"):
        joint_states(sampler, "always", 27_000)
