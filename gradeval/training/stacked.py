"""Training runs side by side: their parameters are rows of one matrix, and one step of all is one vectorised call.

A run follows from the task, the estimator, its seed and its rate: its initial parameters, the order of its data and its
chance are named by seed and epoch, never carried on from a stream. So runs may be stacked in any way, and training that
was stopped after an epoch goes on to the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, vmap

from gradeval.errors import GradevalError, estimator_error, unknown_name
from gradeval.estimators import Estimator
from gradeval.estimators.protocol import fit, learns
from gradeval.model.problem import Problem
from gradeval.model.randomness import GivenUniforms, generator
from gradeval.problems.tasks import Task
from gradeval.sampling.surrogates import Surrogate
from gradeval.torch_private import quiet_vmap

MOMENTUM = 0.9
BETAS, EPSILON = (0.9, 0.999), 1e-8

VECTORISED = 2000  # parameters; a step of a larger network is long enough to be taken for one run after the other

Update = Callable[[Tensor, Tensor, Tensor, list[Tensor], int], None]


def sgd(theta: Tensor, gradient: Tensor, rates: Tensor, state: list[Tensor], step: int) -> None:
    """v ← 0.9 v + g, θ ← θ − rate · v, in place. Source: Polyak 1964, doi:10.1016/0041-5553(64)90137-5."""
    (velocity,) = state
    velocity.mul_(MOMENTUM).add_(gradient)
    theta.sub_(rates[:, None] * velocity)


def adam(theta: Tensor, gradient: Tensor, rates: Tensor, state: list[Tensor], step: int) -> None:
    """m, v ← moving means of g and g², θ ← θ − rate · m̂/(√v̂ + ε). Source: Kingma & Ba, ICLR 2015, arXiv:1412.6980."""
    (first, second), (beta1, beta2) = state, BETAS
    first.lerp_(gradient, 1 - beta1)
    second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    mean, square = first / (1 - beta1**step), second / (1 - beta2**step)
    theta.sub_(rates[:, None] * mean / (square.sqrt() + EPSILON))


OPTIMISERS: dict[str, tuple[Update, int]] = {"sgd": (sgd, 1), "adam": (adam, 2)}
"""The update of every optimiser, and how many tensors like the parameters it keeps."""


class Stack:
    """Runs of one estimator, one for each pair of a seed and a rate.

    Args:
        task: what is trained on.
        name, estimator: the estimator; one with a ``fit`` is fitted anew to every run at the start of every epoch.
        optimiser: "sgd" (momentum 0.9) or "adam".
        batch: points of a step.
        seeds, rates: of every run.

    Attributes:
        theta: parameters, [runs, P].
        epoch: epochs done.
        vectorised: whether a step is one call for all runs, else a loop over them.

    Raises:
        GradevalError: an unknown optimiser, or an estimator that fails on the first batch.
    """

    def __init__(
        self,
        task: Task,
        name: str,
        estimator: Estimator,
        optimiser: str,
        batch: int,
        seeds: Sequence[int],
        rates: Sequence[float],
    ) -> None:
        if optimiser not in OPTIMISERS:
            raise unknown_name("optimiser", optimiser, OPTIMISERS)
        self.problem = task.train
        self.name, self.estimator = name, estimator
        self.update, kept = OPTIMISERS[optimiser]
        self.batch = min(batch, task.train.points)
        self.seeds = list(dict.fromkeys(seeds))
        network = task.train.network
        self.dtype, self.device = network.dtype, network.device
        self.seed_of = torch.tensor([self.seeds.index(seed) for seed in seeds], device=self.device)
        self.rates = torch.tensor(list(rates), dtype=self.dtype, device=self.device)
        start = torch.stack([task.initial_parameters(seed) for seed in self.seeds])
        self.theta = start[self.seed_of].clone()
        self.state = [torch.zeros_like(self.theta) for _ in range(kept)]
        self.epoch = 0
        self.surrogate = Surrogate(task.train, estimator)
        shapes = [(f"network.{key}", p.shape) for key, p in network.named_parameters()]
        self.shapes, self.sizes = shapes, [math.prod(shape) for _, shape in shapes]
        self.fitted: list[Estimator] = []
        self._counting = generator(self.device, "count")  # what an estimator takes is counted with it
        self._numbers: dict[int, int] = {}
        self.vectorised = not learns(estimator) and self.theta.shape[1] <= VECTORISED
        if self.vectorised:
            try:
                with quiet_vmap():
                    self._gradient(*self._trial())
            except GradevalError as error:
                raise estimator_error(name, error) from None
            except (RuntimeError, ValueError, TypeError, NotImplementedError):
                self.vectorised = False  # the loop raises what is not due to vmap
        if not self.vectorised:
            self._fit()
            try:
                self._gradient(*self._trial())
            except Exception as error:
                raise estimator_error(name, error) from error

    @property
    def runs(self) -> int:
        """Number of runs."""
        return len(self.theta)

    def train_epoch(self) -> None:
        """One pass over the training points, in an order and with chance named by seed and epoch."""
        points = self.problem.points
        orders = [torch.randperm(points, generator=generator("cpu", "order", s, self.epoch)) for s in self.seeds]
        order = torch.stack(orders).to(self.device)
        chance = [generator(self.device, "chance", seed, self.epoch) for seed in self.seeds]
        if not self.vectorised:
            self._fit()
        steps = self.epoch * -(-points // self.batch)
        with quiet_vmap():
            for index, batch in enumerate(order.split(self.batch, dim=1), 1):
                try:
                    gradient = self._gradient(batch, self._uniforms(batch.shape[1], chance))
                except Exception as error:
                    raise estimator_error(self.name, error) from error
                self.update(self.theta, gradient, self.rates, self.state, steps + index)
        self.epoch += 1

    def parameters(self, run: int) -> Float[Tensor, " P"]:
        """The parameters of one run."""
        return self.theta[run]

    def saved(self) -> dict[str, Any]:
        """All that a later `restore` needs."""
        return {"epoch": self.epoch, "theta": self.theta.clone(), "state": [s.clone() for s in self.state]}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on where `saved` was called."""
        self.epoch = saved["epoch"]
        self.theta = saved["theta"].to(self.device)
        self.state = [s.to(self.device) for s in saved["state"]]

    def _gradient(self, batch: Int[Tensor, "seeds points"], given: Float[Tensor, "seeds numbers"]) -> Tensor:
        """The estimator's gradient of every run, [runs, P]."""
        inputs, targets = self.problem.inputs[batch], self.problem.targets[batch]
        theta = self.theta.detach().requires_grad_()
        if self.vectorised:
            which = self.seed_of
            values = vmap(self._value, randomness="different")(theta, inputs[which], targets[which], given[which])
        else:
            each = []
            for run, seed in enumerate(self.seed_of.tolist()):
                if self.fitted:
                    self.surrogate.estimator = self.fitted[run]
                each.append(self._value(theta[run], inputs[seed], targets[seed], given[seed]))
            values = torch.stack(each)
        (gradient,) = torch.autograd.grad(values.sum(), theta)
        return gradient

    def _value(self, theta: Tensor, inputs: Tensor, targets: Tensor, given: Tensor) -> Tensor:
        pieces = zip(self.shapes, theta.split(self.sizes), strict=True)
        parameters = {name: piece.view(shape) for (name, shape), piece in pieces}
        chance = GivenUniforms(given, self._counting, self.dtype)
        return functional_call(self.surrogate, parameters, (inputs, targets, chance)).mean()

    def _uniforms(self, points: int, generators: Sequence[torch.Generator]) -> Float[Tensor, "seeds numbers"]:
        if points not in self._numbers:
            counting = GivenUniforms(torch.empty(0, dtype=self.dtype, device=self.device), self._counting, self.dtype)
            with torch.no_grad():
                if self.fitted:
                    self.surrogate.estimator = self.fitted[0]
                self.surrogate(self.problem.inputs[:points], self.problem.targets[:points], counting)
            self._numbers[points] = counting.taken
        shape = (self._numbers[points],)
        draws = [torch.rand(shape, generator=g, dtype=self.dtype, device=self.device) for g in generators]
        return torch.stack(draws).clamp(min=2.0**-54)  # an exact 0 would be an infinite noise

    def _trial(self) -> tuple[Tensor, Tensor]:
        batch = torch.arange(self.batch, device=self.device).expand(len(self.seeds), -1)
        chance = [generator(self.device, "trial", seed) for seed in self.seeds]
        return batch, self._uniforms(self.batch, chance)

    def _fit(self) -> None:
        """Fit the estimator to every run where it has to be fitted."""
        if not learns(self.estimator):
            return
        self.fitted = []
        for run, seed in enumerate(self.seed_of.tolist()):
            network = self.surrogate.network
            nn.utils.vector_to_parameters(self.theta[run], network.parameters())
            problem = Problem(network, self.problem.inputs, self.problem.targets, self.problem.loss)
            self.fitted.append(fit(self.estimator, self.name, problem, self.seeds[seed], self.epoch).estimator)
