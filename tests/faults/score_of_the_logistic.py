"""REINFORCE with the score s − p, which is the logistic noise's."""

from gradeval.estimators.surrogate import carry, sample_path

WORDS = "the gradient is wrong exactly where the noise is not logistic"


def estimator(network, inputs, loss, randomness):
    steps, x = sample_path(network, inputs, randomness)
    f = value = loss(x)
    for step in steps:
        value = value + f.detach() * ((step.s - step.p).detach() * carry(step.a)).sum(-1)
    return value
