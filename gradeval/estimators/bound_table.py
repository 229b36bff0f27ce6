"""The rows of built-in estimators that are defined for a bound of K samples only, and those of all built-in ones.

They are asked for by name: 'all' stands for estimators that run on any problem.
"""

from __future__ import annotations

from gradeval.estimators.facts import ENDS_OF_PATHS, SAMPLES, Chance, Count, Facts
from gradeval.estimators.table import TABLE

BOUND = "a bound of K samples"
ONE_A_SAMPLE, TWO = Count("K", lambda L, n, K: K), Count("2", lambda L, n, K: 2)

BOUND_TABLE: dict[str, Facts] = {
    facts.name: facts
    for facts in (
        Facts(
            "vimco",
            "multi_sample:Vimco",
            unbiased=True,
            differentiable=False,
            randomness=Chance.BERNOULLI,
            source="Mnih & Rezende 2016, arXiv:1602.06725",
            loss=BOUND,
        ),
        Facts(
            "local-rloo",
            "multi_sample:LocalRloo",
            unbiased=True,
            differentiable=False,
            randomness=Chance.BERNOULLI,
            source="independent samples in Dimitriev & Zhou 2021, arXiv:2105.14141",
            defaults="samples=2",
            loss_evaluations=ONE_A_SAMPLE,
            head=SAMPLES,
            loss=BOUND,
        ),
        Facts(
            "local-disarm",
            "multi_sample:LocalDisarm",
            unbiased=True,
            differentiable=False,
            randomness=Chance.BERNOULLI,
            source="Dong et al. 2020, arXiv:2006.10680",
            loss_evaluations=TWO,
            head=ENDS_OF_PATHS,
            loss=BOUND,
        ),
        Facts(
            "local-arms",
            "multi_sample:LocalArms",
            unbiased=True,
            differentiable=False,
            randomness=Chance.CONTINUOUS,
            source="Dimitriev & Zhou 2021, arXiv:2105.14141",
            defaults="samples=2",
            loss_evaluations=ONE_A_SAMPLE,
            head=ENDS_OF_PATHS,
            loss=BOUND,
        ),
    )
}

BUILT_IN = TABLE | BOUND_TABLE
"""The facts of all built-in estimators, by name."""
