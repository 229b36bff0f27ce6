"""REINFORCE whose loss is the sum over points."""

from gradeval.estimators import get_estimator

WORDS = "all layers and the head: the exact gradient times the number of data points"


def estimator(network, inputs, loss, randomness):
    return len(inputs) * get_estimator("reinforce")(network, inputs, loss, randomness)
