"""What is known of an estimator's mean gradient and mean value on one problem."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from gradeval.analysis.measures import bias_size, cosine

ROUNDING = 1e-5  # of ‖g*‖: exact moments agree with an explanation to this


@dataclass(frozen=True)
class Place:
    """The facts of a problem, and of an estimator, that may explain a factor.

    Attributes:
        name: of the problem.
        inputs: numbers of one data point.
        widths: units of each layer.
        outputs: of the head.
        noise: its name.
        states: lo and hi.
        loss: its name; "own" for a user's.
        points: number of data points.
        samples: K of the estimator; 0 where it has none.
        saturated: whether some unit is on, or off, nearly always.
        rarest: the probability of the rarest state of a unit that is not saturated.
        traits: what else sets the problem apart, in words: "the inputs are zero", …
    """

    name: str
    inputs: int
    widths: tuple[int, ...]
    outputs: int
    noise: str
    states: tuple[float, float]
    loss: str
    points: int
    samples: int = 0
    saturated: bool = False
    rarest: float = 0.5
    traits: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Finding:
    """What is known of the mean gradient of one layer, relative to the norm of the exact one.

    Attributes:
        place: the problem.
        layer: "1".."L" or "head".
        shape: of the weight, (units, inputs of the layer); None where the layer is not one weight and a bias.
        exact: g*/‖g*‖, weight then bias.
        mean: the estimate of E[g]/‖g*‖.
        radius: ‖estimate − E[g]‖/‖g*‖ is at most this, at 1 − α for all layers, problems and looks; zero if exact.
        noise: the part of ‖estimate − g*‖² that is chance.
        variance, variance_low, variance_high: tr Cov(g)/‖g*‖² with its interval.
        unequal: whether E[g] = g* is rejected.
        detectable: the relative bias that would have been found with probability 0.99; zero if exact.
        draws: zero if exact.
        others: by the name of a noise: the mean where its density stands in for F'.
    """

    place: Place
    layer: str
    shape: tuple[int, int] | None
    exact: Float[np.ndarray, " p"]
    mean: Float[np.ndarray, " p"]
    radius: float
    noise: float
    variance: float
    variance_low: float
    variance_high: float
    unequal: bool
    detectable: float
    draws: int
    others: dict[str, Float[np.ndarray, " p"]] = field(default_factory=dict)

    @property
    def scale(self) -> float:
        """⟨E g, g*⟩/‖g*‖²."""
        return float(self.mean @ self.exact)

    @property
    def relative_bias(self) -> tuple[float, float, float]:
        """‖E g − g*‖/‖g*‖: estimate, lower and upper bound."""
        squared = float(((self.mean - self.exact) ** 2).sum())
        found = math.sqrt(squared)
        return bias_size(squared, self.noise), max(0.0, found - self.radius), found + self.radius

    @property
    def cosine(self) -> tuple[float, float, float]:
        """The cosine between E[g] and g*: estimate, lower and upper bound; zero where E[g] may be zero."""
        norm = float(np.linalg.norm(self.mean))
        if norm <= max(self.radius, 1e-12):
            return (0.0, -1.0, 1.0) if self.radius else (0.0, 0.0, 0.0)
        angle, spread = math.acos(max(-1.0, min(1.0, cosine(self.scale, norm)))), math.asin(self.radius / norm)
        return math.cos(angle), math.cos(min(math.pi, angle + spread)), math.cos(max(0.0, angle - spread))

    def is_near(self, mean: Float[np.ndarray, " p"]) -> bool:
        """Whether E[g]/‖g*‖ may be a given vector.

        Args:
            mean: the vector, [p].

        Returns:
            Whether it is within the radius, and rounding, of the estimate.
        """
        return float(np.linalg.norm(self.mean - mean)) <= self.radius + ROUNDING

    def split(self, vector: Float[np.ndarray, " p"]) -> tuple[np.ndarray, np.ndarray]:
        """Split a layer's vector into weight and bias; the layer must have a ``shape``.

        Args:
            vector: flattened, weight then bias, [p].

        Returns:
            The weight, [units, inputs], and the bias, [units].
        """
        assert self.shape is not None
        weight, bias = np.split(vector, [math.prod(self.shape)])
        return weight.reshape(self.shape), bias


@dataclass(frozen=True)
class Value:
    """What is known of the mean value E[value] on one problem.

    Attributes:
        place: the problem.
        exact: J.
        mean: the estimate of E[value].
        radius: |estimate − E[value]| is at most this, at 1 − α together with all else; zero if exact.
        unequal: whether E[value] = J is rejected.
    """

    place: Place
    exact: float
    mean: float
    radius: float
    unequal: bool
