"""An estimator made of foreign code that samples and calls backward itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.errors import GradevalError
from gradeval.estimators.surrogate import carry
from gradeval.model.head_loss import PointLoss
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.randomness import Randomness


@dataclass(frozen=True)
class Foreign:
    """Code that owns its sampling, as an estimator: the gradients it leaves in ``.grad`` are the estimate.

    It is drawn in a loop. While it runs, torch's global generator is seeded from the draw's randomness and put back
    afterwards, so that its draws follow from the seed; other sources of chance (numpy, random) are its own affair.

    Args:
        sample: ``sample(network, inputs, loss)`` makes one draw: it adds the gradient of the mean over points to the
            ``.grad`` of the network's parameters (by calling ``backward``) and returns its estimate of the
            loss, a number or [points]. ``loss(x)`` maps the last layer's states, [..., points, units] to [..., points].
        unbiased: whether this is claimed.

    Raises:
        GradevalError: ``sample`` leaves no gradient at all, or returns no estimate of the loss.
    """

    sample: Callable[[StochasticBinaryNetwork, Tensor, PointLoss], Any]
    unbiased: bool = False
    _lock: Any = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    owns_sampling = True  # so that nobody tries to vectorise it

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        seed = int(randomness.uniform([1]).item() * 2**53)
        parameters = list(network.parameters())
        with self._lock, torch.random.fork_rng(devices=[]), torch.enable_grad():  # the generator is the process's
            torch.manual_seed(seed)
            for parameter in parameters:
                parameter.grad = None
            value = self.sample(network, inputs, loss)
        gradients = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        if all(gradient is None for gradient in gradients):
            raise GradevalError("left no gradient in .grad of the network's parameters: it must call backward itself")
        try:
            value = torch.as_tensor(value, dtype=network.dtype).detach().expand(len(inputs))
        except (TypeError, RuntimeError, ValueError):
            raise GradevalError(
                f"must return its estimate of the loss, a number or [{len(inputs)}]; returned {type(value).__name__}"
            ) from None
        pairs = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
        return value + carry(torch.stack([(p * g).sum() for p, g in pairs]).sum())
