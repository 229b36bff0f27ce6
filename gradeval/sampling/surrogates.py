"""An estimator as a module: the one way in which gradeval runs a surrogate, on copies of a network and its data."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from gradeval.errors import GradevalError
from gradeval.isolation import in_turn
from gradeval.model.objective import split_constant
from gradeval.model.problem import Problem, own_copy
from gradeval.model.randomness import EnumeratedStates, Randomness
from gradeval.torch_private import named_modules_of, times_written


class Surrogate(nn.Module):
    """An estimator's surrogate as a function of a network's parameters, for `torch.func.functional_call`.

    Args:
        problem: its network and data are copied; its loss is used.
        estimator: called with the copies. It may be exchanged.

    Attributes:
        network: the copy.
        inputs, targets: copies of the data.
        problem: the problem.
        estimator: the estimator.

    Examples:
        >>> from gradeval import load_problem
        >>> from gradeval.estimators import get_estimator
        >>> from gradeval.model.randomness import RandomDraws, generator
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> surrogate = Surrogate(problem, get_estimator("st"))
        >>> surrogate(surrogate.inputs, surrogate.targets, RandomDraws(generator("cpu", "an example"))).shape
        torch.Size([4])
    """

    def __init__(self, problem: Problem, estimator: Callable[..., Tensor]) -> None:
        super().__init__()
        own = own_copy(problem)
        self.network, self.inputs, self.targets = own.network, own.inputs, own.targets
        _separate(self.network)
        self._written = times_written(self.inputs), times_written(self.targets)
        self.problem = problem
        self.estimator = estimator

    def forward(
        self, inputs: Shaped[Tensor, "points *inputs"], targets: Shaped[Tensor, "points *outputs"], chance: Randomness
    ) -> Float[Tensor, " points"]:
        """Draw once.

        Args:
            inputs: x⁰ of some points, [points, inputs].
            targets: of the same points, [points] or [points, outputs].
            chance: where all chance comes from.

        Returns:
            What the estimator returns for each point; its gradient is the estimate.

        Raises:
            GradevalError: the estimator returned something else than one number per point.
        """
        with in_turn():
            loss, constant = split_constant(self.problem.loss_function(self.network, targets, inputs))
            value = self.estimator(self.network, inputs, loss, chance)
        if not isinstance(value, Tensor) or value.shape != (len(inputs),):
            found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise GradevalError(f"must return one surrogate per point, [{len(inputs)}], returned {found}.")
        return value if constant is None else value + constant

    def trainable(self) -> dict[str, nn.Parameter]:
        """The network's trainable parameters.

        Returns:
            Each by its name in this module.
        """
        return {f"network.{name}": parameter for name, parameter in self.network.trainable().items()}

    def check_untouched(self) -> None:
        """Refuse an estimator that has written to the copies of the network or the data.

        Raises:
            GradevalError: it has; the message lacks its subject.
        """
        problem, before = self.problem, self.problem.network.state_dict()
        for name, old, new in (("inputs", problem.inputs, self.inputs), ("targets", problem.targets, self.targets)):
            if not torch.equal(old, new):
                raise GradevalError(f"writes to the data ({name})")
        # perhaps twice, so that nothing is left to see
        if (times_written(self.inputs), times_written(self.targets)) != self._written:
            raise GradevalError("writes to the data and puts them back")
        for name, new in self.network.state_dict().items():
            if not torch.equal(before[name], new):
                raise GradevalError(f"writes to the network's parameters ({name})")


def weighted_gradients(
    surrogate: Surrogate, rows: Float[Tensor, "rows bits"], chance_of: Callable[[Tensor], EnumeratedStates]
) -> tuple[Float[Tensor, "rows points P"], Float[Tensor, "rows points"], Tensor]:
    """Run an estimator at every data point on many joint states, scaled so that plain products are weighted moments.

    Args:
        surrogate: of the estimator.
        rows: joint states, or what they are made from, [rows, bits].
        chance_of: the chance that a row stands for; its weight is w.

    Returns:
        √w times the gradient, [rows, points, P], √w times the value, and w, which broadcasts to [rows, points].
    """
    problem = surrogate.problem
    dtype, device = problem.network.dtype, problem.network.device
    parameters = {name: p.detach() for name, p in surrogate.trainable().items()}

    def one(row: Tensor, x: Tensor, y: Tensor) -> Any:
        chance = chance_of(row)

        def scaled(parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            value = functional_call(surrogate, parameters, (x[None], y[None], chance)).squeeze(0)
            weight = torch.as_tensor(chance.weight, dtype=dtype, device=device).detach()
            return torch.where(weight > 0, value, 0.0) * weight.sqrt(), weight

        return grad_and_value(scaled, has_aux=True)(parameters)

    over_points = vmap(one, in_dims=(None, 0, 0), randomness="different")
    over_rows = vmap(over_points, in_dims=(0, None, None), randomness="different")
    with in_turn():
        gradients, (values, weights) = over_rows(rows, surrogate.inputs, surrogate.targets)
    flat = torch.cat([g.reshape(len(rows), problem.points, -1) for g in gradients.values()], -1)
    return flat, values, weights


def _separate(network: nn.Module) -> None:
    """Give every place a module of its own where one stands in several; their parameters stay shared.

    `functional_call` puts the parameters of a module that it meets twice back only once.
    """
    met: set[nn.Module] = set()
    waiting = [network]
    while waiting:
        parent = waiting.pop()
        for name, child in named_modules_of(parent):
            if child in met:
                shared = {id(tensor): tensor for tensor in (*child.parameters(), *child.buffers())}
                child = deepcopy(child, shared)
                parent.register_module(name, child)
            met.add(child)
            waiting.append(child)
