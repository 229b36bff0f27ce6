"""Faults that ordinary problems do not show: each needs a problem at the edge, and is named in words there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from gradeval.checking.battery import EDGES, ROWS, Row, make_problem
from gradeval.checking.procedure import check
from gradeval.estimators.surrogate import carry

ORDINARY = [make_problem(ROWS[i]) for i in (0, 3, 5)]  # logistic; three points; two layers


def edges(choose: Callable[[Row], object]) -> list:
    return [make_problem(row) for row in EDGES if choose(row)]


RARE = edges(lambda row: row.rare)


class Reinforce:
    """REINFORCE in parts that a fault may replace."""

    def probability(self, layer, a, k):
        return layer.probability(a)

    def score(self, layer, s, a, p, k, x):
        return layer.log_prob(s, a)

    def encode(self, layer, s):
        return layer.encode(s)

    def weight(self, f):
        return f

    def __call__(self, network, inputs, loss, randomness):
        x, log_prob = inputs, 0.0
        for k, layer in enumerate(network.layers, 1):
            a = layer.preactivation(x)
            p = self.probability(layer, a, k)
            s = randomness.bernoulli(p)
            log_prob = log_prob + self.score(layer, s, a, p, k, x)
            x = self.encode(layer, s)
        f = loss(x)
        return f + self.weight(f.detach()) * carry(log_prob)


class LogitsClamped(Reinforce):
    """Logits are clamped to ±5 in the score, as many codes do."""

    def score(self, layer, s, a, p, k, x):
        return layer.log_prob(s, a.clamp(-5, 5))


class ProbabilitiesClamped(Reinforce):
    """Probabilities are clamped to 1 % and 99 % in the score."""

    def score(self, layer, s, a, p, k, x):
        p = p.clamp(0.01, 0.99)
        return (s * p.log() + (1 - s) * (1 - p).log()).sum(-1)


class TwoEncodings(Reinforce):
    """Knows 0 and 1, and ±1."""

    def encode(self, layer, s):
        return 2 * s - 1 if layer.lo < 0 else s


class FifthPoint(Reinforce):
    """Points from the fifth on are drawn with the fourth's probabilities."""

    def probability(self, layer, a, k):
        p = layer.probability(a)
        return torch.cat([p[:4], p[3:4].expand(max(0, len(p) - 4), -1)]) if len(p) > 4 else p


class EightUnits(Reinforce):
    """The score is that of the first eight units."""

    def score(self, layer, s, a, p, k, x):
        return layer.log_prob(s[..., :8], a[..., :8])


class ThreeLayers(Reinforce):
    """The score is that of the first three layers."""

    def score(self, layer, s, a, p, k, x):
        return layer.log_prob(s, a if k <= 3 else a.detach())


class LossAtLeastZero(Reinforce):
    """Takes losses for positive."""

    def weight(self, f):
        return f.clamp(min=0)


class LossClipped(Reinforce):
    """Losses are clipped at 1000."""

    def weight(self, f):
        return f.clamp(max=1000)


class SkipsZeros(Reinforce):
    """Leaves out a layer whose inputs are zero."""

    def score(self, layer, s, a, p, k, x):
        return layer.log_prob(s, a if k > 1 or x.any() else a.detach())


class LinearOnly(Reinforce):
    """Other maps than nn.Linear get no gradient."""

    def score(self, layer, s, a, p, k, x):
        return layer.log_prob(s, a if isinstance(layer.map, nn.Linear) else a.detach())


class NeedsBias(Reinforce):
    """A map without bias gets no gradient."""

    def score(self, layer, s, a, p, k, x):
        return layer.log_prob(s, a.detach() if getattr(layer.map, "bias", 0) is None else a)


FAULTS = [
    (LogitsClamped(), lambda row: row.rare, "a state has a probability below 0.01, but not zero, though"),
    (ProbabilitiesClamped(), lambda row: row.rare, "a state has a probability below 0.04, but not zero"),
    (TwoEncodings(), lambda row: row.states not in ((0, 1), (-1, 1)), "the states are not {0, 1} or {-1, 1}"),
    (FifthPoint(), lambda row: row.points > 1 and not row.rare, "there are more than 3 data points"),
    (EightUnits(), lambda row: row.widths in ((10,), (2, 2)), "a layer has more than 2 units"),
    (ThreeLayers(), lambda row: len(row.widths) > 1, "there are more than 2 layers"),
    (LossAtLeastZero(), lambda row: row.loss in ("negative", "reward", "large"), "a loss is negative"),
    (LossClipped(), lambda row: row.loss in ("negative", "large"), "the loss is large"),
    (SkipsZeros(), lambda row: row.zero or row.convolution, "the inputs are zero"),
    (LinearOnly(), lambda row: row.zero or row.convolution, "a layer is not linear"),
    (NeedsBias(), lambda row: row.zero or not row.bias, "a map has no bias"),
]


@pytest.mark.parametrize(("estimator", "choose", "words"), FAULTS, ids=[type(e).__name__ for e, _, _ in FAULTS])
def test_faults_of_the_edges_are_named(estimator: Reinforce, choose, words: str) -> None:
    verdict = check(estimator, unbiased=True, problems=[*ORDINARY, *edges(choose)], workers=1)
    assert verdict.verdict == "fails"
    (where, *_) = [line for line in verdict.diagnosis if line.startswith("the gradient is wrong ")]
    assert words in where, verdict
    assert verdict.failing["problem"].isin([row.name for row in EDGES]).all()
