"""How much of the draws is kept, so that their statistics fit in memory whatever the number of parameters."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from torch import Tensor

BLOCK = 1000  # draws, one of the M of `tree` that all smaller ones divide
CHUNK = 5 * BLOCK  # draws: means of up to BLOCK draws never straddle two chunks
WORKING_MEMORY = 2**30  # bytes, by default
MOST_OF_COVARIANCE = 2048  # parameters; of more, the tables' five eigendecompositions take longer than the draws
COPIES = 8  # of a chunk's draws, that are in memory at a time, about
MOST_BLOCKS, LEAST_BLOCKS = 128, 32  # means of blocks of draws that are kept in place of a covariance
USED = 0.95  # of a chunk's draws, that are in one of its blocks at least


@dataclass(frozen=True)
class Extent:
    """How many draws a chunk has, and what is kept of them.

    Args:
        chunk: draws.
        block: draws of the largest means that are made within a chunk; a power of ten.
        blocks: how many means of blocks of draws are kept in place of a covariance; 0 where the covariance is kept.
    """

    chunk: int = CHUNK
    block: int = BLOCK
    blocks: int = 0

    @classmethod
    def of(cls, parameters: int, layers: int, memory: int = WORKING_MEMORY) -> Extent:
        """What fits in some memory. It does not depend on the number of workers or of draws.

        Args:
            parameters: P.
            layers: K, with the head and with all of them together.
            memory: bytes that a covariance, or a chunk of draws while it is made, may take, about.

        Returns:
            Chunks of 5000 draws and a covariance, where that fits and has up to `MOST_OF_COVARIANCE` rows; else means
            of blocks, and chunks as short as needed.

        Examples:
            >>> Extent.of(1000, 4)
            Extent(chunk=5000, block=1000, blocks=0)
            >>> Extent.of(4000, 4)
            Extent(chunk=1000, block=1000, blocks=128)
            >>> Extent.of(314_000, 3)
            Extent(chunk=50, block=10, blocks=128)
        """
        if parameters <= MOST_OF_COVARIANCE and 8 * (parameters + 3 * layers + 1) ** 2 <= memory:
            return cls()
        fitting = memory // (8 * parameters * COPIES)
        chunk = next((length for length in (CHUNK, 1000, 500, 100, 50) if length <= fitting), 10)
        most = max(1, memory // (4 * 4 * parameters))  # in single precision, a quarter of the memory
        blocks = min(max(1 << most.bit_length() - 1, LEAST_BLOCKS), MOST_BLOCKS)
        return cls(chunk, 10 ** (len(str(chunk)) - 1), blocks)

    @property
    def identity(self) -> list[int]:
        """At size, what the numbers of chunks depend on; else nothing."""
        return [self.chunk, self.blocks] if self.blocks else []

    def unit(self, index: int, count: int) -> int:
        """The number of draws in a block of a chunk: a power of two, no more than in the blocks of all chunks before.

        Args:
            index: of the chunk.
            count: its number of draws.

        Returns:
            The number: of the first chunk such that there are no more blocks than are kept; of later ones as if all
            before were in as many blocks.
        """
        if index == 0:
            return min(1 << (-(-count // self.blocks) - 1).bit_length(), self.longest)
        return min(1 << max(int(0.9 * index * self.chunk / self.blocks), 1).bit_length() - 1, self.longest)

    @property
    def longest(self) -> int:
        """Draws of the longest blocks that are made within a chunk."""
        lengths = [1 << k for k in range(self.chunk.bit_length()) if 3 << k <= self.chunk]
        return max(u for u in lengths if self.chunk // u * u >= USED * self.chunk)


DEFAULT = Extent()
"""What is kept where there are few parameters."""


@dataclass
class BlockMeans:
    """Means over successive blocks of equally many draws: of their errors, and of their deviations by layer.

    Where they become too many, each is joined with the next.

    Attributes:
        most: how many are kept at most.
        draws: in each block; 0 before the first.
        errors: means of g − g*, in single precision, [blocks, P].
        deviations: means of the deviations, [blocks, K].
    """

    most: int
    draws: int = 0
    errors: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    deviations: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    _waiting: np.ndarray = field(default_factory=lambda: np.zeros(()))  # sums over the draws that fill no block yet
    _of_waiting: int = 0

    @classmethod
    def of(
        cls, extent: Extent, errors: Float[Tensor, "draws P"], deviations: Float[Tensor, "draws K"], index: int
    ) -> BlockMeans:
        """The blocks of one chunk; draws at its end that fill none are in no block.

        Args:
            extent: how many draws make a block.
            errors: g − g* of each draw.
            deviations: of each draw, by layer.
            index: of the chunk.

        Returns:
            The means.
        """
        draws = extent.unit(index, len(errors))
        found = [block_means(numbers, draws).cpu().numpy() for numbers in (errors, deviations)]
        return cls(extent.blocks, draws, found[0].astype(np.float32), found[1])

    def add(self, other: BlockMeans) -> None:
        """Add those of the chunk that follows; what does not fill a block waits for the next ones, or is left out.

        Args:
            other: with no more draws in a block than here, of which they are a part.
        """
        self.draws = self.draws or other.draws
        if self._of_waiting % other.draws:  # these and longer blocks never fill one
            self._waiting, self._of_waiting = np.zeros(()), 0
        rows = np.concatenate([other.errors, other.deviations], 1, dtype=np.float64)
        found = []
        for row in rows:
            self._waiting = self._waiting + other.draws * row
            self._of_waiting += other.draws
            if self._of_waiting == self.draws:
                found.append(self._waiting / self.draws)
                self._waiting, self._of_waiting = np.zeros(()), 0
        columns = other.errors.shape[1]
        new = np.stack(found) if found else np.zeros((0, rows.shape[1]))
        new_errors, new_deviations = new[:, :columns].astype(np.float32), new[:, columns:]
        some = len(self.errors) > 0
        self.errors = np.concatenate([self.errors, new_errors]) if some else new_errors
        self.deviations = np.concatenate([self.deviations, new_deviations]) if some else new_deviations
        while len(self.errors) > self.most:
            self._join()

    def _join(self) -> None:
        """Each block with the next; the last one of an odd number waits."""
        even = len(self.errors) // 2 * 2
        for errors, deviations in zip(self.errors[even:], self.deviations[even:], strict=True):
            self._waiting = self._waiting + self.draws * np.concatenate([errors, deviations], dtype=np.float64)
            self._of_waiting += self.draws
        self.errors, self.deviations = (
            means[:even].reshape(even // 2, 2, means.shape[1]).mean(1) for means in (self.errors, self.deviations)
        )
        self.draws *= 2


def block_means(numbers: Float[Tensor, "draws columns"], size: int) -> Float[Tensor, "blocks columns"]:
    """Means of blocks of successive draws; the last draws that fill none are left out.

    Args:
        numbers: a row for each draw.
        size: draws in a block.

    Returns:
        A row for each block.

    Examples:
        >>> import torch
        >>> block_means(torch.tensor([[1.0], [3.0], [5.0]]), 2).tolist()
        [[2.0]]
    """
    blocks = len(numbers) // size
    return numbers[: blocks * size].reshape(blocks, size, numbers.shape[1]).mean(1)


def products_of(rows: np.ndarray, vectors: np.ndarray, slices: dict[str, slice], at_once: int = 2**18) -> np.ndarray:
    """Inner products of rows and vectors, by layer, in double precision.

    Args:
        rows: means of blocks, [blocks, P], in single precision.
        vectors: further rows, in double precision, [V, P].
        slices: where each of the K layers lies.
        at_once: entries of a row that are taken at a time.

    Returns:
        The products of all of them, [K, blocks + V, blocks + V].
    """
    size = len(rows) + len(vectors)
    found = np.zeros((len(slices), size, size))
    ends = sorted({end for where in slices.values() for end in (where.start, where.stop)})
    pieces = [(a, min(a + at_once, stop)) for start, stop in itertools.pairwise(ends)
              for a in range(start, stop, at_once)]  # fmt: skip
    for start, stop in pieces:
        part = np.concatenate([rows[:, start:stop].astype(np.float64), vectors[:, start:stop]])
        product = part @ part.T
        for k, where in enumerate(slices.values()):
            if where.start <= start and stop <= where.stop:
                found[k] += product
    return found
