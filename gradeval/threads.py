"""How many threads compute: small work on one; large work in pieces, on threads that never wait inside an operation.

Torch shares a single product among threads that wait for each other at its end. On a machine with other work each such
wait lasts until the system runs the slowest thread, some milliseconds later; a product of a tenth of a millisecond then
takes a hundred times as long. Threads that each compute pieces of their own lose no more than their share.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch

SHARED_FROM = 2**25
"""Multiply–adds from which work is shared among threads: on one thread some 4 ms, the threads' start takes 0.3."""
MOST_THREADS = 16  # of a crew: each has memory of its own
AHEAD = 2  # pieces a thread that are given out, so that none is idle while the first of them is late

_Piece = TypeVar("_Piece")
_Result = TypeVar("_Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: torch's threads would wait on each other, and change the rounding.

    The number of threads is put back at the end.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def threads_for(multiply_adds: int) -> Iterator[None]:
    """Compute on one thread where the work is small, else on torch's.

    Args:
        multiply_adds: of the work, about.
    """
    with ExitStack() as stack:
        if multiply_adds < SHARED_FROM:
            stack.enter_context(one_thread())
        yield


@contextmanager
def single_threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Start threads that each compute on one thread.

    Torch gives the number that was set last, in whatever thread, to threads that start later: it is put back at the
    end.

    Args:
        workers: how many.

    Returns:
        A context manager that gives their executor. At its end they finish what they do; what waits is dropped.
    """
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


class Crew:
    """Threads that share large work. Nothing that is computed depends on how many they are.

    Args:
        device: that computes; on another one than the CPU, one thread gives it all its work.

    Attributes:
        threads: as many as torch has where the crew is made, at most 16.

    Examples:
        >>> crew = Crew(torch.device("cpu"))
        >>> with crew.at_work():
        ...     list(crew.in_order(lambda n: n * n, range(4), multiply_adds=2**30))
        [0, 1, 4, 9]
    """

    def __init__(self, device: torch.device) -> None:
        self.threads = min(torch.get_num_threads(), MOST_THREADS) if device.type == "cpu" else 1
        self._stack: ExitStack | None = None
        self._pool: ThreadPoolExecutor | None = None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Compute on one thread; those of the crew are started when they are needed, and ended with the outermost."""
        with one_thread(), ExitStack() as stack:
            if self._stack is None:
                self._stack = stack
                stack.callback(self._off_work)
            yield

    def _off_work(self) -> None:
        self._stack = self._pool = None

    def in_order(
        self, call: Callable[[_Piece], _Result], pieces: Sequence[_Piece], multiply_adds: int
    ) -> Iterator[_Result]:
        """Make a call for each piece, without gradients: on the crew's threads, or here where the work is small.

        Args:
            call: computes; calls may be made at once.
            pieces: its arguments.
            multiply_adds: of all pieces together, about.

        Returns:
            The results, in the order of the pieces. Few of them wait.
        """
        inference = torch.is_inference_mode_enabled()  # of this thread: others do not know of it

        def quietly(piece: _Piece) -> _Result:
            with torch.inference_mode(inference), torch.no_grad():
                return call(piece)

        if self.threads == 1 or len(pieces) < 2 or multiply_adds < SHARED_FROM:
            yield from map(quietly, pieces)
            return
        waiting: deque[Future[_Result]] = deque()
        if self._pool is None:
            assert self._stack is not None, "a crew shares work while it is at work"
            self._pool = self._stack.enter_context(single_threads(self.threads))
        try:
            for piece in pieces:
                if len(waiting) == AHEAD * self.threads:
                    yield waiting.popleft().result()
                waiting.append(self._pool.submit(quietly, piece))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
