"""Raises where there are several layers."""

from gradeval.estimators import get_estimator

WORDS = "raises ValueError: one layer only (raises.py, line 10) (on 7 of 12 problems"


def estimator(network, inputs, loss, randomness):
    if len(network.layers) > 1:
        raise ValueError("one layer only")
    return get_estimator("reinforce")(network, inputs, loss, randomness)
