"""What a trained network predicts: its outputs averaged over draws of its states, or from states that are not drawn."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.errors import GradevalError, unknown_name
from gradeval.model.elbo import NegativeElbo
from gradeval.model.problem import Problem
from gradeval.model.randomness import Randomness
from gradeval.threads import threads_for

PREDICTORS = ("ensemble", "mode", "mean-field")
"""The ways to predict, see `predict`."""
POINTS_AT_ONCE = 2000  # to bound memory


def predict(
    problem: Problem, predictor: str, randomness: Randomness, draws: int = 10
) -> Float[Tensor, "points *outputs"]:
    """Predict with a problem's network: probabilities for a classification, else outputs.

    Args:
        problem: network, inputs and loss; "logistic" gives P(+1), "cross-entropy" the probability of every class,
            "bernoulli" and `NegativeElbo` that of every output.
        predictor: "ensemble" averages predictions over ``draws`` draws of all states; "mode" takes every layer's most
            probable states given those below; "mean-field" replaces states by their means.
        randomness: used by "ensemble".
        draws: size of the ensemble.

    Returns:
        A prediction for each point, [points] or [points, outputs].

    Raises:
        GradevalError: an unknown predictor, or no draws.

    Examples:
        >>> from gradeval.model.randomness import RandomDraws, generator
        >>> from gradeval.problems.catalogue import load_problem
        >>> problem = load_problem("expclass", units="3", stage=0, points=20)
        >>> prediction = predict(problem, "mode", RandomDraws(generator("cpu", 0)))
        >>> tuple(prediction.shape), bool(((prediction > 0) & (prediction < 1)).all())
        ((20,), True)
    """
    if predictor not in PREDICTORS:
        raise unknown_name("predictor", predictor, PREDICTORS)
    if draws < 1:
        raise GradevalError(f"an ensemble needs at least 1 draw, found {draws}.")
    network, link = problem.network, _link(problem.loss)
    repeats = draws if predictor == "ensemble" else 1
    parts = []
    with torch.no_grad(), threads_for(_multiply_adds(problem)):
        for inputs in problem.inputs.split(POINTS_AT_ONCE):
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
    """Score predictions against the problem's targets.

    Args:
        problem: targets and loss.
        prediction: of `predict`, [points] or [points, outputs].

    Returns:
        "loss", a mean over points: −log of the target's probability for a classification and for Bernoulli outputs (of
        `NegativeElbo` the reconstruction alone), else the problem's own loss, which is NaN where that is an objective
        that needs more than outputs; and for a classification "accuracy", the share of points that are right.

    Examples:
        >>> from gradeval.problems.catalogue import load_problem
        >>> problem = load_problem("expclass", units="3", stage=0, points=20)
        >>> scores = score(problem, torch.full((20,), 0.5, dtype=torch.float64))
        >>> f"{scores['loss']:.4f}", scores["accuracy"]
        ('0.6931', 0.5)
    """
    targets = problem.targets
    if problem.loss == "logistic":
        chosen = torch.where(targets > 0, prediction, 1 - prediction)
        right = (prediction >= 0.5) == (targets > 0)
    elif problem.loss == "cross-entropy":
        chosen = prediction.gather(-1, targets.long()[:, None]).squeeze(-1)
        right = prediction.argmax(-1) == targets.long()
    elif _gives_bernoulli(problem.loss):
        on, off = (p.clamp(min=torch.finfo(p.dtype).tiny).log() for p in (prediction, 1 - prediction))
        return {"loss": float(-(targets * on + (1 - targets) * off).sum(-1).mean())}
    elif problem.output_loss is None:
        return {"loss": math.nan}
    else:
        return {"loss": float(problem.output_loss(prediction, targets).mean())}
    tiny = torch.finfo(chosen.dtype).tiny
    return {"loss": float(-chosen.clamp(min=tiny).log().mean()), "accuracy": float(right.to(chosen.dtype).mean())}


def expected_loss(problem: Problem, randomness: Randomness, draws: int) -> float:
    """Estimate J by sampling: the mean over points and draws of the loss.

    Args:
        problem: network, data and loss.
        randomness: the states are drawn with it.
        draws: of the states of every point.

    Returns:
        The estimate of J.
    """
    network, total = problem.network, 0.0
    with torch.no_grad(), threads_for(_multiply_adds(problem)):
        for inputs, targets in zip(
            problem.inputs.split(POINTS_AT_ONCE), problem.targets.split(POINTS_AT_ONCE), strict=True
        ):
            loss = problem.loss_function(targets=targets, inputs=inputs)
            for _ in range(draws):
                x = inputs
                for layer in network.layers:
                    x = layer.encode(randomness.bernoulli(layer.probability(layer.preactivation(x))))
                total += float(loss(x).sum())
    return total / (problem.points * draws)


def _multiply_adds(problem: Problem) -> int:
    """What one pass of the points that are taken at once through linear maps takes, about."""
    return min(problem.points, POINTS_AT_ONCE) * sum(p.numel() for p in problem.network.parameters())


def _gives_bernoulli(loss: object) -> bool:
    """Whether the head's outputs are logits of Bernoulli variables."""
    return loss == "bernoulli" or isinstance(loss, NegativeElbo)


def _link(loss: object) -> Callable[[Tensor], Tensor]:
    if loss == "logistic":
        return lambda output: torch.sigmoid(output.squeeze(-1))
    if loss == "cross-entropy":
        return lambda output: torch.softmax(output, -1)
    if _gives_bernoulli(loss):
        return torch.sigmoid
    return lambda output: output
