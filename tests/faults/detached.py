"""Returns a value that autograd knows nothing of."""

from gradeval.estimators import get_estimator

WORDS = "returns a value without a gradient"


def estimator(network, inputs, loss, randomness):
    return get_estimator("reinforce")(network, inputs, loss, randomness).detach()
