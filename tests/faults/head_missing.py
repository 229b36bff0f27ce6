"""REINFORCE whose f is detached from the head."""

from gradeval.estimators.surrogate import carry, sample_path

WORDS = "the head: the mean gradient is zero"


def estimator(network, inputs, loss, randomness):
    steps, x = sample_path(network, inputs, randomness)
    f = loss(x).detach()
    return f + f * carry(sum(step.layer.log_prob(step.s, step.a) for step in steps))
