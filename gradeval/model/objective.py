"""Objectives f of a problem that depend on more than the head's output and the target: they are bound to a network.

A plain loss, (output, target) -> [..., points], sees nothing but the head's output. An *objective* is an object with a
method ``bind``, which is given a network, the inputs and the targets, and returns f as a function of the last layer's
states. So f may depend on any of the network's parameters, and on the inputs; f's direct gradient in these parameters
is a part of ∇J.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from gradeval.model.head_loss import PointLoss
from gradeval.model.network import StochasticBinaryNetwork


@runtime_checkable
class Objective(Protocol):
    """An objective: ``bind(network, inputs, targets)`` returns x_L ↦ f(x_L), [..., points, units] -> [..., points].

    `bind` must use the network that it is given, which is a copy in most calls, and nothing of another one. It is
    called once for each draw. Each point's f may depend on its own input and target only.

    Examples:
        >>> import gradeval, torch
        >>> class Penalised:
        ...     def bind(self, network, inputs, targets):
        ...         a = network.layers[-1].preactivation(inputs)
        ...         return lambda x: (network.head(x).squeeze(-1) - targets) ** 2 + 0.1 * (a**2).sum(-1)
        >>> network = gradeval.StochasticBinaryNetwork.linear(2, [3], 1)
        >>> inputs, targets = torch.ones(4, 2), torch.ones(4)
        >>> gradeval.exact_gradient(gradeval.Problem(network, inputs, targets, Penalised())).value
        1.0
    """

    def bind(self, network: StochasticBinaryNetwork, inputs: Tensor, targets: Tensor) -> PointLoss:
        """f as a function of the last layer's states.

        Args:
            network: whose parameters f depends on.
            inputs: x⁰ of some points, [points, inputs].
            targets: of the same points, [points] or [points, outputs].

        Returns:
            x_L ↦ f(x_L), [..., points, units] -> [..., points].
        """
        raise NotImplementedError


@dataclass(frozen=True)
class WithConstant:
    """f(x_L) = varying(x_L) + constant, where the constant depends on parameters but not on the states.

    An estimator is run on the varying part alone, and the constant is added to what it returns: its value, and its
    gradient, which has no noise. (To call an estimator with the sum is right, too, but a score function would then have
    the constant for a factor.)

    Args:
        varying: x_L ↦ [..., points].
        constant: of every point, [points].
    """

    varying: PointLoss
    constant: Tensor

    def __call__(self, x: Float[Tensor, "*batch points units"]) -> Float[Tensor, "*batch points"]:
        return self.varying(x) + self.constant


def split_constant(loss: PointLoss) -> tuple[PointLoss, Tensor | None]:
    """The part of a loss that an estimator is run on, and the rest.

    Args:
        loss: of a problem, see `Problem.loss_function`.

    Returns:
        The varying part and the constant, [points]; of all but a `WithConstant` the loss itself and None.
    """
    return (loss.varying, loss.constant) if isinstance(loss, WithConstant) else (loss, None)


def loss_title(loss: object) -> str:
    """What a loss is called in reports.

    Args:
        loss: the name of a loss, a function, or an objective.

    Returns:
        Its name; of an object its class's.

    Examples:
        >>> loss_title("squared"), loss_title(max)
        ('squared', 'max')
    """
    if isinstance(loss, str):
        return loss
    text = repr(loss)
    return str(getattr(loss, "__name__", type(loss).__name__ if " at 0x" in text else text))


def loss_identity(loss: object) -> str:
    """What a loss is known by in a problem's fingerprint.

    Args:
        loss: the name of a loss, a function, or an object.

    Returns:
        The name, or where the code is; of an object also its settings.

    Examples:
        >>> loss_identity("squared"), loss_identity(loss_title)
        ('squared', 'gradeval.model.objective:loss_title')
    """
    if isinstance(loss, str):
        return loss
    if isinstance(loss, functools.partial):
        return f"partial {loss_identity(loss.func)}|{_setting(loss.args)}|{_setting(loss.keywords)}"
    code: Any = loss if hasattr(loss, "__qualname__") else type(loss)
    where = f"{code.__module__}:{code.__qualname__}"
    return where if code is loss else f"{where}|{_setting(getattr(loss, '__dict__', {}))}"


def _setting(value: object) -> str:
    """A text that tells settings apart, in any process."""
    if isinstance(value, Tensor):
        number = value.detach().cpu().contiguous()
        return f"{number.dtype}{list(number.shape)}{hashlib.sha256(number.numpy().tobytes()).hexdigest()}"
    if isinstance(value, nn.Module):
        return f"{type(value).__qualname__}{_setting(dict(value.state_dict()))}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_setting(value[key])}" for key in sorted(value, key=str)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_setting, value)) + "]"
    if isinstance(value, Callable):  # type: ignore[arg-type]
        return loss_identity(value)
    text = repr(value)
    return text if " at 0x" not in text else loss_identity(value)
