"""REINFORCE that differentiates F as if it were logistic: (s − p)/(p(1 − p)) times the logistic density."""

from gradeval.estimators.surrogate import carry, sample_path
from gradeval.model.noise import NOISES

WORDS = "as with the density of logistic noise in place of F'"


def estimator(network, inputs, loss, randomness):
    steps, x = sample_path(network, inputs, randomness)
    f = value = loss(x)
    for step in steps:
        # a state that cannot be is never drawn; the clamp keeps 0/0 out
        score = (step.s - step.p) / (step.p * step.layer.probability(-step.a)).clamp(min=1e-300)
        density = NOISES["logistic"].pdf(step.a)
        value = value + f.detach() * ((score * density).detach() * carry(step.a)).sum(-1)
    return value
