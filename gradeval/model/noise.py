"""Distributions of the injected noise z: a unit is on when its preactivation a ≥ z, so P(s = 1) = F(a).

All are symmetric about zero, so log(1 − F(a)) = log F(−a) keeps its precision in both tails.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import zeta
from torch import Tensor

from gradeval.errors import GradevalError, unknown_name


class Noise:
    """A continuous distribution, symmetric about zero, with cdf F.

    `cdf` and `log_cdf` are differentiable, with the derivatives `pdf` and `pdf`/`cdf`.

    Attributes:
        name: what networks and problem files call it.
    """

    name: str

    def cdf(self, a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The cumulative distribution function.

        Args:
            a: any shape.

        Returns:
            F(a), elementwise.
        """
        raise NotImplementedError

    def pdf(self, a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The density.

        Args:
            a: any shape.

        Returns:
            F'(a), elementwise.
        """
        raise NotImplementedError

    def icdf(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The quantile function.

        Args:
            u: in (0, 1), any shape.

        Returns:
            F⁻¹(u), elementwise.
        """
        raise NotImplementedError

    def log_cdf(self, a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The logarithm of `cdf`, without cancellation.

        Args:
            a: any shape.

        Returns:
            log F(a), elementwise; where F is zero it is −inf with a zero gradient (F' is zero there too).
        """
        probability = self.cdf(a)
        possible = probability > 0
        return torch.where(possible, torch.log(torch.where(possible, probability, 1.0)), -math.inf)

    def log_odds(self, a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The log-odds of a unit.

        Args:
            a: any shape.

        Returns:
            log F(a)/(1 − F(a)), elementwise; 0 with a zero gradient where F is 0 or 1.
        """
        possible = (self.cdf(a) > 0) & (self.cdf(-a) > 0)
        inside = torch.where(possible, a, 0.0)
        return torch.where(possible, self.log_cdf(inside) - self.log_cdf(-inside), 0.0)

    def differences(self, a: Float[Tensor, "*shape"], shifts: Sequence[float]) -> list[Float[Tensor, "*shape"]]:
        """What shifts of the argument add to F.

        Args:
            a: any shape.
            shifts: the numbers w.

        Returns:
            F(a − w) − F(a) for every w.
        """
        p = self.cdf(a)
        return [self.cdf(a - w) - p for w in shifts]

    def derivative_bound(self, order: int) -> float:
        """An upper bound of the absolute value of a derivative of F.

        Args:
            order: n ≥ 1.

        Returns:
            At least sup|F⁽ⁿ⁾|; infinite where F is not so smooth.
        """
        return math.inf

    def gaussian_expectation(self, mean: Float[Tensor, "..."], variance: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The probability of a unit whose preactivation is normally distributed, by quadrature with 64 nodes.

        Args:
            mean: of a, any shape.
            variance: of a, not negative, the same shape.

        Returns:
            E[F(a)] for a ~ N(mean, variance), elementwise.
        """
        nodes, weights = (torch.as_tensor(v, dtype=mean.dtype, device=mean.device) for v in _gauss_hermite(64))
        return self.cdf(mean[..., None] + safe_sqrt(variance)[..., None] * nodes) @ weights


class Logistic(Noise):
    """F(a) = 1 / (1 + e⁻ᵃ).

    Examples:
        >>> noise = Logistic()
        >>> noise.cdf(torch.tensor([-1.0, 0.0, 1.0])), noise.icdf(torch.tensor([0.5]))
        (tensor([0.2689, 0.5000, 0.7311]), tensor([0.]))
    """

    name = "logistic"

    def cdf(self, a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.sigmoid(a)

    def pdf(self, a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.sigmoid(a) * torch.sigmoid(-a)

    def icdf(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.logit(u)

    def log_cdf(self, a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.nn.functional.logsigmoid(a)

    def log_odds(self, a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return a

    def differences(self, a: Float[Tensor, "*shape"], shifts: Sequence[float]) -> list[Float[Tensor, "*shape"]]:
        """−p q/(1/E + q) with p = F(a), q = 1 − p and E = eʷ − 1: no cancellation."""
        p, q = torch.sigmoid(a), torch.sigmoid(-a)
        product = -p * q
        # E is capped below infinity: there the quotient is −p to all digits
        factors = [math.expm1(min(w, 80.0)) for w in shifts]
        return [product / (q + 1 / factor) if factor else torch.zeros_like(a) for factor in factors]

    def derivative_bound(self, order: int) -> float:
        """2 n! Σ_{k odd} (kπ)⁻ⁿ⁻¹, from the poles ±iπk of F; attained at a = 0 for odd n."""
        return 2 * math.factorial(order) * (1 - 0.5 ** (order + 1)) * float(zeta(order + 1)) / math.pi ** (order + 1)

    def gaussian_expectation(self, mean: Float[Tensor, "..."], variance: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """E[F(a)] ≈ F(mean / √(1 + π variance / 8)), the usual probit matching (error below 0.02).

        Source: D. J. C. MacKay, Neural Computation 4(5), 1992, doi:10.1162/neco.1992.4.5.720.
        """
        return self.cdf(mean / torch.sqrt(1 + math.pi / 8 * variance))


class Normal(Noise):
    """Standard normal: F(a) = Φ(a)."""

    name = "normal"

    def cdf(self, a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return 0.5 * torch.erfc(-a / math.sqrt(2))  # torch.special.ndtr is 0 below −8

    def pdf(self, a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.exp(-0.5 * a * a) / math.sqrt(2 * math.pi)

    def icdf(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.special.ndtri(u)

    def log_cdf(self, a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        # torch.special.log_ndtr cannot be vectorised over draws: vmap falls back to a loop
        below, above = -a.clamp(max=0) / math.sqrt(2), a.clamp(min=0) / math.sqrt(2)
        lower = torch.log(0.5 * torch.special.erfcx(below)) - below**2
        upper = torch.log1p(-0.5 * torch.special.erfcx(above) * torch.exp(-(above**2)))
        return torch.where(a < 0, lower, upper)

    def derivative_bound(self, order: int) -> float:
        """Cramér's bound of Hermite functions, |Heₙ₋₁(a)| e^(−a²/4) ≤ 1.0865 √(n−1)!; exact for n = 1."""
        return (1.0865 if order > 1 else 1.0) * math.sqrt(math.factorial(order - 1) / (2 * math.pi))

    def gaussian_expectation(self, mean: Float[Tensor, "..."], variance: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """E[Φ(a)] = Φ(mean / √(1 + variance)), exact."""
        return self.cdf(mean / torch.sqrt(1 + variance))


class Uniform(Noise):
    """Uniform on [−1, 1]: F(a) = (1 + a) / 2 inside. Its `st` is straight-through with the hardtanh derivative."""

    name = "uniform"

    def cdf(self, a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return 0.5 + 0.5 * a.clamp(-1, 1)

    def pdf(self, a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return 0.5 * (a.abs() <= 1).to(a.dtype)

    def icdf(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return 2 * u - 1


class Laplace(Noise):
    """Laplace of scale 1: F(a) = ½ eᵃ for a < 0 and 1 − ½ e⁻ᵃ above."""

    name = "laplace"

    def cdf(self, a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.where(a < 0, 0.5 * torch.exp(a.clamp(max=0)), 1 - 0.5 * torch.exp(-a.clamp(min=0)))

    def pdf(self, a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return 0.5 * torch.exp(-a.abs())

    def icdf(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.where(u < 0.5, torch.log(2 * u), -torch.log(2 * (1 - u)))

    def log_cdf(self, a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.where(a < 0, a - math.log(2), torch.log1p(-0.5 * torch.exp(-a.clamp(min=0))))


class Cauchy(Noise):
    """Cauchy of scale 1: F(a) = ½ + arctan(a)/π, written as arctan2(1, −a)/π to keep the lower tail exact."""

    name = "cauchy"

    def cdf(self, a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.atan2(torch.ones_like(a), -a) / math.pi

    def pdf(self, a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return 1 / (math.pi * (1 + a * a))

    def icdf(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.tan(math.pi * (u - 0.5))

    def log_cdf(self, a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.where(a < 0, torch.log(self.cdf(a.clamp(max=0))), torch.log1p(-self.cdf(-a.clamp(min=0))))

    def derivative_bound(self, order: int) -> float:
        """(n − 1)!/π, as F'(a) = −Im 1/(a + i)/π."""
        return math.factorial(order - 1) / math.pi


class Triangular(Noise):
    """Triangular on [−1, 1]: F'(a) = 1 − |a| inside."""

    name = "triangular"

    def cdf(self, a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.where(a < 0, 0.5 * (1 + a.clamp(-1, 0)) ** 2, 1 - 0.5 * (1 - a.clamp(0, 1)) ** 2)

    def pdf(self, a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (1 - a.abs()).clamp(min=0)

    def icdf(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.where(u < 0.5, torch.sqrt(2 * u) - 1, 1 - torch.sqrt(2 * (1 - u)))


NOISES: dict[str, Noise] = {
    noise.name: noise for noise in (Logistic(), Normal(), Uniform(), Laplace(), Cauchy(), Triangular())
}


def get_noise(noise: str | Noise | type[Noise]) -> Noise:
    """A noise by its name, or one's own.

    Args:
        noise: "logistic", "normal", "uniform", "laplace", "cauchy" or "triangular"; or one's own `Noise`.

    Returns:
        The distribution.

    Raises:
        GradevalError: there is none of this name (near matches are named), or one's own is not sound (`check_noise`).

    Examples:
        >>> get_noise("normal").cdf(torch.tensor([0.0]))
        tensor([0.5000])
    """
    if isinstance(noise, str) and noise in NOISES:
        return NOISES[noise]
    if isinstance(noise, type) and issubclass(noise, Noise):
        noise = noise()
    if not isinstance(noise, Noise):
        raise unknown_name("noise", noise, NOISES)
    if not is_built_in(noise):
        check_noise(noise)
    return noise


def is_built_in(noise: Noise) -> bool:
    """Whether a noise is one of `NOISES`.

    Args:
        noise: any.

    Returns:
        False for one's own.
    """
    return any(type(noise) is type(known) for known in NOISES.values())


def check_noise(noise: Noise) -> None:
    """Refuse a noise of one's own whose functions do not belong to one symmetric distribution.

    Args:
        noise: any; `cdf`, `pdf`, `icdf` and `log_cdf` are tried at a few places.

    Raises:
        GradevalError: it has no name or that of another noise, lacks a function, or these contradict each other.
    """
    name = getattr(noise, "name", None)
    if not isinstance(name, str) or not name or name in NOISES:
        raise GradevalError(f"a noise of one's own needs a name that no other has, found {name!r}.")
    a = torch.linspace(-3.07, 3.03, 62, dtype=torch.float64, requires_grad=True)
    u = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    try:
        with torch.enable_grad():
            p = noise.cdf(a)
            (slope,) = torch.autograd.grad(p.sum(), a)
        a, p = a.detach(), p.detach()
        laws = [
            ("cdf is not symmetric: F(a) + F(−a) must be 1", p + noise.cdf(-a), torch.ones_like(p)),
            ("cdf falls somewhere, or leaves [0, 1]", p, torch.cummax(p, 0).values.clamp(0, 1)),
            ("pdf is not the derivative of cdf", noise.pdf(a), slope),
            ("icdf is not the inverse of cdf", noise.cdf(noise.icdf(u)), u),
            ("log_cdf is not the logarithm of cdf", noise.log_cdf(a).exp(), p),
        ]
    except Exception as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise GradevalError(
            f"noise '{name}' cannot be used ({what}): cdf, pdf and icdf take a tensor of any shape, and cdf is "
            "differentiable."
        ) from None
    for law, found, wanted in laws:
        if found.shape != wanted.shape or not bool(((found - wanted).abs() < 1e-6).all()):
            raise GradevalError(f"noise '{name}': {law}.")


@cache
def _gauss_hermite(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for the expectation under N(0, 1)."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    return points, weights / weights.sum()


def safe_sqrt(variance: Tensor) -> Tensor:
    """√variance with a zero (not infinite) gradient where the variance is zero.

    Args:
        variance: not negative, any shape.

    Returns:
        The square roots.

    Examples:
        >>> variance = torch.tensor([0.0, 4.0], requires_grad=True)
        >>> safe_sqrt(variance).sum().backward()
        >>> variance.grad
        tensor([0.0000, 0.2500])
    """
    positive = variance > 0
    return torch.where(positive, torch.sqrt(torch.where(positive, variance, 1.0)), 0.0)
