"""REINFORCE with log(1 − p), which is −∞ for a saturated unit."""

import torch

from gradeval.estimators.surrogate import carry, sample_path

WORDS = "gives NaN or infinite gradients (on 1 of 12 problems, e.g. 2-2 logistic {-1,1} squared 1 point saturated"


def estimator(network, inputs, loss, randomness):
    steps, x = sample_path(network, inputs, randomness)
    f = value = loss(x)
    for step in steps:
        log_prob = step.s * torch.log(step.p) + (1 - step.s) * torch.log(1 - step.p)
        value = value + f.detach() * carry(log_prob.sum(-1))
    return value
