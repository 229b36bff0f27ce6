"""Threads, processes or an executor of the caller's: how workers are started, replaced and ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from enum import StrEnum
from multiprocessing import forkserver
from typing import Any

from gradeval.errors import GradevalError, unknown_name

START_SECONDS = 60.0  # new processes may take this long until their first result


class PoolKind(StrEnum):
    """Where calls run."""

    THREADS = "threads"
    PROCESSES = "processes"
    GIVEN = "given"  # an executor of the caller's


EXECUTORS = (PoolKind.THREADS.value, PoolKind.PROCESSES.value)
"""The executors that are named by a word."""


class Pool:
    """Workers that calls are submitted to. Those that it has started itself it also replaces and ends.

    Args:
        executor: "threads", "processes", or an executor of the caller's, which is left running.
        workers: how many calls run at once.
        timeout: seconds without any result after which processes count as hung; None: they never do.
        preload: modules that processes are started with.

    Attributes:
        kind: where calls run.
        cold: whether the processes are new: none of their calls has returned yet.
        shares_memory: whether calls run in this process, so that nothing has to be pickled.

    Raises:
        GradevalError: an unknown name of an executor, or a timeout that is not positive or is for threads.
    """

    def __init__(
        self, executor: str | Executor, workers: int, timeout: float | None = None, preload: Sequence[str] = ()
    ) -> None:
        if isinstance(executor, str) and executor not in EXECUTORS:
            raise unknown_name("executor", executor, EXECUTORS)
        self.kind = PoolKind(executor) if isinstance(executor, str) else PoolKind.GIVEN
        self.shares_memory = self.kind is PoolKind.THREADS or isinstance(executor, ThreadPoolExecutor)
        if timeout is not None and self.shares_memory:
            raise GradevalError("a timeout needs processes (--executor processes): threads that hang cannot be ended.")
        if timeout is not None and not timeout > 0:
            raise GradevalError(f"the timeout must be a positive number of seconds, found {timeout}.")
        self.cold = False
        self._workers, self._timeout, self._preload = workers, timeout, preload
        self._executor: Executor = self._start() if isinstance(executor, str) else executor

    def _start(self) -> Executor:
        if self.kind is PoolKind.THREADS:
            return ThreadPoolExecutor(self._workers)
        self.cold = True
        return ProcessPoolExecutor(self._workers, _process_context(self._preload), end_with_parent)

    @property
    def patience(self) -> float | None:
        """Seconds to wait for the next result; None: for ever. New processes have a minute to start."""
        return self._timeout and max(self._timeout, START_SECONDS if self.cold else 0)

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have a call made by a worker.

        Args:
            call: what is called.
            arguments: its arguments.

        Returns:
            The future result.
        """
        return self._executor.submit(call, *arguments)

    def replace(self) -> None:
        """Kill the processes, if they are our own, and start others."""
        if self.kind is PoolKind.PROCESSES:
            self.stop()
            self._executor = self._start()

    def stop(self) -> None:
        """End our own workers: processes at once, threads after the call that they are making."""
        if isinstance(self._executor, ProcessPoolExecutor) and self.kind is PoolKind.PROCESSES:
            for process in list((self._executor._processes or {}).values()):  # Python 3.14: kill_workers
                process.kill()
        if self.kind is not PoolKind.GIVEN:
            self._executor.shutdown(cancel_futures=True)

    def close(self) -> None:
        """End our own workers once they have finished their calls."""
        if self.kind is not PoolKind.GIVEN:
            self._executor.shutdown()


@contextmanager
def dask_executor(address: str, seconds: float = 60.0, at_least: int = 1) -> Iterator[tuple[Executor, int]]:
    """Connect to a Dask cluster by the address of its scheduler.

    Args:
        address: such as "tcp://host:8786".
        seconds: how long to wait for the scheduler, and then for its workers.
        at_least: how many workers to wait for.

    Returns:
        A context manager that gives the cluster's executor and its number of worker threads.

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


def end_with_parent() -> None:
    """Prepare a worker process: it leaves Ctrl-C to its parent, and ends when the parent dies by whatever signal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)  # at once: the files are the parent's business

    threading.Thread(target=watch, daemon=True).start()


def _process_context(preload: Sequence[str]) -> Any:
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
