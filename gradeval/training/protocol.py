"""The protocol of a training: what is the same for all estimators."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradeval.arguments import real, several, whole
from gradeval.errors import GradevalError, unknown_name
from gradeval.training.optimisers import OPTIMISERS

OF_SGD, OF_ADAM = (tuple(10 ** (k / 2) for k in exponents) for exponents in (range(-7, 1), range(-8, -1)))
RATES = {"sgd": OF_SGD, "nesterov": OF_SGD, "adam": OF_ADAM, "amsgrad": OF_ADAM, "rprop": OF_ADAM}
"""By optimiser, the learning rates that are tried first: half decades."""


@dataclass(frozen=True)
class Protocol:
    """What is the same for all estimators.

    Args:
        optimiser: "sgd" (momentum 0.9), "nesterov" (0.9), "adam", "amsgrad" or "rprop".
        epochs: of every run.
        seeds: number of runs of each estimator; the seed fixes initial parameters, order of data and chance.
        batch: points of a step.
        rates: learning rates that are tried first; `RATES` if not given. One rate is taken without a search.
        tuning_epochs: of every trial of a rate; a fifth of ``epochs`` if not given.
        tuning_seeds: trials of each rate.
        checks: how often the objective is measured along a run, evenly in the logarithm of the epoch.
        samples: draws for an objective that cannot be enumerated.
        ensemble: draws that are averaged for a prediction.
        gradient_epochs: when gradients are compared with the exact one, where that can be enumerated; before training
            and five times, evenly in the logarithm of the epoch, if not given.
        gradient_draws: draws for that.

    Raises:
        GradevalError: a number that cannot be.

    Examples:
        >>> Protocol(epochs=100, checks=3).check_epochs
        [0, 1, 10, 100]
    """

    optimiser: str = "sgd"
    epochs: int = 2000
    seeds: int = 5
    batch: int = 10
    rates: tuple[float, ...] = ()
    tuning_epochs: int | None = None
    tuning_seeds: int = 2
    checks: int = 40
    samples: int = 10
    ensemble: int = 10
    gradient_epochs: tuple[int, ...] | None = None
    gradient_draws: int = 1000

    def __post_init__(self) -> None:
        if self.optimiser not in OPTIMISERS:
            raise unknown_name("optimiser", self.optimiser, OPTIMISERS)
        least = dict.fromkeys(("epochs", "seeds", "batch", "tuning_seeds", "checks", "samples", "ensemble"), 1)
        for name, smallest in (least | {"gradient_draws": 2}).items():
            object.__setattr__(self, name, whole(name, getattr(self, name), least=smallest))
        object.__setattr__(self, "rates", tuple(real("a rate", rate) for rate in several("rates", self.rates)))
        if self.tuning_epochs is None:
            object.__setattr__(self, "tuning_epochs", max(1, self.epochs // 5))
        object.__setattr__(self, "tuning_epochs", whole("tuning_epochs", self.tuning_epochs, least=1))
        if not self.rates:
            object.__setattr__(self, "rates", RATES[self.optimiser])
        if not all(rate > 0 and math.isfinite(rate) for rate in self.rates):
            raise GradevalError(f"learning rates must be positive, found {', '.join(map(str, self.rates))}.")
        if self.gradient_epochs is None:
            object.__setattr__(self, "gradient_epochs", tuple(self._evenly(5)))
        epochs = several("gradient_epochs", self.gradient_epochs)
        object.__setattr__(self, "gradient_epochs", tuple(whole("gradient_epochs", epoch) for epoch in epochs))
        if not all(0 <= epoch <= self.epochs for epoch in self.snapshot_epochs):
            raise GradevalError(f"gradient_epochs must be from 0 to {self.epochs}, found {self.gradient_epochs}.")

    @property
    def trial_epochs(self) -> int:
        """How long a rate is tried, in epochs."""
        return self.tuning_epochs or 0

    @property
    def check_epochs(self) -> list[int]:
        """When the objective is measured: before training, then evenly in the logarithm of the epoch."""
        return self._evenly(self.checks)

    @property
    def snapshot_epochs(self) -> tuple[int, ...]:
        """When gradients are compared with the exact one."""
        return self.gradient_epochs or ()

    def _evenly(self, count: int) -> list[int]:
        grid = np.geomspace(1, self.epochs, count).round().astype(int)
        return sorted({0, *grid.tolist(), self.epochs})
