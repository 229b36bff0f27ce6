"""Whether the data points of a draw are independent: each estimate is that of its point alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.errors import GradevalError
from gradeval.isolation import alone
from gradeval.model.problem import Problem
from gradeval.model.randomness import RandomDraws, generator
from gradeval.sampling.surrogates import Surrogate

POINTS = 3  # that are tried together and alone
TRIALS = 4  # with other chance each time: states that agree by luck tell nothing
EDGE = 1e-3  # the share of (0, 1) that the chance of the last two trials is from


class _ChanceByPoint(RandomDraws):
    """Chance of which every point has its own, whichever points are asked for together."""

    def __init__(self, random: torch.Generator, points: Sequence[int], trial: int, dtype: torch.dtype) -> None:
        super().__init__(random, dtype)
        self.points, self.trial = points, trial
        self.calls = 0

    def uniform(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        """Uniform variables, whose axis of the points is the last but one, or the last."""
        size, device = list(shape), self.generator.device
        axis = next((a for a in (-2, -1) if len(size) >= -a and size[a] == len(self.points)), None)
        if axis is None:
            raise GradevalError("its points share chance")
        del size[axis]
        self.calls += 1
        parts = []
        for point in self.points:
            random = generator(device, point, self.trial, self.calls)
            u = torch.rand(size, generator=random, dtype=self.dtype, device=device)
            if self.trial >= TRIALS - 2:  # near 0 or 1: what one point's chance does to another is seen for certain
                u = EDGE * u if (point + self.trial) % 2 else 1 - EDGE * u
            parts.append(u)
        return torch.stack(parts, axis)

    def bernoulli(self, probability: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (self.uniform(probability.shape) < probability).to(probability.dtype)

    def normal(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        return torch.special.ndtri(self.uniform(shape))


def independent_points(problem: Problem, estimator: Callable[..., Tensor]) -> bool:
    """Whether the gradient of several points is the sum of those of each point alone, from the point's own chance.

    Some points are drawn together and alone, with the same random numbers for the same point. Estimators that mix
    points, share chance among them or have randomness of their own give other numbers.

    Args:
        problem: the estimator is run on its first points.
        estimator: any surrogate, fitted if it learns.

    Returns:
        True where they are the same up to rounding; True also for a single point.

    Examples:
        >>> import gradeval
        >>> from gradeval.estimators import get_estimator
        >>> problem = gradeval.load_problem("expclass", units="2-3", stage=0, points=10)
        >>> independent_points(problem, get_estimator("reinforce"))
        True
    """
    surrogate, network = Surrogate(problem, estimator), problem.network
    parameters = list(surrogate.trainable().values())
    random = generator(network.device, "points")  # one: what an estimator draws from it itself differs from run to run
    tolerance = 1e4 * torch.finfo(network.dtype).eps

    def run(points: list[int], trial: int) -> Tensor:
        chance = _ChanceByPoint(random, points, trial, network.dtype)
        value = surrogate(surrogate.inputs[points], surrogate.targets[points], chance)
        found = torch.autograd.grad(value.sum(), parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([value.detach().sum()[None], *(g.flatten() for g in found)])

    together = list(range(min(POINTS, problem.points)))
    try:
        for trial in range(TRIALS):
            with alone():
                each = torch.stack([run([point], trial) for point in together])
                difference = (run(together, trial) - each.sum(0)).abs()
            if not bool((difference <= tolerance * (each.abs().sum(0) + each.abs().max())).all()):
                return False
    except Exception:  # it cannot be run on one point alone, say
        return False
    return True
