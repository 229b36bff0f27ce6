"""REINFORCE that enters the first layer twice."""

from gradeval.estimators.surrogate import carry, sample_path

WORDS = "the first layer: the exact gradient times 2"


def estimator(network, inputs, loss, randomness):
    steps, x = sample_path(network, inputs, randomness)
    f = loss(x)
    return f + f.detach() * carry(sum(step.layer.log_prob(step.s, step.a) for step in [*steps, steps[0]]))
