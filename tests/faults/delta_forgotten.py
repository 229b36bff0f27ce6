"""Control variate in units of the states, though they are δ apart: its mean is added without δ."""

from gradeval.estimators.surrogate import carry, linearise, sample_path

WORDS = "the gradient is wrong exactly where the states are {-1, 1}"


def estimator(network, inputs, loss, randomness):
    steps, x = sample_path(network, inputs, randomness)
    f = value = loss(x)
    for step in steps:
        value = value + f.detach() * carry(step.layer.log_prob(step.s, step.a))
    step = steps[-1]
    _, slope = linearise(loss, step.layer.encode(step.p))
    h = (slope * (x - step.layer.encode(step.p)).detach()).sum(-1)
    return value - h * carry(step.layer.log_prob(step.s, step.a)) + (slope * carry(step.p)).sum(-1)
