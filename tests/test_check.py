"""`gradeval check`, its sequential test, its diagnosis, the adapter for foreign code and the pytest plugin."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom, poisson

from gradeval import Problem, StochasticBinaryNetwork
from gradeval.checking.battery import ROWS, make
from gradeval.checking.diagnosis import NATURAL
from gradeval.checking.procedure import check
from gradeval.checking.sequential import POWER, level_of_look, mean_test, rare_event_error
from gradeval.errors import GradevalError
from gradeval.estimators import get_estimator
from gradeval.estimators.foreign import Foreign
from gradeval.estimators.surrogate import carry, sample_path
from gradeval.model.randomness import GivenUniforms, generator
from gradeval.reference import exact_gradient
from gradeval.sampling.sampler import Sampler

FAULTS = sorted((Path(__file__).parent / "faults").glob("*.py"))
ENVIRONMENT = os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}
ONE = [make(ROWS[0])]
QUIET = [make(ROWS[3])]  # little variance: few draws of what is drawn in a loop
PAIR = [make(ROWS[0]), make(ROWS[5])]


def module_of(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def fault(name: str):
    return module_of(Path(__file__).parent / "faults" / f"{name}.py").estimator


# --- planted faults --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FAULTS, ids=lambda path: path.stem)
def test_planted_faults_are_failed_with_the_right_words(path: Path) -> None:
    module = module_of(path)
    verdict = check(module.estimator, unbiased=True, workers=1)
    assert (verdict.verdict, verdict.exit_code) == ("fails", 1)
    assert module.WORDS in "\n".join(verdict.diagnosis), verdict
    assert module.WORDS in str(verdict)


def test_there_are_enough_faults() -> None:
    assert len(FAULTS) >= 15


def test_the_value_is_not_blamed_for_a_wrong_gradient() -> None:
    verdict = check(fault("sign"), unbiased=True, problems=PAIR)
    assert verdict.diagnosis[-1] == "the value is right on every problem: the error is in the gradient only"


# --- verdicts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["reinforce", "leg", "disarm", "muprop"])
def test_those_of_bernoulli_states_hold_exactly(spec: str) -> None:
    verdict = check(spec, workers=1)
    assert verdict.verdict == "holds", verdict
    assert set(verdict.table["method"]) == {"exact"}
    assert "no false alarm is possible" in verdict.guarantee
    assert verdict.table["relative_bias"].max() < 1e-9


@pytest.mark.parametrize("spec", ["arm", "rebar"])
def test_sampled_ones_hold_with_the_power_that_is_stated(spec: str) -> None:
    verdict = check(spec, detect=0.05, problems=PAIR, workers=1)
    assert verdict.verdict == "holds", verdict
    assert set(verdict.table["method"]) == {"sampled"}
    assert verdict.table["detectable"].max() <= 0.05
    assert (verdict.table["relative_bias_low"] <= 1e-12).all()
    assert "err with probability ≤ 1e-06" in verdict.guarantee


def test_fitted_ones_are_fitted() -> None:
    assert check("nvil", problems=PAIR, workers=1).verdict == "holds"


def test_biased_ones_fail_the_claim_and_keep_bounds() -> None:
    verdict = check("psa", unbiased=True, workers=1)
    assert verdict.verdict == "fails"
    assert "the layers below the last: relative bias" in verdict.diagnosis[0]  # one layer, and the last: exact
    bias, cosine = verdict.table["relative_bias"].max(), verdict.table["cosine"].min()
    variance = verdict.table["relative_variance"].max()
    bounds = {"max_relative_bias": bias, "min_cosine": cosine, "max_relative_variance": variance}
    assert check("psa", **bounds, workers=1).verdict == "holds"
    for name, bound in bounds.items():
        tighter = (1 + bound) / 2 if name == "min_cosine" else 0.9 * bound
        beyond = check("psa", **{name: tighter}, workers=1)
        assert beyond.verdict == "fails", name
        assert "the bound is" in beyond.diagnosis[0]


def test_bounds_are_decided_by_sampling_too() -> None:
    """concrete: the exact figures are not known, so bounds far on either side."""
    wide = check("concrete", max_relative_bias=0.9, min_cosine=0.1, max_relative_variance=50.0, problems=ONE, workers=1)
    assert wide.verdict == "holds", wide
    found = wide.table.iloc[0]
    for name in ("relative_bias", "cosine", "relative_variance"):
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
    assert check("concrete", max_relative_variance=1e-4, problems=ONE, workers=1).verdict == "fails"


def test_nothing_claimed_is_undecided() -> None:
    verdict = check("st", problems=ONE, workers=1)
    assert (verdict.verdict, verdict.exit_code) == ("undecided", 3)
    assert "nothing is claimed" in verdict.notes[-1]
    assert not verdict.table.empty


def test_too_few_draws_are_undecided() -> None:
    verdict = check("arm", max_draws=4096, problems=ONE, workers=1)
    assert (verdict.verdict, verdict.exit_code) == ("undecided", 3)
    assert "raise max-draws or detect" in verdict.notes[-1]


def test_the_same_seed_gives_the_same_verdict_whatever_the_workers() -> None:
    tables = [check("arm", detect=0.1, problems=PAIR, workers=n, seed=s).table for n, s in ((1, 3), (2, 3), (1, 4))]
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.0}, "alpha must be above 0"),
        ({"detect": 2.0}, "detect must be above 0 and at most 1"),
        ({"min_cosine": -2.0}, "min_cosine must be at least -1"),
        ({"max_draws": 1}, "max_draws must be at least"),
    ],
)
def test_unusable_arguments(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(GradevalError, match=message):
        check("st", **arguments)


# --- estimators that behave badly ------------------------------------------------------------------


def test_global_randomness_is_noted() -> None:
    def own_chance(network, inputs, loss, randomness):
        x, log_prob = inputs, 0.0
        for layer in network.layers:
            a = layer.preactivation(x)
            s = (torch.rand(a.shape, dtype=a.dtype) < layer.probability(a)).to(a.dtype)
            log_prob, x = log_prob + layer.log_prob(s, a), layer.encode(s)
        f = loss(x)
        return f + f.detach() * carry(log_prob)

    verdict = check(own_chance, unbiased=True, detect=0.2, problems=ONE, workers=1)
    assert verdict.verdict == "holds", verdict
    assert any("uses global randomness (torch's)" in note for note in verdict.notes)
    assert set(verdict.table["method"]) == {"sampled"}  # states it draws itself cannot be enumerated


def test_a_draw_that_ignores_the_generator_it_was_given_is_not_taken_for_exact() -> None:
    """Bernoulli states from `randomness`, and further chance from its generator: not enumerable."""

    def mixed(network, inputs, loss, randomness):
        f = get_estimator("reinforce")(network, inputs, loss, randomness)
        return f + (torch.rand(1, generator=randomness.generator, dtype=f.dtype) - 0.5) * carry(f)

    assert set(check(mixed, unbiased=True, detect=0.2, problems=ONE, workers=1).table["method"]) == {"sampled"}


def test_what_cannot_be_vectorised_runs_in_a_loop_and_says_so() -> None:
    def branching(network, inputs, loss, randomness):
        steps, x = sample_path(network, inputs, randomness)
        f = loss(x)
        if f.mean().item() > 1e9:
            return f
        return f + f.detach() * carry(sum(step.layer.log_prob(step.s, step.a) for step in steps))

    verdict = check(branching, unbiased=True, detect=0.3, alpha=0.01, problems=QUIET, workers=1)
    assert verdict.verdict == "holds", verdict
    assert any("drawn in a loop" in note for note in verdict.notes)


# --- the parts -------------------------------------------------------------------------------------


def test_the_battery_spans_what_it_says() -> None:
    widths = [w for row in ROWS for w in row.widths]
    assert {len(row.widths) for row in ROWS} == {1, 2, 3}
    assert (min(widths), max(widths)) == (1, 6)
    assert {row.states for row in ROWS} == {(0.0, 1.0), (-1.0, 1.0)}
    assert len({row.noise for row in ROWS}) >= 4
    assert {row.loss for row in ROWS} == {"logistic", "squared", "cross-entropy"}
    assert {row.points for row in ROWS} >= {1, 16}
    assert any(row.saturated for row in ROWS)
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert all(float(g.norm()) > 1e-3 for g in exact_gradient(make(row)).by_layer().values()), row


def test_natural_factors_differ_between_the_problems() -> None:
    """No two explanations say the same on all problems: the first that fits is the right one."""
    from gradeval.checking.procedure import _place

    places = [_place(make(row), get_estimator("rloo")) for row in ROWS]
    seen: dict[tuple[float, ...], str] = {}
    for name, factor in NATURAL:
        values = tuple(round(factor(p, str(len(p.widths))), 9) for p in places)
        if len(set(values)) > 1:
            seen.setdefault(values, name)
            assert seen[values] == name or {seen[values], name} <= {
                "the layer's own number of units",
                "the width of the last layer",
                *(f"{sign}{pre}{w}" for sign in ("", "minus ") for pre in ("", "1 / ") for w in (
                    "the layer's own number of units", "the width of the last layer")),
            }, (seen[values], name)  # fmt: skip


def test_the_shares_of_all_looks_add_up_to_alpha() -> None:
    assert sum(level_of_look(0.05, k) for k in range(1, 100_000)) == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize("shape", ["full", "singular", "nearly singular"])
def test_one_look_has_its_level_its_power_and_its_ball(shape: str) -> None:
    """4000 repetitions at level 0.05; each count is within its binomial's 1 − 1e-6 interval."""
    random, repetitions, level, replicates = np.random.default_rng(1), 4000, 0.05, 64
    spread = {
        "full": np.diag([1.0, 0.5, 0.2]),
        "singular": np.outer([1.0, 2.0, -1.0], [0.3, 0.0, 0.0]),
        "nearly singular": np.diag([1.0, 1e-3, 1e-9]),
    }[shape]
    direction = np.linalg.eigh(spread @ spread.T)[1][:, -1]  # where the power is least
    alarms = outside = found = 0
    for _ in range(repetitions):
        sample = random.standard_normal((replicates, 3)) @ spread.T
        test = mean_test(sample, level, 1e-4)
        alarms += test.rejected
        outside += np.linalg.norm(test.mean) > test.radius
        found += mean_test(sample + test.detectable * direction, level, 1e-4).rejected
    most = binom.ppf(1 - 1e-6, repetitions, level)
    assert alarms <= most
    assert outside <= most
    # detectable follows the estimated covariance, as the check's stopping does
    assert found >= binom.ppf(1e-6, repetitions, POWER)


@pytest.mark.parametrize("level", [1e-2, 1e-4, 1e-8])
def test_rare_events_do_not_reject(level: float) -> None:
    """An event that makes the whole mean, seen k times in N draws, k ~ Poisson(λ): the test's level, for λ from where k
    is hardly ever 0 to many. P(k) is exact; P(rejected | k) by 10 multinomials; 1.5 × the level for skewness left."""
    random = np.random.default_rng(2)
    for factor in (1, 1.5, 3, 10):
        expected = factor * math.log(1 / level)
        counts = np.arange(int(poisson.ppf(1e-3 * level, expected)), int(poisson.isf(1e-3 * level, expected)) + 1)
        floor = rare_event_error(1.0, 1, level)
        alarms = without = 0.0
        for k, chance in zip(counts, poisson.pmf(counts, expected), strict=True):
            for hits in random.multinomial(k, np.full(64, 1 / 64), size=10):
                sample = (64.0 * hits - expected)[:, None]
                alarms += chance * mean_test(sample, level, floor).rejected / 10
                without += chance * mean_test(sample, level, 0.0).rejected / 10
        assert alarms <= 1.5 * level, (factor, alarms)
        assert factor > 1 or without >= 0.9 * level  # where nothing was seen, without the floor all seems certain


def test_a_roulette_of_the_estimators_own_does_not_fail() -> None:
    """Its gradient comes once in 2000 draws, 2000 times as large. 40 seeds at 0.01: binomial limit at 1e-6.

    With looks from 2048 draws on, more than a third failed."""

    def roulette(network, inputs, loss, randomness):
        value = get_estimator("reinforce")(network, inputs, loss, randomness)
        (plays,) = (randomness.uniform((1,)) < 1 / 2000).to(value.dtype) * 2000
        return value.detach() + plays * (value - value.detach())

    verdicts = [
        check(roulette, unbiased=True, alpha=0.01, detect=0.5, seed=s, max_draws=2**16, problems=ONE).verdict
        for s in range(40)
    ]
    assert verdicts.count("fails") <= binom.isf(1e-6, 40, 0.01), verdicts


def test_the_largest_draw_counts_among_ordinary_noise() -> None:
    """An event of size 30, seen 9 times on average, beside noise of variance 11 in another direction of the layer.

    R by a mean over all draws, √(E‖e‖⁴/E‖e‖²), is five times too small and T² rejects a hundred times too often.
    """
    level, draws, size, noise = 1e-4, 32768, 30.0, 0.012 * 900
    expected = math.log(1 / level)
    random = np.random.default_rng(3)
    pooled = math.sqrt((expected / draws * size**4 + 3 * noise**2) / (expected / draws * size**2 + noise))
    alarms = dict.fromkeys(("largest", "pooled"), 0.0)
    for k in range(8):  # with more of 9.2 expected events nothing is near rejection
        chance = poisson.pmf(k, expected)
        for hits in random.multinomial(k, np.full(64, 1 / 64), size=200):
            rare = size * (64 * hits - expected) / draws
            sample = np.column_stack([rare, math.sqrt(64 * noise / draws) * random.standard_normal(64)])
            for name, found in (("largest", size), ("pooled", pooled)):
                floor = rare_event_error(found, draws, level)
                alarms[name] += chance * mean_test(sample, level, floor).rejected / 200
    assert alarms["largest"] <= 2 * level  # 1 of them is that nothing is seen at all
    assert alarms["pooled"] > 10 * level


def test_draws_that_are_all_exact_have_no_variance() -> None:
    """Chance that is taken and not used: sampled, and the bound on the variance holds."""
    (problem,) = ONE

    def exact(network, inputs, loss, randomness):
        randomness.uniform((1,))
        (layer,) = network.layers
        a = layer.preactivation(inputs)
        states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=a.dtype)] * a.shape[-1]).reshape(-1, a.shape[-1])
        terms = [layer.log_prob(s.expand_as(a), a).exp() * loss(layer.encode(s.expand_as(a))) for s in states]
        return torch.stack(terms).sum(0)

    verdict = check(exact, unbiased=True, max_relative_variance=1e-3, problems=[problem], workers=1)
    assert verdict.verdict == "holds", verdict
    assert (verdict.table["method"] == "sampled").all()


def test_given_uniforms_stand_for_all_chance() -> None:
    uniforms = torch.tensor([0.2, 0.7, 0.5, 0.9], dtype=torch.float64)
    chance = GivenUniforms(uniforms, generator("cpu", 1))
    assert chance.bernoulli(torch.tensor([0.3, 0.3], dtype=torch.float64)).tolist() == [1, 0]
    assert chance.normal([1]).item() == 0
    beyond = chance.uniform([3])
    assert beyond[0] == 0.9
    assert chance.taken == 6
    assert ((beyond > 0) & (beyond < 1)).all()


# --- foreign code ----------------------------------------------------------------------------------


def test_the_documents_example_of_foreign_code_runs(tmp_path: Path) -> None:
    """The Python block of docs/check.md on the adapter is a file that `gradeval check` takes."""
    text = (Path(__file__).parents[1] / "docs" / "check.md").read_text()
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", text, re.S) if "Foreign(" in b)
    (tmp_path / "theirs.py").write_text(block)
    adapter = module_of(tmp_path / "theirs.py").theirs
    verdict = check(adapter, detect=0.3, alpha=0.01, problems=QUIET, workers=1)
    assert verdict.verdict == "holds", verdict
    assert any("it owns its sampling" in note for note in verdict.notes)
    first, again, other = (Sampler(QUIET[0], "theirs", adapter).chunk(5, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)  # its draws follow from the seed
    assert not torch.equal(first, other)


def foreign(scale: float, value: object = None, backward: bool = True):
    def sample(network, inputs, loss):
        x, log_prob = inputs, 0.0
        for layer in network.layers:
            a = layer.preactivation(x)
            s = torch.bernoulli(layer.probability(a).detach())
            log_prob, x = log_prob + layer.log_prob(s, a), layer.encode(s)
        f = loss(x)
        if backward:
            (f + scale * f.detach() * log_prob).mean().backward()
        return f.detach() if value is None else value

    return Foreign(sample, unbiased=True)


def test_foreign_code_that_is_wrong_fails() -> None:
    before = torch.get_rng_state()
    verdict = check(foreign(2.0), detect=0.3, alpha=0.01, problems=QUIET, workers=1)
    assert torch.equal(before, torch.get_rng_state())
    assert verdict.diagnosis[0].startswith("all layers: the exact gradient times 2"), verdict
    left = check(foreign(1.0, backward=False), problems=ONE)
    assert "left no gradient" in left.diagnosis[0]
    no_value = check(foreign(1.0, value="text"), problems=ONE)
    assert "must return its estimate of the loss" in no_value.diagnosis[0]


# --- the program and the plugin --------------------------------------------------------------------


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, text=True, capture_output=True, timeout=300)


GRADEVAL = ("-c", "from gradeval.program.app import main; main()")


def test_the_program(tmp_path: Path) -> None:
    holds = run(*GRADEVAL, "check", "reinforce", "--json", cwd=tmp_path)
    assert holds.returncode == 0, holds.stderr
    found = json.loads(holds.stdout)
    assert (found["verdict"], found["claims"]) == ("holds", ["unbiased"])
    assert len(found["rows"]) > 30
    fault_file = Path(__file__).parent / "faults" / "sign.py"
    fails = run(*GRADEVAL, "check", f"{fault_file}:estimator", "--unbiased", cwd=tmp_path)
    assert fails.returncode == 1, fails.stderr
    assert "all layers: the sign is wrong" in fails.stdout
    unusable = run(*GRADEVAL, "check", "pas", cwd=tmp_path)
    assert unusable.returncode == 2
    assert "did you mean psa" in unusable.stderr


def test_a_users_project(tmp_path: Path) -> None:
    """Own analysis.py and reference/ beside own tests: they are not shadowed, and the fixture passes and fails."""
    (tmp_path / "analysis.py").write_text("MINE = 'my analysis'\n")
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "__init__.py").write_text("MINE = 'my reference'\n")
    (tmp_path / "mine.py").write_text(
        "import analysis, reference\n"
        "from gradeval.estimators import get_estimator\n"
        "assert analysis.MINE + reference.MINE == 'my analysismy reference'\n"
        "good = get_estimator('reinforce')\n"
        "def bad(network, inputs, loss, randomness):\n"
        "    f = good(network, inputs, loss, randomness)\n"
        "    return 2 * f - f.detach()\n"
    )
    (tmp_path / "test_mine.py").write_text(
        "import mine\n"
        "def test_good(gradeval_check):\n"
        "    assert gradeval_check(mine.good, unbiased=True).verdict == 'holds'\n"
        "def test_bad(gradeval_check):\n"
        "    gradeval_check(mine.bad, unbiased=True)\n"
        "def test_unusable(gradeval_check):\n"
        "    gradeval_check('psaa')\n"
        "def test_options(request):\n"
        "    assert request.config.getoption('--gradeval-seed') in (0, 7)\n"
    )
    pytest_ = ("-m", "pytest", "-q", "-W", "error")
    done = run(*pytest_, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 failed, 2 passed" in done.stdout
    assert "all layers and the head: the exact gradient times 2 (scale 2)" in done.stdout
    assert "relative_bias" in done.stdout
    assert "gradeval_check: unknown estimator 'psaa': did you mean psa" in done.stdout
    assert "Traceback" not in done.stdout
    failed = run(*pytest_, "--lf", "--gradeval-seed", 7, "--gradeval-alpha", "1e-4", cwd=tmp_path)
    assert "2 failed" in failed.stdout
    assert "passed" not in failed.stdout.splitlines()[-1]
    parallel = run(*pytest_, "-n", 2, "-k", "good or options", "--gradeval-seed", 7, cwd=tmp_path)
    assert parallel.returncode == 0, parallel.stdout + parallel.stderr
    assert "2 passed" in parallel.stdout


def test_the_plugin_imports_nothing_heavy(tmp_path: Path) -> None:
    """Nothing of what takes long; 50 ms of start-up is asserted as the best of five, above pytest's own."""
    code = (
        "import sys, time, pytest\n"
        "began = time.perf_counter()\n"
        "import gradeval.pytest_plugin\n"
        "took = time.perf_counter() - began\n"
        "heavy = {'torch', 'numpy', 'pandas', 'scipy', 'rich', 'typer', 'gradeval.checking.procedure'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(took)"
    )
    times = []
    for _ in range(5):
        done = run("-c", code, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        times.append(float(done.stdout))
    assert min(times) < 0.05


def test_nothing_to_compare_with_is_no_green_light() -> None:
    """All parameters zero: no layer has a gradient, so an estimator of anything whatever has not been tested."""
    network = StochasticBinaryNetwork.linear(2, [2], 1)
    inputs, targets = torch.ones(2, 2, dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    verdict = check("reinforce", unbiased=True, problems=[Problem(network, inputs, targets, "logistic")])
    assert verdict.verdict == "undecided"
    assert "there is nothing to compare with" in " ".join(verdict.notes)


@dataclass(frozen=True)
class Stray:
    """REINFORCE with a bias of the first layer only, of a size that is much where that layer's gradient is zero."""

    size: float
    noise: float = 0.0  # with chance of its own the test is sequential

    def __call__(self, network, inputs, loss, randomness):
        value = get_estimator("reinforce")(network, inputs, loss, randomness)
        first = sum(p.sum() for p in network.layers[0].parameters())
        chance = self.noise * (randomness.uniform((len(inputs), 1))[..., 0] - 0.5) if self.noise else 0.0
        return value + (self.size + chance) * (first - first.detach())


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_a_bias_where_the_exact_gradient_is_zero_is_seen(noise: float) -> None:
    """The head ignores its inputs, so the first layer has no gradient; the head has one."""
    network = StochasticBinaryNetwork.linear(2, [2], 1)
    with torch.no_grad():
        network.layers[0].map.weight.fill_(0.5)
        network.head.bias.fill_(0.3)
    inputs, targets = torch.ones(2, 2, dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    problem = Problem(network, inputs, targets, "logistic")
    honest = check(Stray(0.0, noise), unbiased=True, problems=[problem])
    assert honest.verdict == "holds", str(honest)
    found = check(Stray(1.0, noise), unbiased=True, problems=[problem])
    assert found.verdict == "fails"
    assert "layer 1: the exact gradient is zero, the mean one is not" in str(found)


def test_more_directions_than_replicates_can_test_are_undecided() -> None:
    """T² of 80 standard normal variables from 64 replicates: without the guard it rejects always."""
    random = np.random.default_rng(0)
    for directions in (53, 64, 80):
        found = mean_test(random.normal(size=(64, directions)), 0.05, 1e-4)
        assert not found.rejected
        assert found.detectable == np.inf
    random = torch.Generator().manual_seed(0)
    network = StochasticBinaryNetwork.linear(20, [4], 1)
    for parameter in network.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=random, dtype=torch.float64)
    inputs = torch.randn(40, 20, generator=random, dtype=torch.float64)
    verdict = check("arm", problems=[Problem(network, inputs, torch.ones(40, dtype=torch.float64), "logistic")])
    assert verdict.verdict == "undecided"
    assert "varies in more than 52 directions" in " ".join(verdict.notes)
    assert verdict.table["draws"].max() < 2**20  # more draws are of no use
