"""What is measured along training: objective and accuracy of the gradient."""

from __future__ import annotations

import pytest

from gradeval.estimators import get_estimator
from gradeval.model.randomness import RandomDraws, generator
from gradeval.problems.catalogue import load_task
from gradeval.problems.tasks import Task, with_parameters
from gradeval.reference import exact_gradient
from gradeval.training import prediction
from gradeval.training.measures import Measures, enumerable, gradient_accuracy
from gradeval.training.prediction import expected_loss, predict, score
from gradeval.training.protocol import Protocol


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("expclass", units="3-2", points=30)


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


def test_the_ensemble_is_that_of_plain_predict_whatever_is_averaged_beside_it(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 1000 points, 400 at a time. Planted: parts that take turns after every size."""
    monkeypatch.setattr(prediction, "POINTS_AT_ONCE", 400)
    theta = task.initial_parameters(0)
    predictions, ensembles = Measures(task, Protocol(ensemble=4)).prediction_rows(theta, 0)
    problem = with_parameters(task.splits["test"], theta)
    scores = score(problem, predict(problem, "ensemble", RandomDraws(generator("cpu", "prediction", "test", 0)), 4))
    for rows, key, value in ((predictions, "predictor", "ensemble"), (ensembles, "draws", 4)):
        (found,) = (row for row in rows if row["split"] == "test" and row[key] == value)
        assert found == {"seed": 0, "split": "test", key: value} | scores
    alone = Measures(Task(task.train), Protocol(ensemble=4)).prediction_rows(theta, 0)[1]
    assert [row["draws"] for row in alone] == [1, 2, 4, 5, 10, 20, 50, 100]
    assert {row["split"] for row in alone} == {"train"}
