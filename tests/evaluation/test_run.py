"""Evaluation: reproducible by seed, the same with any number of workers, honest about what it could not do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gradeval import Evaluation, GradevalError, Problem, evaluate, exact_gradient
from gradeval.analysis.hypotheses import holm
from gradeval.errors import Incomplete
from gradeval.estimators import get_estimator
from gradeval.reference import exact_moments
from gradeval.sampling.probes import count_evaluations
from gradeval.sampling.sampler import Sampler

SPECS = ["reinforce", "st", "psa", "tanh", "arm", "concrete:temperature=0.5"]


def tables(evaluation: Evaluation, folder: Path) -> dict[str, bytes]:
    evaluation.save(folder)
    return {name: (folder / f"{name}.csv").read_bytes() for name in ("summary", "curves", "breakeven", "fits")}


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_workers(make_problem, tmp_path: Path) -> None:
    problem = make_problem()
    first = tables(evaluate(problem, SPECS, draws=3500, seed=1, workers=1), tmp_path / "a")
    assert tables(evaluate(problem, SPECS, draws=3500, seed=1, workers=2), tmp_path / "b") == first
    assert tables(evaluate(problem, SPECS[::-1], draws=3500, seed=1, workers=3), tmp_path / "c").keys() == first.keys()
    other = tables(evaluate(problem, SPECS, draws=3500, seed=2), tmp_path / "d")
    assert all(other[name] != first[name] for name in first)


def test_an_estimators_draws_do_not_depend_on_its_company(make_problem) -> None:
    problem = make_problem()
    together = evaluate(problem, SPECS, draws=200).moments["psa"]
    alone = evaluate(problem, ["psa"], draws=200).moments["psa"]
    np.testing.assert_array_equal(together.mean, alone.mean)


def test_the_number_of_threads_of_torch_is_left_alone(make_problem) -> None:
    before = torch.get_num_threads()
    evaluate(make_problem(), ["st"], draws=100, workers=1)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("name", ["reinforce", "st", "psa", "identity-st", "hard-st", "tanh"])
def test_sampled_figures_agree_with_exact_moments(make_problem, name: str) -> None:
    """Every parameter's mean at |z| < 5.5 (17 parameters, 6 estimators: 4e-6 false alarms), and the variance."""
    problem = make_problem(states=(-1.0, 1.0))
    evaluation = evaluate(problem, [name], draws=20_000, seed=3)
    exact = exact_moments(problem, get_estimator(name))
    moments = evaluation.moments[name]
    size = len(exact.mean)
    error = np.sqrt(exact.variance.clamp(min=0).numpy() / 20_000)
    difference = np.abs(moments.mean[:size] - exact.bias.numpy())
    assert (difference <= 5.5 * error + 1e-12).all()
    row = evaluation.summary.set_index("layer").loc["all"]
    # intervals widened from 95 % (1.96 standard errors) to 5.5
    half = (row["relative_variance_high"] - row["relative_variance_low"]) / 2 * 5.5 / 1.96
    assert row["relative_variance"] == pytest.approx(exact.relative_variance()["all"], abs=half + 1e-12)
    assert moments.mean[-1] == pytest.approx(
        exact.value, abs=5.5 * np.sqrt(moments.covariance[-1, -1] / 20_000) + 1e-12
    )


def test_the_loop_has_the_distribution_of_the_vectorised_draws(make_problem) -> None:
    """Means of 2,000 draws each way, at |z| < 5.5 per parameter (1e-6 in all)."""
    sampler = Sampler(make_problem(), "reinforce", get_estimator("reinforce"))
    fast, _ = sampler.chunk(1000, "fast")
    sampler.vectorised = False
    slow, _ = sampler.chunk(1000, "slow")
    error = torch.sqrt((fast.var(0) + slow.var(0)) / 1000)
    assert ((fast.mean(0) - slow.mean(0)).abs() <= 5.5 * error + 1e-12).all()


def looping(network, inputs, loss, randomness):
    f = get_estimator("st")(network, inputs, loss, randomness)
    return f * 1.0 if f.sum().item() > -1e9 else f


def test_an_estimator_that_cannot_be_vectorised_is_looped_with_a_note(make_problem) -> None:
    evaluation = evaluate(make_problem(), [looping], draws=40)
    (facts,) = evaluation.manifest["estimators"].values()
    assert not facts["vectorised"]
    assert "not vectorised" in facts["notes"][0]


def careless(network, inputs, loss, randomness):
    return loss(inputs.new_zeros(4, 3) + torch.rand(4, 3, dtype=inputs.dtype))


def test_randomness_of_ones_own_is_noted(make_problem) -> None:
    evaluation = evaluate(make_problem(), [careless], draws=40)
    (facts,) = evaluation.manifest["estimators"].values()
    assert "randomness of its own" in facts["notes"][0]


def raising(network, inputs, loss, randomness):
    raise KeyError("lost")


def wrong_shape(network, inputs, loss, randomness):
    return loss(inputs.new_zeros(4, 3)).sum()


def sometimes_nan(network, inputs, loss, randomness):
    f = get_estimator("st")(network, inputs, loss, randomness)
    return torch.where(randomness.uniform((4,)) < 1e-3, torch.log(f - f), f)


def test_unusable_estimators_are_named(make_problem) -> None:
    problem = make_problem()
    with pytest.raises(GradevalError, match=r"raising' raised KeyError: 'lost'"):
        evaluate(problem, [raising])
    with pytest.raises(GradevalError, match=r"one surrogate per point, \[4\], returned \[\]"):
        evaluate(problem, [wrong_shape])
    with pytest.raises(GradevalError, match="draws must be at least 20, found 3"):
        evaluate(problem, ["st"], draws=3)
    with pytest.raises(GradevalError, match="workers must be at least 1, found 0"):
        evaluate(problem, ["st"], workers=0)


def test_a_failing_estimator_does_not_lose_the_others(make_problem) -> None:
    with pytest.raises(
        Incomplete, match=r"sometimes_nan' gave NaN or infinite gradients in \d+ of 2000 draws.*kept: st"
    ) as caught:
        evaluate(make_problem(), [sometimes_nan, "st"], draws=2000)
    assert caught.value.evaluation is not None
    assert list(caught.value.evaluation.moments) == ["st"]
    assert len(caught.value.evaluation.manifest["failures"]) == 1


def test_the_message_names_what_was_kept_and_nothing_else(make_problem) -> None:
    """Planted: the failed estimator among those that are kept; "no estimator had finished" beside finished ones."""
    with pytest.raises(Incomplete) as caught:
        evaluate(make_problem(), ["st", sometimes_nan, "psa"], draws=2000, exact="never")
    assert str(caught.value).endswith("; kept: st, psa.")
    assert caught.value.evaluation is not None
    assert list(caught.value.evaluation.moments) == ["st", "psa"]
    with pytest.raises(Incomplete) as caught:
        evaluate(make_problem(), [sometimes_nan], draws=2000, exact="never")
    assert str(caught.value).endswith("; no estimator had finished.")
    assert caught.value.evaluation is None


def test_an_interrupt_keeps_what_had_finished(make_problem) -> None:
    class Impatient:
        finished = 0

        def start(self, estimator: str, draws: int) -> None:
            if self.finished == 2:
                raise KeyboardInterrupt

        def advance(self, task: str, draws: int) -> None:
            pass

        def finish(self, task: str, note: str = "") -> None:
            self.finished += 1

    with pytest.raises(Incomplete, match="interrupted; kept: st, psa") as caught:
        evaluate(make_problem(), ["st", "psa", "arm"], draws=100, exact="never", progress=Impatient())
    assert caught.value.exit_code == 130


def test_deterministic_estimators_have_no_variance(make_problem) -> None:
    evaluation = evaluate(make_problem(), ["tanh"], draws=1000)
    assert (evaluation.summary["relative_variance"] == 0).all()
    assert (evaluation.summary["relative_bias_low"] == evaluation.summary["relative_bias_high"]).all()
    assert evaluation.curves.groupby("layer")["relative_rmse"].nunique().max() == 1


def test_no_figure_of_fewer_than_twenty_blocks(make_problem) -> None:
    curves = evaluate(make_problem(), SPECS, draws=1050).curves
    assert curves["blocks"].min() >= 20
    assert curves["samples"].max() == 50


def test_curves_agree_with_the_direct_figures(make_problem) -> None:
    """RMSE²(M) = bias² + variance/M: the fit's interval, widened to 5.5 σ, holds the direct variance."""
    fits = evaluate(make_problem(), ["reinforce", "st", "arm"], draws=20_000).fits
    assert len(fits) == 3 * 4
    half = (fits["wls_relative_variance_high"] - fits["wls_relative_variance"]) * 5.5 / 1.96
    assert ((fits["wls_relative_variance"] - fits["relative_variance"]).abs() <= half).all()


def test_verdicts(make_problem) -> None:
    """Claims hold for REINFORCE and ARM; a scale of 1.1 with a claim is refuted."""

    class Scaled:
        unbiased = True

        def __call__(self, network, inputs, loss, randomness):
            f = get_estimator("psa")(network, inputs, loss, randomness)
            return f.detach() + 1.1 * (f - f.detach())

    summary = evaluate(
        make_problem((3,)), ["reinforce", "arm", "psa", "tanh", Scaled()], draws=5000, exact="never", detect=0.4
    ).summary
    words = {name: set(rows["verdict"]) for name, rows in summary.groupby("estimator")}
    assert words["reinforce"] == words["arm"] == {"claim of no bias holds"}
    assert words["psa"] == {"no bias seen"}
    assert words["tanh"] == {"biased"}
    (mine,) = (words[name] for name in words if "Scaled" in name)
    assert mine == {"claim of no bias refuted"}


def test_exact_columns_stand_beside_the_sampled_ones(make_problem) -> None:
    """Known where all chance is Bernoulli; the sampled intervals, widened to 5.5 σ, hold them."""
    problem = make_problem(states=(-1.0, 1.0))
    evaluation = evaluate(problem, ["reinforce", "st", "tanh", "arm"], draws=10_000)
    summary = evaluation.summary
    known = summary.dropna(subset="exact_relative_bias")
    assert set(known["estimator"]) == {"reinforce", "st", "tanh"}
    for name in ("reinforce", "st"):
        exact = exact_moments(problem, get_estimator(name))
        rows = known[known["estimator"] == name].set_index("layer")
        for layer, value in exact.relative_variance().items():
            assert rows.loc[layer, "exact_relative_variance"] == pytest.approx(value)
            half = (rows.loc[layer, "relative_variance_high"] - rows.loc[layer, "relative_variance"]) * 5.5 / 1.96
            assert rows.loc[layer, "relative_variance"] == pytest.approx(value, abs=half)
    words = summary.set_index(["estimator", "layer"])["verdict"]
    assert words["reinforce", "all"] == "claim of no bias holds exactly"
    assert words["arm", "all"] == "claim of no bias holds"
    keys = ["estimator", "layer", "samples"]
    best = evaluation.best_curves
    curve = best[best["exact"]].set_index(keys)["relative_rmse"]
    sampled = evaluation.curves.set_index(keys).loc[curve.index]
    for rmse, error in (
        (sampled["blocks_rmse"], sampled["blocks_rmse_se"]),
        (sampled["relative_rmse"], (sampled["relative_rmse_high"] - sampled["relative_rmse_low"]) / 3.92),
    ):
        assert ((rmse - curve).abs() <= 5.5 * error + 1e-12).all()


def test_exact_never_and_always(make_problem) -> None:
    problem = make_problem((10, 9))
    assert evaluate(problem, ["st"], draws=20).summary["exact_relative_bias"].isna().all()
    assert evaluate(make_problem(), ["st"], draws=20, exact="never").exact_moments.empty
    with pytest.raises(Incomplete, match=r"2\^19 joint states; the limit is 2\^18.*kept: st"):
        evaluate(problem, ["st"], draws=20, exact="always")
    with pytest.raises(GradevalError, match="unknown choice of exact 'sometime'"):
        evaluate(problem, ["st"], draws=20, exact="sometime")


def batch_baseline(network, inputs, loss, randomness):
    """A baseline from the other points of the batch: unbiased, but no sum over points."""
    x, log_prob = inputs, 0.0
    for layer in network.layers:
        a = layer.preactivation(x)
        s = randomness.bernoulli(layer.probability(a))
        log_prob = log_prob + layer.log_prob(s, a)
        x = layer.encode(s)
    f = loss(x)
    others = (f.sum() - f) / max(1, len(f) - 1)
    return f + (f - others).detach() * (log_prob - log_prob.detach())


def test_estimators_that_mix_points_have_no_exact_moments(make_problem) -> None:
    evaluation = evaluate(make_problem(), [batch_baseline], draws=100)
    assert evaluation.exact_moments.empty
    (facts,) = evaluation.manifest["estimators"].values()
    assert "depends on the other points" in facts["notes"][0]
    with pytest.raises(GradevalError, match="depends on the other points"):
        exact_moments(make_problem(), batch_baseline)
    with pytest.raises(GradevalError, match="randomness of its own"):
        exact_moments(make_problem(), careless)


def forgot(network, inputs, loss, randomness):
    """The commonest mistake: samples without a log-probability term; inner layers get no gradient."""
    x = inputs
    for layer in network.layers:
        x = layer.encode(randomness.bernoulli(layer.probability(layer.preactivation(x))))
    return loss(x)


def test_an_estimator_without_inner_gradients_is_a_result_not_an_error(make_problem) -> None:
    summary = evaluate(make_problem((1, 1)), [forgot], draws=300, exact="never").summary.set_index("layer")
    assert summary.loc["1", "relative_bias"] == pytest.approx(1)
    assert summary.loc["1", "relative_variance"] == 0
    assert summary.loc["1", "verdict"] == "untested: no draw differs from another"
    summary = evaluate(make_problem((1, 1)), [forgot], draws=300).summary.set_index("layer")
    assert summary.loc["1", "verdict"] == "biased"


def test_rounding_is_no_variance(make_problem) -> None:
    class Shaken:
        def __call__(self, network, inputs, loss, randomness):
            f = get_estimator("tanh")(network, inputs, loss, randomness)
            return f * (1 + 1e-17 * randomness.normal((1,)).exp())

    summary = evaluate(make_problem(), [Shaken()], draws=300).summary
    assert (summary["relative_variance"] < 1e-20).all()


def test_break_even_uses_exact_figures(make_problem) -> None:
    """An exactly unbiased estimator is unbiased whether it claims so or not; an exact bias has no interval."""
    evaluation = evaluate(make_problem(states=(-1.0, 1.0)), ["reinforce", "st", batchless], draws=2000)
    table = evaluation.breakeven
    assert set(table["unbiased"]) == {"reinforce", f"{__name__}:batchless"}
    exact = evaluation.exact_moments.set_index(["estimator", "layer"])
    row = table[(table["unbiased"] == "reinforce") & (table["layer"] == "1")].iloc[0]
    variances = [exact.loc[(name, "1"), "exact_relative_variance"] for name in ("reinforce", "st")]
    bias = exact.loc[("st", "1"), "exact_relative_bias"]
    assert row["draws"] == row["draws_high"] == pytest.approx((variances[0] - variances[1]) / bias**2)


def batchless(network, inputs, loss, randomness):
    return get_estimator("reinforce:baseline=0.3")(network, inputs, loss, randomness)


def test_an_interrupt_while_enumerating_keeps_the_draws(make_problem) -> None:
    class Impatient:
        def start(self, estimator: str, draws: int) -> None:
            if "all states" in estimator:
                raise KeyboardInterrupt

        def advance(self, task: str, draws: int) -> None:
            pass

        def finish(self, task: str, note: str = "") -> None:
            pass

    with pytest.raises(Incomplete, match="interrupted; kept: st, psa"):
        evaluate(make_problem(), ["st", "psa"], draws=100, progress=Impatient())


def test_layers_without_gradient_are_undefined_not_wrong(make_problem) -> None:
    problem = make_problem()
    with torch.no_grad():
        problem.network.head.weight.zero_()
    summary = evaluate(problem, ["st", "psa"], draws=100).summary.set_index(["estimator", "layer"])
    assert summary.loc[("st", "1"), "verdict"] == "undefined: the exact gradient is zero"
    assert np.isfinite(summary.loc[("st", "head"), "relative_bias"])


def test_unbiased_estimators_are_not_refuted_where_units_are_saturated(make_problem) -> None:
    """Few draws of nets whose rare states make the gradient: nothing may be refuted, and what cannot be known is so
    called. (The family-wise error rate is 1 %; T² with nothing kept for unseen states refutes nearly always.)"""
    from gradeval.analysis.run.report import report_page

    verdicts = {}
    for scale in (8.0, 40.0):
        problem = make_problem((2, 2), points=1)
        with torch.no_grad():
            for parameter in problem.network.parameters():
                parameter.mul_(scale)
        evaluation = evaluate(problem, ["reinforce", "tanh"], draws=100, exact="never")
        verdicts[scale] = evaluation.summary.set_index("estimator").loc["reinforce", "verdict"]
        assert not verdicts[scale].str.contains("refuted").any()
        report_page(evaluation, figures=[])
    assert verdicts[40.0].str.startswith("untested: no draw differs").any()


@pytest.mark.parametrize(
    ("name", "layers", "losses"), [("reinforce", 3, 1), ("arm", 6, 4), ("psa", 5, 3), ("tanh", 3, 1)]
)
def test_evaluations_are_counted(make_problem, name: str, layers: int, losses: int) -> None:
    """ARM: L(L + 1)/2 layers and L + 1 losses; PSA: L forward, L − 1 times all flips, and 1 + n losses."""
    assert count_evaluations(make_problem((3, 4, 2)), get_estimator(name)) == (layers, losses)


def test_an_option_that_evaluate_does_not_know_is_refused(small) -> None:
    with pytest.raises(GradevalError, match="unknown option of evaluate 'wokers': did you mean workers"):
        evaluate(small, ["st"], draws=40, wokers=2)  # type: ignore[call-arg]


def test_huge_numbers_are_refused_or_finite(make_problem) -> None:
    """They ended in a traceback. What overflows is refused, or is the failure of one estimator; figures are finite."""

    def with_value(value: float, name: str) -> Problem:
        problem = make_problem((2, 2), points=3)
        with torch.no_grad():
            problem.network.get_parameter(name).view(-1)[0] = value
        return Problem(problem.network, problem.inputs, problem.targets)

    with pytest.raises(Incomplete, match=r"estimator 'st' gave gradients of \de\+29\d, beyond 1e\+45; kept: reinforce"):
        evaluate(with_value(9e298, "layers.1.map.weight"), ["reinforce", "st"], draws=40)
    summary = evaluate(with_value(-9e298, "layers.0.map.bias"), ["reinforce", "st"], draws=40).summary
    assert bool(np.isfinite(summary["relative_bias"]).all())
    problem = make_problem((2, 2), loss="squared", states=(-1e100, 1e100))
    with pytest.raises(GradevalError, match=r"the exact gradient, or J, has entries of .*: scale the problem"):
        evaluate(problem, ["st"], draws=40)
    with torch.no_grad():
        problem.network.head.weight[0, 0] = 9e200
    with pytest.raises(GradevalError, match="the exact gradient, or J, is infinite or NaN"):
        exact_gradient(problem)


def test_the_error_rate_is_spent_over_the_looks(small: Problem, tmp_path: Path) -> None:
    """Planted: every look of a growing run at the whole level. The same draws again are no new look."""
    looks = []
    for draws in (40, 40, 80, 160):
        run = evaluate(small, ["st"], draws=draws, exact="never", folder=tmp_path / "run")
        looks.append(run.manifest["looks"])
    assert looks == [1, 1, 2, 3]
    at_once = evaluate(small, ["concrete"], draws=400, exact="never")
    for look, factor in ((1, 2), (3, 12)):
        summary = replace(at_once, manifest=at_once.manifest | {"looks": look}).summary
        adjusted = np.minimum(factor * holm(summary["bias_pvalue"]), 1.0)
        assert summary["bias_pvalue_adjusted"].to_numpy() == pytest.approx(adjusted)
        assert adjusted.min() < 1


def test_all_estimators_take_the_same_random_numbers(small: Problem) -> None:
    """ST and identity-ST take the same states in the same draws, so their values are the same. Planted: draws that are
    seeded by the estimator's name."""
    moments = evaluate(small, ["st", "identity-st"], draws=40, exact="never").moments
    assert moments["st"].mean[-1] == moments["identity-st"].mean[-1]


def test_what_is_wrong_in_a_batch_alone_is_measured(make_problem) -> None:
    """The fifth point of a batch has twice its gradient, a point alone has not. Planted: points drawn one by one since
    the first three are independent; the bias was then 0."""

    def fifth(network, inputs, loss, randomness):
        value = get_estimator("reinforce")(network, inputs, loss, randomness)
        factor = torch.ones(len(inputs), dtype=value.dtype)
        factor[4:5] = 2.0
        return value.detach() + factor * (value - value.detach())

    problem = make_problem((2,), points=6)
    row = evaluate(problem, [fifth], draws=4000, exact="never").summary.set_index("layer").loc["all"]
    assert row["relative_bias_low"] > 0.05
    assert row["verdict"] == "biased"
