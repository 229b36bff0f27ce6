"""Layerwise enumeration: V^L = f, Vᵏ⁻¹(xᵏ⁻¹) = Σ_{xᵏ} P(xᵏ | xᵏ⁻¹) Vᵏ(xᵏ), J = mean V⁰(x⁰), as matrix products.

Every table Vᵏ with k ≥ 1 depends on a data point through its target only, so points with equal targets share it. Where
the loss is an objective it may depend on all of a point's data: then every point has tables of its own.
Shapes: ``targets`` distinct targets, each given by the number of a point that has it, ``rows`` states of the layer
below (or data points), ``units`` of the layer, whose states are numbered so that unit j is bit j; ``states``: 2^units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from gradeval.model.network import BinaryLayer
from gradeval.model.problem import Problem
from gradeval.model.states import all_digits
from gradeval.progress import Advance
from gradeval.threads import Crew

# The products of one chunk of rows: beyond this size memory is given back to the system and faulted in again for every
# chunk, which doubles the time; below it the calls themselves begin to count (measured: 1 to 2 MiB are fastest).
CHUNK_BYTES = 2**20
# What the crew shares: pieces of several chunks, which together have a table of their own.
MOST_PIECES = 64
TABLE_BYTES = 2**22  # of a piece's own table, where that has several targets
# Points of small groups of equal targets are taken together up to this number; each then meets the others' tables too.
GROUPED_POINTS = 256
# In place of probabilities that are exactly 0: dividing by it gives the derivative, and it is far below rounding.
TINY = 1e-30


Top = Callable[[Tensor, Tensor], Tensor]
"""(states of the layer below the last, [states, units]; targets) ↦ Vᴸ⁻¹, [targets, states]."""


@dataclass(frozen=True)
class _Work:
    """Who shares it, and who is told the multiply–adds that are done."""

    crew: Crew
    advance: Advance = lambda multiply_adds: None


def layerwise_values(problem: Problem, top: Top | None = None) -> Float[Tensor, " points"]:
    """E[f(x^L)] for every data point, by Σₖ 2^(nₖ₋₁+nₖ) terms.

    Args:
        problem: network, data and loss.
        top: gives V of all states of the layer below the last, which is then not enumerated.

    Returns:
        The expectations, [points], once differentiable in the network's parameters. Their mean is J.

    Examples:
        >>> from gradeval import load_problem
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> round(layerwise_values(problem).mean().item(), 6)
        0.775876
    """
    targets, which = distinct_points(problem)
    which, order = which.sort()
    work = _Work(Crew(problem.network.device))
    with work.crew.at_work():
        return _values(problem, problem.inputs[order], targets, which, work, top)[order.argsort()]


def plain_values(problem: Problem) -> Float[Tensor, " points"]:
    """E[f(x^L)] for every data point, from all 2^(nₖ₋₁+nₖ) probabilities of every layer at once.

    For small nets this takes the fewest operations.

    Args:
        problem: network, data and loss.

    Returns:
        The expectations, [points], differentiable in the network's parameters.
    """
    targets, which = distinct_points(problem)
    table = _first_table(problem, targets, lambda p, table: table @ _probabilities(p).mT)
    return (_probabilities(_chances(problem.network.layers[0])(problem.inputs)) * table[which]).sum(-1)


def layerwise_value_and_gradient(
    problem: Problem, targets_at_once: int, advance: Advance, top: Top | None = None
) -> tuple[Tensor, list[Tensor]]:
    """J and its gradient by layerwise enumeration.

    Args:
        problem: network, data and loss.
        targets_at_once: for how many distinct targets tables are kept in memory.
        advance: a callback for progress; it is given the multiply–adds of each chunk that is done.
        top: gives V of all states of the layer below the last, which is then not enumerated.

    Returns:
        J, and its gradient for every trainable parameter, in their order.
    """
    parameters = list(problem.network.trainable().values())
    value, gradient = problem.inputs.new_zeros(()), [torch.zeros_like(p) for p in parameters]
    targets, which = distinct_points(problem)
    which, order = which.sort()
    work = _Work(Crew(problem.network.device), advance)
    with work.crew.at_work():
        for some in torch.arange(len(targets), device=which.device).split(targets_at_once):
            mine = (which >= some[0]) & (which <= some[-1])
            table = _first_table(problem, targets[some], lambda p, table: _Expectation.apply(p, table, work), top)
            part = _sum(problem, problem.inputs[order[mine]], table, which[mine] - some[0], work)
            part = part / problem.points
            value += part.detach()
            for total, piece in zip(gradient, torch.autograd.grad(part, parameters, allow_unused=True), strict=True):
                if piece is not None:
                    total += piece
    return value, gradient


def _values(
    problem: Problem,
    inputs: Tensor,
    targets: Tensor,
    which: Int[Tensor, " points"],
    work: _Work,
    top: Top | None,
) -> Float[Tensor, " points"]:
    """E[f(x^L)] of every input; its target is targets[which], and ``which`` is sorted."""
    table = _first_table(problem, targets, lambda p, table: _Expectation.apply(p, table, work), top)
    values = []
    for rows, group in _blocks(which, len(targets)):
        mean = _Expectation.apply(_chances(problem.network.layers[0])(inputs[rows]), table[group], work)
        values.append(mean.gather(0, which[None, rows] - group.start)[0])
    return torch.cat(values)


def _sum(
    problem: Problem,
    inputs: Tensor,
    table: Float[Tensor, "targets states"],
    which: Int[Tensor, " points"],
    work: _Work,
) -> Float[Tensor, ""]:
    """The sum of `_values`, from V¹; faster where many points have the same target."""
    chances, blocks = _chances(problem.network.layers[0]), list(_blocks(which, len(table)))
    if len(blocks) == len(table):
        return _SumOfExpectations.apply(chances(inputs), table, torch.bincount(which).tolist(), work)
    total = inputs.new_zeros(())
    for rows, group in blocks:
        mean = _Expectation.apply(chances(inputs[rows]), table[group], work)
        total = total + mean.gather(0, which[None, rows] - group.start).sum()
    return total


def _first_table(
    problem: Problem, targets: Tensor, expectation: Callable[[Tensor, Tensor], Tensor], top: Top | None = None
) -> Float[Tensor, "targets states"]:
    """V¹ of every target and state of layer 1; ``expectation(p, V)`` is Σ_x P(x | r) V(x) for every row r of p."""
    network = problem.network
    depth = len(network.layers) - (top is not None)
    layers, widths = list(network.layers)[:depth], problem.widths[:depth]

    data = problem.targets[targets]
    output_loss, bound = problem.output_loss, problem.loss_function(network, data, problem.inputs[targets])

    def losses(x: Tensor) -> Tensor:
        if output_loss is None:
            return bound(x[:, None].expand(-1, len(targets), -1))
        output = network.head(x)  # [rows, outputs], the same for every target
        return output_loss(output[:, None].expand(-1, len(targets), *output.shape[1:]), data)

    like = problem.inputs
    states = [layer.encode(all_digits(n, like)) for layer, n in zip(layers, widths, strict=True)]
    numbers = data.numel() if output_loss is not None else max(data.numel(), len(data) * states[-1].shape[-1])
    table = top(states[-1], data) if top else _in_pieces(losses, states[-1], numbers).mT
    for layer, below in zip(reversed(layers[1:]), reversed(states[:-1]), strict=True):
        table = expectation(_in_pieces(_chances(layer), below, below.shape[-1]), table)
    return table


def _probabilities(p: Float[Tensor, "rows units"]) -> Float[Tensor, "rows states"]:
    """Πⱼ P(sⱼ) for every state."""
    return torch.where(all_digits(p.shape[-1], p) > 0, p[:, None], 1 - p[:, None]).prod(-1)


def _chances(layer: BinaryLayer) -> Callable[[Tensor], Tensor]:
    return lambda x: layer.probability(layer.preactivation(x))


def _in_pieces(function: Callable[[Tensor], Tensor], x: Tensor, width: int) -> Tensor:
    """function(x) for many rows x, recomputed backwards in pieces whose results, ``width`` numbers a row, are small."""
    pieces = x.split(max(1, CHUNK_BYTES // (x.itemsize * max(1, width))))
    if len(pieces) == 1:
        return function(x)
    return torch.cat([checkpoint(function, piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces])


def _blocks(which: Int[Tensor, " points"], targets: int) -> Iterator[tuple[slice, slice]]:
    """Cut the points, sorted by target, into (points, targets): whole groups, the small ones together."""
    point = target = start = first = 0
    for target, count in enumerate(torch.bincount(which, minlength=targets).tolist()):
        if point > start and point + count - start > GROUPED_POINTS:
            yield slice(start, point), slice(first, target)
            start, first = point, target
        point += count
    yield slice(start, point), slice(first, target + 1)


class _Expectation(torch.autograd.Function):
    """V'[t, r] = Σ_x Πⱼ P(xⱼ | r) V[t, x], from p[r, j] = P(sⱼ = 1 | r) and the table V.

    With x = (h, l) split into two halves of the units, P = P_lo ⊗ P_hi and
        V'[t, r] = Σ_h P_hi[h, r] (Σ_l V[t, h, l] P_lo[l, r]),
    one matrix product and one sum. Restricting that sum to the states where unit j of the high half is on (off) and
    dividing by p (1 − p) gives E[V | sⱼ = 1 (0)], and ∂V'/∂pⱼ is their difference; every term of the sum contains the
    factor it is divided by, so nothing is lost to rounding. The low half's come from the product in the other order.
    These slopes, [targets, units, rows], are kept for the backward pass, which then needs only
        ∂J/∂V[t, h, l] = Σ_r g[t, r] P_hi[h, r] P_lo[l, r]:
    three matrix products of targets × rows × states multiply–adds in all, and no 2^(n+m) numbers anywhere.
    """

    @staticmethod
    def forward(
        ctx: Any, p: Float[Tensor, "rows units"], table: Float[Tensor, "targets states"], work: _Work
    ) -> Float[Tensor, "targets rows"]:
        targets, (rows, units) = len(table), p.shape
        low = units // 2
        by_high = table.reshape(targets, 2 ** (units - low), 2**low)
        by_low = by_high.mT.contiguous()
        value = p.new_empty(targets, rows)
        slope = p.new_empty(targets, units, rows) if ctx.needs_input_grad[0] else None
        products = 2 if slope is not None else 1

        def fill(piece: list[slice]) -> int:
            for chunk in piece:
                chance = _chances_off_on(p[chunk])
                p_low, p_high = _product(chance[:low]), _product(chance[low:])
                weighted = (by_high @ p_low).mul_(p_high)
                value[:, chunk] = weighted.sum(1)
                if slope is not None:
                    slope[:, low:, chunk] = _slopes(weighted, chance[low:])
                    slope[:, :low, chunk] = _slopes((by_low @ p_high).mul_(p_low), chance[:low])
            return products * _rows_of(piece) * table.numel()

        with work.crew.at_work():
            for done in work.crew.in_order(fill, _pieces(p, targets), products * rows * table.numel()):
                work.advance(done)
        ctx.save_for_backward(p, slope)
        ctx.work = work
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Float[Tensor, "targets rows"]) -> tuple[Tensor | None, Tensor | None, None]:
        p, slope = ctx.saved_tensors
        units = p.shape[-1]
        grad_p = grad_table = None
        with ctx.work.crew.at_work():
            if slope is not None:
                grad_p = p.new_zeros(units, len(p))
                for weight, slopes in zip(g, slope, strict=True):
                    grad_p.addcmul_(weight, slopes)
                grad_p = grad_p.mT
            if ctx.needs_input_grad[1]:
                grad_table = p.new_zeros(len(g), 2**units)
                at_once = max(1, TABLE_BYTES // (p.itemsize * 2**units))
                for weights, grad in zip(g.split(at_once), grad_table.split(at_once), strict=True):
                    _add_weights(p, weights, grad, ctx.work)
        return grad_p, grad_table, None


def _add_weights(
    p: Float[Tensor, "rows units"],
    g: Float[Tensor, "targets rows"],
    table: Float[Tensor, "targets states"],
    work: _Work,
) -> None:
    """table[t, (h, l)] += Σ_r g[t, r] P_hi[h, r] P_lo[l, r]; every piece of rows has a sum of its own."""
    targets, units = len(g), p.shape[-1]
    low, high = units // 2, units - units // 2

    def weigh(piece: list[slice]) -> tuple[Tensor, int]:
        part = p.new_zeros(targets * 2**high, 2**low)
        for chunk in piece:
            chance = _chances_off_on(p[chunk])
            p_low, p_high = _product(chance[:low]), _product(chance[low:])
            part.addmm_((g[:, None, chunk] * p_high).flatten(0, 1), p_low.mT)
        return part, _rows_of(piece) * table.numel()

    for part, done in work.crew.in_order(weigh, _pieces(p, targets), len(p) * table.numel()):
        table += part.view_as(table)
        work.advance(done)


class _SumOfExpectations(torch.autograd.Function):
    """Σ_t Σ_r Σ_x Πⱼ P(xⱼ | r) V[t, x]: `_Expectation` of consecutive rows, counts[t] of them for each t, summed.

    The weights are known beforehand, so one pass over the rows yields ∂/∂V[h, l] = W = Σ_r P_hi[h, r] P_lo[l, r], the
    slopes, and the sum itself as ⟨W, V⟩. A piece's chunks share memory: new pages would take a third of the time.
    """

    @staticmethod
    def forward(
        ctx: Any, p: Float[Tensor, "rows units"], table: Float[Tensor, "targets states"], counts: list[int], work: _Work
    ) -> Float[Tensor, ""]:
        units = p.shape[-1]
        low, high = units // 2, units - units // 2
        weight = torch.zeros_like(table)
        slope = p.new_empty(units, len(p)) if ctx.needs_input_grad[0] else None
        products = 3 if slope is not None else 1

        def weigh(piece: tuple[int, list[slice]]) -> tuple[Tensor, int]:
            target, chunks = piece
            by_high = table[target].view(2**high, 2**low)
            by_low = by_high.mT.contiguous()
            part = torch.zeros_like(by_high)
            memory = p.new_empty(4, 2**high * _rows_of(chunks[:1]))
            for rows in chunks:
                chance = _chances_off_on(p[rows])
                of_low, of_high, n = chance[:low], chance[low:], chance.shape[-1]
                p_low, p_high, v_low, v_high = (
                    m[: 2**k * n].view(2**k, n) for m, k in zip(memory, (low, high, low, high), strict=True)
                )
                _product(of_low, p_low)
                _product(of_high, p_high)
                part.addmm_(p_high, p_low.mT)
                if slope is not None:
                    slope[low:, rows] = _slopes(torch.mm(by_high, p_low, out=v_high).mul_(p_high)[None], of_high)[0]
                    slope[:low, rows] = _slopes(torch.mm(by_low, p_high, out=v_low).mul_(p_low)[None], of_low)[0]
            return part.flatten(), products * _rows_of(chunks) * table.shape[-1]

        pieces, start = [], 0
        for target, count in enumerate(counts):
            pieces += [(target, piece) for piece in _pieces(p[start : start + count], 1, start)]
            start += count
        with work.crew.at_work():
            found = work.crew.in_order(weigh, pieces, products * len(p) * table.shape[-1])
            for (target, _), (part, done) in zip(pieces, found, strict=True):
                weight[target] += part
                work.advance(done)
        ctx.save_for_backward(weight, slope)
        return torch.dot(weight.flatten(), table.flatten())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Float[Tensor, ""]) -> tuple[Tensor | None, Tensor | None, None, None]:
        weight, slope = ctx.saved_tensors
        return None if slope is None else (g * slope).mT, g * weight, None, None


def _pieces(p: Float[Tensor, "rows units"], targets: int, start: int = 0) -> list[list[slice]]:
    """Pieces of rows, numbered from ``start``: each some chunks, whose products take about CHUNK_BYTES.

    They follow from the sizes alone, so that sums over them do not depend on who computes them.
    """
    rows, units = p.shape
    size = max(1, CHUNK_BYTES // (p.itemsize * targets * 2 ** (units - units // 2)))
    chunks = [slice(first, min(first + size, start + rows)) for first in range(start, start + rows, size)]
    several = -(-len(chunks) // MOST_PIECES)
    return [chunks[first : first + several] for first in range(0, len(chunks), several)]


def _rows_of(piece: list[slice]) -> int:
    return sum(rows.stop - rows.start for rows in piece)


def _chances_off_on(p: Float[Tensor, "rows units"]) -> Float[Tensor, "units 2 rows"]:
    """1 − p and p of every unit, rows last (contiguous for all that follows)."""
    return torch.stack((1 - p.mT, p.mT), 1).clamp_(min=TINY)


def _product(chance: Float[Tensor, "units 2 rows"], out: Tensor | None = None) -> Float[Tensor, "states rows"]:
    """Πⱼ P(sⱼ) for every state of these units."""
    units, rows = len(chance), chance.shape[-1]
    if units < 2:
        result = chance.flatten(0, 1) if units else chance.new_ones(1, rows)
        return result if out is None else out.copy_(result)
    low = units // 2
    shape = (2 ** (units - low), 2**low, rows)
    into = None if out is None else out.view(shape)
    return torch.mul(_product(chance[low:])[:, None], _product(chance[:low]), out=into).view(-1, rows)


def _slopes(
    weighted: Float[Tensor, "targets states rows"], chance: Float[Tensor, "units 2 rows"]
) -> Float[Tensor, "targets units rows"]:
    """E[V | sⱼ = 1] − E[V | sⱼ = 0] of these units, from P V of all their states."""
    targets, units = len(weighted), len(chance)
    on = all_digits(units, weighted).mT
    off_on = torch.stack((1 - on, on), 1).flatten(0, 1)
    off, on = ((off_on @ weighted).view(targets, *chance.shape) / chance).unbind(2)
    return on - off


def distinct_points(problem: Problem) -> tuple[Int[Tensor, " targets"], Int[Tensor, " points"]]:
    """The points whose tables differ: one for each distinct target, or all of them where the loss is an objective.

    Args:
        problem: data and loss.

    Returns:
        The numbers of these points, [targets], and for every point which of them has its tables, [points].

    Examples:
        >>> from gradeval import load_problem
        >>> points, which = distinct_points(load_problem("expclass", units="2-2", stage=0, points=4))
        >>> points.tolist(), which.tolist()
        ([2, 0], [1, 1, 0, 0])
    """
    targets, points = problem.targets, torch.arange(problem.points, device=problem.inputs.device)
    if problem.objective is not None:
        return points, points
    if targets.ndim == 1:  # dim=0 takes 35 ms for 20,000 points, this 0.4 ms
        distinct, which = torch.unique(targets, return_inverse=True)
    else:
        distinct, which = torch.unique(targets, dim=0, return_inverse=True)
    first = torch.full((len(distinct),), problem.points, device=points.device)
    return first.scatter_reduce(0, which, points, "amin"), which
