"""A task: problems for training, validation and test that share one network, and its initial parameters by seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.problem import Problem, with_network
from gradeval.model.randomness import RandomDraws, generator

Initialise = Callable[[StochasticBinaryNetwork, Tensor, int], None]
"""Fills a network's parameters in place from the training inputs and a seed."""

INITIAL_POINTS = 1000  # enough for the means and deviations of the first pass


def standardise(network: StochasticBinaryNetwork, inputs: Float[Tensor, "points *inputs"], seed: int) -> None:
    """Random directions, scaled so that every preactivation, and output, has mean 0 and variance 1 on the data.

    Weights of linear maps and convolutions are uniform on [−1, 1]; one pass of the data then sets each unit's, or
    channel's, scale and bias, layer by layer. Other parameters keep their values, and so does a map of which any are
    frozen. A weight that stands in several places is set in the first.

    Args:
        network: whose parameters are set in place.
        inputs: the data, [points, inputs]; the first 1000 points are used.
        seed: the directions, and the states that are drawn in the pass, follow from it.

    Examples:
        >>> network = StochasticBinaryNetwork.linear(2, [3], 1)
        >>> inputs = torch.randn(50, 2, dtype=torch.float64, generator=generator("cpu", 0))
        >>> standardise(network, inputs, seed=0)
        >>> network.layers[0].preactivation(inputs).std(0).round(decimals=6).tolist()
        [1.0, 1.0, 1.0]

    Source: Salimans & Kingma, NeurIPS 2016, arXiv:1602.07868, sec. 3 (data-dependent initialisation).
    """
    random = generator("cpu", "weights", seed)
    chance = RandomDraws(generator(network.device, "states", seed), network.dtype)
    handles = []

    def scale(module: nn.Module, _: object, output: Tensor) -> Tensor:
        assert isinstance(module, nn.Linear | nn.Conv2d)
        channel = output.ndim + (-3 if isinstance(module, nn.Conv2d) else -1)
        others = [axis for axis in range(output.ndim) if axis != channel]
        mean, deviation = output.mean(others), output.std(others)
        deviation = torch.where(deviation > 1e-6, deviation, 1.0)
        module.weight /= deviation.reshape(-1, *[1] * (module.weight.ndim - 1))
        if module.bias is None:
            return output / deviation.reshape(-1, *[1] * (output.ndim - 1 - channel))
        module.bias.copy_(-mean / deviation)
        shape = (-1, *[1] * (output.ndim - 1 - channel))
        return (output - mean.reshape(shape)) / deviation.reshape(shape)

    with torch.no_grad():
        met: set[int] = set()
        for module in network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                if id(module.weight) in met or not all(p.requires_grad for p in module.parameters()):
                    continue
                met.add(id(module.weight))
                weight = 2 * torch.rand(module.weight.shape, generator=random, dtype=network.dtype) - 1
                module.weight.copy_(weight)
                if module.bias is not None:
                    module.bias.zero_()
                handles.append(module.register_forward_hook(scale))
        x = inputs[:INITIAL_POINTS]
        for layer in network.layers:
            x = layer.encode(chance.bernoulli(layer.probability(layer.preactivation(x))))
        network.head(x)
    for handle in handles:
        handle.remove()


@dataclass(frozen=True)
class Task:
    """What is trained on, and what it is judged by.

    Args:
        train: the problem that is trained on; its network's parameters do not matter.
        validation, test: other data with the same network, used for reports only; None where there are none.
        initialise: fills a network with the initial parameters of a seed.
        made: the arguments by which `load_task` makes it again; empty where it was made otherwise.
    """

    train: Problem
    validation: Problem | None = None
    test: Problem | None = None
    initialise: Initialise = standardise
    made: dict[str, Any] = field(default_factory=dict, compare=False)

    def initial_parameters(self, seed: int) -> Float[Tensor, " P"]:
        """Make the network's parameters before training; they are the same for every estimator.

        Args:
            seed: of a run.

        Returns:
            All trainable parameters, flattened in their order, [P].
        """
        network = deepcopy(self.train.network)
        self.initialise(network, self.train.inputs, seed)
        _put_frozen_back(self.train.network, network)
        return nn.utils.parameters_to_vector(network.trainable().values()).detach()

    def fingerprint(self) -> str:
        """A SHA-256 of all data, the network and its initial parameters.

        Returns:
            64 hexadecimal digits.
        """
        digest = hashlib.sha256()
        for name, problem in self.splits.items():
            digest.update(f"{name}|{problem.fingerprint()}".encode())
        digest.update(self.initial_parameters(0).cpu().numpy().tobytes())
        return digest.hexdigest()

    @property
    def splits(self) -> dict[str, Problem]:
        """The problems that there are, by the names "train", "validation" and "test"."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: problem for name, problem in named.items() if problem is not None}


def with_parameters(problem: Problem, theta: Float[Tensor, " P"]) -> Problem:
    """Copy a problem with other parameters of its network.

    Args:
        problem: it is left as it is.
        theta: all trainable parameters, flattened in their order, [P].

    Returns:
        The problem with a copy of its network that has these parameters.
    """
    network = deepcopy(problem.network)
    nn.utils.vector_to_parameters(theta, network.trainable().values())
    return with_network(problem, network)


def _put_frozen_back(source: StochasticBinaryNetwork, network: StochasticBinaryNetwork) -> None:
    """Parameters that do not require a gradient keep their values, whatever `Task.initialise` fills in."""
    with torch.no_grad():
        for old, new in zip(source.parameters(), network.parameters(), strict=True):
            if not old.requires_grad:
                new.copy_(old)
