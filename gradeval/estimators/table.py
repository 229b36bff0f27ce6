"""The table of built-in estimators: their facts as data, read without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """What is claimed of an estimator; the conformance tests check it.

    Attributes:
        name: the name users write.
        target: "module:class" of the frozen dataclass, below gradeval.estimators.
        unbiased: whether E[gradient] = ∇J is claimed.
        differentiable: whether f must be differentiable in the last layer's states.
        randomness: what it asks of chance: "none", "bernoulli" or "continuous".
        source: where it was published.
        defaults: its hyper-parameters as a spec would give them.
        layer_evaluations, loss_evaluations: what one draw costs per data point, see `Facts.evaluations`. Python
            expressions of L, the number of layers; n, the list of their widths; K, the samples.
        aliases: other names that users may write.
        fitted: whether `fit(problem, seed)` must learn something first; `evaluate` does it.
    """

    name: str
    target: str
    unbiased: bool
    differentiable: bool
    randomness: str
    source: str
    defaults: str = ""
    layer_evaluations: str = "L"
    loss_evaluations: str = "1"
    aliases: tuple[str, ...] = ()
    fitted: bool = False

    def evaluations(self, widths: Sequence[int], samples: int = 0) -> tuple[int, int]:
        """Evaluations of one layer, and of the loss, per draw and point, on linear layers of the given widths."""
        names = {"L": len(widths), "n": list(widths), "K": samples, "sum": sum, "range": range, "__builtins__": {}}
        return int(eval(self.layer_evaluations, names)), int(eval(self.loss_evaluations, names))


TABLE: dict[str, Facts] = {
    facts.name: facts
    for facts in (
        Facts(
            "reinforce",
            "score_function:Reinforce",
            unbiased=True,
            differentiable=False,
            randomness="bernoulli",
            source="Williams 1992, doi:10.1007/BF00992696",
            defaults="baseline=0.0",
        ),
        Facts(
            "rloo",
            "score_function:Rloo",
            unbiased=True,
            differentiable=False,
            randomness="bernoulli",
            source="Salimans & Knowles 2014, arXiv:1401.1022; Kool et al. 2019, openreview r1lgTGL5DE",
            defaults="samples=4",
            layer_evaluations="K * L",
            loss_evaluations="K",
        ),
        Facts(
            "nvil",
            "score_function:Nvil",
            unbiased=True,
            differentiable=False,
            randomness="bernoulli",
            source="Mnih & Gregor 2014, arXiv:1402.0030",
            fitted=True,
        ),
        Facts(
            "muprop",
            "control_variates:MuProp",
            unbiased=True,
            differentiable=True,
            randomness="bernoulli",
            source="Gu et al. 2016, arXiv:1511.05176",
            layer_evaluations="L + L * (L - 1) // 2",
            loss_evaluations="L + 1",
        ),
        Facts(
            "rebar",
            "control_variates:Rebar",
            unbiased=True,
            differentiable=True,
            randomness="continuous",
            source="Tucker et al. 2017, arXiv:1703.07370",
            defaults="temperature=fitted,eta=fitted",
            layer_evaluations="L * L",
            loss_evaluations="2 * L + 1",
            fitted=True,
        ),
        Facts(
            "relax",
            "control_variates:Relax",
            unbiased=True,
            differentiable=True,
            randomness="continuous",
            source="Grathwohl et al. 2018, arXiv:1711.00123",
            layer_evaluations="L + 3 * L * (L - 1)",
            loss_evaluations="6 * L + 1",
            fitted=True,
        ),
        Facts(
            "double-cv",
            "control_variates:DoubleCV",
            unbiased=True,
            differentiable=True,
            randomness="bernoulli",
            source="Titsias & Shi 2022, arXiv:2111.05300",
            defaults="samples=4",
            layer_evaluations="K * (L + L * (L - 1) // 2)",
            loss_evaluations="K * (L + 1)",
        ),
        Facts(
            "arm",
            "antithetic:Arm",
            unbiased=True,
            differentiable=False,
            randomness="continuous",
            source="Yin & Zhou 2019, arXiv:1807.11143",
            layer_evaluations="L * (L + 1) // 2",
            loss_evaluations="L + 1",
        ),
        Facts(
            "disarm",
            "antithetic:Disarm",
            unbiased=True,
            differentiable=False,
            randomness="bernoulli",
            source="Dong et al. 2020, arXiv:2006.10680; Yin et al. 2020, arXiv:2006.06448",
            layer_evaluations="L * (L + 1) // 2",
            loss_evaluations="L + 1",
            aliases=("u2g",),
        ),
        Facts(
            "arms",
            "antithetic:Arms",
            unbiased=True,
            differentiable=False,
            randomness="continuous",
            source="Dimitriev & Zhou 2021, arXiv:2105.14141",
            defaults="samples=4",
            layer_evaluations="L + (K - 1) * L * (L - 1) // 2",
            loss_evaluations="1 + (K - 1) * L",
        ),
        Facts(
            "ram",
            "marginalisation:Ram",
            unbiased=True,
            differentiable=False,
            randomness="continuous",
            source="Tokui & Sato 2017, arXiv:1611.01239",
            layer_evaluations="L + sum(n[k] * (L - 1 - k) for k in range(L))",
            loss_evaluations="1 + sum(n)",
        ),
        Facts(
            "leg",
            "marginalisation:Leg",
            unbiased=True,
            differentiable=False,
            randomness="bernoulli",
            source="Titsias & Lázaro-Gredilla 2015, arXiv:1503.01494",
            layer_evaluations="2 * L - 1",
            loss_evaluations="1 + n[-1]",
        ),
        Facts(
            "concrete",
            "relaxation:Concrete",
            unbiased=False,
            differentiable=True,
            randomness="continuous",
            source="Maddison et al. 2017, arXiv:1611.00712; Jang et al. 2017, arXiv:1611.01144",
            defaults="temperature=1.0",
        ),
        Facts(
            "st-gumbel",
            "relaxation:GumbelST",
            unbiased=False,
            differentiable=True,
            randomness="continuous",
            source="Jang et al. 2017, arXiv:1611.01144",
            defaults="temperature=1.0",
        ),
        Facts(
            "gumbel-rao",
            "relaxation:GumbelRao",
            unbiased=False,
            differentiable=True,
            randomness="continuous",
            source="Paulus et al. 2021, arXiv:2010.04838",
            defaults="temperature=1.0,samples=10",
        ),
        Facts(
            "tanh",
            "moments:MeanField",
            unbiased=False,
            differentiable=True,
            randomness="none",
            source="mean field (AP1), Shekhovtsov et al. 2020, arXiv:2006.03143",
        ),
        Facts(
            "adf",
            "moments:AssumedDensityFiltering",
            unbiased=False,
            differentiable=True,
            randomness="continuous",
            source="Minka 2001, arXiv:1301.2294; Hernández-Lobato & Adams 2015, arXiv:1502.05336",
            layer_evaluations="2 * L",
        ),
        Facts(
            "local-reparam",
            "moments:LocalReparametrisation",
            unbiased=False,
            differentiable=True,
            randomness="continuous",
            source="Kingma et al. 2015, arXiv:1506.02557; Peters & Welling 2018, arXiv:1809.03368",
            layer_evaluations="2 * L",
        ),
        Facts(
            "st",
            "straight_through:StraightThrough",
            unbiased=False,
            differentiable=True,
            randomness="bernoulli",
            source="Shekhovtsov et al. 2020, arXiv:2006.03143; one layer: Tokui & Sato 2017, arXiv:1611.01239",
        ),
        Facts(
            "identity-st",
            "straight_through:IdentityStraightThrough",
            unbiased=False,
            differentiable=True,
            randomness="bernoulli",
            source="Hinton 2012 (lectures); Bengio et al. 2013, arXiv:1308.3432",
        ),
        Facts(
            "hard-st",
            "straight_through:HardStraightThrough",
            unbiased=False,
            differentiable=True,
            randomness="bernoulli",
            source="Hubara et al. 2016, arXiv:1602.02830",
        ),
        Facts(
            "reinmax",
            "straight_through:ReinMax",
            unbiased=False,
            differentiable=True,
            randomness="bernoulli",
            source="Liu et al. 2023, arXiv:2304.08612; Shekhovtsov 2023 (ZGR); Gregor et al. 2014, arXiv:1310.8499",
            aliases=(
                "zgr",
                "darn",
            ),
        ),
        Facts(
            "mve",
            "straight_through:Mve",
            unbiased=False,
            differentiable=True,
            randomness="bernoulli",
            source="Hooper & Shekhovtsov 2026",
            defaults="strength=1.0",
        ),
        Facts(
            "psa",
            "psa:PathSampleAnalytic",
            unbiased=False,
            differentiable=False,
            randomness="bernoulli",
            source="Shekhovtsov, Yanush & Flach 2020, arXiv:2006.03143",
            defaults="tolerance=0.0",
            layer_evaluations="2 * L - 1",
            loss_evaluations="1 + n[-1]",
        ),
    )
}

PAPER = ("reinforce", "arm", "concrete:temperature=0.1", "concrete:temperature=1.0", "tanh", "st", "psa")
"""The estimators of the paper's figure."""
