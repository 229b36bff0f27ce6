"""What is claimed of a built-in estimator, as data: read without importing torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Chance(StrEnum):
    """What an estimator asks of its `gradeval.model.randomness.Randomness`."""

    NONE = "none"
    BERNOULLI = "bernoulli"
    """Bernoulli states only, so that all of them can be enumerated."""
    CONTINUOUS = "continuous"
    """Uniform or normal variables or noise, with or without Bernoulli states."""


@dataclass(frozen=True)
class Count:
    """A number of evaluations per draw and data point: a formula for people, and the same as a function.

    Args:
        text: a Python expression of L, the number of layers; n, the list of their widths; K, the samples.
        number: its value, of (L, n, K).

    Examples:
        >>> count = Count("K * L", lambda L, n, K: K * L)
        >>> str(count), count.number(3, [5, 5, 5], 4)
        ('K * L', 12)
    """

    text: str
    number: Callable[[int, Sequence[int], int], int]

    def __str__(self) -> str:
        return self.text


ONE = Count("1", lambda L, n, K: 1)
LAYERS = Count("L", lambda L, n, K: L)


ONE_PATH = "one sampled path"
SAMPLES, ENDS_OF_PATHS = "mean of K sampled paths", "mean over the ends of all paths"
DIFFERENT_STATES = "weighted mean of paths with different states"
FLIPS = "mean over flips of every unit"
ANY_LOSS = "any"
RELAXED, NORMAL_SAMPLE = "relaxed states", "one normal sample of the states"


@dataclass(frozen=True)
class Facts:
    """What is claimed of a built-in estimator; the conformance tests check it.

    Attributes:
        name: the name users write.
        target: "module:class" of the frozen dataclass, below gradeval.estimators.
        unbiased: whether E[gradient] = ∇J is claimed.
        differentiable: whether f must be differentiable in the last layer's states.
        randomness: what it asks of chance.
        source: where it was published.
        defaults: its hyper-parameters as a spec would give them.
        layer_evaluations: how often one draw evaluates a layer, per data point.
        loss_evaluations: how often one draw evaluates the loss, per data point.
        aliases: other names that users may write.
        fitted: whether `fit(problem, seed)` must learn something first; `gradeval.evaluate` does it.
        head: what its gradient of the head is taken at; only with `ONE_PATH` has it REINFORCE's variance.
        loss: the losses that it is defined for.
    """

    name: str
    target: str
    unbiased: bool
    differentiable: bool
    randomness: Chance
    source: str
    defaults: str = ""
    layer_evaluations: Count = LAYERS
    loss_evaluations: Count = ONE
    aliases: tuple[str, ...] = ()
    fitted: bool = False
    head: str = ONE_PATH
    loss: str = ANY_LOSS

    def evaluations(self, widths: Sequence[int], samples: int = 0) -> tuple[int, int]:
        """How often one draw evaluates a layer and the loss, per data point, where all maps are linear.

        Args:
            widths: the number of units of each layer.
            samples: the estimator's number of samples K, where it has one.

        Returns:
            The evaluations of a layer, and of the loss.

        Examples:
            >>> from gradeval.estimators import TABLE
            >>> TABLE["ram"].evaluations([5, 5, 5])
            (18, 16)
        """
        layers, losses = self.layer_evaluations, self.loss_evaluations
        return layers.number(len(widths), widths, samples), losses.number(len(widths), widths, samples)

    def as_data(self) -> dict[str, Any]:
        """The facts by name, for JSON; each count as its formula.

        Returns:
            One entry for every attribute, in their order.
        """
        values = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {name: str(value) if isinstance(value, Count) else value for name, value in values}
