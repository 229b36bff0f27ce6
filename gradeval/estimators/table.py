"""The table of built-in estimators: their facts as data, read without importing torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Chance(StrEnum):
    """What an estimator asks of its `gradeval.model.randomness.Randomness`."""

    NONE = "none"
    BERNOULLI = "bernoulli"
    """Bernoulli states only, so that all of them can be enumerated."""
    CONTINUOUS = "continuous"
    """Uniform or normal variables or noise, with or without Bernoulli states."""


@dataclass(frozen=True)
class Count:
    """A number of evaluations per draw and data point: a formula for people, and the same as a function.

    Args:
        text: a Python expression of L, the number of layers; n, the list of their widths; K, the samples.
        number: its value, of (L, n, K).

    Examples:
        >>> count = Count("K * L", lambda L, n, K: K * L)
        >>> str(count), count.number(3, [5, 5, 5], 4)
        ('K * L', 12)
    """

    text: str
    number: Callable[[int, Sequence[int], int], int]

    def __str__(self) -> str:
        return self.text


ONE = Count("1", lambda L, n, K: 1)
LAYERS = Count("L", lambda L, n, K: L)
LAYERS_TWICE = Count("2 * L", lambda L, n, K: 2 * L)
UP_AND_DOWN = Count("2 * L - 1", lambda L, n, K: 2 * L - 1)
TRIANGLE = Count("L * (L + 1) // 2", lambda L, n, K: L * (L + 1) // 2)
LAYERS_AND_ONE = Count("L + 1", lambda L, n, K: L + 1)
LAST_WIDTH_AND_ONE = Count("1 + n[-1]", lambda L, n, K: 1 + n[-1])


@dataclass(frozen=True)
class Facts:
    """What is claimed of a built-in estimator; the conformance tests check it.

    Attributes:
        name: the name users write.
        target: "module:class" of the frozen dataclass, below gradeval.estimators.
        unbiased: whether E[gradient] = ∇J is claimed.
        differentiable: whether f must be differentiable in the last layer's states.
        randomness: what it asks of chance.
        source: where it was published.
        defaults: its hyper-parameters as a spec would give them.
        layer_evaluations: how often one draw evaluates a layer, per data point.
        loss_evaluations: how often one draw evaluates the loss, per data point.
        aliases: other names that users may write.
        fitted: whether `fit(problem, seed)` must learn something first; `gradeval.evaluate` does it.
    """

    name: str
    target: str
    unbiased: bool
    differentiable: bool
    randomness: Chance
    source: str
    defaults: str = ""
    layer_evaluations: Count = LAYERS
    loss_evaluations: Count = ONE
    aliases: tuple[str, ...] = ()
    fitted: bool = False

    def evaluations(self, widths: Sequence[int], samples: int = 0) -> tuple[int, int]:
        """How often one draw evaluates a layer and the loss, per data point, where all maps are linear.

        Args:
            widths: the number of units of each layer.
            samples: the estimator's number of samples K, where it has one.

        Returns:
            The evaluations of a layer, and of the loss.

        Examples:
            >>> TABLE["ram"].evaluations([5, 5, 5])
            (18, 16)
        """
        layers, losses = self.layer_evaluations, self.loss_evaluations
        return layers.number(len(widths), widths, samples), losses.number(len(widths), widths, samples)

    def as_data(self) -> dict[str, Any]:
        """The facts by name, for JSON; each count as its formula.

        Returns:
            One entry for every attribute, in their order.
        """
        values = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {name: str(value) if isinstance(value, Count) else value for name, value in values}


TABLE: dict[str, Facts] = {
    facts.name: facts
    for facts in (
        Facts(
            "reinforce",
            "score_function:Reinforce",
            unbiased=True,
            differentiable=False,
            randomness=Chance.BERNOULLI,
            source="Williams 1992, doi:10.1007/BF00992696",
            defaults="baseline=0.0",
        ),
        Facts(
            "rloo",
            "score_function:Rloo",
            unbiased=True,
            differentiable=False,
            randomness=Chance.BERNOULLI,
            source="Salimans & Knowles 2014, arXiv:1401.1022; Kool et al. 2019, openreview r1lgTGL5DE",
            defaults="samples=4",
            layer_evaluations=Count("K * L", lambda L, n, K: K * L),
            loss_evaluations=Count("K", lambda L, n, K: K),
        ),
        Facts(
            "nvil",
            "score_function:Nvil",
            unbiased=True,
            differentiable=False,
            randomness=Chance.BERNOULLI,
            source="Mnih & Gregor 2014, arXiv:1402.0030",
            fitted=True,
        ),
        Facts(
            "muprop",
            "control_variates:MuProp",
            unbiased=True,
            differentiable=True,
            randomness=Chance.BERNOULLI,
            source="Gu et al. 2016, arXiv:1511.05176",
            layer_evaluations=Count("L + L * (L - 1) // 2", lambda L, n, K: L + L * (L - 1) // 2),
            loss_evaluations=LAYERS_AND_ONE,
        ),
        Facts(
            "rebar",
            "control_variates:Rebar",
            unbiased=True,
            differentiable=True,
            randomness=Chance.CONTINUOUS,
            source="Tucker et al. 2017, arXiv:1703.07370",
            defaults="temperature=fitted,eta=fitted",
            layer_evaluations=Count("L * L", lambda L, n, K: L * L),
            loss_evaluations=Count("2 * L + 1", lambda L, n, K: 2 * L + 1),
            fitted=True,
        ),
        Facts(
            "relax",
            "control_variates:Relax",
            unbiased=True,
            differentiable=True,
            randomness=Chance.CONTINUOUS,
            source="Grathwohl et al. 2018, arXiv:1711.00123",
            layer_evaluations=Count("L + 3 * L * (L - 1)", lambda L, n, K: L + 3 * L * (L - 1)),
            loss_evaluations=Count("6 * L + 1", lambda L, n, K: 6 * L + 1),
            fitted=True,
        ),
        Facts(
            "double-cv",
            "control_variates:DoubleCV",
            unbiased=True,
            differentiable=True,
            randomness=Chance.BERNOULLI,
            source="Titsias & Shi 2022, arXiv:2111.05300",
            defaults="samples=4",
            layer_evaluations=Count("K * (L + L * (L - 1) // 2)", lambda L, n, K: K * (L + L * (L - 1) // 2)),
            loss_evaluations=Count("K * (L + 1)", lambda L, n, K: K * (L + 1)),
        ),
        Facts(
            "arm",
            "antithetic:Arm",
            unbiased=True,
            differentiable=False,
            randomness=Chance.CONTINUOUS,
            source="Yin & Zhou 2019, arXiv:1807.11143",
            layer_evaluations=TRIANGLE,
            loss_evaluations=LAYERS_AND_ONE,
        ),
        Facts(
            "disarm",
            "antithetic:Disarm",
            unbiased=True,
            differentiable=False,
            randomness=Chance.BERNOULLI,
            source="Dong et al. 2020, arXiv:2006.10680; Yin et al. 2020, arXiv:2006.06448",
            layer_evaluations=TRIANGLE,
            loss_evaluations=LAYERS_AND_ONE,
            aliases=("u2g",),
        ),
        Facts(
            "arms",
            "antithetic:Arms",
            unbiased=True,
            differentiable=False,
            randomness=Chance.CONTINUOUS,
            source="Dimitriev & Zhou 2021, arXiv:2105.14141",
            defaults="samples=4",
            layer_evaluations=Count("L + (K - 1) * L * (L - 1) // 2", lambda L, n, K: L + (K - 1) * L * (L - 1) // 2),
            loss_evaluations=Count("1 + (K - 1) * L", lambda L, n, K: 1 + (K - 1) * L),
        ),
        Facts(
            "ram",
            "marginalisation:Ram",
            unbiased=True,
            differentiable=False,
            randomness=Chance.CONTINUOUS,
            source="Tokui & Sato 2017, arXiv:1611.01239",
            layer_evaluations=Count(
                "L + sum(n[k] * (L - 1 - k) for k in range(L))",
                lambda L, n, K: L + sum(n[k] * (L - 1 - k) for k in range(L)),
            ),
            loss_evaluations=Count("1 + sum(n)", lambda L, n, K: 1 + sum(n)),
        ),
        Facts(
            "leg",
            "marginalisation:Leg",
            unbiased=True,
            differentiable=False,
            randomness=Chance.BERNOULLI,
            source="Titsias & Lázaro-Gredilla 2015, arXiv:1503.01494",
            layer_evaluations=UP_AND_DOWN,
            loss_evaluations=LAST_WIDTH_AND_ONE,
        ),
        Facts(
            "concrete",
            "relaxation:Concrete",
            unbiased=False,
            differentiable=True,
            randomness=Chance.CONTINUOUS,
            source="Maddison et al. 2017, arXiv:1611.00712; Jang et al. 2017, arXiv:1611.01144",
            defaults="temperature=1.0",
        ),
        Facts(
            "st-gumbel",
            "relaxation:GumbelST",
            unbiased=False,
            differentiable=True,
            randomness=Chance.CONTINUOUS,
            source="Jang et al. 2017, arXiv:1611.01144",
            defaults="temperature=1.0",
        ),
        Facts(
            "gumbel-rao",
            "relaxation:GumbelRao",
            unbiased=False,
            differentiable=True,
            randomness=Chance.CONTINUOUS,
            source="Paulus et al. 2021, arXiv:2010.04838",
            defaults="temperature=1.0,samples=10",
        ),
        Facts(
            "tanh",
            "moments:MeanField",
            unbiased=False,
            differentiable=True,
            randomness=Chance.NONE,
            source="mean field (AP1), Shekhovtsov et al. 2020, arXiv:2006.03143",
        ),
        Facts(
            "adf",
            "moments:AssumedDensityFiltering",
            unbiased=False,
            differentiable=True,
            randomness=Chance.CONTINUOUS,
            source="Minka 2001, arXiv:1301.2294; Hernández-Lobato & Adams 2015, arXiv:1502.05336",
            layer_evaluations=LAYERS_TWICE,
        ),
        Facts(
            "local-reparam",
            "moments:LocalReparametrisation",
            unbiased=False,
            differentiable=True,
            randomness=Chance.CONTINUOUS,
            source="Kingma et al. 2015, arXiv:1506.02557; Peters & Welling 2018, arXiv:1809.03368",
            layer_evaluations=LAYERS_TWICE,
        ),
        Facts(
            "st",
            "straight_through:StraightThrough",
            unbiased=False,
            differentiable=True,
            randomness=Chance.BERNOULLI,
            source="Shekhovtsov et al. 2020, arXiv:2006.03143; one layer: Tokui & Sato 2017, arXiv:1611.01239",
        ),
        Facts(
            "identity-st",
            "straight_through:IdentityStraightThrough",
            unbiased=False,
            differentiable=True,
            randomness=Chance.BERNOULLI,
            source="Hinton 2012 (lectures); Bengio et al. 2013, arXiv:1308.3432",
        ),
        Facts(
            "hard-st",
            "straight_through:HardStraightThrough",
            unbiased=False,
            differentiable=True,
            randomness=Chance.BERNOULLI,
            source="Hubara et al. 2016, arXiv:1602.02830",
        ),
        Facts(
            "reinmax",
            "straight_through:ReinMax",
            unbiased=False,
            differentiable=True,
            randomness=Chance.BERNOULLI,
            source="Liu et al. 2023, arXiv:2304.08612; Shekhovtsov 2023 (ZGR); Gregor et al. 2014, arXiv:1310.8499",
            aliases=("zgr", "darn"),
        ),
        Facts(
            "mve",
            "straight_through:Mve",
            unbiased=False,
            differentiable=True,
            randomness=Chance.BERNOULLI,
            source="Hooper & Shekhovtsov 2026",
            defaults="strength=1.0",
        ),
        Facts(
            "psa",
            "psa:PathSampleAnalytic",
            unbiased=False,
            differentiable=False,
            randomness=Chance.BERNOULLI,
            source="Shekhovtsov, Yanush & Flach 2020, arXiv:2006.03143",
            defaults="tolerance=0.0",
            layer_evaluations=UP_AND_DOWN,
            loss_evaluations=LAST_WIDTH_AND_ONE,
        ),
    )
}

PAPER = ("reinforce", "arm", "concrete:temperature=0.1", "concrete:temperature=1.0", "tanh", "st", "psa")
"""The estimators of the paper's figure."""
