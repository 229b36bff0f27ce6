"""An estimator made of foreign code that samples and calls backward itself."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradeval.errors import GradevalError
from gradeval.estimators.surrogate import carry
from gradeval.model.head_loss import PointLoss
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.randomness import Randomness


@dataclass(frozen=True)
class Foreign:
    """Code that owns its sampling, as an estimator: the gradients it leaves in ``.grad`` are the estimate.

    It is drawn in a loop. While it runs, torch's global generator is seeded from the draw's randomness and put back
    afterwards, so that its draws follow from the seed; other sources of chance (numpy, random) are its own affair. Code
    that takes no chance from any of these is noticed: one draw of it is enough.

    Args:
        sample: ``sample(network, inputs, loss)`` makes one draw: it adds the gradient of the mean over points to the
            ``.grad`` of the network's parameters (by calling ``backward``) and returns its estimate of the
            loss, a number or [points]. ``loss(x)`` maps the last layer's states, [..., points, units] to [..., points].
        unbiased: whether this is claimed.
        repeats: K: ``sample`` gets every data point so many times, and a draw is the mean of K. This pays where
            a call takes long whatever the number of points; the variance of a draw is then K times smaller. The code
            must treat points as independent: a baseline over the points would see the repeated ones.
        dtype: of the network, the inputs and the states that ``sample`` works with, where that is not the network's;
            it then gets a copy, and the loss is computed in the network's precision.

    Raises:
        GradevalError: ``repeats`` is below 1; ``sample`` leaves no gradient at all, or returns no estimate of the loss.
    """

    sample: Callable[[StochasticBinaryNetwork, Tensor, PointLoss], Any]
    unbiased: bool = False
    repeats: int = 1
    dtype: torch.dtype | None = None
    _lock: Any = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    owns_sampling = True  # so that nobody tries to vectorise it

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise GradevalError(f"Foreign: repeats must be at least 1, found {self.repeats}.")

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        theirs = network if self.dtype is None else deepcopy(network).to(self.dtype)
        # the loss is that of the network, also where the code works with a copy
        holders = [(p, copy) for p, copy in zip(network.parameters(), theirs.parameters(), strict=True)]
        if self.dtype is not None:
            holders += [(p, p) for p in network.parameters()]
        for _, holder in holders:
            holder.grad = None
        devices = [] if network.device.type == "cpu" else [network.device]
        with self._lock, torch.random.fork_rng(devices=devices), torch.enable_grad():  # generators are the process's
            value = self._draw(theirs, inputs, loss, randomness)
        taken = [(p, _taken(holder)) for p, holder in holders]
        pairs = [(p, gradient.to(p.dtype)) for p, gradient in taken if gradient is not None]
        if not pairs:
            raise GradevalError("left no gradient in .grad of the network's parameters: it must call backward itself")
        try:
            value = torch.as_tensor(value, dtype=network.dtype, device=network.device).detach()
            value = value.expand(self.repeats * len(inputs)).reshape(self.repeats, -1).mean(0)
        except (TypeError, RuntimeError, ValueError):
            points = self.repeats * len(inputs)
            raise GradevalError(
                f"must return its estimate of the loss, a number or [{points}]; returned {type(value).__name__}"
            ) from None
        return value + carry(torch.stack([(p * g).sum() for p, g in pairs]).sum())

    def _draw(
        self, network: StochasticBinaryNetwork, inputs: Tensor, point_loss: PointLoss, randomness: Randomness
    ) -> Any:
        """Run ``sample`` with torch's generator seeded; randomness is unused again where no chance was taken."""

        def loss(x: Tensor) -> Tensor:  # a plain function: libraries ask for its name
            states = x.to(dtype).unflatten(-2, (self.repeats, -1))
            return point_loss(states).flatten(-2).to(x.dtype)

        dtype = inputs.dtype if inputs.is_floating_point() else network.dtype
        used = getattr(randomness, "used", True)
        seed = int(randomness.uniform([1]).item() * 2**53)
        if network.device.type == "cpu":
            torch.default_generator.manual_seed(seed)
        else:  # this one keeps, for every accelerator that is not in use, a list of all calls
            torch.manual_seed(seed)
        before = None if used else _chance_states()
        given = inputs.to(self.dtype or inputs.dtype).repeat(self.repeats, *[1] * (inputs.ndim - 1))
        value = self.sample(network, given, loss)
        if before is not None and before == _chance_states():
            randomness.used = False  # type: ignore[attr-defined]
        return value


def _taken(parameter: nn.Parameter) -> Tensor | None:
    """The gradient in ``.grad``, taken out of it, and off the graph that backward(create_graph=True) leaves there."""
    gradient, parameter.grad = parameter.grad, None
    return None if gradient is None else gradient.detach()


def _chance_states() -> tuple[object, ...]:
    """The states of the process's own generators."""
    numbers: Any = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), numbers[1].tobytes(), numbers[2], random.getstate()
