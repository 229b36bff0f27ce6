"""REINFORCE that returns the gradient's carrier without the value."""

from gradeval.estimators import get_estimator
from gradeval.estimators.surrogate import carry

WORDS = "the value: E[value] is zero"


def estimator(network, inputs, loss, randomness):
    return carry(get_estimator("reinforce")(network, inputs, loss, randomness))
