"""Clips the weights in passing."""

import torch

from gradeval.estimators import get_estimator

WORDS = "writes to the network's parameters (layers.0.map.weight)"


def estimator(network, inputs, loss, randomness):
    with torch.no_grad():
        network.layers[0].map.weight.mul_(0.99)
    return get_estimator("reinforce")(network, inputs, loss, randomness)
