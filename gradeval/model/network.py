"""Stochastic binary networks: xᵏ = lo + (hi − lo) sᵏ with P(sᵏ = 1 | xᵏ⁻¹) = F(aᵏ), aᵏ = Aₖ(xᵏ⁻¹), and a head.

Shapes: ``points`` data points, ``units`` of a layer; leading axes are free.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradeval.errors import GradevalError
from gradeval.model.flips import flip_differences
from gradeval.model.maps import CHUNK_ENTRIES, Form, Terms, affine_form
from gradeval.model.noise import Noise, get_noise


class FlipCost(UserWarning):
    """All flips of a layer cost one evaluation of it each."""


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
        """A(x with binary input i flipped), for every i in turn along a new axis before the units: one evaluation each.

        Flipping xᵢ changes it by lo + hi − 2xᵢ. The inputs must be states of a layer with this layer's (lo, hi).
        """
        unit = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device).reshape(-1, *[1] * (x.ndim - 1), x.shape[-1])
        return self.map(x + unit * self._change(x)).movedim(0, -2)

    def sum_flips(
        self,
        x: Float[Tensor, "*batch points inputs"],
        terms: Terms,
        a: Float[Tensor, "*batch points units"],
        *values: Float[Tensor, "*batch points units"],
    ) -> Float[Tensor, "*batch points inputs"]:
        """Σⱼ terms(aⱼ with binary input i flipped, aⱼ, valuesⱼ…) for every i; no gradient goes through it.

        ``terms`` is elementwise and vanishes where a flip does not change aⱼ. Of a map that is affine by structure
        (`maps.affine_form`) the flips cost as much as one evaluation, of any other one evaluation each.
        """
        with torch.no_grad():
            return self._sum_flips(self.form(x), x, terms, a, *values)

    def flip_differences(
        self,
        x: Float[Tensor, "*batch points inputs"],
        a: Float[Tensor, "*batch points units"],
        g: Float[Tensor, "*batch points units"],
        tolerance: float | None = None,
    ) -> Float[Tensor, "*batch points inputs"]:
        """Σⱼ gⱼ [F(aⱼ) − F(aⱼ with binary input i flipped)] for every i; no gradient goes through it.

        As `sum_flips`, but also by separable expansion where that is cheaper, see `flips.flip_differences`.
        """
        with torch.no_grad():
            form = self.form(x)
            if form is not None:
                return flip_differences(form, self.noise, self._change(x), self.delta, a, g, tolerance)
            cdf = self.noise.cdf
            return self._sum_flips(None, x, lambda flipped, a, p, g: g * (p - cdf(flipped)), a, cdf(a), g)

    def _sum_flips(self, form: Form | None, x: Tensor, terms: Terms, *values: Tensor) -> Tensor:
        change = self._change(x)
        if form is not None:
            return form.sum_flips(change, terms, *values)
        inputs, broadcast = x.shape[-1], [value[..., None, :] for value in values]
        warnings.warn(
            f"a layer's map is not affine by structure ({type(self.map).__name__}): its {inputs} flips cost {inputs} "
            "evaluations of it, where linear maps, convolutions and average pooling need about one.",
            FlipCost,
            stacklevel=4,
        )
        at_once = max(1, CHUNK_ENTRIES // max(1, x.numel(), values[0].numel()))
        parts = []
        for some in torch.eye(inputs, dtype=x.dtype, device=x.device).split(at_once):
            flipped = self.map(x + some.reshape(-1, *[1] * (x.ndim - 1), inputs) * change).movedim(0, -2)
            parts.append(terms(flipped, *broadcast).sum(-1))
        return torch.cat(parts, -1)

    def form(self, x: Float[Tensor, "*batch points inputs"]) -> Form | None:
        """The map's matrix M where it is affine by structure, x ↦ M x + constant."""
        return affine_form(self.map, x.shape[-1], x)

    def _change(self, x: Tensor) -> Tensor:
        """What flipping adds to every input, −δσ."""
        return 2 * self.lo + self.delta - 2 * x

    def gaussian_moments(
        self, mean: Float[Tensor, "*batch points inputs"], variance: Float[Tensor, "*batch points inputs"]
    ) -> tuple[Float[Tensor, "*batch points units"], Float[Tensor, "*batch points units"]]:
        """Mean and variance of a = A(x) for independent inputs x: A(mean) and Σᵢ Mⱼᵢ² varianceᵢ."""
        form = self.form(mean)
        if form is None:
            raise GradevalError(
                "moment propagation (adf, local-reparam) needs maps that are affine by structure (linear, convolution, "
                f"average pooling, scale and bias, sums of these), found {type(self.map).__name__}."
            )
        return self.map(mean), form.forward(variance, form.weight**2)


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
