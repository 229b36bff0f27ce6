"""Stochastic binary networks: xᵏ = lo + (hi − lo) sᵏ with P(sᵏ = 1 | xᵏ⁻¹) = F(aᵏ), aᵏ = Aₖ(xᵏ⁻¹), and a head.

Shapes: ``points`` data points, ``units`` of a layer; leading axes are free.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradeval.errors import GradevalError
from gradeval.noise import Noise, get_noise


class BinaryLayer(nn.Module):
    """One layer of binary units: a map Aₖ to preactivations, the noise F and the state values (lo, hi)."""

    map: nn.Module
    noise: Noise

    def __init__(self, map: nn.Module, noise: Noise, states: tuple[float, float]) -> None:
        super().__init__()
        self.map = map
        self.noise = noise
        self.lo, hi = states
        self.delta = hi - self.lo

    def preactivation(self, x: Float[Tensor, "*batch points inputs"]) -> Float[Tensor, "*batch points units"]:
        """a = A(x)."""
        return self.map(x)

    def probability(self, a: Float[Tensor, "*batch points units"]) -> Float[Tensor, "*batch points units"]:
        """P(s = 1 | x) = F(a)."""
        return self.noise.cdf(a)

    def log_prob(
        self, s: Float[Tensor, "*batch points units"], a: Float[Tensor, "*batch points units"]
    ) -> Float[Tensor, "*batch points"]:
        """ℓ = Σⱼ log P(sⱼ | x), using 1 − F(a) = F(−a)."""
        return self.noise.log_cdf((2 * s - 1) * a).sum(-1)

    def encode(self, s: Float[Tensor, "*batch points units"]) -> Float[Tensor, "*batch points units"]:
        """x = lo + (hi − lo) s."""
        return s if (self.lo, self.delta) == (0, 1) else self.lo + self.delta * s

    def flip(self, s: Float[Tensor, "*batch points units"]) -> Float[Tensor, "units *batch points units"]:
        """The states with unit i flipped, for every i in turn along a new leading axis."""
        flipped = torch.eye(s.shape[-1], dtype=s.dtype, device=s.device)
        flipped = flipped.reshape(-1, *[1] * (s.ndim - 1), s.shape[-1])
        return s + flipped * (1 - 2 * s)

    def flipped_preactivations(
        self,
        x: Float[Tensor, "*batch points inputs"],
        a: Float[Tensor, "*batch points units"],
    ) -> Float[Tensor, "*batch points inputs units"]:
        """A(x with binary input i flipped), for every i in turn along a new axis before the units.

        Flipping xᵢ changes it by lo + hi − 2xᵢ, so for a linear map a changes by (lo + hi − 2xᵢ) Wⱼᵢ.
        The inputs must be states of a layer with this layer's (lo, hi).
        """
        change = 2 * self.lo + self.delta - 2 * x
        if isinstance(self.map, nn.Linear):
            return torch.addcmul(a[..., None, :], change[..., None], self.map.weight.T)
        unit = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device).reshape(-1, *[1] * (x.ndim - 1), x.shape[-1])
        return self.map(x + unit * change).movedim(0, -2)

    def gaussian_moments(
        self, mean: Float[Tensor, "*batch points inputs"], variance: Float[Tensor, "*batch points inputs"]
    ) -> tuple[Float[Tensor, "*batch points units"], Float[Tensor, "*batch points units"]]:
        """Mean and variance of a = A(x) for independent inputs x: A(mean) and Σᵢ Wⱼᵢ² varianceᵢ."""
        if not isinstance(self.map, nn.Linear):
            raise GradevalError(
                f"moment propagation (adf, local-reparam) needs linear layers, found {type(self.map).__name__}."
            )
        return self.map(mean), variance @ (self.map.weight**2).T


class StochasticBinaryNetwork(nn.Module):
    """Layers of binary units followed by a head, a real-valued map.

    Args:
        maps: Aₖ of every layer, each a module from [..., points, inputs] to [..., points, units].
        head: the map from the last layer's states to the outputs.
        noise: name of the injected noise (`gradeval list` shows them).
        states: the two values (lo, hi) of a unit.

    Raises:
        GradevalError: no layers, lo ≥ hi, or an unknown noise.
    """

    layers: Sequence[BinaryLayer]  # an nn.ModuleList
    noise: Noise

    def __init__(
        self,
        maps: Sequence[nn.Module],
        head: nn.Module,
        noise: str = "logistic",
        states: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        lo, hi = states
        if not lo < hi:
            raise GradevalError(f"states must be [lo, hi] with lo < hi, found [{lo}, {hi}].")
        if not maps:
            raise GradevalError("a stochastic binary network needs at least one layer, found none.")
        self.states = (float(lo), float(hi))
        self.noise = get_noise(noise)
        self.layers = nn.ModuleList(  # type: ignore[assignment]
            BinaryLayer(map, self.noise, self.states) for map in maps
        )
        self.head = head

    @classmethod
    def linear(
        cls,
        inputs: int,
        units: Sequence[int],
        outputs: int,
        noise: str = "logistic",
        states: tuple[float, float] = (0.0, 1.0),
        dtype: torch.dtype = torch.float64,
    ) -> StochasticBinaryNetwork:
        """Linear layers of the given widths with all parameters zero, to be filled in by the caller."""
        widths = [inputs, *units]
        if min(*widths, outputs) < 1:
            raise GradevalError(
                f"every width must be at least 1, found {inputs} inputs, units {'-'.join(map(str, units))}, "
                f"{outputs} outputs."
            )

        def zeros(fan_in: int, fan_out: int) -> nn.Linear:
            map = nn.utils.skip_init(nn.Linear, fan_in, fan_out, dtype=dtype)
            for parameter in map.parameters():
                nn.init.zeros_(parameter)
            return map

        maps = [zeros(a, b) for a, b in itertools.pairwise(widths)]
        return cls(maps, zeros(widths[-1], outputs), noise, states)

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the parameters."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    def layer_slices(self) -> dict[str, slice]:
        """Where each layer's parameters (weight, then bias) lie in the flattened parameters; `all` is the whole."""
        slices, start = {}, 0
        named = [(str(k + 1), layer) for k, layer in enumerate(self.layers)] + [("head", self.head)]
        for name, module in named:
            size = sum(p.numel() for p in module.parameters())
            if size:
                slices[name] = slice(start, start + size)
            start += size
        return slices | {"all": slice(0, start)}
