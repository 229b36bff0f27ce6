"""Gradients of draws from a surrogate: by one vectorised call, or one by one as plain backward() gives them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from gradeval.estimators.protocol import Estimator
from gradeval.model.problem import Problem
from gradeval.model.randomness import GivenUniforms, RandomDraws, generator
from gradeval.sampling.surrogates import Surrogate
from gradeval.torch_private import quiet_vmap

RowChance = Callable[[Tensor], RandomDraws]
"""Makes the chance of a draw from its row."""


def all_at_once(
    surrogate: Surrogate, parameters: dict[str, Tensor], rows: Tensor, chance: RowChance
) -> tuple[Float[Tensor, "draws P"], Float[Tensor, " draws"]]:
    """Gradients and values of draws by one vectorised call.

    Args:
        surrogate: of the estimator.
        parameters: its trainable ones, detached, by name.
        rows: one for each draw.
        chance: makes the chance of a draw from its row.

    Returns:
        The gradients, flattened, and the values.
    """
    data = surrogate.inputs, surrogate.targets

    def draw(row: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        result: tuple[dict[str, Tensor], Tensor] = grad_and_value(
            lambda parameters: functional_call(surrogate, parameters, (*data, chance(row))).mean()
        )(parameters)
        return result

    with quiet_vmap():
        gradients, values = vmap(draw, randomness="different")(rows)
    return torch.cat([g.reshape(len(rows), -1) for g in gradients.values()], 1), values


def one_by_one(
    surrogate_of: Callable[[], Surrogate], rows: Tensor, chance: RowChance
) -> tuple[Float[Tensor, "draws P"], Float[Tensor, " draws"]]:
    """Gradients and values of draws, each by plain backward().

    Args:
        surrogate_of: gives the surrogate to use for the next draw.
        rows: one for each draw.
        chance: makes the chance of a draw from its row.

    Returns:
        The gradients, flattened, and the values.
    """
    found = [by_backward(surrogate_of(), chance(row)) for row in rows]
    gradients, values = (torch.stack(part) for part in zip(*found, strict=True))
    return gradients, values


def by_backward(surrogate: Surrogate, chance: RandomDraws) -> tuple[Float[Tensor, " P"], Float[Tensor, ""]]:
    """Gradient and value of one draw as plain code has them: by backward(), from the parameters' .grad.

    Args:
        surrogate: of the estimator.
        chance: of the draw.

    Returns:
        The gradient, flattened, and the value.
    """
    parameters = list(surrogate.trainable().values())
    for parameter in parameters:
        parameter.grad = None
    value = surrogate(surrogate.inputs, surrogate.targets, chance).mean()
    value.backward()
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return torch.cat([g.flatten() for g in found]), value.detach()


def as_backward(problem: Problem, estimator: Estimator) -> bool:
    """Whether a vectorised draw has the gradient that plain backward() gives for the same chance.

    Args:
        problem: the estimator is run on copies of its network and data.
        estimator: can be vectorised.

    Returns:
        False where the two differ by more than rounding. True also where there is nothing to compare: the estimator has
        chance of its own, keeps a state, or fails.

    Examples:
        >>> import gradeval
        >>> from gradeval.estimators import get_estimator
        >>> problem = gradeval.load_problem("expclass", units="2-3", stage=0, points=4)
        >>> as_backward(problem, get_estimator("reinforce"))
        True
    """
    dtype, random = problem.network.dtype, generator(problem.network.device, "backward")

    def chance(row: Tensor) -> GivenUniforms:
        return GivenUniforms(row, random, dtype)

    def fresh() -> Surrogate:
        return Surrogate(problem, estimator)

    counted = chance(torch.empty(0, dtype=dtype))
    try:
        surrogate = fresh()
        with torch.no_grad():
            surrogate(surrogate.inputs, surrogate.targets, counted)
        row = torch.rand(1, counted.taken, generator=random, dtype=dtype, device=random.device)
        plain, again = (by_backward(fresh(), chance(row[0]))[0] for _ in "12")
        if not torch.equal(plain, again):
            return True
        other = fresh()
        detached = {name: parameter.detach() for name, parameter in other.trainable().items()}
        vectorised = all_at_once(other, detached, row, chance)[0][0]
    except Exception:  # what is wrong with it is found elsewhere
        return True
    tolerance = torch.finfo(dtype).eps ** 0.5 * float(plain.abs().amax())
    return bool(torch.allclose(plain, vectorised, rtol=0, atol=tolerance, equal_nan=True))
