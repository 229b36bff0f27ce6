"""ARM whose difference is halved: sampled, since it asks for uniform variables."""

from gradeval.estimators.surrogate import carry, continue_path

WORDS = "all layers: the exact gradient times ½"


def estimator(network, inputs, loss, randomness):
    x, branches = inputs, []
    for k, layer in enumerate(network.layers):
        a = layer.preactivation(x)
        p, u = layer.probability(a), randomness.uniform(a.shape)
        other = continue_path(network.layers[k + 1 :], layer.encode((u > 1 - p).to(p.dtype)), randomness)
        branches.append((loss(other), u - 0.5, layer.noise.log_odds(a)))
        x = layer.encode((u < p).to(p.dtype))
    f = loss(x)
    for f_other, weight, logit in branches:
        f = f + ((f_other - f).detach()[..., None] / 2 * weight * carry(logit)).sum(-1)
    return f
