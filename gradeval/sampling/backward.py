"""Plain backward() on a network's own parameters: what a user's training has, and so what counts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.estimators.protocol import Estimator
from gradeval.model.problem import Problem
from gradeval.model.randomness import GivenUniforms, RandomDraws, generator
from gradeval.sampling.surrogates import Surrogate

OTHER_BACKWARD = (
    "not vectorised, drawn in a loop: plain backward() on the network's own parameters gives another gradient than "
    "torch.func.grad (by hooks, .data, in-place writes, or tests of leaves or requires_grad?), and backward() counts"
)


def plain_draw(surrogate: Surrogate, chance: RandomDraws) -> tuple[Float[Tensor, " P"], Float[Tensor, ""]]:
    """Make one draw as plain code does: by backward(), from the parameters' .grad.

    Args:
        surrogate: whose network's parameters get the gradient; their .grad is None afterwards.
        chance: of the draw.

    Returns:
        The gradient, flattened, and the value. Parameters that get none have zeros.
    """
    parameters = list(surrogate.parameters())
    for parameter in parameters:
        parameter.grad = None
    value = surrogate(surrogate.problem.inputs, surrogate.problem.targets, chance).mean()
    value.backward()
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return torch.cat([g.flatten() for g in found]), value.detach()


def agrees_with_backward(
    problem: Problem, estimator: Estimator, vectorised: Callable[..., tuple[Tensor, Tensor]]
) -> bool:
    """Whether a vectorised draw has the gradient that plain backward() gives for the same chance.

    Args:
        problem: what the estimator is run on, on copies of its network.
        estimator: any surrogate.
        vectorised: (rows of uniform variables, chance of a row) -> gradients and values.

    Returns:
        Whether they agree but for rounding; True where there is nothing to compare, as the estimator has chance of its
        own, or a state, or cannot be run.
    """
    dtype, random = problem.network.dtype, generator(problem.network.device, "backward")

    def chance(row: Tensor) -> GivenUniforms:
        return GivenUniforms(row, random, dtype)

    counted = chance(torch.empty(0, dtype=dtype))
    try:
        with torch.no_grad():
            Surrogate(problem, estimator)(problem.inputs, problem.targets, counted)
        row = torch.rand(1, counted.taken, generator=random, dtype=dtype, device=random.device)
        plain, again = (plain_draw(Surrogate(problem, estimator), chance(row[0]))[0] for _ in range(2))
        if not torch.equal(plain, again):
            return True
        found = vectorised(row, chance)[0][0]
    except Exception:  # what is wrong with it is found elsewhere
        return True
    largest = torch.finfo(dtype).eps ** 0.5 * float(plain.abs().amax())
    return bool(torch.allclose(plain, found, rtol=0, atol=largest, equal_nan=True))
