"""An estimator that edits what is not its own spoils its own result only, and is failed or noted."""

from __future__ import annotations

import re
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import gradeval
from gradeval import GradevalError, Incomplete, Problem, exact_moments
from gradeval.estimators import get_estimator
from gradeval.isolation import ProcessState
from gradeval.problems.tasks import Task
from gradeval.training.stacked import Recipe, Stack

NAUGHTY = """
import sys
import numpy as np
import torch
from gradeval.estimators import get_estimator

st = get_estimator("st")

def centres_inputs(network, inputs, loss, randomness):
    inputs -= inputs.mean(0)
    return st(network, inputs, loss, randomness)

def flips_targets(network, inputs, loss, randomness):
    getattr(loss, "targets", inputs).neg_()
    return st(network, inputs, loss, randomness)

def shrinks_weights(network, inputs, loss, randomness):
    f = st(network, inputs, loss, randomness)
    with torch.no_grad():
        network.layers[0].map.weight.data.mul_(0.9)
    return f

def seeds(network, inputs, loss, randomness):
    torch.manual_seed(0)
    np.random.seed(0)
    return st(network, inputs, loss, randomness)

def sets_precision(network, inputs, loss, randomness):
    torch.set_default_dtype(torch.float16)
    return st(network, inputs, loss, randomness)

def sets_threads(network, inputs, loss, randomness):
    torch.set_num_threads(3)
    return st(network, inputs, loss, randomness)

def turns_gradients_off(network, inputs, loss, randomness):
    f = st(network, inputs, loss, randomness)
    torch.set_grad_enabled(False)
    return f

def prints(network, inputs, loss, randomness):
    print("from the estimator")
    return st(network, inputs, loss, randomness)

def exits(network, inputs, loss, randomness):
    sys.exit(0)

def exits_late(network, inputs, loss, randomness):
    u = randomness.uniform((len(inputs),))
    if not torch._C._are_functorch_transforms_active() and bool((u < 0.01).any()):
        raise KeyboardInterrupt
    return st(network, inputs, loss, randomness) + 0 * u.sum().item()

def own_chance(network, inputs, loss, randomness):
    x = inputs
    for layer in network.layers:
        p = layer.probability(layer.preactivation(x))
        x = layer.encode((torch.rand(p.shape, dtype=p.dtype) < p).to(p.dtype).detach() + p - p.detach())
    return loss(x)
"""
FAILED = ("centres_inputs", "flips_targets", "shrinks_weights", "exits", "exits_late")
WHY = {
    "centres_inputs": r"writes to the data \(inputs\)",
    "flips_targets": "writes to the data",
    "shrinks_weights": r"writes to the network's parameters \(layers.0.map.weight\)",
    "exits": r"raised SystemExit \(0\), which would have ended the program",
    "exits_late": "raised KeyboardInterrupt, which would have ended the program",
}
NOTED = {
    "sets_precision": "changes torch's default precision",
    "sets_threads": "changes torch's number of threads",
    "prints": None,
    "seeds": None,
    "turns_gradients_off": None,
}


@pytest.fixture
def naughty(tmp_path: Path) -> Path:
    path = tmp_path / "naughty.py"
    path.write_text(NAUGHTY)
    return path


@pytest.fixture(scope="module")
def problem(make_problem) -> Problem:
    return make_problem((2, 2), points=6)


def rows(evaluation: gradeval.Evaluation | None, name: str) -> pd.DataFrame:
    assert evaluation is not None
    times = [f"seconds_per_draw{end}" for end in ("", "_low", "_high")]
    family = ["verdict", "bias_pvalue", "bias_pvalue_adjusted", "detectable_bias", "draws_to_decide"]
    summary = evaluation.summary.drop(columns=[*times, *family])  # a family is all estimators of a run
    return summary[summary["estimator"] == name].reset_index(drop=True)


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_the_others_keep_their_figures(problem: Problem, naughty: Path, executor: str, capfd) -> None:
    """All at once, between two good ones. Planted: no copies of the data, no settings put back, bare SystemExit."""
    some = ("centres_inputs", "exits_late", "sets_precision", "prints")  # processes are slow to start
    names = [name for name in (*FAILED, *NOTED, "own_chance") if executor == "threads" or name in some]
    specs = ["psa", *(f"{naughty}:{name}" for name in names), "reinforce"]
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # one of an earlier test prints where that one did
    before = ProcessState.now()
    alone = gradeval.evaluate(problem, ["psa", "reinforce"], draws=150, exact="never")
    with pytest.raises(Incomplete) as caught:
        gradeval.evaluate(problem, specs, draws=150, exact="never", executor=executor, workers=2)
    evaluation = caught.value.evaluation
    assert evaluation is not None
    assert caught.value.exit_code == 1
    for name in ("psa", "reinforce"):
        pd.testing.assert_frame_equal(rows(evaluation, name), rows(alone, name))
    after = ProcessState.now()
    assert before.changed_generators(after) == before.changed_settings(after) == []
    failures = evaluation.manifest["failures"]
    assert {name.rpartition(":")[2] for name in failures} - {"turns_gradients_off"} == set(FAILED) & set(names)
    for name in set(FAILED) & set(names):
        assert re.search(WHY[name], failures[f"{naughty}:{name}"])
    for name, note in NOTED.items():
        if name in names and name != "turns_gradients_off":  # that one may fail, since its draws have no gradient
            found = "; ".join(evaluation.manifest["estimators"][f"{naughty}:{name}"]["notes"])
            assert note is None or note in found
    captured = capfd.readouterr()
    assert "from the estimator" in captured.err
    assert captured.out == ""


def test_chance_of_the_process_is_given_by_the_seed_and_not_by_others(problem: Problem, naughty: Path) -> None:
    """One that seeds torch made the draws of one that uses torch's generator the same again and again."""
    own, seeds = f"{naughty}:own_chance", f"{naughty}:seeds"
    first = gradeval.evaluate(problem, [own], draws=150)
    torch.rand(3)
    beside = gradeval.evaluate(problem, [seeds, own], draws=150, workers=2)
    pd.testing.assert_frame_equal(rows(first, own), rows(beside, own))
    other = gradeval.evaluate(problem, [own], draws=150, seed=1)
    assert not rows(first, own).equals(rows(other, own))


def centres(network, inputs, loss, randomness):
    inputs -= inputs.mean(0)
    return get_estimator("st")(network, inputs, loss, randomness)


def shrinks(network, inputs, loss, randomness):
    f = get_estimator("st")(network, inputs, loss, randomness)
    network.head.bias.data.mul_(0.5)
    return f


def exits(network, inputs, loss, randomness):
    raise SystemExit


@pytest.mark.parametrize(
    ("estimator", "why"),
    [
        (centres, "writes to the data|mutate a captured"),
        (shrinks, "writes to the network|randomness of its own"),
        (exits, "SystemExit"),
    ],
)
def test_check_moments_and_training_too(problem: Problem, estimator, why: str) -> None:
    before = problem.inputs.clone(), [p.clone() for p in problem.network.parameters()]
    verdict = gradeval.check(estimator, problems=[problem], unbiased=True)
    assert verdict.verdict != "holds"
    assert re.search(why, "\n".join([*verdict.diagnosis, *verdict.notes, str(verdict)]))
    with pytest.raises(GradevalError, match=why):
        exact_moments(problem, estimator)
    with pytest.raises(GradevalError, match=why):
        Stack(Recipe(Task(problem), "mine", estimator), [0], [0.1]).train_epoch()
    assert torch.equal(problem.inputs, before[0])
    assert all(map(torch.equal, problem.network.parameters(), before[1]))


def test_a_fit_works_on_copies_and_cannot_end_the_program(problem: Problem) -> None:
    class Learns:
        budget = 1

        def __init__(self, leaves: bool) -> None:
            self.leaves, self.learned = leaves, {}

        def fit(self, problem, seed, advance=None):
            if self.leaves:
                raise SystemExit
            problem.inputs.zero_()
            torch.nn.init.zeros_(problem.network.head.weight)
            np.random.seed(1)
            return self

        def __call__(self, network, inputs, loss, randomness):
            return get_estimator("st")(network, inputs, loss, randomness)

    before = problem.fingerprint()
    found = gradeval.evaluate(problem, ["st", Learns(False)], draws=100)
    one, two = (found.moments[name].mean for name in found.moments)
    assert problem.fingerprint() == before
    assert one.shape == two.shape
    assert float(np.abs(one - two).max()) < 10  # its draws are those of st at the problem's own weights
    with pytest.raises(GradevalError, match="raised SystemExit"):
        gradeval.evaluate(problem, [Learns(True)], draws=100)
