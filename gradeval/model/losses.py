"""Losses f = loss(output, target), one number per data point; outputs may carry extra leading axes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from gradeval.errors import GradevalError, unknown_name

Loss = Callable[[Tensor, Tensor], Tensor]
"""(output, target) -> one number per point, [..., points]."""


def logistic(
    output: Float[Tensor, "*batch points 1"], target: Float[Tensor, " points"]
) -> Float[Tensor, "*batch points"]:
    """The logistic loss log(1 + exp(−y h)) of one output h and a target y ∈ {−1, 1}.

    Args:
        output: h, [..., points, 1].
        target: y, [points].

    Returns:
        One number per point, [..., points].

    Examples:
        >>> logistic(torch.tensor([[0.0], [2.0]]), torch.tensor([1.0, -1.0]))
        tensor([0.6931, 2.1269])
    """
    return -logsigmoid(target * output.squeeze(-1))


def squared(
    output: Float[Tensor, "*batch points outputs"], target: Float[Tensor, "points outputs"]
) -> Float[Tensor, "*batch points"]:
    """The squared error ‖h − y‖², summed over the outputs.

    Args:
        output: h, [..., points, outputs].
        target: y, [points, outputs].

    Returns:
        One number per point, [..., points].

    Examples:
        >>> squared(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]]))
        tensor([5.])
    """
    return ((output - target) ** 2).sum(-1)


def cross_entropy(
    output: Float[Tensor, "*batch points classes"], target: Float[Tensor, " points"]
) -> Float[Tensor, "*batch points"]:
    """The cross-entropy −log softmax(h)_y of class numbers y = 0, 1, …

    Args:
        output: h, one number per class, [..., points, classes].
        target: y, [points].

    Returns:
        One number per point, [..., points].

    Examples:
        >>> cross_entropy(torch.zeros(1, 3), torch.tensor([2.0]))
        tensor([1.0986])
    """
    chosen = target.long().expand(1, *output.shape[:-1])
    return (
        -torch.log_softmax(output.movedim(-1, 0), 0).gather(0, chosen).squeeze(0)
    )  # classes first: long rows are fast


def bernoulli(
    output: Float[Tensor, "*batch points outputs"], target: Float[Tensor, "points outputs"]
) -> Float[Tensor, "*batch points"]:
    """The cross-entropy Σₒ softplus(hₒ) − yₒ hₒ of Bernoulli variables with logits h, −log P(y) for y of 0 and 1.

    Args:
        output: h, [..., points, outputs].
        target: y, each from 0 to 1, [points, outputs].

    Returns:
        One number per point, [..., points].

    Examples:
        >>> bernoulli(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.5, 1.0]]))
        tensor([0.8201])
    """
    return -(logsigmoid(-output) + target * output).sum(-1)


LOSSES: dict[str, Loss] = {
    "logistic": logistic,
    "squared": squared,
    "cross-entropy": cross_entropy,
    "bernoulli": bernoulli,
}


def get_loss(name: str) -> Loss:
    """A loss by its name.

    Args:
        name: "logistic", "squared", "cross-entropy" or "bernoulli".

    Returns:
        The loss, (output, target) -> [..., points].

    Raises:
        GradevalError: there is none of this name; near matches are named.
    """
    if name not in LOSSES:
        raise unknown_name("loss", name, LOSSES)
    return LOSSES[name]


def check_targets(name: str, targets: Tensor, outputs: int) -> None:
    """Refuse targets that do not suit a loss.

    Args:
        name: of the loss.
        targets: of all points.
        outputs: the number of outputs of the head.

    Raises:
        GradevalError: the loss needs another number of outputs, or targets of another shape or other values.
    """
    if name == "logistic":
        if outputs != 1:
            raise GradevalError(f"loss 'logistic' needs a head with 1 output, found {outputs}.")
        if targets.ndim != 1 or not bool((targets.abs() == 1).all()):
            raise GradevalError(f"loss 'logistic' needs one target per point, each -1 or 1; found {_found(targets)}.")
    elif name in ("squared", "bernoulli"):
        if targets.shape[1:] != (outputs,):
            raise GradevalError(
                f"loss '{name}' needs targets of shape [points, {outputs}], found {list(targets.shape)}."
            )
        if name == "bernoulli" and not bool(((targets >= 0) & (targets <= 1)).all()):
            low, high = float(targets.min()), float(targets.max())
            raise GradevalError(f"loss 'bernoulli' needs targets from 0 to 1, found {low:g} to {high:g}.")
    elif name == "cross-entropy":
        classes = set(targets.flatten().tolist())
        if targets.ndim != 1 or not classes <= set(range(outputs)):
            raise GradevalError(
                f"loss 'cross-entropy' needs one class number from 0 to {outputs - 1} per point; "
                f"found {_found(targets)}."
            )


def _found(targets: Tensor) -> str:
    """The shape of targets, or a few of their values."""
    if targets.ndim != 1:
        return f"the shape {list(targets.shape)}"
    values = [f"{value:g}" for value in targets.unique().tolist()]
    return ", ".join(values[:5]) + ", …" * (len(values) > 5)
