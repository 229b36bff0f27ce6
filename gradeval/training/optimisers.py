"""The updates of the optimisers, for many runs at once: parameters and gradients are matrices, [runs, P]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MOMENTUM = 0.9
BETAS, EPSILON = (0.9, 0.999), 1e-8
SHRINK, GROW = 0.5, 1.2  # of RProp's steps
SHORTEST_STEP, LONGEST_STEP = 1e-6, 50.0  # of them

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


def nesterov(theta: Tensor, gradient: Tensor, rates: Tensor, state: list[Tensor], step: int) -> None:
    """Take a step with Nesterov's momentum: v ← 0.9 v + g, θ ← θ − rate · (g + 0.9 v).

    Args:
        theta: θ, [runs, P]; changed in place.
        gradient: g, [runs, P].
        rates: learning rates, [runs].
        state: the velocities v, [runs, P]; changed in place.
        step: the number of this step, from 1; it is not needed.

    Examples:
        >>> theta = torch.ones(1, 2)
        >>> nesterov(theta, torch.ones(1, 2), torch.tensor([1.0]), [torch.zeros(1, 2)], step=1)
        >>> theta.round(decimals=2).tolist() == torch.full((1, 2), -0.9).tolist()
        True

    Source: Nesterov 1983, in the form of Sutskever et al., ICML 2013 (PMLR 28), where θ is the point that is
    looked ahead to.
    """
    (velocity,) = state
    velocity.mul_(MOMENTUM).add_(gradient)
    theta.sub_(rates[:, None] * (gradient + MOMENTUM * velocity))


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


def amsgrad(theta: Tensor, gradient: Tensor, rates: Tensor, state: list[Tensor], step: int) -> None:
    """Take a step of AMSGrad: as Adam, with the largest v so far in the place of v.

    Args:
        theta: θ, [runs, P]; changed in place.
        gradient: g, [runs, P].
        rates: learning rates, [runs].
        state: m, v and the largest v, [runs, P] each; changed in place.
        step: the number of this step, from 1, by which m and v are corrected for the start at zero.

    Examples:
        >>> theta = torch.ones(1, 2)
        >>> amsgrad(theta, torch.ones(1, 2), torch.tensor([0.5]), [torch.zeros(1, 2) for _ in range(3)], step=1)
        >>> theta.round(decimals=4).tolist()
        [[0.5, 0.5]]

    Source: Reddi, Kale & Kumar, ICLR 2018, arXiv:1904.09237.
    """
    (first, second, largest), (beta1, beta2) = state, BETAS
    first.lerp_(gradient, 1 - beta1)
    second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    torch.maximum(largest, second, out=largest)
    mean, square = first / (1 - beta1**step), largest / (1 - beta2**step)
    theta.sub_(rates[:, None] * mean / (square.sqrt() + EPSILON))


def rprop(theta: Tensor, gradient: Tensor, rates: Tensor, state: list[Tensor], step: int) -> None:
    """Take a step of RProp: every parameter moves by its own step against the sign of its gradient.

    Where the sign is that of the step before, the parameter's step grows 1.2-fold; where it has changed, the step is
    halved and this once not taken. Steps stay between 1e-6 and 50.

    Args:
        theta: θ, [runs, P]; changed in place.
        gradient: g, [runs, P].
        rates: the first steps, [runs].
        state: the gradient before and the steps, [runs, P] each; changed in place.
        step: the number of this step, from 1.

    Examples:
        >>> theta = torch.ones(1, 2)
        >>> rprop(theta, torch.tensor([[3.0, -0.1]]), torch.tensor([0.5]), [torch.zeros(1, 2), torch.zeros(1, 2)], 1)
        >>> theta.tolist()
        [[0.5, 1.5]]

    Source: Riedmiller & Braun, ICNN 1993, doi:10.1109/ICNN.1993.298623; without going back (iRprop−: Igel & Hüsken
    2003, doi:10.1016/S0925-2312(01)00700-7).
    """
    before, length = state
    if step == 1:
        length.copy_(rates[:, None].expand_as(length))
    agreement = (gradient * before).sign()
    changed = torch.where(agreement > 0, GROW * length, torch.where(agreement < 0, SHRINK * length, length))
    length.copy_(changed.clamp(SHORTEST_STEP, LONGEST_STEP))
    taken = torch.where(agreement < 0, 0.0, gradient)
    theta.sub_(length * taken.sign())
    before.copy_(taken)


OPTIMISERS: dict[str, tuple[Update, int]] = {
    "sgd": (sgd, 1),
    "nesterov": (nesterov, 1),
    "adam": (adam, 2),
    "amsgrad": (amsgrad, 3),
    "rprop": (rprop, 2),
}
"""By name: the update of every optimiser, and how many tensors like the parameters it keeps."""
