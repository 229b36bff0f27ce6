"""What all flips of a layer's inputs do to the layer above: Σⱼ gⱼ [F(aⱼ) − F(aⱼ with input i flipped)] for every i.

Flipping input i changes aⱼ by −δ σᵢ Mⱼᵢ (σᵢ = ±1, M the matrix of an affine map): a product with F inside.

* Direct: every pair (i, j), in chunks of bounded memory.
* Separable: F(a − w) − F(a) ≈ u Σ_{k<m} oₖ(a) T₂ₖ(u) + u² Σ_{k<n} eₖ(a) T₂ₖ(u) with u = w/w_m, w_m = δ max|M| and
  Chebyshev's polynomials T₂ₖ. The odd part changes its sign with σᵢ, the even part does not: the sum is m + n ordinary
  products with u T₂ₖ(u) and u² T₂ₖ(u) of the matrix, as matrix products or transposed convolutions. `terms_needed`
  gives m and n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.model.forms import Form
from gradeval.model.noise import Noise

MAX_TERMS = 64
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}

# costs in multiply-adds of a matrix product, by which the form is chosen
DIRECT_PAIR = 40  # one pair of the direct form
ELEMENT = 10  # one element of an elementwise operation
OVERHEAD = 500_000  # what the separable form costs however small it is


def terms_needed(noise: Noise, reach: float, tolerance: float) -> tuple[int, int] | None:
    """The numbers (m, n) of odd and even terms by which the separable form's error is at most tolerance · |w| F′(0).

    For every a and |w| ≤ reach = w_m. The odd part of F(a − w) is w q(w²); q is interpolated at m Chebyshev nodes of
    [0, w_m²], and |q⁽ᵐ⁾| ≤ m!/(2m+1)! sup|F⁽²ᵐ⁺¹⁾|, so its error is at most

        |w| · 2 (w_m/2)²ᵐ/(2m+1)! · sup|F⁽²ᵐ⁺¹⁾|.

    The even part is F(a) + w² e(w²), and likewise e leaves at most |w| · 2 w_m (w_m/2)²ⁿ/(2n+2)! · sup|F⁽²ⁿ⁺²⁾|.

    Args:
        noise: whose F is expanded.
        reach: w_m ≥ 0.
        tolerance: of the error, relative to |w| F′(0).

    Returns:
        (m, n); None where the noise is not smooth, or no 64 terms are enough.

    Source: the interpolation error at Chebyshev nodes, e.g. L. N. Trefethen, Approximation Theory and Approximation
    Practice, SIAM 2013; q and e are means of even derivatives of F over [0, w].

    Examples:
        >>> from gradeval.model.noise import get_noise
        >>> terms_needed(get_noise("logistic"), reach=0.2, tolerance=1e-6)
        (3, 2)
        >>> terms_needed(get_noise("uniform"), reach=0.2, tolerance=1e-6) is None
        True
    """
    if math.isinf(reach):
        return None
    at_zero = noise.derivative_bound(1)

    def bound(derivative: int, halves: int) -> float:
        supremum = noise.derivative_bound(derivative)
        if math.isinf(supremum):
            return math.inf
        return 2 * math.exp(
            math.log(supremum / at_zero) + halves * math.log(reach / 2) - math.lgamma(derivative + 1)
        )  # fmt: skip

    odd, even = 1, 0
    while odd + even <= MAX_TERMS:
        of_odd, of_even = bound(2 * odd + 1, 2 * odd), reach * bound(2 * even + 2, 2 * even)
        if of_odd + of_even <= tolerance:
            return odd, even
        if math.isinf(of_odd):
            return None
        if of_odd > of_even:
            odd += 1
        else:
            even += 1
    return None


@dataclass(frozen=True, eq=False)
class Flips:
    """The flips of a layer's binary inputs, one at a time: flipping input i adds changeᵢ Mⱼᵢ to aⱼ.

    Attributes:
        form: the matrix M of the layer's map.
        noise: whose F gives the layer's probabilities.
        change: ±δ for every input, [..., inputs].
        delta: δ = hi − lo > 0.
    """

    form: Form
    noise: Noise
    change: Float[Tensor, "*batch inputs"]
    delta: float


def flip_differences(
    flips: Flips,
    a: Float[Tensor, "*batch units"],
    g: Float[Tensor, "*batch units"],
    tolerance: float | None = None,
    method: str = "auto",
) -> Float[Tensor, "*batch inputs"]:
    """Σⱼ gⱼ [F(aⱼ) − F(aⱼ + changeᵢ Mⱼᵢ)] for every input i; no gradient goes through it.

    Args:
        flips: the layer's map and noise, and what a flip adds to each input.
        a: the layer's preactivations, [..., units].
        g: the weights, [..., units].
        tolerance: of the separable form: the error is at most tolerance · F′(0) δ Σⱼ |gⱼ Mⱼᵢ|, beside rounding. By
            default 1e-12 in double and 1e-5 in single precision.
        method: "direct", "separable" or "auto", the one whose predicted cost is lower.

    Returns:
        The sums, [..., inputs].

    Raises:
        ValueError: "separable" where the noise is not smooth or the changes are too large.

    Examples:
        >>> import torch
        >>> from gradeval.model.forms import Dense
        >>> from gradeval.model.noise import get_noise
        >>> flips = Flips(Dense(torch.tensor([[1.0, 2.0]])), get_noise("logistic"), torch.tensor([1.0, -1.0]), 1.0)
        >>> flip_differences(flips, a=torch.zeros(1), g=torch.ones(1))
        tensor([-0.2311,  0.3808])
    """
    form, noise = flips.form, flips.noise
    points = a[..., 0].numel()
    direct = DIRECT_PAIR * form.pairs * points
    if method == "separable" or (method == "auto" and direct > OVERHEAD):
        tolerance = TOLERANCE.get(a.dtype, 1e-2) if tolerance is None else tolerance
        reach = flips.delta * _largest(form.weight)
        if reach == 0:
            return torch.zeros_like(flips.change)
        terms = terms_needed(noise, reach, tolerance)
        if terms is not None:
            cost = sum(terms) * (form.pairs * points + ELEMENT * (2 * a.numel() + form.weight.numel())) + OVERHEAD
            if method == "separable" or cost < direct:
                return _separable(flips, reach, terms, a, g)
        if method == "separable":
            raise ValueError(f"no separable form for {noise.name} noise and changes up to {reach:.3g}.")
    return form.sum_flips(flips.change, lambda flipped, a, p, g: g * (p - noise.cdf(flipped)), a, noise.cdf(a), g)


def _largest(weight: Tensor) -> float:
    """max|M|; infinite (there is no separable form) where `torch.func.vmap` runs over the weights and hides them."""
    least, most = weight.detach().aminmax()
    try:
        return max(-float(least), float(most))
    except RuntimeError as error:
        if "vmap" not in str(error):
            raise
        return math.inf


def _separable(flips: Flips, reach: float, terms: tuple[int, int], a: Tensor, g: Tensor) -> Tensor:
    """Σⱼ gⱼ [F(aⱼ) − F(aⱼ − σᵢ δMⱼᵢ)]. Kernels have the factor M or M² for u or u²; what they differ by goes into g."""
    form, sign = flips.form, flips.change / -flips.delta
    weight, scale = form.weight, flips.delta / reach
    square = weight * weight
    v = 2 * scale**2 * square - 1 if max(terms) > 1 else square  # T₂ₖ(u) = Tₖ(v)
    parts: list[Tensor | float] = [0.0, 0.0]
    for power, count in enumerate(terms, 1):
        base = weight if power == 1 else square
        before, chebyshev = None, None  # T₀ = 1 is left out of products
        for coefficient in _coefficients(flips.noise, a, reach, count, power, scale**power):
            kernel = base if chebyshev is None else base * chebyshev
            parts[power - 1] = parts[power - 1] - form.transposed(g * coefficient, kernel)
            if chebyshev is None:
                chebyshev = v
            else:
                chebyshev, before = 2 * v * chebyshev - (1 if before is None else before), chebyshev
    return sign * parts[0] + parts[1]


def _coefficients(noise: Noise, a: Tensor, reach: float, count: int, power: int, scale: float) -> list[Tensor]:
    """``scale`` × the coefficients of T₂ₖ, k < count, in (odd part of F(a − w) − F(a))/u, or in (even part)/u².

    The discrete cosine transform of the values at the Chebyshev nodes u² = (1 + cos θ)/2 of [0, 1]; ``power`` is
    that of u, 1 or 2.
    """
    angles = [math.pi * (q + 0.5) / count for q in range(count)]
    nodes = [math.cos(angle / 2) for angle in angles]
    found = noise.differences(a, [sign * reach * u for u in nodes for sign in (1, -1)])
    combine = torch.sub if power == 1 else torch.add
    values = [combine(up, down) for up, down in zip(found[::2], found[1::2], strict=True)]  # twice the part
    coefficients = []
    for k in range(count):
        each = (1 if k == 0 else 2) / count * scale / 2
        weights = [each * math.cos(k * angle) / u**power for angle, u in zip(angles, nodes, strict=True)]
        total = values[0] * weights[0]  # a tensor of its own: it may be written to
        for value, weight in zip(values[1:], weights[1:], strict=True):
            total.add_(value, alpha=weight)
        coefficients.append(total)
    return coefficients
