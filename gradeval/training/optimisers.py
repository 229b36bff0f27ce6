"""The updates of the optimisers, for many runs at once: parameters and gradients are matrices, [runs, P]."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

MOMENTUM = 0.9
BETAS, EPSILON = (0.9, 0.999), 1e-8

Update = Callable[[Tensor, Tensor, Tensor, list[Tensor], int], None]


def sgd(theta: Tensor, gradient: Tensor, rates: Tensor, state: list[Tensor], step: int) -> None:
    """Take a step with momentum: v ← 0.9 v + g, θ ← θ − rate · v.

    Args:
        theta: θ, [runs, P]; changed in place.
        gradient: g, [runs, P].
        rates: learning rates, [runs].
        state: the velocities v, [runs, P]; changed in place.
        step: the number of this step, from 1; SGD does not need it.

    Examples:
        >>> import torch
        >>> theta, velocity = torch.ones(1, 2), torch.zeros(1, 2)
        >>> sgd(theta, torch.ones(1, 2), torch.tensor([0.5]), [velocity], step=1)
        >>> theta.tolist(), velocity.tolist()
        ([[0.5, 0.5]], [[1.0, 1.0]])

    Source: Polyak 1964, doi:10.1016/0041-5553(64)90137-5.
    """
    (velocity,) = state
    velocity.mul_(MOMENTUM).add_(gradient)
    theta.sub_(rates[:, None] * velocity)


def adam(theta: Tensor, gradient: Tensor, rates: Tensor, state: list[Tensor], step: int) -> None:
    """Take a step of Adam: m, v ← moving means of g and g², θ ← θ − rate · m̂/(√v̂ + ε).

    Args:
        theta: θ, [runs, P]; changed in place.
        gradient: g, [runs, P].
        rates: learning rates, [runs].
        state: m and v, [runs, P] each; changed in place.
        step: the number of this step, from 1, by which m̂ and v̂ correct for the start at zero.

    Examples:
        >>> import torch
        >>> theta = torch.ones(1, 2)
        >>> adam(theta, torch.ones(1, 2), torch.tensor([0.5]), [torch.zeros(1, 2), torch.zeros(1, 2)], step=1)
        >>> theta.round(decimals=4).tolist()
        [[0.5, 0.5]]

    Source: Kingma & Ba, ICLR 2015, arXiv:1412.6980.
    """
    (first, second), (beta1, beta2) = state, BETAS
    first.lerp_(gradient, 1 - beta1)
    second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    mean, square = first / (1 - beta1**step), second / (1 - beta2**step)
    theta.sub_(rates[:, None] * mean / (square.sqrt() + EPSILON))


OPTIMISERS: dict[str, tuple[Update, int]] = {"sgd": (sgd, 1), "adam": (adam, 2)}
"""By name: the update of every optimiser, and how many tensors like the parameters it keeps."""
