"""Calls made by many workers: given out a few at a time, their results handed on in order.

Memory is bounded, since few results wait. A worker that dies or hangs costs the calls it had; they are given out again.
"""

from __future__ import annotations

import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from gradeval.errors import GradevalError
from gradeval.workers.pools import Pool, PoolKind

ATTEMPTS = 3  # of one call, if each time its worker dies or hangs
DIED = "its worker process died"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Lost:
    """In place of a result: every worker that made the call died or hung.

    Args:
        message: how often, and how.
    """

    message: str


@dataclass(eq=False)
class Assignment(Generic[Result]):
    """A call to be made by a worker.

    Args:
        key: whatever the caller knows it by.
        call, arguments: the call.
        result: its result, where that is known already; else it is filled in.
        future: the call under way.
        attempts: how often it was lost by its own fault.
        suspect: it was lost together with others, so it runs alone until the one at fault is known.
    """

    key: Any
    call: Callable[..., Result]
    arguments: tuple[Any, ...]
    result: Result | Lost | None = None
    future: Future[Result] | None = None
    attempts: int = 0
    suspect: bool = False


class Workers:
    """Makes calls on an executor; a context manager that ends the workers it has started.

    Args:
        executor: "threads", "processes", or an executor of the caller's, which is left running.
        workers: how many calls are made at once.
        timeout: seconds without any result after which the workers count as hung (new processes have a minute to
            start); None waits for ever.
        preload: modules that processes are started with.

    Raises:
        GradevalError: an unknown executor, or a timeout that is not positive or is for threads.

    Examples:
        >>> calls = (Assignment(k, pow, (k, 2)) for k in range(4))
        >>> with Workers("threads", workers=2) as workers:
        ...     [result for _, result in workers.in_order(calls, lambda finished: None)]
        [0, 1, 4, 9]
    """

    def __init__(
        self, executor: str | Executor, workers: int, timeout: float | None = None, preload: Sequence[str] = ()
    ) -> None:
        self.pool = Pool(executor, workers, timeout, preload)
        self.workers = workers
        self._events: queue.SimpleQueue[Future[Any] | None] = queue.SimpleQueue()  # futures done; None: Ctrl-C
        self._interrupted = False

    @property
    def shares_memory(self) -> bool:
        """Whether calls are made in this process, so that nothing has to be pickled."""
        return self.pool.shares_memory

    @property
    def _own_processes(self) -> bool:
        return self.pool.kind is PoolKind.PROCESSES

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        (self.pool.stop if error is not None else self.pool.close)()

    def stop(self) -> None:
        """End our own workers: processes at once, threads after the call that they are making."""
        self.pool.stop()

    def in_order(
        self, assignments: Iterable[Assignment[Result]], done: Callable[[Assignment[Result]], None]
    ) -> Iterator[tuple[Assignment[Result], Result | Lost]]:
        """Make all calls.

        Args:
            assignments: the calls; they are taken from it a few at a time.
            done: called with each assignment that has its result, as they come in. Threads call it themselves, before
                they take their next assignment.

        Returns:
            An iterator over every assignment with its result, in their order.

        Raises:
            GradevalError: the given executor takes no more work.
        """
        ahead: deque[Assignment[Result]] = deque()
        todo = iter(assignments)
        self._interrupted = False
        with _interrupts_deferred(self._interrupt):
            try:
                while True:
                    while len(ahead) < 2 * self.workers and (assignment := next(todo, None)) is not None:
                        ahead.append(assignment)
                        self._give_out(ahead, done)
                    if not ahead:
                        return
                    while (result := ahead[0].result) is None:
                        self._give_out(ahead, done)
                        self._collect(ahead, done)
                    if self._interrupted:
                        raise KeyboardInterrupt
                    yield ahead.popleft(), result
            finally:
                for assignment in ahead:
                    if assignment.future is not None:
                        assignment.future.cancel()

    def _interrupt(self) -> None:
        self._interrupted = True
        self._events.put(None)

    def _give_out(self, ahead: Iterable[Assignment[Result]], done: Callable[[Assignment[Result]], None]) -> None:
        """Submit what waits; while there are suspects, only the first of them."""
        waiting = [assignment for assignment in ahead if assignment.result is None]
        suspects = [assignment for assignment in waiting if assignment.suspect]
        running = sum(assignment.future is not None for assignment in waiting)
        for assignment in suspects[:1] or waiting:
            # a process of ours gets a call when the result before it has been taken: little is lost when it dies
            if assignment.future is not None or (self._own_processes and running >= self.workers):
                continue
            try:
                if self.pool.kind is PoolKind.THREADS:
                    assignment.future = self.pool.submit(_make_and_tell, assignment, done)
                else:
                    assignment.future = self.pool.submit(assignment.call, *assignment.arguments)
            except Exception as error:
                if not self._own_processes or not isinstance(error, BrokenExecutor):
                    raise GradevalError(f"the executor takes no more work: {error}") from error
                if running == 0:
                    self._replace([assignment], DIED)
                return  # else those that were lost are collected first
            running += 1
            assignment.future.add_done_callback(self._events.put)

    def _collect(self, ahead: Iterable[Assignment[Result]], done: Callable[[Assignment[Result]], None]) -> None:
        """Wait for the next result."""
        running = {a.future: a for a in ahead if a.future is not None and a.result is None}
        try:
            future = self._events.get(timeout=self.pool.patience)
        except queue.Empty:
            self._replace(list(running.values()), f"it took more than {self.pool.patience:g} s")
            return
        if future is None:
            raise KeyboardInterrupt
        if future not in running:  # of an assignment that has been given out again
            return
        assignment = running[future]
        try:
            result = future.result()
        except Exception as error:  # not the call's own errors, which are results
            if self.pool.kind is PoolKind.THREADS:
                raise
            if isinstance(error, BrokenExecutor):
                self._replace(list(running.values()), DIED)
            else:
                assignment.future = None
                _blame(assignment, f"{type(error).__name__}: {error}")
        else:
            self.pool.cold = False
            assignment.result = result
            if self.pool.kind is not PoolKind.THREADS:
                done(assignment)

    def _replace(self, lost: list[Assignment[Any]], why: str) -> None:
        """Give lost assignments out again, to new processes where they are ours. Whose fault it was may be unknown."""
        for assignment in lost:
            if assignment.future is not None:
                assignment.future.cancel()
            assignment.future, assignment.suspect = None, self._own_processes
            if len(lost) == 1 or not self._own_processes:
                _blame(assignment, why)
        self.pool.replace()


@contextmanager
def _interrupts_deferred(note: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C is noted, to be raised where this thread holds no lock that a worker thread may wait for."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is signal.default_int_handler]
    for number in numbers:
        signal.signal(number, lambda *_: note())
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.default_int_handler)


def _blame(assignment: Assignment[Any], why: str) -> None:
    assignment.attempts += 1
    if assignment.attempts >= ATTEMPTS:
        assignment.result = Lost(f"lost {ATTEMPTS} times ({why})")


def _make_and_tell(assignment: Assignment[Result], done: Callable[[Assignment[Result]], None]) -> Result:
    result = assignment.call(*assignment.arguments)
    done(replace(assignment, result=result))
    return result
