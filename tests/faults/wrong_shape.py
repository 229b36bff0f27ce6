"""Returns the mean over points."""

from gradeval.estimators import get_estimator

WORDS = "returns the wrong shape: [] where one number per point is needed"


def estimator(network, inputs, loss, randomness):
    return get_estimator("reinforce")(network, inputs, loss, randomness).mean()
