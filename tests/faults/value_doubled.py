"""REINFORCE whose value is f + f."""

from gradeval.estimators import get_estimator

WORDS = "the value: E[value] is J times 2"


def estimator(network, inputs, loss, randomness):
    f = get_estimator("reinforce")(network, inputs, loss, randomness)
    return f + f.detach()
