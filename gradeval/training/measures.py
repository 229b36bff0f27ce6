"""What is measured of a network in training: objective, accuracy of the gradient, predictions.

Validation and test data are measured here and used for nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.analysis.measures import bias_size, cosine, relative, relative_variance
from gradeval.estimators import Estimator
from gradeval.estimators.protocol import fit
from gradeval.model.precision import in_precision
from gradeval.model.problem import Problem
from gradeval.model.randomness import RandomDraws, generator
from gradeval.problems.tasks import Task, with_parameters
from gradeval.reference import exact_gradient, exact_values, predicted_cost
from gradeval.reference.transform import why_not
from gradeval.sampling.sampler import Sampler
from gradeval.training.prediction import PREDICTORS, ensembles, expected_loss, predict, score
from gradeval.training.protocol import Protocol

EXACT_WORK = 2**30  # multiply–adds of an exact objective beyond which it is sampled
Rows: TypeAlias = list[dict[str, Any]]
SIZES = (1, 2, 5, 10, 20, 50, 100)  # of the ensembles whose predictions are scored on held-out data


@dataclass(frozen=True)
class Measures:
    """Measures networks in training; each is given by its parameters.

    Args:
        task: the data and the network.
        protocol: how many draws are taken.
    """

    task: Task
    protocol: Protocol

    def objective(self, problem: Problem, theta: Float[Tensor, " P"], seed: int, epoch: int) -> tuple[float, bool]:
        """Measure J: exactly where it can be enumerated, else from draws that are the same for every estimator.

        Args:
            problem: the data.
            theta: parameters, [P].
            seed, epoch: of the run; the draws follow from them.

        Returns:
            J (NaN where a parameter is not finite), and whether it is exact.
        """
        exact = enumerable(problem)
        if not bool(torch.isfinite(theta).all()):
            return math.nan, exact
        problem = in_precision(with_parameters(problem, theta))
        if exact:
            with torch.no_grad():
                return float(exact_values(problem).mean()), True
        return expected_loss(problem, _chance(problem, "objective", seed, epoch), self.protocol.samples), False

    def curve_row(self, theta: Float[Tensor, " P"], seed: int, epoch: int) -> dict[str, Any]:
        """Measure the objective on training and validation data.

        Args:
            theta: parameters, [P].
            seed, epoch: of the run.

        Returns:
            A row of the table `curves`, without the estimator and the rate.
        """
        row: dict[str, Any] = {"seed": seed, "epoch": epoch}
        for split, problem in self.task.splits.items():
            if split != "test":
                value, exact = self.objective(problem, theta, seed, epoch)
                row |= {{"train": "objective"}.get(split, f"{split}_objective"): value, "exact": exact}
        return row

    def prediction_rows(self, theta: Float[Tensor, " P"], seed: int) -> tuple[Rows, Rows]:
        """Score what a trained network predicts: on all data, and on held-out data by the size of the ensemble, too.

        Where no data are held out, those for training stand in for them.

        Args:
            theta: parameters, [P].
            seed: of the run.

        Returns:
            Rows of the tables `predictions` and `ensembles`, without the estimator; none where a parameter is not
            finite.
        """
        predictions: Rows = []
        averages: Rows = []
        if not bool(torch.isfinite(theta).all()):
            return predictions, averages
        size = self.protocol.ensemble
        for split, problem in self.task.splits.items():
            value, _ = self.objective(problem, theta, seed, self.protocol.epochs)
            predictions.append({"seed": seed, "split": split, "predictor": "expected", "loss": value})
            problem = with_parameters(problem, theta)
            shown = SIZES if split != "train" or len(self.task.splits) == 1 else ()
            chance = _chance(problem, "prediction", split, seed)
            found = ensembles(problem, chance, sorted({*shown, size}), first=size)
            scores = {draws: score(problem, prediction) for draws, prediction in found}
            if shown:
                averages += [{"seed": seed, "split": split, "draws": draws} | row for draws, row in scores.items()]
            for predictor in PREDICTORS:
                row = scores[size] if predictor == "ensemble" else score(problem, predict(problem, predictor, chance))
                predictions.append({"seed": seed, "split": split, "predictor": predictor} | row)
        return predictions, averages


def enumerable(problem: Problem) -> bool:
    """Tell whether an exact objective takes at most 2^30 multiply–adds.

    Args:
        problem: any.

    Returns:
        Whether it does.

    Examples:
        >>> from gradeval.problems.catalogue import load_task
        >>> [enumerable(load_task("digits", units=units).train) for units in ("1c-2c", "64")]
        [True, False]
    """
    methods = ["layerwise"] if why_not(problem) else ["layerwise", "transform"]
    return any(predicted_cost(problem, method).multiply_adds <= EXACT_WORK for method in methods)


def gradient_accuracy(problem: Problem, name: str, estimator: Estimator, draws: int, seed: int) -> list[dict[str, Any]]:
    """Compare an estimator's gradients with the exact one g*, for every layer.

    The bias is √max(0, ‖ḡ − g*‖² − tr Σ̂/n)/‖g*‖: without what the mean ḡ of n draws owes to chance, which ``noise``,
    √(tr Σ̂/n)/‖g*‖, is the size of.

    Args:
        problem: small enough to be enumerated.
        name: of the estimator.
        estimator: one that learns is fitted to the problem first.
        draws: n.
        seed: the draws follow from it.

    Returns:
        For every layer with a gradient, and for "all", a row with the mean cosine of single draws with g*, relative
        bias and variance, and noise.
    """
    problem = in_precision(problem)
    estimator = fit(estimator, name, problem, seed).estimator
    exact = exact_gradient(problem)
    exact.check_size()
    gradients, _ = Sampler(problem, name, estimator).chunk(draws, "gradient accuracy", seed)
    rows = []
    for layer, where in exact.slices.items():
        target, found = exact.vector[where], gradients[:, where]
        norm = float(target.norm())
        if norm == 0:
            continue
        cosines = cosine(found @ target, (found.norm(dim=1) * norm).clamp(min=1e-300))
        variance = float(found.var(0).sum())
        square = float((found.mean(0) - target).norm() ** 2)
        rows.append(
            {
                "layer": layer,
                "cosine": float(cosines.mean()),
                "relative_bias": relative(bias_size(square, variance / draws), norm),
                "relative_variance": relative_variance(variance, norm),
                "noise": relative(math.sqrt(variance / draws), norm),
            }
        )
    return rows


def _chance(problem: Problem, *names: object) -> RandomDraws:
    network = problem.network
    return RandomDraws(generator(network.device, *names), network.dtype)
