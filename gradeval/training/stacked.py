"""Training runs side by side: their parameters are rows of one matrix, and one step of all is one vectorised call.

A run follows from the task, the estimator, its seed and its rate: its initial parameters, the order of its data and its
chance are named by seed and epoch, never carried on from a stream. So runs may be stacked in any way, and training that
was stopped after an epoch is resumed to the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call, vmap

from gradeval.errors import GradevalError, estimator_error, unknown_name
from gradeval.estimators import Estimator
from gradeval.estimators.protocol import fit, learns
from gradeval.isolation import alone
from gradeval.model.randomness import GivenUniforms, derived_seed, generator
from gradeval.problems.tasks import Task, with_parameters
from gradeval.sampling.surrogates import Surrogate
from gradeval.threads import threads_for
from gradeval.torch_private import quiet_vmap
from gradeval.training.optimisers import OPTIMISERS

VECTORISED = 2000  # parameters; a step of a larger network is long enough to be taken for one run after the other


@dataclass(frozen=True)
class Recipe:
    """What the runs of a stack have in common.

    Args:
        task: what is trained on.
        name: of the estimator.
        estimator: one that learns is fitted again to every run at the start of every epoch.
        optimiser: one of `OPTIMISERS`.
        batch: points of a step.

    Raises:
        GradevalError: an unknown optimiser.
    """

    task: Task
    name: str
    estimator: Estimator
    optimiser: str = "sgd"
    batch: int = 10

    def __post_init__(self) -> None:
        if self.optimiser not in OPTIMISERS:
            raise unknown_name("optimiser", self.optimiser, OPTIMISERS)


class RunGradients:
    """An estimator's gradients for many runs: one vectorised call where the estimator allows it, else a loop.

    Args:
        recipe: the task and the estimator.
        seeds: the different seeds of the runs.
        seed_of: for each run, the place of its seed among ``seeds``, [runs].
        theta: the parameters of the runs, [runs, P], at which the estimator is tried out.

    Attributes:
        vectorised: whether a step is one call for all runs.
        fitted: the estimators of the runs, where they are fitted; else empty.

    Raises:
        GradevalError: the estimator fails on the first batch.
    """

    def __init__(self, recipe: Recipe, seeds: Sequence[int], seed_of: Int[Tensor, " runs"], theta: Tensor) -> None:
        self.name, self.estimator, self.problem = recipe.name, recipe.estimator, recipe.task.train
        self.seeds, self.seed_of = seeds, seed_of
        network = self.problem.network
        self.dtype, self.device = network.dtype, network.device
        self.surrogate = Surrogate(self.problem, self.estimator)
        self.shapes = [(key, p.shape) for key, p in self.surrogate.trainable().items()]
        self.sizes = [math.prod(shape) for _, shape in self.shapes]
        self.fitted: list[Estimator] = []
        self._counting = generator(self.device, "count")  # how many numbers an estimator takes is counted with it
        self._numbers: dict[int, int] = {}
        self.vectorised = not learns(self.estimator) and theta.shape[1] <= VECTORISED
        points = min(recipe.batch, self.problem.points)
        with threads_for(theta.numel() * points):
            self._try_out(theta, points)

    def _try_out(self, theta: Tensor, points: int) -> None:
        """Make one step's gradients; decides whether they are vectorised."""
        batch = torch.arange(points, device=self.device).expand(len(self.seeds), -1)
        chance = [generator(self.device, "trial", seed) for seed in self.seeds]
        if self.vectorised:
            try:
                with quiet_vmap(), alone():
                    self(theta, batch, chance)
            except GradevalError as error:
                raise estimator_error(self.name, error) from None
            except Exception:
                self.vectorised = False  # the loop raises what is not due to vmap
                chance = [generator(self.device, "trial", seed) for seed in self.seeds]
        if not self.vectorised:
            self.begin_epoch(theta, 0)
            try:
                with alone():
                    self(theta, batch, chance)
            except Exception as error:
                raise estimator_error(self.name, error) from error

    def begin_epoch(self, theta: Float[Tensor, "runs P"], epoch: int) -> None:
        """Fit the estimator to every run, where it is one that learns.

        Args:
            theta: the parameters of the runs, [runs, P].
            epoch: what is learned follows from it and the seed of the run.
        """
        if not learns(self.estimator):
            return
        self.fitted = []
        for run, seed in enumerate(self.seed_of.tolist()):
            problem = with_parameters(self.problem, theta[run])
            self.fitted.append(fit(self.estimator, self.name, problem, self.seeds[seed], epoch).estimator)

    def __call__(
        self,
        theta: Float[Tensor, "runs P"],
        batch: Int[Tensor, "seeds points"],
        chance: Sequence[torch.Generator],
    ) -> Float[Tensor, "runs P"]:
        """Draw the gradient of every run once.

        Args:
            theta: the parameters of the runs, [runs, P].
            batch: for each seed the points of its step, [seeds, points].
            chance: for each seed a generator.

        Returns:
            The gradients, [runs, P].
        """
        given, which = self._uniforms(batch.shape[1], chance)[self.seed_of], batch[self.seed_of]
        own = theta.detach().clone().requires_grad_()  # an estimator may write to it
        inputs, targets = self.problem.inputs[which], self.problem.targets[which]
        if self.vectorised:
            values = vmap(self._value, randomness="different")(own, inputs, targets, given)
        else:
            each = []
            for run in range(len(own)):
                if self.fitted:
                    self.surrogate.estimator = self.fitted[run]
                each.append(self._value(own[run], inputs[run], targets[run], given[run]))
            values = torch.stack(each)
        (gradient,) = torch.autograd.grad(values.sum(), own)
        for what, new, old in (
            ("network's parameters", own, theta),
            ("data (inputs)", inputs, self.problem.inputs[which]),
            ("data (targets)", targets, self.problem.targets[which]),
        ):
            if not torch.equal(new.nan_to_num(), old.nan_to_num()):  # a run that has diverged has NaN
                raise GradevalError(f"writes to the {what}")
        return gradient

    def _value(self, theta: Tensor, inputs: Tensor, targets: Tensor, given: Tensor) -> Tensor:
        pieces = zip(self.shapes, theta.split(self.sizes), strict=True)
        parameters = {name: piece.view(shape) for (name, shape), piece in pieces}
        chance = GivenUniforms(given, self._counting, self.dtype)
        return functional_call(self.surrogate, parameters, (inputs, targets, chance)).mean()

    def _uniforms(self, points: int, generators: Sequence[torch.Generator]) -> Float[Tensor, "seeds numbers"]:
        """For each seed, as many uniform numbers as the estimator takes for so many points."""
        if points not in self._numbers:
            counting = GivenUniforms(torch.empty(0, dtype=self.dtype, device=self.device), self._counting, self.dtype)
            with torch.no_grad():
                if self.fitted:
                    self.surrogate.estimator = self.fitted[0]
                self.surrogate(self.surrogate.inputs[:points], self.surrogate.targets[:points], counting)
            self._numbers[points] = counting.taken
        shape = (self._numbers[points],)
        draws = [torch.rand(shape, generator=g, dtype=self.dtype, device=self.device) for g in generators]
        return torch.stack(draws).clamp(min=2.0**-54)  # an exact 0 would be an infinite noise


class Stack:
    """Runs of one estimator, one for each pair of a seed and a rate.

    Args:
        recipe: what they have in common.
        seeds: of every run, [runs].
        rates: the learning rate of every run, [runs].

    Attributes:
        theta: parameters, [runs, P].
        epoch: epochs done.
        gradients: makes the gradients of a step.

    Raises:
        GradevalError: an estimator that fails on the first batch.

    Examples:
        >>> from gradeval.estimators import get_estimator
        >>> from gradeval.problems.catalogue import load_task
        >>> task = load_task("expclass", units="2", points=20)
        >>> stack = Stack(Recipe(task, "st", get_estimator("st")), seeds=[0, 1], rates=[0.1, 0.1])
        >>> stack.train_epoch()
        >>> stack.epoch, tuple(stack.theta.shape)
        (1, (2, 9))
    """

    def __init__(self, recipe: Recipe, seeds: Sequence[int], rates: Sequence[float]) -> None:
        self.recipe = recipe
        self.seeds = list(dict.fromkeys(seeds))
        network = recipe.task.train.network
        self.device = network.device
        seed_of = torch.tensor([self.seeds.index(seed) for seed in seeds], device=self.device)
        self.rates = torch.tensor(list(rates), dtype=network.dtype, device=self.device)
        start = torch.stack([recipe.task.initial_parameters(seed) for seed in self.seeds])
        self.theta = start[seed_of].clone()
        self.update, kept = OPTIMISERS[recipe.optimiser]
        self.state = [torch.zeros_like(self.theta) for _ in range(kept)]
        self.epoch = 0
        self.gradients = RunGradients(recipe, self.seeds, seed_of, self.theta)

    def train_epoch(self) -> None:
        """Pass over the training points once, in an order and with chance named by seed and epoch.

        Raises:
            GradevalError: the estimator raises, or gives what is no gradient.
        """
        points = self.recipe.task.train.points
        size = min(self.recipe.batch, points)
        orders = [torch.randperm(points, generator=generator("cpu", "order", s, self.epoch)) for s in self.seeds]
        order = torch.stack(orders).to(self.device)
        chance = [generator(self.device, "chance", seed, self.epoch) for seed in self.seeds]
        work = self.theta.numel() * size
        if not self.gradients.vectorised:
            with threads_for(work):
                self.gradients.begin_epoch(self.theta, self.epoch)
        names = self.recipe.name, *self.seeds, self.epoch
        steps = self.epoch * -(-points // size)
        try:
            with threads_for(work), quiet_vmap(), alone(derived_seed(*names, "the process")):
                for index, batch in enumerate(order.split(size, dim=1), 1):
                    gradient = self.gradients(self.theta, batch, chance)
                    self.update(self.theta, gradient, self.rates, self.state, steps + index)
            self.gradients.surrogate.check_untouched()
        except Exception as error:
            raise estimator_error(self.recipe.name, error) from error
        self.epoch += 1

    def saved(self) -> dict[str, Any]:
        """Copy all that `restore` needs.

        Returns:
            The epoch, the parameters and the optimiser's state.
        """
        return {"epoch": self.epoch, "theta": self.theta.clone(), "state": [s.clone() for s in self.state]}

    def restore(self, saved: dict[str, Any]) -> None:
        """Resume where `saved` was called.

        Args:
            saved: what it returned.
        """
        self.epoch = saved["epoch"]
        self.theta = saved["theta"].to(self.device)
        self.state = [s.to(self.device) for s in saved["state"]]
