"""Draws whose gradient is known for each data point: the variance of independent points is known far better."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from gradeval.errors import estimator_error
from gradeval.model.randomness import RandomDraws, generator
from gradeval.sampling.sampler import BATCH_BYTES, Sampler, give_back_memory, refuse_infinite, turn_of
from gradeval.sampling.surrogates import Surrogate
from gradeval.torch_private import quiet_vmap


def draws_of_points(
    sampler: Sampler, count: int, *names: object
) -> tuple[Float[Tensor, "draws P"], Float[Tensor, " draws"], Float[Tensor, "draws K"]]:
    """Make some draws, and measure how far each is from their mean, point by point.

    Where the N points of a draw are independent, tr Σ = N⁻² Σᵢ tr Σᵢ. The deviation N⁻² Σᵢ ‖gᵢ − E gᵢ‖² of a draw has
    this mean, and varies far less than ‖g − E g‖².

    Args:
        sampler: of an estimator whose points are independent, see `independent_points`.
        count: how many draws.
        names: what their seed follows from.

    Returns:
        The gradients, flattened, [draws, P], the values, [draws], and by layer the squared deviations, [draws, K],
        whose mean over the draws is unbiased for tr Σ.

    Raises:
        GradevalError: the estimator raises, or gives NaN or infinite gradients.

    Examples:
        >>> from gradeval import load_problem
        >>> from gradeval.estimators import get_estimator
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> sampler = Sampler(problem, "st", get_estimator("st"))
        >>> gradients, values, deviations = draws_of_points(sampler, 100, "an example")
        >>> gradients.shape, values.shape, deviations.shape  # two layers, the head, and all of them
        (torch.Size([100, 15]), torch.Size([100]), torch.Size([100, 4]))
    """
    network, points = sampler.problem.network, sampler.problem.points
    chance, slices = RandomDraws(generator(network.device, *names), network.dtype), network.layer_slices()
    surrogate = Surrogate(sampler.problem, sampler.estimator)
    size = sum(p.numel() for p in network.trainable().values())
    gradients, values, squares, centre, total = [], [], [], None, None
    at_once = BATCH_BYTES // (points * size * network.dtype.itemsize)
    for part in torch.empty(count).split(max(1, at_once)):
        try:
            with turn_of(sampler, *names):
                each, value = _gradients(surrogate, part, chance)
            surrogate.check_untouched()
        except Exception as error:
            raise estimator_error(sampler.name, error) from error
        gradients.append(each.mean(1))
        values.append(value.mean(1))
        centre = each.mean(0) if centre is None else centre  # deviations from a mean of some draws lose no digits
        each -= centre
        total = each.sum(0) if total is None else total + each.sum(0)
        squares.append(_by_layer(each.square_().sum(1), slices))
        if at_once == 0:
            give_back_memory(len(squares))
    found = torch.cat(gradients)
    refuse_infinite(sampler.name, found)
    assert total is not None
    excess = _by_layer((total / count).square().sum(0), slices)
    return found, torch.cat(values), (torch.cat(squares) - excess) * (count / max(count - 1, 1) / points**2)


def _gradients(surrogate: Surrogate, rows: Tensor, chance: RandomDraws) -> tuple[Tensor, Tensor]:
    """The gradient of every point, [draws, points, P], and its value, [draws, points]."""
    parameters = {name: p.detach() for name, p in surrogate.trainable().items()}

    def one(_: Tensor, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        result: tuple[dict[str, Tensor], Tensor] = grad_and_value(
            lambda parameters: functional_call(surrogate, parameters, (x[None], y[None], chance)).squeeze(0)
        )(parameters)
        return result

    over_points = vmap(one, in_dims=(None, 0, 0), randomness="different")
    over_draws = vmap(over_points, in_dims=(0, None, None), randomness="different")
    with quiet_vmap():
        found, values = over_draws(rows, surrogate.inputs, surrogate.targets)
    return torch.cat([g.reshape(*values.shape, -1) for g in found.values()], -1), values


def _by_layer(squares: Float[Tensor, "*draws P"], slices: Mapping[str, slice]) -> Float[Tensor, "*draws K"]:
    return torch.stack([squares[..., where].sum(-1) for where in slices.values()], -1)
