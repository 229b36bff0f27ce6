"""The ground truth: exact gradients, and exact moments of estimators, by enumerating all binary states."""

from gradeval.reference.cost import Cost, predicted_cost
from gradeval.reference.differences import finite_differences
from gradeval.reference.exact import ExactGradient, exact_gradient, exact_values
from gradeval.reference.layerwise import layerwise_values, plain_values
from gradeval.reference.moments import MAX_BITS, ExactMoments, exact_moments
from gradeval.reference.sampled import Precision, sampled_gradient

__all__ = [
    "MAX_BITS",
    "Cost",
    "ExactGradient",
    "ExactMoments",
    "Precision",
    "exact_gradient",
    "exact_moments",
    "exact_values",
    "finite_differences",
    "layerwise_values",
    "plain_values",
    "predicted_cost",
    "sampled_gradient",
]
