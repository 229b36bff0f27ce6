"""REINFORCE that writes square weights' gradients transposed."""

from gradeval.estimators.surrogate import carry

WORDS = "the weight's gradient is transposed"


def estimator(network, inputs, loss, randomness):
    x, log_prob = inputs, 0.0
    for layer in network.layers:
        a = layer.preactivation(x)
        s = randomness.bernoulli(layer.probability(a))
        weight, bias = layer.map.weight, layer.map.bias
        if weight.shape[0] == weight.shape[1]:
            a = a.detach() + carry(x @ weight + bias)
        log_prob = log_prob + layer.log_prob(s, a)
        x = layer.encode(s)
    f = loss(x)
    return f + f.detach() * carry(log_prob)
