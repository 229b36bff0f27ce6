"""E cos(t z) of z = b + Σⱼ wⱼsⱼ with independent binary sⱼ: n complex factors in the place of 2ⁿ states.

E e^{itz} = e^{itb} Πⱼ fⱼ with fⱼ = 1 + pⱼvⱼ, vⱼ = e^{itwⱼ} − 1. The derivatives need the product without one factor,
which is the product over it: no fⱼ is 0, since a floating-point number is no multiple of π and so sin(twⱼ) is not 0
unless wⱼ is; and the quotient is as exact as the product, since the same rounded factor is in both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from gradeval.progress import Advance
from gradeval.reference.series import Series
from gradeval.threads import Crew

BLOCK_ENTRIES = 2**17  # rows × terms of a block: fewer calls, while its arrays still fit a cache
BLOCK_ROWS = 1024
MULTIPLY_ADDS = 30  # of a matrix product take as long as a factor, which is some 20 operations; a third of them forward
KEPT_BYTES = 2**28  # of products, kept for the backward pass where they take less


def sum_of_cosines(
    p: Float[Tensor, "rows units"],
    weight: Float[Tensor, "outputs units"],
    offset: Float[Tensor, " outputs"],
    series: Series,
    work: tuple[Crew, Advance],
) -> Float[Tensor, " rows"]:
    """Σₘ cₘ (1 − E cos(tₘ z)) over all terms of all outputs, for every row of probabilities.

    Args:
        p: P(sⱼ = 1), [rows, units].
        weight: w, [outputs, units].
        offset: b, [outputs].
        series: the terms.
        work: who shares it, and a callback that is told the multiply–adds that are done.

    Returns:
        The sums, [rows], once differentiable in p, w and b.

    Examples:
        >>> series = Series.of(torch.ones(1, 2), torch.zeros(1), torch.ones(1))
        >>> sure = torch.ones(1, 2, dtype=torch.float64)  # z = 2
        >>> weight, offset = torch.ones(1, 2, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        >>> work = Crew(torch.device("cpu")), lambda multiply_adds: None
        >>> found = sum_of_cosines(sure, weight, offset, series, work)
        >>> bool((found - ((1 - torch.cos(2 * series.frequency)) @ series.coefficient)).abs() < 1e-12)
        True
    """
    found: Tensor = _SumOfCosines.apply(p, weight, offset, series, work)
    return found


class _SumOfCosines(torch.autograd.Function):
    """`sum_of_cosines`.

    Blocks of rows and terms are shared among threads; their sizes, and the order of sums, do not depend on how many
    these are. No array has more than rows × terms entries; where even that is much, the backward pass makes the
    products again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        p: Float[Tensor, "rows units"],
        weight: Float[Tensor, "outputs units"],
        offset: Float[Tensor, " outputs"],
        series: Series,
        work: tuple[Crew, Advance],
    ) -> Float[Tensor, " rows"]:
        crew, advance = work
        blocks = list(_blocks(len(p), len(series.output)))
        keep = 16 * len(p) * len(series.output) <= KEPT_BYTES and any(ctx.needs_input_grad)
        kept: list[tuple[Tensor, Tensor]] = []

        def sums(block: tuple[slice, slice]) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
            product = _Block(p, weight, offset, series, block).product()
            return (1 - product[0]) @ series.coefficient[block[1]], product if keep else None

        value = p.new_zeros(len(p))
        with crew.at_work():
            for (rows, _), (part, product) in zip(blocks, crew.in_order(sums, blocks, _size(p, series)), strict=True):
                value[rows] += part
                if product:
                    kept.append(product)
                advance(_size(p, series) // 3 // len(blocks))
        ctx.save_for_backward(p, weight, offset)
        ctx.series, ctx.work, ctx.kept, ctx.blocks = series, work, kept, blocks
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Float[Tensor, " rows"]) -> tuple[Tensor, Tensor, Tensor, None, None]:
        p, weight, offset = ctx.saved_tensors
        series, (crew, advance) = ctx.series, ctx.work
        kept = ctx.kept or [None] * len(ctx.blocks)

        def slopes(number: int) -> tuple[Tensor, Tensor, Tensor]:
            block = _Block(p, weight, offset, series, ctx.blocks[number])
            return block.slopes(kept[number] or block.product(), g)

        of_p, of_weight, of_offset = p.new_zeros(p.shape[1], len(p)), torch.zeros_like(weight), torch.zeros_like(offset)
        with crew.at_work():
            numbers = range(len(ctx.blocks))
            for (rows, terms), (d_p, d_weight, d_offset) in zip(
                ctx.blocks, crew.in_order(slopes, numbers, _size(p, series)), strict=True
            ):
                of_p[:, rows] += d_p
                of_weight.index_add_(0, series.output[terms], d_weight.mT)
                of_offset.index_add_(0, series.output[terms], d_offset)
                advance(2 * _size(p, series) // 3 // len(ctx.blocks))
        return of_p.mT, of_weight, of_offset, None, None


def _size(p: Tensor, series: Series) -> int:
    """Factors that are multiplied, in the multiply–adds of a product that take as long."""
    return MULTIPLY_ADDS * p.numel() * len(series.output)


def _blocks(rows: int, terms: int) -> Iterator[tuple[slice, slice]]:
    high = -(-rows // -(-rows // BLOCK_ROWS))  # all about equally high
    wide = max(1, BLOCK_ENTRIES // high)
    for first in range(0, terms, wide):
        for top in range(0, rows, high):
            yield slice(top, min(top + high, rows)), slice(first, min(first + wide, terms))


class _Block:
    """Some rows and some terms; complex numbers are pairs of real ones, for which torch is faster."""

    def __init__(self, p: Tensor, weight: Tensor, offset: Tensor, series: Series, block: tuple[slice, slice]) -> None:
        rows, terms = block
        self.rows = rows
        self.p = p[rows].mT.contiguous()[:, :, None]  # [units, rows, 1]
        self.frequency, self.coefficient = series.frequency[terms], series.coefficient[terms]
        output = series.output[terms]
        angle = (self.frequency[:, None] * weight[output]).mT.contiguous()[:, None]  # [units, 1, terms]
        self.real, self.imaginary = torch.sin(angle / 2).square_().mul_(-2), torch.sin(angle)  # of v
        phase = self.frequency * offset[output]
        self.phase = torch.cos(phase), torch.sin(phase)
        self.one = p.new_ones(())

    def factor(self, j: int, real: Tensor, imaginary: Tensor) -> None:
        """fⱼ, into two arrays [rows, terms]."""
        torch.addcmul(self.one, self.p[j], self.real[j], out=real)
        torch.mul(self.p[j], self.imaginary[j], out=imaginary)

    def product(self) -> tuple[Tensor, Tensor]:
        """e^{itb} Πⱼ fⱼ, [rows, terms]."""
        shape = self.p.shape[1], len(self.frequency)
        real, imaginary = (part.expand(shape).clone() for part in self.phase)
        a, b, next_real = (torch.empty_like(real) for _ in range(3))
        for j in range(len(self.p)):
            self.factor(j, a, b)
            torch.mul(real, a, out=next_real).addcmul_(imaginary, b, value=-1)
            imaginary.mul_(a).addcmul_(real, b)
            real, next_real = next_real, real
        return real, imaginary

    def slopes(self, product: tuple[Tensor, Tensor], g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Derivatives of Σᵣ gᵣ Σₘ cₘ (1 − Re product) in p, [units, rows], w, [units, terms], and b, [terms]."""
        g, units = g[self.rows], len(self.p)
        real, imaginary = (part * self.coefficient for part in product)
        a, b, size, over_real, over_imaginary = (torch.empty_like(real) for _ in range(5))
        of_p, of_w = g.new_empty(units, len(g)), g.new_empty(units, len(self.frequency))
        for j in range(units):
            self.factor(j, a, b)
            torch.mul(a, a, out=size).addcmul_(b, b).reciprocal_()
            a.mul_(size)
            b.mul_(size)
            torch.mul(real, a, out=over_real).addcmul_(imaginary, b)
            torch.mul(imaginary, a, out=over_imaginary).addcmul_(real, b, value=-1)
            v_real, v_imaginary = self.real[j, 0], self.imaginary[j, 0]
            of_p[j] = over_imaginary @ v_imaginary - over_real @ v_real
            weighted = g * self.p[j, :, 0]
            of_w[j] = (1 + v_real) * (weighted @ over_imaginary) + v_imaginary * (weighted @ over_real)
        return g * of_p, self.frequency * of_w, self.frequency * (g @ imaginary)
