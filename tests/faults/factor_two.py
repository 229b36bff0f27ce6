"""REINFORCE that counts its score twice."""

from gradeval.estimators.surrogate import carry, sample_path

WORDS = "all layers: the exact gradient times 2 (scale 2)"


def estimator(network, inputs, loss, randomness):
    steps, x = sample_path(network, inputs, randomness)
    f = loss(x)
    return f + 2 * f.detach() * carry(sum(step.layer.log_prob(step.s, step.a) for step in steps))
