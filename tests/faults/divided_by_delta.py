"""LEG whose differences are divided by δ, as if they were derivatives with respect to the state."""

from gradeval.estimators import get_estimator
from gradeval.estimators.surrogate import carry

WORDS = "all layers: the exact gradient times 1/δ"


def estimator(network, inputs, loss, randomness):
    states = []

    def seen(x):
        states.append(loss(x))
        return states[-1]

    value = get_estimator("leg")(network, inputs, seen, randomness)
    head = carry(states[0])
    return value.detach() + head + carry(value - head) / network.layers[0].delta
