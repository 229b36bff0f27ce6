"""Statistics of a stream of gradient draws in memory that does not grow with the number of draws.

Draws come in chunks of at most `CHUNK`; each chunk is reduced on its own (anywhere, in any order) and the reductions
are merged in the chunks' order, so the result does not depend on who computed them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.analysis.measures import cosine
from gradeval.analysis.run.moments import BlockProducts, Layout, Moments
from gradeval.sampling.extent import DEFAULT, BlockMeans, Extent, block_means, products_of

LARGEST_GRADIENT = 1e45
"""The largest entry of a gradient whose statistics (they have sixth powers) do not overflow."""
SAMPLE = 4096  # cosines kept per number of draws M, evenly spaced, for quantiles
PAIRED = 50  # draws in a block of which a mean is kept, to compare two estimators in pairs
ROW_BYTES = 2**27  # of draws with many parameters, that are scored at a time
MAX_PAIRED = 4096  # such blocks; where there are more, each is joined with the next


def tree(draws: int) -> list[tuple[int, int]]:
    """The numbers of draws M whose means are scored: M = 1, 2, 5, 10, 20, 50, …

    Args:
        draws: the largest M that may occur.

    Returns:
        Pairs: M, and the smaller M that its means are made from.

    Examples:
        >>> tree(10)
        [(1, 1), (2, 1), (5, 1), (10, 5)]
    """
    levels, scale = [(1, 1)], 1
    while levels[-1][0] <= draws:
        levels += [(2 * scale, scale), (5 * scale, scale), (10 * scale, 5 * scale)]
        scale *= 10
    return [level for level in levels if level[0] <= draws]


@dataclass
class Spread:
    """Count, mean and sum of centred squares (or outer products) of a stream, merged by Chan's formula.

    Attributes:
        count: the number of rows so far.
        mean: of each column, [D].
        squares: the sums of squares about the mean, [D], or of outer products, [D, D], or of those of the last columns.

    Source: Chan, Golub & LeVeque, The American Statistician 37(3), 1983, doi:10.1080/00031305.1983.10483115.

    Examples:
        >>> spread = Spread.of(torch.tensor([[1.0], [3.0]]))
        >>> spread.merge(Spread.of(torch.tensor([[5.0]])))
        >>> spread.count, spread.mean.tolist(), spread.variance.tolist()
        (3, [3.0], [4.0])
    """

    count: int = 0
    mean: np.ndarray | float = 0.0
    squares: np.ndarray | float = 0.0

    @classmethod
    def of(cls, rows: Tensor, outer: bool = False) -> Spread:
        """The statistics of some rows.

        Args:
            rows: [count, D].
            outer: whether outer products are summed, not only squares.

        Returns:
            Their count, mean and squares.
        """
        mean = rows.mean(0)
        centred = rows - mean
        squares = centred.T @ centred if outer else (centred**2).sum(0)
        if outer:  # symmetric to the last bit: a saved chunk holds one half
            squares = squares.triu() + squares.triu(1).T
        return cls(len(rows), mean.cpu().numpy(), squares.cpu().numpy())

    def merge(self, other: Spread) -> None:
        """Add the statistics of the rows that follow.

        Args:
            other: of those.
        """
        total = self.count + other.count
        if other.count == 0:
            return
        step = np.asarray(other.mean - self.mean)
        last = step[-len(np.asarray(other.squares)) :]
        product = np.outer(last, last) if np.ndim(other.squares) == 2 else step**2
        self.squares = self.squares + other.squares + product * (self.count * other.count / total)
        self.mean = self.mean + step * (other.count / total)
        self.count = total

    @property
    def variance(self) -> np.ndarray:
        """Unbiased sample variance (or covariance)."""
        return np.asarray(self.squares) / max(self.count - 1, 1)


def kept(start: int, blocks: int) -> slice:
    """Which of the next cosines are kept: those whose number is a multiple of the stride after them.

    The stride is the smallest power of two that leaves at most `SAMPLE` of all so far.

    Args:
        start: the number of the first of them.
        blocks: how many they are.

    Returns:
        Which of them.
    """
    stride = _stride(start + blocks)
    return slice(-start % stride, blocks, stride)


def _stride(blocks: int) -> int:
    return 1 << (max(1, -(-blocks // SAMPLE)) - 1).bit_length()


@dataclass
class Level:
    """Scores of means of M draws.

    Attributes:
        spread: of [squared errors, cosines], [2K] for K layers.
        sample: the `kept` cosines, [·, K].
    """

    spread: Spread = field(default_factory=Spread)
    sample: np.ndarray | None = None

    def add(self, spread: Spread, cosines: np.ndarray) -> None:
        """Add the next blocks; the earlier cosines are thinned to the new stride.

        Args:
            spread: of the blocks.
            cosines: their `kept` ones.
        """
        before = _stride(self.spread.count)
        self.spread.merge(spread)
        old = cosines[:0] if self.sample is None else self.sample[:: _stride(self.spread.count) // before]
        self.sample = np.concatenate([old, cosines])


class Scorer:
    """Squared errors, cosines and inner products with the exact gradient g*, layer by layer.

    Args:
        exact: g*, flattened, [P].
        slices: where each of the K layers lies in it.
        extent: what is kept of draws.
        directed: whether mean directions are kept, which the error of a sampled reference moves cosines by.
    """

    def __init__(
        self, exact: Float[Tensor, " P"], slices: dict[str, slice], extent: Extent = DEFAULT, directed: bool = False
    ) -> None:
        self.exact, self.extent, self.directed = exact, extent, directed
        self.layout = Layout(len(exact), slices)
        self.layers = list(slices)
        self.membership = exact.new_zeros(len(exact), len(slices))
        for k, where in enumerate(slices.values()):
            self.membership[where, k] = 1.0
        self.weighted = self.membership * exact[:, None]
        self.norms = (exact**2 @ self.membership).sqrt()

    def __call__(
        self, gradients: Float[Tensor, "blocks P"]
    ) -> tuple[Float[Tensor, "blocks K"], Float[Tensor, "blocks K"], Float[Tensor, "blocks K"]]:
        """‖g − g*‖², cos(g, g*) (0 for g = 0, NaN for g* = 0) and ⟨g, g*⟩."""
        squares = self.squares(gradients, self.exact)
        inner = self._by_rows(gradients, lambda rows: rows @ self.weighted)
        norms = self._by_rows(gradients, lambda rows: (rows**2 @ self.membership).sqrt())
        cosines = torch.where(norms > 0, cosine(inner, (norms * self.norms).clamp(min=1e-300)), 0.0)
        return squares, torch.where(self.norms > 0, cosines, torch.nan), inner

    def squares(self, gradients: Float[Tensor, "blocks P"], centre: Float[Tensor, " P"]) -> Float[Tensor, "blocks K"]:
        """‖g − c‖² of each layer.

        Args:
            gradients: g, one in each row.
            centre: c.

        Returns:
            The squared lengths.
        """
        return self._by_rows(gradients, lambda rows: (rows - centre) ** 2 @ self.membership)

    def directions(self, gradients: Float[Tensor, "blocks P"]) -> np.ndarray:
        """The mean of g/‖g‖ of each layer.

        Args:
            gradients: g, [blocks, P].

        Returns:
            The means of all layers, one after the other; a layer without gradient counts as 0.
        """
        found = []
        for where in self.layout.slices.values():
            norms = gradients[:, where].norm(dim=1)
            found.append(torch.where(norms > 0, 1 / norms.clamp(min=1e-300), 0.0) @ gradients[:, where] / len(norms))
        made: np.ndarray = torch.cat(found).cpu().numpy()
        return made

    def _by_rows(self, gradients: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """A function of rows, of a few at a time where there are many parameters."""
        if not self.extent.blocks:
            return function(gradients)
        parts = [function(rows) for rows in gradients.split(max(1, ROW_BYTES // (8 * len(self.exact))))]
        return torch.cat(parts) if parts else function(gradients)


@dataclass
class ChunkStatistics:
    """What is kept of one chunk of draws.

    Attributes:
        joint: of [g − g*, squared errors, cosines, deviations, value], [D]; at size ⟨g − g*, g*⟩ stand at its end, and
            outer products are summed of all but g − g*.
        descents: number of draws with ⟨g, g*⟩ > 0, [K].
        thirds: sums over the draws of third powers about the chunk's means, as in `Moments.thirds`, [4K].
        blocks: means over blocks of draws, as in `Moments.blocks`, [·, 2K].
        levels: by M, of [squared errors, cosines], [2K], and the `kept` cosines, [·, K].
        means: of `BLOCK` gradients each, for the levels above, [·, P].
        times: of each timed batch of draws, their number and the seconds of compute, [·, 2].
        of_blocks: at size, means of the errors over blocks of draws.
        directions: against a sampled reference, the mean of g/‖g‖ of each layer, one after the other.
    """

    joint: Spread
    descents: np.ndarray
    thirds: np.ndarray
    blocks: np.ndarray
    levels: dict[int, tuple[Spread, np.ndarray]]
    means: np.ndarray
    times: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    of_blocks: BlockMeans | None = None
    directions: np.ndarray | None = None


def paired_block(index: int, count: int) -> int:
    """The number of draws in a block of the chunk ``index`` of ``count`` draws whose mean is kept.

    Args:
        index: of the chunk.
        count: its number of draws.

    Returns:
        `PAIRED`, or fewer in a run of fewer than 20 such blocks.
    """
    return PAIRED if index > 0 or count >= 20 * PAIRED else max(1, count // 20)


def reduce_chunk(
    scorer: Scorer,
    gradients: Float[Tensor, "draws P"],
    values: Float[Tensor, " draws"],
    index: int = 0,
    deviations: Float[Tensor, "draws K"] | None = None,
) -> ChunkStatistics:
    """The statistics of one chunk of draws.

    Args:
        scorer: compares with the exact gradient.
        gradients: of the draws, [draws, P]; as many as a chunk has, or fewer in the last one.
        values: of the draws, [draws].
        index: the chunk's number.
        deviations: of the draws from their mean, summed over independent points, [draws, K]; None takes those of the
            whole gradients.

    Returns:
        What is kept of it.
    """
    extent, of_blocks = scorer.extent, None
    levels: dict[int, tuple[Spread, np.ndarray]] = {}
    means = {1: gradients}
    for samples, source in tree(min(len(gradients), extent.block)):
        if samples > 1:
            ratio = samples // source
            below = means[source]
            means[samples] = block_means(below, ratio)
        squares, cosines, inner = scorer(means[samples])
        which = kept(index * (extent.chunk // samples), len(cosines))
        levels[samples] = (Spread.of(torch.cat((squares, cosines), 1)), cosines[which].cpu().numpy())
        if samples == 1:
            factor = len(gradients) / max(len(gradients) - 1, 1)
            whole = factor * scorer.squares(gradients, gradients.mean(0))
            parts = whole if deviations is None else deviations
            if extent.blocks:
                own = torch.cat((squares, cosines, parts, values[:, None], inner - scorer.norms**2), 1)
                joint = _joint_at_size(scorer, gradients, own)
                of_blocks = BlockMeans.of(extent, gradients, parts, index)
                of_blocks.errors -= scorer.exact.cpu().numpy().astype(np.float32)
            else:
                joint = Spread.of(
                    torch.cat((gradients - scorer.exact, squares, cosines, parts, values[:, None]), 1), outer=True
                )
            descents = (inner > 0).sum(0).cpu().numpy()
            scores = torch.cat((squares, cosines, parts, inner), 1)
            thirds = ((scores - scores.mean(0)) ** 3).sum(0).cpu().numpy()
            # the squared error is what the bias adds to the deviation of the whole draw, and that deviation
            pairs = torch.cat((squares - whole + parts, parts), 1)
            blocks = block_means(pairs, paired_block(index, len(pairs))).cpu().numpy()
    longest = means.get(extent.block, gradients[:0]).cpu().numpy()
    directions = scorer.directions(gradients) if scorer.directed else None
    return ChunkStatistics(joint, descents, thirds, blocks, levels, longest, of_blocks=of_blocks, directions=directions)


def _joint_at_size(scorer: Scorer, gradients: Tensor, scores: Tensor) -> Spread:
    """Of all columns the mean; outer products of the scores, of which there are few, and of ⟨g − g*, g*⟩."""
    found = Spread.of(scores, outer=True)
    error = (gradients.mean(0) - scorer.exact).cpu().numpy()
    return Spread(found.count, np.concatenate([error, np.asarray(found.mean)]), found.squares)


class Stream:
    """The statistics of many chunks, merged in their order.

    Args:
        scorer: the one that the chunks were reduced with.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.joint = Spread()
        self.descents = np.zeros(len(scorer.layers), dtype=np.int64)
        self.thirds = np.zeros(4 * len(scorer.layers))
        self.blocks = np.zeros((0, 2 * len(scorer.layers)))
        self._joined = 1  # blocks of the chunks that are one in `blocks`
        self._waiting = self.blocks
        self._of_blocks = BlockMeans(scorer.extent.blocks)
        self.directions: np.ndarray | None = None  # as of a chunk, of all draws
        self.levels: dict[int, Level] = {}
        self.pending: dict[int, list[Tensor]] = {}  # M > BLOCK: means of the level below, waiting to fill a block

    def add(self, chunk: ChunkStatistics) -> None:
        """Add the next chunk.

        Args:
            chunk: its statistics.
        """
        self.joint.merge(chunk.joint)
        if chunk.directions is not None:
            share, before = chunk.joint.count / self.joint.count, self.directions
            self.directions = chunk.directions if before is None else before + share * (chunk.directions - before)
        self.descents += chunk.descents
        self.thirds += chunk.thirds
        self._pair(chunk.blocks)
        for samples, (spread, cosines) in chunk.levels.items():
            self.levels.setdefault(samples, Level()).add(spread, cosines)
        for mean in torch.as_tensor(chunk.means, device=self.scorer.exact.device):
            self._climb(self.scorer.extent.block, mean)
        if chunk.of_blocks is not None:
            self._of_blocks.add(chunk.of_blocks)

    def _pair(self, blocks: np.ndarray) -> None:
        """Keep the blocks of a chunk, joined as those before it; those that do not fill a joint one wait."""
        blocks = np.concatenate([self._waiting, blocks])
        full = len(blocks) // self._joined * self._joined
        self._waiting = blocks[full:]
        joint = blocks[:full].reshape(-1, self._joined, blocks.shape[1]).mean(1)
        self.blocks = np.concatenate([self.blocks, joint])
        while len(self.blocks) > MAX_PAIRED:
            even = len(self.blocks) // 2 * 2
            last = self.blocks[even:].repeat(self._joined, 0)  # of one joint block: its parts are no longer known
            self.blocks = self.blocks[:even].reshape(-1, 2, blocks.shape[1]).mean(1)
            self._waiting = np.concatenate([last, self._waiting])
            self._joined *= 2

    def _climb(self, source: int, mean: Tensor) -> None:
        """Hand a mean of ``source`` draws to the levels made from it."""
        for samples, below in tree(10 * source):
            if below != source or samples == source:
                continue
            waiting = self.pending.setdefault(samples, [])
            waiting.append(mean)
            if len(waiting) == samples // source:
                block = torch.stack(waiting).mean(0)
                waiting.clear()
                squares, cosines, _ = self.scorer(block[None])
                spread = Spread.of(torch.cat((squares, cosines), 1))
                level = self.levels.setdefault(samples, Level())
                level.add(spread, cosines[kept(level.spread.count, 1)].cpu().numpy())
                self._climb(samples, block)

    def moments(self) -> Moments:
        """The moments of all draws so far.

        Returns:
            Mean, covariance and third moments, as `gradeval.analysis` takes them.
        """
        covariance = self.joint.variance
        mean, thirds = np.asarray(self.joint.mean), self.thirds / self.joint.count
        layout = self.scorer.layout
        made = (layout, self.joint.count, mean, covariance, self.descents, thirds, self.blocks)
        return Moments(*made, deterministic=False, products=self._products(mean[: layout.parameters]))

    @property
    def block_means(self) -> BlockMeans:
        """At size, means of blocks of all draws so far."""
        return self._of_blocks

    def _products(self, error: np.ndarray) -> BlockProducts | None:
        """At size, what the blocks say of the draws' covariance."""
        blocks = self._of_blocks
        if not blocks.most:
            return None
        vectors = np.stack([error, self.scorer.exact.cpu().numpy()])
        products = products_of(blocks.errors, vectors, dict(self.scorer.layout.slices))
        return BlockProducts(products, blocks.deviations, np.array([blocks.draws], dtype=np.int64))
