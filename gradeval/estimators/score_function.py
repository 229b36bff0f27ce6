"""Score-function estimators: f is a black box."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.errors import GradevalError
from gradeval.estimators.surrogate import Step, carry, check_samples, leave_one_out, sample_path
from gradeval.model.head_loss import PointLoss
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.objective import split_constant
from gradeval.model.problem import Problem
from gradeval.model.randomness import RandomDraws, Randomness, generator
from gradeval.progress import Advance


@dataclass(frozen=True)
class Reinforce:
    """REINFORCE: [f(x) − b] Σₖ ∇ log P(sᵏ | xᵏ⁻¹).

    Args:
        baseline: the constant b.

    Source: R. J. Williams, Machine Learning 8, 1992, doi:10.1007/BF00992696.

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> exact_moments(problem, Reinforce()).relative_bias()["all"] < 1e-12
        True
    """

    baseline: float = 0.0

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        x, log_prob = inputs, inputs.new_zeros(())
        for layer in network.layers:
            a = layer.preactivation(x)
            s = randomness.bernoulli(layer.probability(a))
            log_prob = log_prob + layer.log_prob(s, a)
            x = layer.encode(s)
        f = loss(x)
        return f + (f.detach() - self.baseline) * carry(log_prob)


@dataclass(frozen=True)
class Rloo:
    """REINFORCE with the leave-one-out baseline: meanᵢ [f(xᵢ) − mean_{j≠i} f(xⱼ)] Σₖ ∇ log P(sᵢᵏ | xᵢᵏ⁻¹), K paths xᵢ.

    Args:
        samples: K ≥ 2.

    Raises:
        GradevalError: there are fewer samples.

    Source: Salimans & Knowles 2014, arXiv:1401.1022; Kool, van Hoof & Welling, ICLR workshop 2019,
    https://openreview.net/forum?id=r1lgTGL5DE.

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> exact_moments(problem, Rloo(samples=2)).relative_bias()["all"] < 1e-12
        True
    """

    samples: int = 4

    def __post_init__(self) -> None:
        check_samples("rloo", self.samples, 2)

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        steps, x = sample_path(network, inputs.expand(self.samples, *inputs.shape), randomness)
        f = loss(x)
        value = f.mean(0)
        for layer, _, a, _, s in steps:
            value = value + (leave_one_out(f.detach()) * carry(layer.log_prob(s, a))).mean(0)
        return value


@dataclass(frozen=True)
class Nvil:
    """REINFORCE with a learned baseline of the input for every layer: Σₖ [f(x) − bₖ(x⁰)] ∇ log P(sᵏ | xᵏ⁻¹).

    bₖ(x⁰) is linear in x⁰ and in 32 random tanh features of it. `fit` finds it by least squares of f with the weights
    ‖∂ log P(sᵏ | xᵏ⁻¹)/∂θₖ‖² (of a linear layer), which minimises the variance that the layer's gradient has, on 256
    paths of every point; then it is frozen. NVIL's normalisation by a running variance, which changes the scale of the
    gradient, is left out.

    Args:
        fitted: the baselines; `fit` finds them.

    Raises:
        GradevalError: called before it is fitted.

    Source: Mnih & Gregor, ICML 2014, arXiv:1402.0030, sec. 2.3.

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> nvil = Nvil().fit(problem, seed=1)
        >>> nvil.learned
        {'baselines': '2 functions of the input, linear in 35 features', 'paths': 256}
        >>> exact_moments(problem, nvil).relative_bias()["all"] < 1e-12
        True
    """

    fitted: _Baselines | None = field(default=None, repr=False, compare=False)

    budget = 256  # paths of every point

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        if self.fitted is None:
            raise GradevalError("nvil must be fitted first: nvil.fit(problem, seed) returns the fitted estimator.")
        baselines = self.fitted(inputs)
        steps, x = sample_path(network, inputs, randomness)
        f = loss(x)
        value = f
        for (layer, _, a, _, s), baseline in zip(steps, baselines, strict=True):
            value = value + (f.detach() - baseline) * carry(layer.log_prob(s, a))
        return value

    def fit(self, problem: Problem, seed: int, advance: Advance | None = None) -> Nvil:
        """Fit the baselines to a problem by least squares.

        Args:
            problem: what it is fitted to.
            seed: of all chance in the fit.
            advance: a callback for progress; it is given the number of paths done since its last call.

        Returns:
            The estimator with its baselines; it is frozen.
        """
        return replace(self, fitted=_fit_baselines(problem, seed, self.budget, advance))

    @property
    def learned(self) -> dict[str, Any]:
        """What was learned, for the report."""
        assert self.fitted is not None
        layers, features = self.fitted.coefficients.shape
        return {"baselines": f"{layers} functions of the input, linear in {features} features", "paths": self.budget}


@dataclass(frozen=True)
class _Baselines:
    """bₖ(x) = coefficientsₖ · (1, x, tanh(x directions + offsets)) for every layer k."""

    directions: Tensor
    offsets: Tensor
    coefficients: Tensor

    def features(self, inputs: Tensor) -> Tensor:
        x = inputs.flatten(1)
        hidden = torch.tanh(x @ self.directions / x.shape[1] ** 0.5 + self.offsets)
        return torch.cat([torch.ones_like(x[:, :1]), x, hidden], 1)

    def __call__(self, inputs: Tensor) -> Tensor:
        return self.coefficients @ self.features(inputs).T  # [layers, points]


def _fit_baselines(problem: Problem, seed: int, paths: int, advance: Advance | None) -> _Baselines:
    """The baselines of NVIL by weighted least squares, on so many paths of every point."""
    network, inputs, (loss, _) = problem.network, problem.inputs, split_constant(problem.loss_function())
    randomness = RandomDraws(generator(network.device, "nvil", seed), network.dtype)
    unfitted = _Baselines(randomness.normal([inputs[0].numel(), 32]), randomness.normal([32]), inputs.new_zeros(0))
    features, batch = unfitted.features(inputs), 32
    gram, moment = features.new_zeros(()), features.new_zeros(())
    for _ in range(paths // batch):
        with torch.no_grad():
            steps, x = sample_path(network, inputs.expand(batch, *inputs.shape), randomness)
            weight = torch.stack([_squared_score(step) for step in steps])  # [layers, batch, points]
            gram = gram + torch.einsum("lbp,pi,pj->lij", weight, features, features)
            moment = moment + torch.einsum("lbp,bp,pi->li", weight, loss(x), features)
        if advance:
            advance(batch)
    # a slight ridge: there may be more features than points, and saturated layers have no weight at all
    ridge = 1e-6 * gram.diagonal(dim1=1, dim2=2).mean(1) + torch.finfo(gram.dtype).tiny
    solution = torch.linalg.solve(gram + ridge[:, None, None] * torch.eye(gram.shape[-1]).to(gram), moment)
    return replace(unfitted, coefficients=solution)


def _squared_score(step: Step) -> Tensor:
    """‖∂ log P(s | x)/∂(weight, bias)‖² of a linear layer: ‖∂ log P/∂a‖² (1 + ‖x‖²)."""
    chosen = step.layer.probability((2 * step.s - 1) * step.a)
    return ((step.layer.noise.pdf(step.a) / chosen) ** 2).sum(-1) * (1 + (step.x**2).sum(-1))
