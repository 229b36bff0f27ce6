"""What a trained network predicts: its outputs averaged over draws of its states, or from states that are not drawn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.errors import GradevalError, unknown_name
from gradeval.model.elbo import NegativeElbo
from gradeval.model.network import BinaryLayer
from gradeval.model.problem import Problem
from gradeval.model.randomness import Randomness
from gradeval.threads import threads_for

PREDICTORS = ("ensemble", "mode", "mean-field")
"""The ways to predict, see `predict`."""
POINTS_AT_ONCE = 2000  # to bound memory
States: TypeAlias = Callable[[BinaryLayer, Tensor], Tensor]
"""How the states of a layer are decided from its preactivations."""


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
    if predictor == "ensemble":
        ((_, prediction),) = ensembles(problem, randomness, [draws])
        return prediction
    states = _most_probable if predictor == "mode" else _means
    with torch.no_grad(), threads_for(_multiply_adds(problem)):
        return torch.cat([_outputs(problem, inputs, states) for inputs in problem.inputs.split(POINTS_AT_ONCE)])


def ensembles(
    problem: Problem, randomness: Randomness, sizes: Sequence[int], first: int = 0
) -> Iterator[tuple[int, Float[Tensor, "points *outputs"]]]:
    """Predict by averages over the first draws of one run of draws, for several numbers of them.

    Args:
        problem: network, inputs and loss.
        randomness: the states are drawn with it.
        sizes: numbers of draws, increasing.
        first: of many points a part is taken at a time; it gets so many draws before the next part gets any. So the
            average over ``first`` draws is the one that `predict` gives, whatever other sizes there are.

    Yields:
        Each size with the prediction of `predict` for every point, [points] or [points, outputs].

    Raises:
        GradevalError: no draws, or sizes that do not increase.

    Examples:
        >>> from gradeval.model.randomness import RandomDraws, generator
        >>> from gradeval.problems.catalogue import load_problem
        >>> problem = load_problem("expclass", units="3", stage=0, points=20)
        >>> found = dict(ensembles(problem, RandomDraws(generator("cpu", 0)), [1, 10]))
        >>> bool((found[10] == predict(problem, "ensemble", RandomDraws(generator("cpu", 0)), 10)).all())
        True
    """
    if not sizes or sizes[0] < 1:
        raise GradevalError(f"an ensemble needs at least 1 draw, found {', '.join(map(str, sizes)) or 'no size'}.")
    if any(larger <= size for size, larger in itertools.pairwise(sizes)):
        raise GradevalError(f"the sizes of ensembles must increase, found {', '.join(map(str, sizes))}.")
    together = [size for size in sizes if size <= first]
    rounds = [together] * bool(together) + [[size] for size in sizes if size > first]
    totals, done = [torch.zeros(()) for _ in problem.inputs.split(POINTS_AT_ONCE)], 0
    for wanted in rounds:
        yield from _continued(problem, randomness, totals, done, wanted).items()
        done = wanted[-1]


def _continued(
    problem: Problem, randomness: Randomness, totals: list[Tensor], done: int, wanted: Sequence[int]
) -> dict[int, Tensor]:
    """Add draws to the totals of all parts of the points, and give the averages that are wanted on the way."""
    found: dict[int, list[Tensor]] = {size: [] for size in wanted}
    with torch.no_grad(), threads_for(_multiply_adds(problem)):
        for part, inputs in enumerate(problem.inputs.split(POINTS_AT_ONCE)):
            for draw in range(done + 1, wanted[-1] + 1):
                totals[part] = totals[part] + _outputs(problem, inputs, _drawn(randomness))
                if draw in found:
                    found[draw].append(totals[part] / draw)
    return {size: torch.cat(parts) for size, parts in found.items()}


def _outputs(problem: Problem, inputs: Tensor, states: States) -> Tensor:
    """What the network says of some points where its states are decided in this way."""
    return _link(problem.loss)(problem.network.head(_encoded(problem, inputs, states)))


def _encoded(problem: Problem, inputs: Tensor, states: States) -> Tensor:
    """What the head gets where the states are decided in this way."""
    x = inputs
    for layer in problem.network.layers:
        x = layer.encode(states(layer, layer.preactivation(x)))
    return x


def _drawn(randomness: Randomness) -> States:
    return lambda layer, a: randomness.bernoulli(layer.probability(a))


def _most_probable(layer: BinaryLayer, a: Tensor) -> Tensor:
    return (a >= 0).to(a.dtype)


def _means(layer: BinaryLayer, a: Tensor) -> Tensor:
    return layer.probability(a)


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
    total = 0.0
    with torch.no_grad(), threads_for(_multiply_adds(problem)):
        for inputs, targets in zip(
            problem.inputs.split(POINTS_AT_ONCE), problem.targets.split(POINTS_AT_ONCE), strict=True
        ):
            loss = problem.loss_function(targets=targets, inputs=inputs)
            for _ in range(draws):
                total += float(loss(_encoded(problem, inputs, _drawn(randomness))).sum())
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
