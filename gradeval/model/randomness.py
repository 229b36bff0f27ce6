"""All chance comes from one object that an estimator is handed: random draws, or every joint state in turn.

The same estimator code therefore gives Monte-Carlo draws, or its exact mean and covariance.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.model.noise import Noise

RAREST = 1e-12
"""The ends of (0, 1) that `FlattenedChance` draws often reach so far."""


@runtime_checkable
class Randomness(Protocol):
    """What an estimator sees of chance. All variables are independent."""

    def bernoulli(self, probability: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Bernoulli variables.

        Args:
            probability: of a 1, elementwise.

        Returns:
            0 or 1, as floats, in the shape of ``probability``.
        """

    def uniform(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        """Variables that are uniform on (0, 1).

        Args:
            shape: of what is returned.

        Returns:
            The variables.
        """

    def normal(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        """Standard normal variables.

        Args:
            shape: of what is returned.

        Returns:
            The variables.
        """

    def noise(self, distribution: Noise, shape: Sequence[int]) -> Float[Tensor, "..."]:
        """Variables with the cdf of an injected noise.

        Args:
            distribution: of the variables.
            shape: of what is returned.

        Returns:
            The variables.
        """


class RandomDraws(Randomness):
    """Chance from a `torch.Generator`; see `Randomness` for the methods.

    Args:
        generator: what is drawn from; the variables are made on its device.
        dtype: of the variables.

    Attributes:
        used: whether anything was drawn yet; it stays False for a deterministic estimator.

    Examples:
        >>> chance = RandomDraws(generator("cpu", "an example"))
        >>> chance.bernoulli(torch.tensor([0.0, 1.0])).tolist()
        [0.0, 1.0]
        >>> chance.uniform([2, 3]).shape
        torch.Size([2, 3])
    """

    def __init__(self, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> None:
        self.generator = generator
        self.dtype = dtype
        self.used = False

    def uniform(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        self.used = True
        draws = torch.rand(tuple(shape), generator=self.generator, dtype=self.dtype, device=self.generator.device)
        return draws.clamp(min=2.0**-54)  # an exact 0 would be an infinite noise

    def bernoulli(self, probability: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        self.used = True
        draws = torch.rand(probability.shape, generator=self.generator, dtype=self.dtype, device=self.generator.device)
        return (draws < probability).to(probability.dtype)

    def normal(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        self.used = True
        return torch.randn(tuple(shape), generator=self.generator, dtype=self.dtype, device=self.generator.device)

    def noise(self, distribution: Noise, shape: Sequence[int]) -> Float[Tensor, "..."]:
        return distribution.icdf(self.uniform(shape))


class EnumeratedStates(RandomDraws):
    """One joint state out of all: `bernoulli` hands out its bits in order and multiplies up their probability.

    Args:
        bits: 0 or 1, [bits]; None only counts how many an estimator takes, and hands out zeros.
        generator: what is drawn from where anything but `bernoulli` is asked for.
        dtype: of what is drawn.

    Attributes:
        weight: the probability of the bits handed out so far, as a differentiable scalar.
        taken: the number of bits handed out so far.
        continuous: whether anything else was asked for; that is drawn at random.

    Examples:
        >>> chance = EnumeratedStates(torch.tensor([1.0, 0.0]), generator("cpu", "an example"))
        >>> chance.bernoulli(torch.tensor([0.3, 0.9])).tolist(), round(chance.weight.item(), 3)
        ([1.0, 0.0], 0.03)
    """

    def __init__(
        self, bits: Float[Tensor, " bits"] | None, generator: torch.Generator, dtype: torch.dtype = torch.float64
    ) -> None:
        super().__init__(generator, dtype)
        self.bits = bits
        self.taken = 0
        self.weight: Tensor | float = 1.0
        self.continuous = False

    def bernoulli(self, probability: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        start, self.taken = self.taken, self.taken + probability.numel()
        if self.bits is None:
            return torch.zeros_like(probability)
        state = self.bits[start : self.taken].reshape(probability.shape)
        self.weight = self.weight * torch.where(state > 0.5, probability, 1 - probability).prod()
        return state

    def uniform(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        self.continuous = True
        return super().uniform(shape)

    def normal(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        self.continuous = True
        return super().normal(shape)


class FlattenedStates(EnumeratedStates):
    """States drawn from probabilities that are nowhere near 0 or 1, weighted so that means over them stay right.

    Args:
        uniforms: one for every state, [bits].
        generator: for other chance.
        dtype: of what is drawn.
        least: the smallest probability that a state of a unit is drawn with.

    Attributes:
        weight: true over flattened probability of the states handed out so far.
    """

    def __init__(
        self, uniforms: Float[Tensor, " bits"], generator: torch.Generator, dtype: torch.dtype, least: float
    ) -> None:
        super().__init__(uniforms, generator, dtype)
        self.least = least

    def bernoulli(self, probability: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """States, as the uniform variables and the flattened probabilities make them."""
        start, self.taken = self.taken, self.taken + probability.numel()
        assert self.bits is not None
        flattened = probability.detach().clamp(self.least, 1 - self.least)
        state = (self.bits[start : self.taken].reshape(probability.shape) < flattened).to(probability.dtype)
        ratio = torch.where(state > 0.5, probability / flattened, (1 - probability) / (1 - flattened))
        self.weight = self.weight * ratio.prod()
        return state


class FlattenedChance(FlattenedStates):
    """As `FlattenedStates`, and uniform variables are drawn near 0 and 1 often: what follows from them is rarely usual.

    A uniform variable u has the density 1 − ε + ε [h(u) + h(1 − u)]/2, ε = ``least``, where h is that of a variable
    whose logarithm is uniform from log `RAREST` to 0: every decade of nearness to 0 and to 1 is met equally often.
    Normal variables and noise are functions of these. With n variables and ε = 2/n no weight is above
    (1 − ε)⁻ⁿ ≈ e².

    Args:
        uniforms: one for every variable, of any kind, [variables].
        generator: not drawn from.
        dtype: of what is drawn.
        least: ε, and the smallest probability that a state of a unit is drawn with.

    Attributes:
        weight: true over flattened density of the variables handed out so far.

    Examples:
        >>> chance = FlattenedChance(torch.tensor([0.01, 0.5]), generator("cpu", "an example"), torch.float64, 0.1)
        >>> u = chance.uniform([2])
        >>> bool(u[0] < 1e-9), round(u[1].item(), 3), bool(chance.weight < 1e-6)
        (True, 0.5, True)
    """

    def uniform(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        """Uniform variables, often near 0 or 1."""
        start, self.taken = self.taken, self.taken + torch.Size(shape).numel()
        assert self.bits is not None
        given, half = self.bits[start : self.taken].reshape(tuple(shape)).to(self.dtype), self.least / 2
        near = torch.minimum(given, 1 - given)
        end = RAREST ** (1 - (near / half).clamp(max=1))
        inside = (given - half) / (1 - self.least)
        u = torch.where(near > half, inside, torch.where(given < 0.5, end, 1 - end))
        u = u.clamp(RAREST, 1 - torch.finfo(self.dtype).eps)
        density = 1 - self.least - half * (1 / u + 1 / (1 - u).clamp(min=RAREST)) / math.log(RAREST)
        self.weight = self.weight * (1 / density).prod()
        return u

    def normal(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        """Normal variables, often far out."""
        return torch.special.ndtri(self.uniform(shape))


class GivenUniforms(RandomDraws):
    """Chance from given uniform variables, taken in order; after the last of them, from the generator.

    Every other variable is a function of uniform ones, so low-discrepancy points can take the place of random ones, and
    a run's draws are its own, whatever runs beside it.

    Args:
        uniforms: the given ones, each in (0, 1), [given].
        generator: what further ones are drawn from.
        dtype: of those.

    Attributes:
        taken: the number of uniform variables asked for so far.

    Examples:
        >>> chance = GivenUniforms(torch.tensor([0.5, 0.2]), generator("cpu", "an example"))
        >>> chance.normal([1]).tolist(), chance.bernoulli(torch.tensor([0.3])).tolist(), chance.taken
        ([0.0], [1.0], 2)
    """

    def __init__(
        self, uniforms: Float[Tensor, " given"], generator: torch.Generator, dtype: torch.dtype = torch.float64
    ) -> None:
        super().__init__(generator, dtype)
        self.uniforms = uniforms
        self.taken = 0

    def uniform(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        self.used = True
        start, self.taken = self.taken, self.taken + torch.Size(shape).numel()
        given = self.uniforms[start : self.taken]
        missing = self.taken - start - len(given)
        if missing:
            given = torch.cat([given, super().uniform([missing])])
        return given.reshape(tuple(shape))

    def bernoulli(self, probability: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (self.uniform(probability.shape) < probability).to(probability.dtype)

    def normal(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        return torch.special.ndtri(self.uniform(shape))


def derived_seed(*names: object) -> int:
    """A seed that follows from names and from nothing else.

    Work that is named is reproducible in any order and on any number of workers.

    Args:
        names: any objects; their texts count.

    Returns:
        A seed of 63 bits.

    Examples:
        >>> derived_seed("trial", 1) == derived_seed("trial", "1") != derived_seed("trial", 2)
        True
    """
    digest = hashlib.sha256("\x1f".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(device: torch.device | str, *names: object) -> torch.Generator:
    """A generator whose seed follows from names.

    Args:
        device: that it draws on.
        names: as of `derived_seed`.

    Returns:
        The generator.

    Examples:
        >>> torch.equal(torch.rand(2, generator=generator("cpu", "a")), torch.rand(2, generator=generator("cpu", "a")))
        True
    """
    return torch.Generator(device=device).manual_seed(derived_seed(*names))
