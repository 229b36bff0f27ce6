"""Training under one protocol: the same numbers in any stack and after any stop; nothing tuned on held-out data."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from gradeval import GradevalError
from gradeval.analysis.training import Training, build
from gradeval.errors import Incomplete
from gradeval.estimators import get_estimator
from gradeval.model.randomness import GivenUniforms, RandomDraws, generator
from gradeval.problems.catalogue import load_task
from gradeval.problems.tasks import Task, with_parameters
from gradeval.reference import exact_gradient
from gradeval.training.prediction import expected_loss, predict, score
from gradeval.training.measures import enumerable, gradient_accuracy
from gradeval.training.protocol import Protocol
from gradeval.training.stacked import Recipe, Stack
from gradeval.training.trainer import train

SHORT = Protocol(epochs=3, seeds=2, rates=(0.03, 0.1), tuning_epochs=1, tuning_seeds=1, checks=3, gradient_draws=20)
KILLS = int(os.environ.get("GRADEVAL_KILLS", "2"))  # tox -e kills: ten, and with workers, too


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("expclass", units="3-2", points=30)


def stack(task: Task, name: str = "psa", seeds=(0, 1), rates=(0.1, 0.1), optimiser: str = "sgd") -> Stack:
    return Stack(Recipe(task, name, get_estimator(name), optimiser, 10), seeds, rates)


@pytest.mark.parametrize("name", ["reinforce", "arm", "concrete", "tanh", "st", "psa", "adf", "muprop", "rloo"])
def test_a_run_is_the_same_alone_beside_others_and_in_a_loop(task: Task, name: str) -> None:
    together, alone, loop = stack(task, name), stack(task, name, (1,), (0.1,)), stack(task, name)
    assert together.gradients.vectorised
    loop.gradients.vectorised = False
    for runs in (together, alone, loop):
        for _ in range(2):
            runs.train_epoch()
    torch.testing.assert_close(together.theta[1:], alone.theta, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(together.theta, loop.theta, rtol=1e-9, atol=1e-11)
    assert not torch.allclose(together.theta[0], together.theta[1])


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_updates_are_those_of_torch_optim(task: Task, optimiser: str) -> None:
    ours = stack(task, "tanh", (3,), (0.05,), optimiser)
    network = with_parameters(task.train, ours.theta[0]).network
    kinds = {"sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), "adam": lambda p: torch.optim.Adam(p, lr=0.05)}
    theirs = kinds[optimiser](network.parameters())
    for epoch in range(3):
        order = torch.randperm(30, generator=generator("cpu", "order", 3, epoch))
        for batch in order.split(10):
            theirs.zero_grad()
            loss = task.train.loss_function(network, task.train.targets[batch])
            get_estimator("tanh")(
                network, task.train.inputs[batch], loss, RandomDraws(generator("cpu"))
            ).mean().backward()
            theirs.step()
        ours.train_epoch()
    expected = nn.utils.parameters_to_vector(network.parameters()).detach()
    torch.testing.assert_close(ours.theta[0], expected, rtol=1e-9, atol=1e-12)


def test_fitted_estimators_are_fitted_to_every_run(task: Task) -> None:
    fitted = stack(task, "nvil")
    fitted.train_epoch()
    assert not fitted.gradients.vectorised
    assert len(fitted.gradients.fitted) == 2
    start = torch.stack([task.initial_parameters(seed) for seed in (0, 1)])
    assert not torch.allclose(fitted.theta, start)


def test_given_uniforms_have_the_laws_they_should() -> None:
    """Means of 100,000 draws within 5 standard errors: each fails by chance once in 1.7 million."""
    given = torch.rand(300_000, generator=generator("cpu", 1), dtype=torch.float64)
    chance = GivenUniforms(given, generator("cpu", 2))
    n = 100_000
    s = chance.bernoulli(torch.full((n,), 0.3, dtype=torch.float64))
    assert abs(float(s.mean()) - 0.3) < 5 * (0.21 / n) ** 0.5
    z = chance.normal([n])
    assert abs(float(z.mean())) < 5 * n**-0.5
    assert abs(float((z**2).mean()) - 1) < 5 * (2 / n) ** 0.5
    assert chance.taken == 2 * n


@pytest.fixture(scope="module")
def undisturbed(task: Task, tmp_path_factory) -> tuple[Path, Training]:
    folder = tmp_path_factory.mktemp("training") / "run"
    return folder, train(task, ["st", "psa"], SHORT, folder=folder)


def test_tables_and_report(undisturbed) -> None:
    folder, training = undisturbed
    trials = training.tables["trials"]
    assert set(trials["seed"]) == {1_000_000}  # none of the runs' seeds
    curves = training.tables["curves"]
    assert curves["exact"].all()
    assert list(curves[(curves["estimator"] == "st") & (curves["seed"] == 0)]["epoch"]) == [0, 1, 2, 3]
    start = curves[curves["epoch"] == 0].pivot(index="seed", columns="estimator", values="objective")
    assert (start["st"] == start["psa"]).all()  # the same initial parameters
    summary = training.summary
    assert set(summary["split"]) == {"train", "validation", "test"}
    assert set(summary["predictor"]) == {"expected", "ensemble", "mode", "mean-field"}
    assert (summary["seeds"] == 2).all()
    final = curves[(curves["epoch"] == 3) & (curves["estimator"] == "st")]["objective"].mean()
    row = summary.query("estimator == 'st' and split == 'train' and predictor == 'expected'").iloc[0]
    assert row["loss"] == pytest.approx(final, rel=1e-12)
    assert row["loss_low"] < row["loss"] < row["loss_high"]
    loaded = Training.load(folder)
    pd.testing.assert_frame_equal(loaded.summary, summary)
    text = build(loaded, folder).read_text()
    assert "Training with gradient estimators on expclass 3-2" in text
    assert {p.name for p in (folder / "figures").glob("*.svg")} == {"objective.svg", "gradients.svg", "search.svg"}
    assert not list(folder.rglob(".*"))  # nothing temporary is left


def test_the_chosen_rate_is_the_best_on_the_training_objective(undisturbed) -> None:
    trials = undisturbed[1].tables["trials"]
    for _, group in trials.groupby("estimator"):
        means = group.groupby("rate")["objective"].mean()
        assert set(group[group["chosen"]]["rate"]) == {means.idxmin()}


def test_the_search_goes_on_where_the_best_is_at_an_end(task: Task, tmp_path: Path) -> None:
    short = replace(SHORT, rates=(1e-6, 1e-5), epochs=1, gradient_epochs=())
    trials = train(task, ["st"], short, folder=tmp_path / "a").tables["trials"]
    assert sorted(trials["rate"]) == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    assert trials.loc[trials["objective"].idxmin(), "chosen"]


def test_held_out_data_tune_nothing(task: Task, undisturbed, tmp_path: Path) -> None:
    """With other validation and test data the trials, the rate and the runs are the same."""
    flipped = replace(task.validation, targets=-task.validation.targets)
    other = replace(task, validation=flipped, test=flipped)
    training = train(other, ["st", "psa"], SHORT, folder=tmp_path / "run")
    before = undisturbed[1].tables
    pd.testing.assert_frame_equal(training.tables["trials"], before["trials"])
    same = ["estimator", "seed", "epoch", "objective", "rate"]
    pd.testing.assert_frame_equal(training.tables["curves"][same], before["curves"][same])
    assert not training.tables["curves"]["validation_objective"].equals(before["curves"]["validation_objective"])


SCRIPT = """
from gradeval.problems.catalogue import load_task
from gradeval.training.protocol import Protocol
from gradeval.training.trainer import train
if __name__ == "__main__":
    short = Protocol({protocol})
    train(load_task("expclass", units="3-2", points=30), ["st", "psa"], short, folder={folder!r}, workers={workers},
          checkpoint_seconds=0.0)
"""


@pytest.mark.parametrize("workers", [1, 2] if "GRADEVAL_KILLS" in os.environ else [1])
def test_killed_training_goes_on_to_the_same_numbers(task: Task, tmp_path: Path, workers: int) -> None:
    """SIGKILL at random moments, of the program and so of its workers; two kills, or $GRADEVAL_KILLS."""
    protocol = replace(SHORT, epochs=30, gradient_epochs=(30,))
    arguments = ", ".join(f"{name}={getattr(protocol, name)!r}" for name in protocol.__dataclass_fields__)
    script = tmp_path / "script.py"
    folder = tmp_path / "killed"
    script.write_text(SCRIPT.format(protocol=arguments, folder=str(folder), workers=workers))
    chance, kills = random.Random(workers), 0
    while True:
        process = subprocess.Popen([sys.executable, "-P", str(script)], cwd=tmp_path)
        if kills >= KILLS:
            assert process.wait(120) == 0
            break
        until = time.monotonic() + 60
        before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.pt")}
        while {p: p.stat().st_mtime_ns for p in folder.rglob("*.pt")} == before and process.poll() is None:
            assert time.monotonic() < until  # until it has gone on from where it was
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3))
        if process.poll() is not None:
            assert process.returncode == 0
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills > 0
    train(task, ["st", "psa"], protocol, folder=tmp_path / "undisturbed")
    for table in ("trials", "curves", "gradients", "predictions", "summary"):
        killed, whole = ((tmp_path / run / f"{table}.csv").read_bytes() for run in ("killed", "undisturbed"))
        assert killed == whole, table


def test_forgetting_the_optimisers_state_would_be_seen(task: Task) -> None:
    """The fault that the test of kills must catch: a checkpoint that does not restore the velocity."""
    whole, broken = stack(task), stack(task)
    for runs in (whole, broken):
        runs.train_epoch()
    broken.restore(broken.saved() | {"state": [torch.zeros_like(broken.theta)]})
    for runs in (whole, broken):
        runs.train_epoch()
    assert not torch.equal(whole.theta, broken.theta)


def test_another_training_in_the_folder_is_refused(task: Task, undisturbed) -> None:
    folder, training = undisturbed
    with pytest.raises(GradevalError, match="protocol differs \\(epochs: 3 there, 4 here"):
        train(task, ["st", "psa"], replace(SHORT, epochs=4), folder=folder)
    with pytest.raises(GradevalError, match="estimators differs"):
        train(task, ["st"], SHORT, folder=folder)
    again = train(task, ["st", "psa"], SHORT, folder=folder)  # nothing is done anew
    pd.testing.assert_frame_equal(again.tables["timings"], training.tables["timings"])


def test_a_damaged_checkpoint_is_named(task: Task, tmp_path: Path) -> None:
    short = replace(SHORT, rates=(0.1,), epochs=1, gradient_epochs=())
    train(task, ["st"], short, folder=tmp_path / "run")
    (path,) = (tmp_path / "run" / "checkpoints").glob("*.pt")
    path.write_bytes(b"half a file")
    with pytest.raises(Incomplete, match=r"not a readable checkpoint .* remove it to train that estimator again"):
        train(task, ["st"], short, folder=tmp_path / "run")


def test_a_failing_estimator_leaves_the_others(task: Task, tmp_path: Path) -> None:
    def broken(network, inputs, loss, randomness):
        return loss(network.layers[-1].encode(network.layers[0].preactivation(inputs))).sum()

    with pytest.raises(Incomplete, match="broken"):
        train(task, ["st", broken], replace(SHORT, epochs=1, gradient_epochs=()), folder=tmp_path / "run")
    assert set(Training.load(tmp_path / "run").summary["estimator"]) == {"st"}


def test_a_rate_at_which_training_diverges_is_not_chosen(task: Task, tmp_path: Path) -> None:
    short = replace(SHORT, rates=(0.05, 1e300), optimiser="sgd", gradient_epochs=())
    trials = train(task, ["tanh"], short, folder=tmp_path / "run").tables["trials"]
    assert set(trials[trials["chosen"]]["rate"]) < {*trials["rate"]} - {1e300}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimiser": "sdg"}, "unknown optimiser 'sdg': did you mean sgd"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"rates": (0.1, -1.0)}, "learning rates must be positive"),
        ({"epochs": 5, "gradient_epochs": (6,)}, "gradient_epochs must be from 0 to 5"),
    ],
)
def test_protocols_that_cannot_be_are_refused(settings, message: str) -> None:
    with pytest.raises(GradevalError, match=message):
        Protocol(**settings)


def test_an_ensemble_tends_to_the_exact_mean(task: Task) -> None:
    """E[σ(head)] of 4000 draws against enumeration, within 5 standard errors at 30 points (false alarm 2e-5)."""
    problem = with_parameters(task.train, task.initial_parameters(0))
    draws = 4000
    found = predict(problem, "ensemble", RandomDraws(generator("cpu", 5)), draws)
    network, exact, square = problem.network, torch.zeros(30), torch.zeros(30)
    for bits in range(2**5):
        x, weight = problem.inputs, torch.ones(30, dtype=torch.float64)
        for layer, (first, width) in zip(network.layers, ((0, 3), (3, 2)), strict=True):
            p = layer.probability(layer.preactivation(x))
            s = torch.tensor([(bits >> (first + j)) & 1 for j in range(width)], dtype=torch.float64).expand_as(p)
            weight = weight * torch.where(s > 0.5, p, 1 - p).prod(-1)
            x = layer.encode(s)
        output = torch.sigmoid(network.head(x)).squeeze(-1)
        exact, square = exact + weight * output, square + weight * output**2
    error = ((square - exact**2) / draws).sqrt()
    assert bool(((found - exact).abs() < 5 * error).all())
    scores = score(problem, exact.detach())
    right = ((exact > 0.5) == (problem.targets > 0)).double().mean()
    assert scores["accuracy"] == pytest.approx(float(right))


def test_mode_and_mean_field(task: Task) -> None:
    problem = with_parameters(task.train, task.initial_parameters(0))
    network, chance = problem.network, RandomDraws(generator("cpu", 1))
    x = y = problem.inputs
    for layer in network.layers:
        x = layer.encode((layer.probability(layer.preactivation(x)) > 0.5).double())
        y = layer.encode(layer.probability(layer.preactivation(y)))
    torch.testing.assert_close(predict(problem, "mode", chance), torch.sigmoid(network.head(x)).squeeze(-1))
    torch.testing.assert_close(predict(problem, "mean-field", chance), torch.sigmoid(network.head(y)).squeeze(-1))
    assert not chance.used
    with pytest.raises(GradevalError, match="unknown predictor"):
        predict(problem, "modes", chance)


def test_a_sampled_objective_tends_to_the_exact_one(task: Task) -> None:
    """Within 5 standard errors of the mean over 400 × 30 losses, which are below 6 here (σ ≤ 3)."""
    problem = with_parameters(task.train, task.initial_parameters(1))
    assert enumerable(problem)
    found = expected_loss(problem, RandomDraws(generator("cpu", 2)), 400)
    assert found == pytest.approx(exact_gradient(problem).value, abs=5 * 3 / (400 * 30) ** 0.5)


def test_gradient_accuracy_of_known_estimators(task: Task) -> None:
    """tanh has no variance; REINFORCE's bias estimate is below 5 times its own noise."""
    problem = with_parameters(task.train, task.initial_parameters(0))
    (tanh,) = (r for r in gradient_accuracy(problem, "tanh", get_estimator("tanh"), 20, 0) if r["layer"] == "all")
    assert tanh["relative_variance"] < 1e-20
    assert tanh["relative_bias"] > 0.01
    rows = gradient_accuracy(problem, "reinforce", get_estimator("reinforce"), 4000, 0)
    (reinforce,) = (row for row in rows if row["layer"] == "all")
    assert reinforce["relative_bias"] < 5 * reinforce["noise"]
    assert reinforce["relative_variance"] > 1


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from gradeval.program.app import main; main()", "train"]
    arguments = ["expclass", "--units", "2-2", "--points", "20", "--estimators", "st,tanh", "--quick", "--workers", "1"]
    done = subprocess.run([*command, *arguments], cwd=tmp_path, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "gradeval-train-1" / "report.html").exists()
    assert "training" in done.stdout
    failed = subprocess.run([*command, "expclas"], cwd=tmp_path, text=True, capture_output=True, timeout=300)
    assert failed.returncode == 2
    assert failed.stderr.startswith("gradeval: unknown problem 'expclas': did you mean expclass")
