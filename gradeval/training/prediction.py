"""What a trained network predicts: its outputs averaged over draws of its states, or from states that are not drawn."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.errors import GradevalError, unknown_name
from gradeval.model.problem import Problem
from gradeval.model.randomness import Randomness

PREDICTORS = ("ensemble", "mode", "mean-field")
POINTS = 2000  # taken together, to bound memory


def predict(
    problem: Problem, predictor: str, randomness: Randomness, draws: int = 10
) -> Float[Tensor, "points *outputs"]:
    """Predictions of a problem's network: probabilities for a classification, else outputs.

    Args:
        problem: network, inputs and loss; "logistic" gives P(+1), "cross-entropy" the probability of every class.
        predictor: "ensemble" averages predictions over ``draws`` draws of all states; "mode" takes every layer's most
            probable states given those below; "mean-field" replaces states by their means.
        randomness: used by "ensemble".
        draws: size of the ensemble.

    Raises:
        GradevalError: an unknown predictor, or no draws.
    """
    if predictor not in PREDICTORS:
        raise unknown_name("predictor", predictor, PREDICTORS)
    if draws < 1:
        raise GradevalError(f"an ensemble needs at least 1 draw, found {draws}.")
    network, link = problem.network, _link(problem.loss)
    repeats = draws if predictor == "ensemble" else 1
    parts = []
    with torch.no_grad():
        for inputs in problem.inputs.split(POINTS):
            total: Tensor | float = 0.0
            for _ in range(repeats):
                x = inputs
                for layer in network.layers:
                    a = layer.preactivation(x)
                    if predictor == "ensemble":
                        s = randomness.bernoulli(layer.probability(a))
                    else:
                        s = (a >= 0).to(a.dtype) if predictor == "mode" else layer.probability(a)
                    x = layer.encode(s)
                total = total + link(network.head(x))
            parts.append(torch.as_tensor(total) / repeats)
    return torch.cat(parts)


def score(problem: Problem, prediction: Float[Tensor, "points *outputs"]) -> dict[str, float]:
    """The loss of predictions, a mean over points, and for classifications their accuracy.

    Of probabilities the loss is −log of the target's; of outputs it is the problem's own.
    """
    targets = problem.targets
    if problem.loss == "logistic":
        chosen = torch.where(targets > 0, prediction, 1 - prediction)
        right = (prediction >= 0.5) == (targets > 0)
    elif problem.loss == "cross-entropy":
        chosen = prediction.gather(-1, targets.long()[:, None]).squeeze(-1)
        right = prediction.argmax(-1) == targets.long()
    else:
        return {"loss": float(problem.output_loss(prediction, targets).mean())}
    tiny = torch.finfo(chosen.dtype).tiny
    return {"loss": float(-chosen.clamp(min=tiny).log().mean()), "accuracy": float(right.to(chosen.dtype).mean())}


def expected_loss(problem: Problem, randomness: Randomness, draws: int) -> float:
    """J by sampling: the mean over points and draws of the loss."""
    network, total = problem.network, 0.0
    with torch.no_grad():
        for inputs, targets in zip(problem.inputs.split(POINTS), problem.targets.split(POINTS), strict=True):
            loss = problem.loss_function(targets=targets)
            for _ in range(draws):
                x = inputs
                for layer in network.layers:
                    x = layer.encode(randomness.bernoulli(layer.probability(layer.preactivation(x))))
                total += float(loss(x).sum())
    return total / (problem.points * draws)


def _link(loss: object) -> Callable[[Tensor], Tensor]:
    if loss == "logistic":
        return lambda output: torch.sigmoid(output.squeeze(-1))
    if loss == "cross-entropy":
        return lambda output: torch.softmax(output, -1)
    return lambda output: output
