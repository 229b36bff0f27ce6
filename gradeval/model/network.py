"""Stochastic binary networks: xᵏ = lo + (hi − lo) sᵏ with P(sᵏ = 1 | xᵏ⁻¹) = F(aᵏ), aᵏ = Aₖ(xᵏ⁻¹), and a head.

Shapes: ``points`` data points, ``units`` of a layer; leading axes are free.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradeval.arguments import shown, states_pair, whole, widths_of
from gradeval.errors import GradevalError
from gradeval.model.affine import affine_form
from gradeval.model.building import linear_maps, split_sequence, zero_maps
from gradeval.model.flips import Flips, flip_differences
from gradeval.model.forms import CHUNK_ENTRIES, Form, Terms
from gradeval.model.noise import Noise, get_noise
from gradeval.notebook import card


class FlipCost(UserWarning):
    """Warns that all flips of a layer's inputs cost one evaluation of its map each."""


class BinaryLayer(nn.Module):
    """One layer of binary units: sⱼ = 1[aⱼ ≥ zⱼ] with a = A(x) and independent noises zⱼ, so P(sⱼ = 1 | x) = F(aⱼ).

    Args:
        map: A, from [..., points, inputs] to [..., points, units].
        noise: the distribution of zⱼ, with cdf F.
        states: the two values (lo, hi) of a unit, lo < hi; δ = hi − lo is ``delta``.
    """

    map: nn.Module
    noise: Noise

    def __init__(self, map: nn.Module, noise: Noise, states: tuple[float, float]) -> None:
        super().__init__()
        self.map = map
        self.noise = noise
        self.lo, hi = states
        self.delta = hi - self.lo

    def preactivation(self, x: Float[Tensor, "*batch points inputs"]) -> Float[Tensor, "*batch points units"]:
        """The preactivations of an input.

        Args:
            x: states of the layer below, or data points, [..., points, inputs].

        Returns:
            a = A(x), [..., points, units].
        """
        return self.map(x)

    def probability(self, a: Float[Tensor, "*batch points units"]) -> Float[Tensor, "*batch points units"]:
        """P(s = 1 | x) of every unit.

        Args:
            a: preactivations, [..., points, units].

        Returns:
            F(a), elementwise. P(s = 0 | x) = F(−a), as F is symmetric.
        """
        return self.noise.cdf(a)

    def log_prob(
        self, s: Float[Tensor, "*batch points units"], a: Float[Tensor, "*batch points units"]
    ) -> Float[Tensor, "*batch points"]:
        """The log-probability of the states of all units.

        Args:
            s: states, 0 or 1, [..., points, units].
            a: preactivations, [..., points, units].

        Returns:
            ℓ = Σⱼ log P(sⱼ | x), [..., points].
        """
        return self.noise.log_cdf((2 * s - 1) * a).sum(-1)

    def encode(self, s: Float[Tensor, "*batch points units"]) -> Float[Tensor, "*batch points units"]:
        """The values of states.

        Args:
            s: 0 or 1, or something between, [..., points, units].

        Returns:
            x = lo + (hi − lo) s.
        """
        return s if (self.lo, self.delta) == (0, 1) else self.lo + self.delta * s

    def flip(self, s: Float[Tensor, "*batch points units"]) -> Float[Tensor, "units *batch points units"]:
        """The states with each unit flipped in turn.

        Args:
            s: 0 or 1, [..., points, units].

        Returns:
            For every unit i along a new leading axis: the states with unit i flipped.
        """
        unit = torch.eye(s.shape[-1], dtype=s.dtype, device=s.device).reshape(-1, *[1] * (s.ndim - 1), s.shape[-1])
        return s + unit * (1 - 2 * s)

    def form(self, x: Float[Tensor, "*batch points inputs"]) -> Form | None:
        """The matrix M of the map x ↦ M x + constant, where it is affine by structure (`gradeval.model.affine`).

        Args:
            x: any input; its size, precision and device are used.

        Returns:
            M as a differentiable function of the parameters, or None.
        """
        return affine_form(self.map, x.shape[-1], x)

    def flips(self, x: Float[Tensor, "*batch points inputs"]) -> Flips | None:
        """What a flip of each input adds to it, and how that reaches the preactivations.

        Args:
            x: states of a layer with this layer's (lo, hi), [..., points, inputs].

        Returns:
            The flips; None where the map is not affine by structure.
        """
        form = self.form(x)
        return None if form is None else Flips(form, self.noise, 2 * self.lo + self.delta - 2 * x, self.delta)

    def sum_flips(
        self,
        x: Float[Tensor, "*batch points inputs"],
        terms: Terms,
        *values: Float[Tensor, "*batch points units"],
    ) -> Float[Tensor, "*batch points inputs"]:
        """Σⱼ terms(aⱼ with binary input i flipped, aⱼ, …) for every i; no gradient goes through it.

        Of a map that is affine by structure the flips cost as much as one evaluation, of any other one evaluation each.

        Args:
            x: states of a layer with this layer's (lo, hi), [..., points, inputs].
            terms: elementwise; zero where a flip does not change aⱼ.
            values: a = A(x), then what else ``terms`` takes, each [..., points, units].

        Returns:
            The sums, [..., points, inputs].
        """
        with torch.no_grad():
            flips = self.flips(x)
            if flips is not None:
                return flips.form.sum_flips(flips.change, terms, *values)
            return _sum_flips_one_by_one(self, x, terms, *values)

    def flip_response(
        self,
        x: Float[Tensor, "*batch points inputs"],
        a: Float[Tensor, "*batch points units"],
        g: Float[Tensor, "*batch points units"],
        tolerance: float | None = None,
    ) -> Float[Tensor, "*batch points inputs"]:
        """Σⱼ gⱼ [F(aⱼ) − F(aⱼ with binary input i flipped)] for every i; no gradient goes through it.

        As `sum_flips`, but by separable expansion where that is cheaper (`gradeval.model.flips`).

        Args:
            x: states of a layer with this layer's (lo, hi), [..., points, inputs].
            a: A(x), [..., points, units].
            g: the weights, [..., points, units].
            tolerance: of the expansion, see `flips.flip_differences`.

        Returns:
            The sums, [..., points, inputs].
        """
        with torch.no_grad():
            flips, cdf = self.flips(x), self.noise.cdf
            if flips is not None:
                return flip_differences(flips, a, g, tolerance)
            return _sum_flips_one_by_one(self, x, lambda flipped, a, p, g: g * (p - cdf(flipped)), a, cdf(a), g)


def _sum_flips_one_by_one(layer: BinaryLayer, x: Tensor, terms: Terms, *values: Tensor) -> Tensor:
    """`BinaryLayer.sum_flips` for any map, by evaluating it for every flip."""
    inputs, broadcast = x.shape[-1], [value[..., None, :] for value in values]
    change = 2 * layer.lo + layer.delta - 2 * x
    warnings.warn(
        f"a layer's map is not affine by structure ({type(layer.map).__name__}): its {inputs} flips cost {inputs} "
        "evaluations of it, where linear maps, convolutions and average pooling need about one.",
        FlipCost,
        stacklevel=4,
    )
    at_once = max(1, CHUNK_ENTRIES // max(1, x.numel(), values[0].numel()))
    parts = []
    for some in torch.eye(inputs, dtype=x.dtype, device=x.device).split(at_once):
        flipped = layer.map(x + some.reshape(-1, *[1] * (x.ndim - 1), inputs) * change).movedim(0, -2)
        parts.append(terms(flipped, *broadcast).sum(-1))
    return torch.cat(parts, -1)


class StochasticBinaryNetwork(nn.Module):
    """Layers of binary units followed by a head, a real-valued map.

    Args:
        maps: Aₖ of every layer (or of the only one), each a module from [..., points, inputs] to [..., points, units].
        head: the map from the last layer's states to the outputs.
        noise: name of the injected noise (`gradeval list` shows them), or one's own `gradeval.Noise`.
        states: the two values (lo, hi) of a unit.

    Raises:
        GradevalError: no layers, what is no module, states that are not two numbers lo < hi, or an unknown noise.

    Attributes:
        layers: a `BinaryLayer` of every map.
        noise: the distribution of the injected noise.

    Examples:
        >>> maps = [nn.Linear(2, 3), nn.Linear(3, 3)]
        >>> network = StochasticBinaryNetwork(maps, head=nn.Linear(3, 1), noise="normal", states=(-1.0, 1.0))
        >>> network.layer_slices()
        {'1': slice(0, 9, None), '2': slice(9, 21, None), 'head': slice(21, 25, None), 'all': slice(0, 25, None)}
    """

    layers: Sequence[BinaryLayer]  # an nn.ModuleList
    noise: Noise

    def __init__(
        self,
        maps: nn.Module | Sequence[nn.Module],
        head: nn.Module,
        noise: str | Noise = "logistic",
        states: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        self.states = states_pair(states)
        maps = list(maps) if isinstance(maps, Sequence | nn.Sequential) else [maps]
        if not maps:
            raise GradevalError("a stochastic binary network needs at least one layer, found none.")
        for place, map in (*((f"maps[{k}]", map) for k, map in enumerate(maps)), ("head", head)):
            if not isinstance(map, nn.Module):
                raise GradevalError(f"{place} must be a module of torch, such as nn.Linear(2, 3), found {shown(map)}.")
        self.noise = get_noise(noise)
        self.layers = nn.ModuleList(  # type: ignore[assignment]
            BinaryLayer(map, self.noise, self.states) for map in maps
        )
        self.head = head

    @classmethod
    def linear(
        cls,
        inputs: int,
        units: int | str | Sequence[int],
        outputs: int,
        noise: str | Noise = "logistic",
        states: tuple[float, float] = (0.0, 1.0),
        dtype: torch.dtype = torch.float64,
    ) -> StochasticBinaryNetwork:
        """A network of linear layers with all parameters zero, to be filled in by the caller.

        Args:
            inputs: the number of inputs.
            units: the number of units of each layer, [5, 5] or "5-5".
            outputs: the number of outputs of the head.
            noise: name of the injected noise.
            states: the two values (lo, hi) of a unit.
            dtype: of the parameters.

        Returns:
            The network.

        Raises:
            GradevalError: a width below 1, no layers, lo ≥ hi, or an unknown noise.
        """
        widths = [whole("inputs", inputs, least=1), *widths_of("units", units)]

        *maps, head = zero_maps([*widths, whole("outputs", outputs, least=1)], dtype)
        return cls(maps, head, noise, states)

    @classmethod
    def from_state_dict(
        cls,
        weights: Mapping[str, Any] | Sequence[Any],
        noise: str | Noise = "logistic",
        states: tuple[float, float] = (0.0, 1.0),
    ) -> StochasticBinaryNetwork:
        """A network of linear layers with given weights: a checkpoint's, or arrays.

        Args:
            weights: a state dict, or a pair (weight, bias) for each layer and the head (`building.linear_maps`).
            noise, states: as of the class; they are not in the weights.

        Returns:
            The network, in the precision of the weights.

        Examples:
            >>> saved = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).state_dict()
            >>> StochasticBinaryNetwork.from_state_dict(saved).layer_slices()["head"]
            slice(9, 13, None)
        """
        *maps, head = linear_maps(weights)
        return cls(maps, head, noise, states)

    @classmethod
    def from_sequential(cls, model: nn.Sequential) -> StochasticBinaryNetwork:
        """A network from a sequence of modules with `gradeval.BinaryUnits` between its maps.

        Args:
            model: maps and, after each but the last, `BinaryUnits`; the network shares its modules.

        Returns:
            The network.
        """
        maps, head, units = split_sequence(model)
        return cls(maps, head, units.noise, units.states)

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the parameters."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    def _repr_html_(self) -> str:
        return card("stochastic binary network", network_facts(self), repr(self))

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters θ that J is differentiated by: those of the layers and the head that require a gradient.

        Returns:
            Each once, by its name, in the order of the layers. One that several layers share has its first name.
        """
        return {name: p for name, p in self.named_parameters() if p.requires_grad and _layer_of(name)}

    def layer_slices(self) -> dict[str, slice]:
        """Where each layer's parameters lie when all that are trainable are flattened and joined.

        Returns:
            A slice by layer: "1" … "L", "head" (those without trainable parameters left out) and "all". Parameters that
            several layers share lie in the first of them.
        """
        slices: dict[str, slice] = {}
        start = 0
        for name, parameter in self.trainable().items():
            layer, stop = _layer_of(name), start + parameter.numel()
            slices[layer] = slice(slices[layer].start if layer in slices else start, stop)
            start = stop
        return slices | {"all": slice(0, start)}


def network_facts(network: StochasticBinaryNetwork) -> dict[str, str]:
    """What a notebook shows of a network.

    Args:
        network: any.

    Returns:
        Words by what they say.
    """
    maps = [type(layer.map).__name__ for layer in network.layers]
    sizes = [where.stop - where.start for where in network.layer_slices().values()]
    return {
        "layers": f"{len(maps)} of binary units ({', '.join(maps)})",
        "noise": network.noise.name,
        "states": f"{network.states[0]:g}, {network.states[1]:g}",
        "trainable parameters": f"{sizes[-1]:,}",
    }


def _layer_of(name: str) -> str:
    """The layer that a parameter belongs to by its name: "1" … "L" or "head"; empty where it is of neither."""
    first, _, rest = name.partition(".")
    return str(int(rest.partition(".")[0]) + 1) if first == "layers" else "head" * (first == "head")
