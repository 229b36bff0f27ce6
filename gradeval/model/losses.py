"""Losses f = loss(output, target), one number per data point; outputs may carry extra leading axes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from gradeval.errors import GradevalError, unknown_name

Loss = Callable[[Tensor, Tensor], Tensor]


def logistic(
    output: Float[Tensor, "*batch points 1"], target: Float[Tensor, " points"]
) -> Float[Tensor, "*batch points"]:
    """log(1 + exp(−y h)) for one output h and targets y ∈ {−1, 1}."""
    return -logsigmoid(target * output.squeeze(-1))


def squared(
    output: Float[Tensor, "*batch points outputs"], target: Float[Tensor, "points outputs"]
) -> Float[Tensor, "*batch points"]:
    """‖h − y‖², summed over the outputs."""
    return ((output - target) ** 2).sum(-1)


def cross_entropy(
    output: Float[Tensor, "*batch points classes"], target: Float[Tensor, " points"]
) -> Float[Tensor, "*batch points"]:
    """−log softmax(h)_y for class numbers y = 0, 1, …"""
    chosen = target.long().expand(1, *output.shape[:-1])
    return (
        -torch.log_softmax(output.movedim(-1, 0), 0).gather(0, chosen).squeeze(0)
    )  # classes first: long rows are fast


LOSSES: dict[str, Loss] = {"logistic": logistic, "squared": squared, "cross-entropy": cross_entropy}


def get_loss(name: str) -> Loss:
    """The loss called ``name``. Raises GradevalError, naming near matches, when there is none."""
    if name not in LOSSES:
        raise unknown_name("loss", name, LOSSES)
    return LOSSES[name]


def check_targets(name: str, targets: Tensor, outputs: int) -> None:
    """Raise GradevalError unless the targets suit the loss ``name`` with this many network outputs."""
    if name == "logistic":
        if outputs != 1:
            raise GradevalError(f"loss 'logistic' needs a head with 1 output, found {outputs}.")
        if targets.ndim != 1 or not bool((targets.abs() == 1).all()):
            raise GradevalError("loss 'logistic' needs one target per point, each -1 or 1.")
    elif name == "squared":
        if targets.shape[1:] != (outputs,):
            raise GradevalError(
                f"loss 'squared' needs targets of shape [points, {outputs}], found {list(targets.shape)}."
            )
    elif name == "cross-entropy":
        classes = set(targets.flatten().tolist())
        if targets.ndim != 1 or not classes <= set(range(outputs)):
            raise GradevalError(f"loss 'cross-entropy' needs one class number from 0 to {outputs - 1} per point.")
