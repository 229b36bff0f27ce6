"""What the rounding of the transform, and the end of its series, may be wrong by: bounds, layer by layer.

Proven are the errors of the expectations and of their derivatives in p, w and b. With the unit roundoff ε = 2⁻⁵³ and n
units, for one term: the angle tw has an error of 4ε|tw|, and v = e^{itw} − 1 one of 4ε|tw| + 6.5ε|v|; so a factor
f = 1 + pv, |f| ≤ 1, is within ε(4|tw| + 17), and a complex product adds √5 ε. All that is multiplied is at most 1, so
the errors add up:

    η = ε (4 t (|b| + Σⱼ|wⱼ|) + 20 n + 4)

bounds the error of E e^{itz}, and of every product without one factor. Sums of s numbers add (s + 30) ε times the sum
of their sizes. With the errors of the series itself (`gradeval.reference.series`), for output o,

    σₒ = slope error + Σₖ cₖ tₖ (η + (s + 30) ε) + ε (n + 6) (Sₒ/Tₒ + 2),  Sₒ = |bₒ| + Σⱼ|wₒⱼ|
    νₒ = value error + Σₖ cₖ (η + (2s + 30) ε) + ε (n + 6) (Sₒ²/Tₒ + 2Sₒ + 2)

bound the errors of ∂/∂bₒ, of ∂/∂wₒⱼ and, times |wₒⱼ| and summed over o, of ∂/∂pⱼ; and of E h(zₒ) + rₒ E zₒ. (Of squares
only the last terms are left.) They reach a parameter through F′(a) and ∂a/∂θ, whose norms are computed; in layers below
the last, ∂/∂p is a difference of two expectations, each within Σ νₒ. The roundings on that way, which all methods have,
are left out; the bounds above are larger than what is seen by ten times and more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from gradeval.model.network import BinaryLayer
from gradeval.model.problem import Problem
from gradeval.model.states import all_digits
from gradeval.reference.characteristic import BLOCK_ENTRIES, BLOCK_ROWS
from gradeval.reference.series import Series
from gradeval.threads import one_thread

ROUNDOFF = 2.0**-53
JACOBIAN_ENTRIES = 2**24  # made at once of a map that is not linear


@dataclass(frozen=True)
class Used:
    """What the transform was made with.

    Attributes:
        weight: w, [outputs, units].
        offset: b, [outputs].
        series: of h; None where h is a square.
        below: the rows that the last layer was given: the inputs, or all states of the layer below, [rows, inputs].
        contrast: whether the one output is a difference of two of the head's.
        head: the affine map that makes the outputs.
    """

    weight: Float[Tensor, "outputs units"]
    offset: Float[Tensor, " outputs"]
    series: Series | None
    below: Tensor
    contrast: bool
    head: nn.Module


def error_bounds(problem: Problem, used: Used) -> dict[str, float]:
    """Bounds of ‖error of ∇J‖ for each layer.

    Args:
        problem: network, data and loss.
        used: what its last layer's expectations were made with.

    Returns:
        A bound for "1" … "L", "head" and "all", of those that have trainable parameters.
    """
    network, found = problem.network, dict[str, float]()
    with one_thread(), torch.no_grad():
        slopes, value = _of_outputs(used)
        for number, layer in enumerate(network.layers, 1):
            units = torch.full((problem.widths[number - 1],), 2 * value, dtype=slopes.dtype, device=slopes.device)
            rows = problem.inputs
            if number == len(network.layers):
                units, rows = slopes @ used.weight.abs(), used.below
            elif number > 1:
                rows = network.layers[number - 2].encode(all_digits(problem.widths[number - 2], rows))
            found[str(number)] = _through(layer, rows, units)
        found["head"] = _of_head(problem, used, slopes)
    tied = len(list(network.named_parameters(remove_duplicate=False))) > len(list(network.parameters()))
    total = math.fsum(found.values())
    return {name: total if tied or name == "all" else found[name] for name in network.layer_slices()}


def _of_outputs(used: Used) -> tuple[Float[Tensor, " outputs"], float]:
    """σ of every output, and Σ ν."""
    weight, offset, series, units = used.weight, used.offset, used.series, used.weight.shape[1]
    size = offset.abs() + weight.abs().sum(1)
    if series is None:
        return ROUNDOFF * (2 * units + 20) * (size + 1), float((ROUNDOFF * (2 * units + 20) * (size + 1) ** 2).sum())
    terms = len(series.output)
    summed = min(terms, BLOCK_ENTRIES // min(len(used.below), BLOCK_ROWS))
    summed += -(-terms // summed)
    t, c = series.frequency, series.coefficient
    eta = ROUNDOFF * (4 * t * size[series.output] + 20 * units + 4)
    plain = ROUNDOFF * (units + 6)
    slopes = series.slope_error + plain * (size / series.half_period + 2)
    values = series.value_error + plain * (size**2 / series.half_period + 2 * size + 2)
    slopes = slopes.index_add(0, series.output, c * t * (eta + (summed + 30) * ROUNDOFF))
    values = values.index_add(0, series.output, c * (eta + (2 * summed + 30) * ROUNDOFF))
    return slopes, float(values.sum())


def _through(layer: BinaryLayer, rows: Tensor, units: Float[Tensor, " units"]) -> float:
    """The most that errors of ∂/∂pⱼ, up to ``units``, make in the layer's parameters; rows' weights add up to 1."""
    most = torch.zeros_like(units)
    square = isinstance(layer.map, nn.Linear)
    for some in rows.split(max(1, JACOBIAN_ENTRIES // (len(units) * max(1, _size(layer.map)))) if not square else 4096):
        most = torch.maximum(most, (layer.noise.pdf(layer.preactivation(some)) * _norms(layer.map, some)).amax(0))
    errors = units * most
    # a unit of a linear map has parameters of its own
    return float(torch.linalg.vector_norm(errors) if square else errors.sum())


def _of_head(problem: Problem, used: Used, slopes: Float[Tensor, " outputs"]) -> float:
    """The most that errors of ∂/∂w and ∂/∂b make in the head's parameters."""
    head, layer, units = used.head, problem.network.layers[-1], used.weight.shape[1]
    if isinstance(head, nn.Linear):
        squares = ((layer.delta + abs(layer.lo)) ** 2 * units + 1) * (slopes**2).sum()
        return math.sqrt(float(squares) * (1 + used.contrast))
    unit = torch.eye(units, dtype=problem.network.dtype, device=slopes.device)
    norms = _norms(head, layer.encode(torch.cat([torch.zeros_like(unit[:1]), unit])))
    norms = norms.sum(1, keepdim=True) if used.contrast else norms
    return float(((norms[1:].sum(0) + (units + 1) * norms[0]) * slopes).sum())


def _norms(map: nn.Module, x: Float[Tensor, "rows inputs"]) -> Float[Tensor, "rows units"]:
    """‖∂a/∂θ‖ of every unit, for every row."""
    if isinstance(map, nn.Linear):
        of_row = ((x**2).sum(-1) + (map.bias is not None)).sqrt()
        return of_row[:, None].expand(-1, map.out_features)
    parameters = {name: p.detach() for name, p in map.named_parameters() if p.requires_grad}
    if not parameters:
        return torch.zeros_like(map(x))

    def jacobian(row: Tensor) -> Tensor:
        found = jacrev(lambda theta: functional_call(map, theta, (row[None],))[0])(parameters)
        return torch.stack([(part.flatten(1) ** 2).sum(1) for part in found.values()]).sum(0).sqrt()

    return vmap(jacobian)(x)


def _size(map: nn.Module) -> int:
    return sum(p.numel() for p in map.parameters())
