"""REINFORCE that weighs every point's score with the mean loss of the batch."""

from gradeval.estimators.surrogate import carry, sample_path

WORDS = "all layers: the exact gradient times 1 / the number of data points"


def estimator(network, inputs, loss, randomness):
    steps, x = sample_path(network, inputs, randomness)
    f = loss(x)
    return f + f.mean().detach() * carry(sum(step.layer.log_prob(step.s, step.a) for step in steps))
