"""Straight-through, called unbiased."""

from gradeval.estimators import get_estimator

WORDS = "no single factor, sign, transposition or density explains it"


def estimator(network, inputs, loss, randomness):
    return get_estimator("st")(network, inputs, loss, randomness)
