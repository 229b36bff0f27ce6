"""REINFORCE whose log-probability is the mean over units, not the sum."""

from gradeval.estimators.surrogate import carry, sample_path

WORDS = "all layers: the exact gradient times 1 / the layer's own number of units"


def estimator(network, inputs, loss, randomness):
    steps, x = sample_path(network, inputs, randomness)
    f = loss(x)
    return f + f.detach() * carry(sum(step.layer.log_prob(step.s, step.a) / step.s.shape[-1] for step in steps))
