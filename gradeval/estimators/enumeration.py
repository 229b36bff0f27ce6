"""The exact gradient as an estimator: a yardstick for the others."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from gradeval.errors import GradevalError
from gradeval.model.head_loss import PointLoss
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.randomness import Randomness
from gradeval.model.states import all_digits, joint_probabilities

MAX_ENTRIES = 2**20  # of a layer's states × those of the layer below, or × points: each of these has outputs, too


@dataclass(frozen=True)
class Exact:
    """∇J itself, by summing over all states, layer by layer: Vᴸ = f, Vᵏ⁻¹(xᵏ⁻¹) = Σ P(xᵏ | xᵏ⁻¹) Vᵏ(xᵏ). No variance.

    Σₖ 2^(nₖ₋₁+nₖ) terms: for small layers.

    Raises:
        GradevalError: called with layers that have too many states.

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> moments = exact_moments(problem, Exact())
        >>> moments.relative_bias()["all"] < 1e-12, moments.relative_variance()["all"]
        (True, 0.0)
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        x, chances = inputs, []
        for k, layer in enumerate(network.layers):
            p = layer.probability(layer.preactivation(x))  # [points, units], then [states below, 1, units]
            rows, units = max(len(inputs), p.shape[:-1].numel()), p.shape[-1]
            if rows * 2**units > MAX_ENTRIES:
                raise GradevalError(
                    f"cannot enumerate layer {k + 1}: 2^{units} states for {rows} points or states below, at most 2^20 "
                    "in all. Use fewer units, or leave `exact` out."
                )
            chances.append(joint_probabilities(p))
            x = layer.encode(all_digits(units, p))[:, None]
        value = loss(x.expand(-1, len(inputs), -1))  # [states, points]
        for chance in reversed(chances[1:]):
            value = chance.squeeze(1) @ value
        return (chances[0] * value.mT).sum(-1)
