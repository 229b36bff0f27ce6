"""REINFORCE with a score of the wrong sign."""

from gradeval.estimators.surrogate import carry, sample_path

WORDS = "all layers: the sign is wrong"


def estimator(network, inputs, loss, randomness):
    steps, x = sample_path(network, inputs, randomness)
    f = loss(x)
    return f - f.detach() * carry(sum(step.layer.log_prob(step.s, step.a) for step in steps))
