"""REINFORCE whose layers' biases are detached."""

from gradeval.estimators.surrogate import carry

WORDS = "all layers: the bias gets no gradient, the rest is right"


def estimator(network, inputs, loss, randomness):
    x, log_prob = inputs, 0.0
    for layer in network.layers:
        a = x @ layer.map.weight.T + layer.map.bias.detach()
        s = randomness.bernoulli(layer.probability(a))
        log_prob = log_prob + layer.log_prob(s, a)
        x = layer.encode(s)
    f = loss(x)
    return f + f.detach() * carry(log_prob)
