"""Control variates: REINFORCE minus a function of known mean, plus the gradient of that mean."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.errors import GradevalError
from gradeval.estimators.surrogate import (
    Step,
    carry,
    check_samples,
    check_temperature,
    leave_one_out,
    linearise,
    mean_field,
    noise_given_state,
    sample_path,
)
from gradeval.model.head_loss import PointLoss
from gradeval.model.network import BinaryLayer, StochasticBinaryNetwork
from gradeval.model.objective import split_constant
from gradeval.model.problem import Problem
from gradeval.model.randomness import RandomDraws, Randomness, derived_seed, generator
from gradeval.progress import Advance

FITTED_NUMBERS = 2**24  # of all terms of a batch of draws in a fit


@dataclass(frozen=True)
class MuProp:
    """MuProp: Σₖ [f(x) − h(xᵏ)] ∇log P(sᵏ | xᵏ⁻¹) + ∇f̄(x̄ᵏ)·∇x̄ᵏ with h(xᵏ) = f̄(x̄ᵏ) + ∇f̄(x̄ᵏ)·(xᵏ − x̄ᵏ).

    x̄ᵏ = E[xᵏ | xᵏ⁻¹], and f̄ continues from it through layers k+1..L by their means.

    Source: Gu et al., ICLR 2016, arXiv:1511.05176, eq. 4.

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> exact_moments(problem, MuProp()).relative_bias()["all"] < 1e-12
        True
    """

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        steps, x = sample_path(network, inputs, randomness)
        f = loss(x)
        value = f
        for k, (layer, _, a, p, s) in enumerate(steps):
            mean = layer.encode(p)
            h, slope = linearise(_mean_field_loss(network.layers[k + 1 :], loss), mean)
            h = h + (slope * (layer.encode(s) - mean.detach())).sum(-1)
            value = value + (f.detach() - h) * carry(layer.log_prob(s, a)) + (slope * carry(mean)).sum(-1)
        return value


@dataclass(frozen=True)
class DoubleCV:
    """Double control variates: the leave-one-out baseline of K paths, f less its linear part in every layer k:
    meanᵢ {[fᵢ − mean_{j≠i} fⱼ − gᵢ·(dᵢ − mean_{j≠i} dⱼ)] ∇log P(sᵢ|xᵢᵏ⁻¹) + gᵢ·∇x̄ᵢ}, dᵢ = xᵢ − x̄ᵢ, x̄ᵢ = E[xᵢ|xᵢᵏ⁻¹].

    gᵢ = ∇f̄ at the mean of the other paths' xⱼ, with f̄ continued through layers k+1..L by their means: it does not see
    path i.

    Args:
        samples: K ≥ 2.

    Raises:
        GradevalError: there are fewer samples.

    Source: Titsias & Shi, AISTATS 2022, arXiv:2111.05300, sec. 3 (one layer, its coefficient fixed; several layers as
    in MuProp).

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> exact_moments(problem, DoubleCV(samples=2)).relative_bias()["all"] < 1e-12
        True
    """

    samples: int = 4

    def __post_init__(self) -> None:
        check_samples("double-cv", self.samples, 2)

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
        for k, (layer, _, a, p, s) in enumerate(steps):
            x, mean = layer.encode(s), layer.encode(p)
            others = x - leave_one_out(x)
            _, slope = linearise(_mean_field_loss(network.layers[k + 1 :], loss), others)
            weight = leave_one_out(f.detach()) - (slope * leave_one_out(x - mean.detach())).sum(-1)
            value = value + (weight * carry(layer.log_prob(s, a)) + (slope * carry(mean)).sum(-1)).mean(0)
        return value


@dataclass(frozen=True)
class Rodeo:
    """RODEO, leave-one-out with discrete Stein control variates, for every unit (k, u) and path i of K:
    {fᵢ − mean_{j≠i} [fⱼ − hⱼ(xⱼ)] − ½ [hᵢ(xᵢ) + hᵢ(xᵢ with u flipped)]} ∇log P(sᵢᵤ | xᵢᵏ⁻¹), averaged over i.

    hᵢ(x) = mean_{j≠i} ∇f̄(xⱼ)·(x − x̄ᵢ) with x̄ᵢ = E[xᵢ|xᵢᵏ⁻¹], f̄ continued through layers k+1..L by their means. Gibbs
    sampling's Stein operator, Σᵤ P(¬sᵤ) [h(x with u flipped) − h(x)], which has the mean 0, makes −h of h, and the last
    term of ½ h ∇log P: it cancels products of two units.

    Args:
        samples: K ≥ 2.

    Raises:
        GradevalError: there are fewer samples.

    Source: Shi et al., NeurIPS 2022, arXiv:2202.09497; there h is a network of f(xⱼ) and ∇f(xⱼ)·(x − xⱼ) that learns
    during training, here it is linear and has the factors 1 and ½.

    Examples:
        >>> from gradeval import exact_moments, load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> exact_moments(problem, Rodeo(samples=2)).relative_bias()["all"] < 1e-12
        True
    """

    samples: int = 4

    def __post_init__(self) -> None:
        check_samples("rodeo", self.samples, 2)

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
        for k, (layer, _, a, p, s) in enumerate(steps):
            x, sign = layer.encode(s), 2 * s - 1
            _, slope = linearise(_mean_field_loss(network.layers[k + 1 :], loss), x)
            slope = slope - leave_one_out(slope)  # the mean of the others
            h = (slope * (x - layer.encode(p)).detach()).sum(-1)
            baseline = f.detach() - leave_one_out(f.detach()) - (h - leave_one_out(h))
            weight = (f.detach() - baseline - h)[..., None] + 0.5 * layer.delta * slope * sign
            value = value + (weight * carry(layer.noise.log_cdf(sign * a))).sum(-1).mean(0)
        return value


@dataclass(frozen=True)
class Rebar:
    """REBAR: Σₖ [f(x) − η c(z̃)] ∇log P(sᵏ | xᵏ⁻¹) + η ∇c(z) − η ∇c(z̃).

    z is the layer's noise given sᵏ, z̃ another one given sᵏ whose dependence on the parameters is differentiated;
    c(z) = f at the relaxed states lo + (hi − lo) σ((aᵏ − z)/τ), continued through relaxed layers with noises of their
    own, the same for z and z̃.

    Args:
        temperature: τ > 0; if None, `fit` chooses it among `temperatures`.
        eta: η; 0 is REINFORCE. If None, `fit` finds it: the estimate is linear in η, least squares minimises the
            single-draw variance (of a linear layer's gradient) on 256 draws of every point.

    Raises:
        GradevalError: the temperature is not positive; called before what is None is fitted.

    Source: Tucker et al., NeurIPS 2017, arXiv:1703.07370, eq. 6; layers: sec. 3.2; there τ and η follow the variance
    during training.

    Examples:
        >>> from gradeval import load_problem
        >>> from gradeval.model.randomness import RandomDraws, generator
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> chance = RandomDraws(generator("cpu", "an example"))
        >>> Rebar(temperature=0.5, eta=1.0)(problem.network, problem.inputs, problem.loss_function(), chance).shape
        torch.Size([4])
    """

    temperature: float | None = None
    eta: float | None = None

    budget = 256  # draws of every point
    temperatures = (0.1, 0.2, 0.5, 1.0, 2.0)

    def __post_init__(self) -> None:
        if self.temperature is not None:
            check_temperature("rebar", self.temperature)

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        if self.temperature is None or self.eta is None:
            raise GradevalError("rebar must be fitted first: rebar.fit(problem, seed), or given temperature and eta.")
        etas = [[self.eta]] * len(network.layers)
        return _with_terms(network, inputs, loss, randomness, _rebar_terms([self.temperature]), etas)

    def fit(self, problem: Problem, seed: int, advance: Advance | None = None) -> Rebar:
        """Fit to a problem what is None of temperature and eta.

        Args:
            problem: what it is fitted to.
            seed: of all chance in the fit.
            advance: a callback for progress; it is given the number of draws done since its last call.

        Returns:
            The estimator with both; itself where nothing is None.
        """
        if None not in (self.temperature, self.eta):
            return self
        temperatures = self.temperatures if self.temperature is None else (self.temperature,)
        return Rebar(*_fit_rebar(problem, seed, temperatures, self.eta, advance))

    @property
    def learned(self) -> dict[str, Any]:
        """What was learned, for the report."""
        return {"temperature": self.temperature, "eta": self.eta, "draws": self.budget}


@dataclass(frozen=True)
class Relax:
    """RELAX: Σₖ [f(x) − cₖ(z̃)] ∇log P(sᵏ | xᵏ⁻¹) + ∇cₖ(z) − ∇cₖ(z̃), z and z̃ as in REBAR, with a learned cₖ.

    cₖ is a combination, with learned coefficients, of REBAR's relaxed f at temperatures ¼, 1 and 4 and of the relaxed
    states at temperature 1. The estimate is linear in the coefficients, so `fit` minimises the single-draw variance (of
    a linear layer's gradient) by least squares, on 256 draws of every point; then they are frozen.

    Args:
        coefficients: of every layer; `fit` finds them.

    Raises:
        GradevalError: called before it is fitted.

    Source: Grathwohl et al., ICLR 2018, arXiv:1711.00123, eq. 8; there cₖ is REBAR's plus a neural network.

    Examples:
        >>> from gradeval import load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> relax = Relax().fit(problem, seed=1)
        >>> relax.learned["temperatures"], relax.learned["draws"]
        ([0.25, 1.0, 4.0], 256)
    """

    coefficients: tuple[Tensor, ...] | None = field(default=None, repr=False, compare=False)

    budget = 256  # draws of every point
    temperatures = (0.25, 1.0, 4.0)

    def __call__(
        self,
        network: StochasticBinaryNetwork,
        inputs: Float[Tensor, "points *inputs"],
        loss: PointLoss,
        randomness: Randomness,
    ) -> Float[Tensor, " points"]:
        if self.coefficients is None:
            raise GradevalError("relax must be fitted first: relax.fit(problem, seed) returns the fitted estimator.")
        return _with_terms(network, inputs, loss, randomness, _relax_terms, self.coefficients)

    def fit(self, problem: Problem, seed: int, advance: Advance | None = None) -> Relax:
        """Fit the coefficients to a problem by least squares.

        Args:
            problem: what it is fitted to.
            seed: of all chance in the fit.
            advance: a callback for progress; it is given the number of draws done since its last call.

        Returns:
            The estimator with its coefficients; it is frozen.
        """
        grams = _fitting_grams(problem, derived_seed("relax", seed), self.budget, _relax_terms, advance)
        return replace(self, coefficients=tuple(_least_squares(gram) for gram in grams))

    @property
    def learned(self) -> dict[str, Any]:
        """What was learned, for the report."""
        assert self.coefficients is not None
        parts = len(self.temperatures)
        layers = {str(k + 1): c[:parts].tolist() for k, c in enumerate(self.coefficients)}
        return {"temperatures": list(self.temperatures), "coefficients of the relaxed f": layers, "draws": self.budget}


ControlVariates = Callable[[list[Step], int, PointLoss, Randomness], Iterator[Tensor]]
"""The control variates of layer k that may be combined."""


def _with_terms(
    network: StochasticBinaryNetwork,
    inputs: Tensor,
    loss: PointLoss,
    randomness: Randomness,
    terms: ControlVariates,
    coefficients: Sequence[Iterable[float | Tensor]],
) -> Tensor:
    """The surrogate of REINFORCE plus each layer's control variates, multiplied by its coefficients."""
    steps, x = sample_path(network, inputs, randomness)
    f = loss(x)
    value = f
    for k, (step, weights) in enumerate(zip(steps, coefficients, strict=True)):
        value = value + f.detach() * carry(step.layer.log_prob(step.s, step.a))
        for weight, term in zip(weights, terms(steps, k, loss, randomness), strict=True):
            value = value + weight * term
    return value


def _fitting_grams(
    problem: Problem, seed: int, draws: int, terms: ControlVariates, advance: Advance | None
) -> list[Tensor]:
    """Each layer's Gram matrix of the gradients of [f ∇log P(sᵏ), the terms], summed over draws and points."""
    network, inputs, (loss, _) = problem.network, problem.inputs, split_constant(problem.loss_function())
    randomness = RandomDraws(generator(network.device, seed), network.dtype)
    grams: list[Any] = [0.0] * len(network.layers)
    widest = max(problem.widths)
    batch = _draws_at_once(problem.points * widest * (widest + 4))
    for _ in range(draws // batch):
        with torch.no_grad():
            steps, x = sample_path(network, inputs.expand(batch, *inputs.shape), randomness)
            f = loss(x)
        for k, step in enumerate(steps):
            a = step.a.detach().requires_grad_()
            steps[k] = step = step._replace(a=a)
            score = f * carry(step.layer.log_prob(step.s, a))
            surrogates = itertools.chain([score], terms(steps, k, loss, randomness))  # each is freed before the next
            norm = (1 + (step.x**2).sum(-1, keepdim=True)).sqrt()  # of ∂a/∂(weight, bias) of a linear layer
            rows = [(torch.autograd.grad(t.sum(), a, retain_graph=True)[0] * norm).flatten() for t in surrogates]
            design = torch.stack(rows)
            grams[k] = grams[k] + design @ design.T
            steps[k] = step._replace(a=a.detach())
        if advance:
            advance(batch)
    return grams


def _rebar_terms(temperatures: Sequence[float]) -> ControlVariates:
    """REBAR's control variates with η = 1, one for each temperature, all of the same noises."""

    def terms(steps: list[Step], k: int, loss: PointLoss, randomness: Randomness) -> Iterator[Tensor]:
        return _relaxed_terms(steps, k, loss, _noises(steps, k, randomness), temperatures)

    return terms


def _fit_rebar(
    problem: Problem, seed: int, temperatures: Sequence[float], eta: float | None, advance: Advance | None
) -> tuple[float, float]:
    """The temperature, of some, and η, unless it is given, with which REBAR has the least single-draw variance."""
    terms = _rebar_terms(temperatures)
    gram = torch.stack(_fitting_grams(problem, derived_seed("rebar", seed), Rebar.budget, terms, advance)).sum(0)
    cross, squares = gram[0, 1:], gram.diagonal()[1:].clamp(min=torch.finfo(gram.dtype).tiny)
    etas = -cross / squares if eta is None else torch.full_like(cross, eta)
    best = int((2 * etas * cross + etas**2 * squares).argmin())  # the change of the variance
    return temperatures[best], float(etas[best])


def _relax_terms(steps: list[Step], k: int, loss: PointLoss, randomness: Randomness) -> Iterator[Tensor]:
    """The control variate of layer k for each part of RELAX's cₖ: surrogates of zero-mean gradients."""
    noises = _noises(steps, k, randomness)
    yield from _relaxed_terms(steps, k, loss, noises, Relax.temperatures)
    relaxed = _relaxed_states(steps[k], noises[0], 1.0)
    for unit, slope in enumerate(torch.eye(relaxed.shape[-1], dtype=relaxed.dtype, device=relaxed.device)):
        yield _zero_mean(steps[k], relaxed, relaxed[..., unit].detach(), slope.expand_as(relaxed))


def _draws_at_once(numbers: int) -> int:
    """The largest power of two up to 32 whose draws, of so many numbers each, do not take much memory."""
    return min(32, max(1, 1 << (FITTED_NUMBERS // numbers).bit_length() >> 1))


def _relaxed_terms(
    steps: list[Step], k: int, loss: PointLoss, noises: tuple[Tensor, list[Tensor]], temperatures: Iterable[float]
) -> Iterator[Tensor]:
    """REBAR's control variate of layer k at each temperature, with η = 1."""
    pair, above = noises
    layers = [step.layer for step in steps[k + 1 :]]
    for temperature in temperatures:
        relaxed = _relaxed_states(steps[k], pair, temperature)
        yield _zero_mean(steps[k], relaxed, *linearise(_continued(layers, above, loss, temperature), relaxed))


def _mean_field_loss(layers: Iterable[BinaryLayer], loss: PointLoss) -> PointLoss:
    """f̄: f continued through ``layers`` by their means."""
    return lambda x: loss(mean_field(layers, x))


def _noises(steps: list[Step], k: int, randomness: Randomness) -> tuple[Tensor, list[Tensor]]:
    """Layer k's noises z (a constant) and z̃ (a function of a) given its states, [2, ...], and those of layers above."""
    layer, _, a, _, s = steps[k]
    z = noise_given_state(layer, a, s, randomness.uniform(a.shape)).detach()
    other = noise_given_state(layer, a, s, randomness.uniform(a.shape))
    return torch.stack([z, other]), [randomness.noise(step.layer.noise, step.a.shape) for step in steps[k + 1 :]]


def _relaxed_states(step: Step, z: Tensor, temperature: float) -> Tensor:
    return step.layer.encode(torch.sigmoid((step.a - z) / temperature))


def _continued(layers: Iterable[BinaryLayer], noises: list[Tensor], loss: PointLoss, temperature: float) -> PointLoss:
    """f as a function of relaxed states, through relaxed ``layers`` with the given noises."""

    def function(x: Tensor) -> Tensor:
        for layer, z in zip(layers, noises, strict=True):
            x = layer.encode(torch.sigmoid((layer.preactivation(x) - z) / temperature))
        return loss(x)

    return function


def _zero_mean(step: Step, relaxed: Tensor, c: Tensor, slope: Tensor) -> Tensor:
    """−c(z̃) ∇log P(s) + ∇c(z) − ∇c(z̃), from c and its slope at the relaxed states of z and z̃, [2, ...]."""
    c_z, c_other = (slope * carry(relaxed)).sum(-1)
    return c_z - c_other - c[1] * carry(step.layer.log_prob(step.s, step.a))


def _least_squares(gram: Tensor) -> Tensor:
    """The coefficients ψ that minimise ‖t + Σ ψₘ dₘ‖², from the Gram matrix of (t, d₁, d₂, …)."""
    inner = gram[1:, 1:]
    ridge = 1e-6 * inner.diagonal().mean() + torch.finfo(gram.dtype).tiny
    return torch.linalg.solve(inner + ridge * torch.eye(len(inner)).to(inner), -gram[1:, 0])
