"""Networks from what people have: arrays of weights, checkpoints of torch, and an `nn.Sequential` with marks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradeval.arguments import shown, states_pair
from gradeval.errors import GradevalError
from gradeval.model.data import as_tensor
from gradeval.model.noise import Noise, get_noise


class BinaryUnits(nn.Module):
    """Marks where a network has binary units: sⱼ = 1[aⱼ ≥ zⱼ] of the preactivations that the module before it gives.

    It stands in an `nn.Sequential` between maps, as an activation does, and draws states where the sequence is called;
    no gradient goes through it. `gradeval.StochasticBinaryNetwork.from_sequential`, and `gradeval.Problem`, take such a
    sequence.

    Args:
        noise: the name of the distribution of zⱼ, or one's own `gradeval.Noise`.
        states: the two values (lo, hi) of a unit.

    Raises:
        GradevalError: an unknown noise, or states that are not two numbers lo < hi.

    Examples:
        >>> import gradeval
        >>> model = nn.Sequential(nn.Linear(2, 3), BinaryUnits(), nn.Linear(3, 3), BinaryUnits(), nn.Linear(3, 1))
        >>> gradeval.Problem(model, [[0.0, 1.0], [1.0, 0.0]], [1, -1], loss="logistic").widths
        [3, 3]
    """

    def __init__(self, noise: str | Noise = "logistic", states: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__()
        self.noise, self.states = get_noise(noise), states_pair(states)

    def forward(self, a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        lo, hi = self.states
        return lo + (hi - lo) * torch.bernoulli(self.noise.cdf(a.detach()))

    def extra_repr(self) -> str:
        return f"noise={self.noise.name}, states={self.states}"


def zero_maps(widths: Sequence[int], dtype: torch.dtype) -> list[nn.Module]:
    """Linear maps with all parameters zero.

    Args:
        widths: of the inputs, the layers and the outputs.
        dtype: of the parameters.

    Returns:
        A map between any two neighbours.
    """
    pairs = itertools.pairwise(widths)
    return [_linear(torch.zeros(b, a, dtype=dtype), torch.zeros(b, dtype=dtype)) for a, b in pairs]


def linear_maps(weights: Mapping[str, Any] | Sequence[Any]) -> list[nn.Module]:
    """Linear maps with given weights, those of the layers and then the head's.

    Args:
        weights: a state dict whose matrices [outputs, inputs] and vectors [outputs] are the weights and biases of the
            maps in turn, whatever their names; or a sequence of a pair (weight, bias), or a weight alone, for each map.
            Tensors, arrays, tables or lists. A map without a bias has none.

    Returns:
        The maps; they have copies of the numbers.

    Raises:
        GradevalError: they are not the weights of linear maps that fit one on the other.

    Examples:
        >>> linear_maps([([[1.0, 2.0]], [0.5]), [[3.0]]])
        [Linear(in_features=2, out_features=1, bias=True), Linear(in_features=1, out_features=1, bias=False)]
    """
    pairs = list(_pairs(_named(weights)))
    if len(pairs) < 2:
        raise GradevalError(f"a network has the weights of at least one layer and a head, found {len(pairs)} weights.")
    dtype = torch.result_type(*(weight for _, weight, _ in pairs[:2]))
    dtype = dtype if dtype.is_floating_point else torch.float64
    for (below, first, _), (name, second, _) in itertools.pairwise(pairs):
        if second.shape[1] != first.shape[0]:
            raise GradevalError(
                f"{name} takes {second.shape[1]} inputs, but {below} gives {first.shape[0]}: the maps must come in the "
                "order of the layers, the head's last."
            )
    return [_linear(weight.to(dtype), bias) for _, weight, bias in pairs]


def _named(weights: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(weights, Mapping):
        yield from ((str(key), as_tensor(str(key), value)) for key, value in weights.items())
        return
    if isinstance(weights, str | bytes | Tensor) or not isinstance(weights, Sequence):
        raise GradevalError(
            f"weights must be a state dict, or a pair (weight, bias) for each map; found {shown(weights)}."
        )
    for k, given in enumerate(weights):
        for part, value in zip(("weight", "bias"), given if isinstance(given, tuple) else (given,), strict=False):
            if value is not None:
                yield f"maps[{k}].{part}", as_tensor(f"maps[{k}].{part}", value)


def _pairs(named: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Weights with their biases."""
    before: tuple[str, Tensor] | None = None
    for name, tensor in named:
        if tensor.ndim == 1 and before is not None and len(tensor) == len(before[1]):
            yield (*before, tensor)
            before = None
        elif tensor.ndim == 2:
            if before is not None:
                yield (*before, None)
            before = name, tensor
        else:
            raise GradevalError(
                f"{name} has the shape {list(tensor.shape)}: only the weights [outputs, inputs] and biases [outputs] "
                "of linear maps are taken, each bias after its weight. Build other networks from their modules."
            )
    if before is not None:
        yield (*before, None)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    outputs, inputs = weight.shape
    map = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias is not None, dtype=weight.dtype)
    with torch.no_grad():
        map.weight.copy_(weight)
        if bias is not None:
            map.bias.copy_(bias)
    return map


def split_sequence(model: nn.Sequential) -> tuple[list[nn.Module], nn.Module, BinaryUnits]:
    """Split a sequence at its binary units.

    Args:
        model: maps and, after each but the last, `BinaryUnits`.

    Returns:
        The map of each layer, the head, and one of the marks; the modules are the sequence's own.

    Raises:
        GradevalError: it has no marks, two in a row, nothing after the last, or marks that differ.
    """
    modules = list(model)
    marks = [module for module in modules if isinstance(module, BinaryUnits)]
    if not marks:
        raise GradevalError(
            "the nn.Sequential has no binary units: put a gradeval.BinaryUnits() after each map but the last."
        )
    kinds = {(repr(vars(mark.noise)), mark.noise.name, mark.states) for mark in marks}
    if len(kinds) > 1:
        raise GradevalError("all BinaryUnits of a network must have the same noise and states, found several.")
    parts: list[list[nn.Module]] = [[]]
    for module in modules:
        if isinstance(module, BinaryUnits):
            parts.append([])
        else:
            parts[-1].append(module)
    if not all(parts):
        where = "after the last" if not parts[-1] else "before one"
        raise GradevalError(f"the nn.Sequential has BinaryUnits with no map {where}: a map gives preactivations.")
    maps = [part[0] if len(part) == 1 else nn.Sequential(*part) for part in parts]
    return maps[:-1], maps[-1], marks[0]
