"""Calls made by many workers: given out a few at a time, their results handed on in order.

Memory is bounded, since few results wait. A call that was lost with its worker is given out again: a process may have
been killed for the memory that another one took. A call that hung is not.
"""

from __future__ import annotations

import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from gradeval.errors import GradevalError
from gradeval.progress import Progress
from gradeval.workers.pools import Pool, PoolKind
from gradeval.workers.processes import Allowance, CallLost

ATTEMPTS = {PoolKind.PROCESSES: 2, PoolKind.GIVEN: 3}  # of one call, if each time its worker is lost
Result = TypeVar("Result")


@dataclass(frozen=True)
class Lost:
    """In place of a result: the workers that made the call died or hung.

    Args:
        message: how, and how often.
    """

    message: str


@dataclass(eq=False)
class Assignment(Generic[Result]):
    """A call to be made by a worker.

    Args:
        key: whatever the caller knows it by.
        call, arguments: the call.
        result: its result, where that is known already; else it is filled in.
        owner: whom it is for. A process works for one owner only, and where a call of an owner is lost, its others are.
        progress: the last argument of the call, if given; it is told here.
        future: the call under way.
        attempts: how often it was lost.
    """

    key: Any
    call: Callable[..., Result]
    arguments: tuple[Any, ...]
    result: Result | Lost | None = None
    owner: str = ""
    progress: Progress | None = None
    future: Future[Result] | None = None
    attempts: int = 0


class Workers:
    """Makes calls on an executor; a context manager that ends the workers it has started.

    Args:
        executor: "threads", "processes", or an executor of the caller's, which is left running.
        workers: how many calls are made at once.
        allowance: what a process may take; of an executor of the caller's, the seconds without any result after which
            its workers count as hung.
        preload: modules that processes are started with.

    Raises:
        GradevalError: an unknown executor, or a limit that is not positive or is for other workers.

    Examples:
        >>> calls = (Assignment(k, pow, (k, 2)) for k in range(4))
        >>> with Workers("threads", workers=2) as workers:
        ...     [result for _, result in workers.in_order(calls, lambda finished: None)]
        [0, 1, 4, 9]
    """

    def __init__(
        self, executor: str | Executor, workers: int, allowance: Allowance | None = None, preload: Sequence[str] = ()
    ) -> None:
        self.pool = Pool(executor, workers, allowance or Allowance(), preload)
        self.workers = workers
        self._events: queue.SimpleQueue[Future[Any] | None] = queue.SimpleQueue()  # futures done; None: Ctrl-C
        self._interrupted = False
        self._lost: dict[str, Lost] = {}  # by owner

    @property
    def shares_memory(self) -> bool:
        """Whether calls are made in this process, so that nothing has to be pickled."""
        return self.pool.shares_memory

    @property
    def own_processes(self) -> bool:
        """Whether calls are made by processes that are our own."""
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
        """Submit what waits."""
        waiting = [assignment for assignment in ahead if assignment.result is None]
        running = sum(assignment.future is not None for assignment in waiting)
        for assignment in [assignment for assignment in waiting if assignment.future is None]:
            if assignment.owner in self._lost:
                assignment.result = self._lost[assignment.owner]
                continue
            # a process of ours gets a call when the result before it has been taken: few are given out in vain
            if self.own_processes and running >= self.workers:
                break
            threads = self.pool.kind is PoolKind.THREADS
            call = (_make_and_tell, assignment, done) if threads else (assignment.call, *assignment.arguments)
            try:
                assignment.future = self.pool.submit(assignment.owner, assignment.progress, *call)
            except Exception as error:
                raise GradevalError(f"the executor takes no more work: {error}") from error
            running += 1
            assignment.future.add_done_callback(self._events.put)

    def _collect(self, ahead: Iterable[Assignment[Result]], done: Callable[[Assignment[Result]], None]) -> None:
        """Wait for the next result, if any call is under way."""
        running = {a.future: a for a in ahead if a.future is not None and a.result is None}
        if not running:
            return
        try:
            future = self._events.get(timeout=self.pool.patience)
        except queue.Empty:
            for assignment in running.values():
                self._again(assignment, CallLost(f"it took more than {self.pool.patience:g} s", again=True))
            return
        if future is None:
            raise KeyboardInterrupt
        if future not in running:  # of an assignment that has been given out again
            return
        assignment = running[future]
        try:
            assignment.result = future.result()
        except Exception as error:  # not the call's own errors, which are results
            if self.pool.kind is PoolKind.THREADS:
                raise
            self._again(assignment, error)
        else:
            if self.pool.kind is not PoolKind.THREADS:
                done(assignment)

    def _again(self, assignment: Assignment[Any], error: Exception) -> None:
        """Give a lost assignment out again, where that may help and was not tried often enough."""
        assert assignment.future is not None
        assignment.future.cancel()
        assignment.future = None
        assignment.attempts += 1
        why, again = _reason(error)
        if not again or assignment.attempts >= ATTEMPTS[self.pool.kind]:
            often = f" ({assignment.attempts} times)" if assignment.attempts > 1 else ""
            assignment.result = Lost(why + often)
            if assignment.owner:
                self._lost[assignment.owner] = assignment.result


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


def _reason(error: Exception) -> tuple[str, bool]:
    """Why a call was lost, and whether it may succeed if it is made again."""
    if isinstance(error, CallLost):
        return str(error), error.again
    return f"{type(error).__name__}: {error}", True  # of an executor of the caller's


def _make_and_tell(assignment: Assignment[Result], done: Callable[[Assignment[Result]], None]) -> Result:
    result = assignment.call(*assignment.arguments, *([] if assignment.progress is None else [assignment.progress]))
    done(replace(assignment, result=result))
    return result
