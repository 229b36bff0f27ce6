"""Where tasks run: threads, processes of this machine, or any executor with the interface of `concurrent.futures`.

Tasks are given out a few at a time and their results handed on in order, so memory is bounded. A worker that dies or
hangs costs the tasks it had; they are given out again.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from types import TracebackType
from typing import Any, Generic, TypeVar

from gradeval.errors import GradevalError, unknown_name

EXECUTORS = ("threads", "processes")
ATTEMPTS = 3  # of one task, if each time its worker dies or hangs
START_SECONDS = 60.0
DIED = "its worker process died"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Lost:
    """In place of a result: every worker that had the task died or hung."""

    message: str


@dataclass(eq=False)
class Task(Generic[Result]):
    """A call to make, or its ``result`` where that is known already."""

    key: Any
    call: Callable[..., Result]
    arguments: tuple[Any, ...]
    result: Result | Lost | None = None
    future: Future[Result] | None = None
    attempts: int = 0  # that were lost, and by this task's fault
    suspect: bool = False  # lost together with others: runs alone, so that the one at fault is known


class Workers:
    """Runs tasks on an executor; a context manager that ends its own workers.

    Args:
        executor: "threads", "processes", or an executor of the caller's, which is left running.
        workers: how many tasks run at once.
        timeout: seconds without any result after which the workers count as hung (new processes have a minute to
            start); None waits for ever.
        preload: modules that processes are started with.
    """

    def __init__(
        self, executor: str | Executor, workers: int, timeout: float | None = None, preload: Sequence[str] = ()
    ) -> None:
        if isinstance(executor, str) and executor not in EXECUTORS:
            raise unknown_name("executor", executor, EXECUTORS)
        self.kind = executor if isinstance(executor, str) else "given"
        self.shares_memory = self.kind == "threads" or isinstance(executor, ThreadPoolExecutor)
        if timeout is not None and self.shares_memory:
            raise GradevalError("a timeout needs processes (--executor processes): threads that hang cannot be ended.")
        if timeout is not None and not timeout > 0:
            raise GradevalError(f"the timeout must be a positive number of seconds, found {timeout}.")
        self.workers = workers
        self.preload = preload
        self._events: queue.SimpleQueue[Future[Any] | None] = queue.SimpleQueue()  # futures done; None: Ctrl-C
        self._interrupted = False
        self._cold = False  # new processes, without a result yet
        self.timeout = timeout
        self.executor: Executor = self._start() if isinstance(executor, str) else executor

    def _start(self) -> Executor:
        if self.kind == "threads":
            return ThreadPoolExecutor(self.workers)
        self._cold = True
        return ProcessPoolExecutor(self.workers, _context(self.preload), _end_with_parent)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.stop()
        elif self.kind != "given":
            self.executor.shutdown()

    def stop(self) -> None:
        """End our own workers: processes at once, threads after their chunk."""
        if self.kind == "processes":
            self._kill()
        if self.kind != "given":
            self.executor.shutdown(cancel_futures=True)

    def _kill(self) -> None:
        assert isinstance(self.executor, ProcessPoolExecutor)
        for process in list((self.executor._processes or {}).values()):  # Python 3.14: kill_workers
            process.kill()

    def in_order(
        self, tasks: Iterable[Task[Result]], done: Callable[[Task[Result]], None]
    ) -> Iterator[tuple[Task[Result], Result | Lost]]:
        """Every task with its result, in order; ``done`` is told of each result that comes in, in any order.

        Threads tell it themselves, before they take the next task.

        Raises:
            GradevalError: the given executor takes no more work.
        """
        ahead: deque[Task[Result]] = deque()
        todo = iter(tasks)
        with self._interrupts_deferred():
            try:
                while True:
                    while len(ahead) < 2 * self.workers and (task := next(todo, None)) is not None:
                        ahead.append(task)
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
                for task in ahead:
                    if task.future is not None:
                        task.future.cancel()

    @contextmanager
    def _interrupts_deferred(self) -> Iterator[None]:
        """Ctrl-C is raised where this thread holds no lock that a worker thread may wait for."""
        self._interrupted = False
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(*_: object) -> None:
            self._interrupted = True
            self._events.put(None)

        numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is signal.default_int_handler]
        for number in numbers:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number in numbers:
                signal.signal(number, signal.default_int_handler)

    def _give_out(self, ahead: Iterable[Task[Result]], done: Callable[[Task[Result]], None]) -> None:
        """Submit what waits; while there are suspects, only the first of them."""
        waiting = [task for task in ahead if task.result is None]
        suspects = [task for task in waiting if task.suspect]
        running = sum(task.future is not None for task in waiting)
        for task in suspects[:1] or waiting:
            # a process of ours begins a task when the result before it has been taken: little is lost with us
            if task.future is not None or (self.kind == "processes" and running >= self.workers):
                continue
            try:
                if self.kind == "threads":
                    task.future = self.executor.submit(_and_tell, task, done)
                else:
                    task.future = self.executor.submit(task.call, *task.arguments)
            except Exception as error:
                if self.kind != "processes" or not isinstance(error, BrokenExecutor):
                    raise GradevalError(f"the executor takes no more work: {error}") from error
                if running == 0:
                    self._restart([task], DIED)
                return  # else those that were lost are collected first
            running += 1
            task.future.add_done_callback(self._events.put)

    def _collect(self, ahead: Iterable[Task[Result]], done: Callable[[Task[Result]], None]) -> None:
        """Wait for the next result."""
        running = {task.future: task for task in ahead if task.future is not None and task.result is None}
        patience = self.timeout and max(self.timeout, START_SECONDS if self._cold else 0)
        try:
            future = self._events.get(timeout=patience)
        except queue.Empty:
            self._restart(list(running.values()), f"it took more than {patience:g} s")
            return
        if future is None:
            raise KeyboardInterrupt
        if future not in running:  # of a task that has been given out again
            return
        task = running[future]
        try:
            result = future.result()
        except Exception as error:  # not the task's own, which are results
            if self.kind == "threads":
                raise
            if isinstance(error, BrokenExecutor):
                self._restart(list(running.values()), DIED)
            else:
                task.future = None
                self._blame(task, f"{type(error).__name__}: {error}")
        else:
            self._cold = False
            task.result = result
            if self.kind != "threads":
                done(task)

    def _restart(self, lost: list[Task[Result]], why: str) -> None:
        """Give lost tasks out again, to new processes where the processes are ours."""
        for task in lost:
            if task.future is not None:
                task.future.cancel()
            task.future, task.suspect = None, self.kind == "processes"
            if len(lost) == 1 or self.kind != "processes":
                self._blame(task, why)
        if self.kind == "processes":
            self._kill()
            self.executor.shutdown(cancel_futures=True)
            self.executor = self._start()

    def _blame(self, task: Task[Result], why: str) -> None:
        task.attempts += 1
        if task.attempts >= ATTEMPTS:
            task.result = Lost(f"lost {ATTEMPTS} times ({why})")


def _and_tell(task: Task[Result], done: Callable[[Task[Result]], None]) -> Result:
    result = task.call(*task.arguments)
    done(replace(task, result=result))
    return result


@contextmanager
def dask_executor(address: str, seconds: float = 60.0, at_least: int = 1) -> Iterator[tuple[Executor, int]]:
    """The executor of a Dask cluster, by the address of its scheduler, and its number of worker threads.

    Args:
        address: tcp://host:port.
        seconds: to wait for the scheduler, and then for its workers.
        at_least: workers to wait for.

    Raises:
        GradevalError: Dask is not installed, or no scheduler or no worker answers within ``seconds``.
    """
    try:
        from distributed import Client
    except ImportError:
        raise GradevalError("a scheduler needs Dask: pip install 'gradeval[dask]'.") from None
    try:
        client = Client(address, timeout=seconds)
    except (OSError, ValueError) as error:
        raise GradevalError(f"no Dask scheduler answers at '{address}' ({error}).") from None
    with client:
        try:
            client.wait_for_workers(at_least, timeout=seconds)
        except TimeoutError:
            raise GradevalError(f"the Dask scheduler at '{address}' has no workers: start some.") from None
        yield client.get_executor(), sum(client.nthreads().values())


def _context(preload: Sequence[str]) -> Any:
    """Processes are not forked from this one: a fork of a process with threads, such as torch's, can hang."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    # The server imports these before it has our sys.path: a folder `gradeval` where we stand must not come first.
    safe = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        forkserver.ensure_running()
    finally:
        if safe is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = safe
    return context


def _end_with_parent() -> None:
    """In a worker process: Ctrl-C is the parent's business; when the parent dies, by whatever signal, so do we."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
