"""Threads, processes or an executor of the caller's: how workers are started and ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

from gradeval.errors import GradevalError, unknown_name
from gradeval.progress import Progress
from gradeval.workers.memory import share_of_memory
from gradeval.workers.processes import Allowance, Processes


class PoolKind(StrEnum):
    """Where calls run."""

    THREADS = "threads"
    PROCESSES = "processes"
    GIVEN = "given"  # an executor of the caller's


EXECUTORS = (PoolKind.THREADS.value, PoolKind.PROCESSES.value)
"""The executors that are named by a word."""


class Pool:
    """Workers that calls are submitted to. Those that it has started itself it also ends.

    Args:
        executor: "threads", "processes", or an executor of the caller's, which is left running.
        workers: how many calls run at once.
        allowance: for the workers, where they are not threads.
        preload: modules that processes are started with.

    Attributes:
        kind: where calls run.
        shares_memory: whether calls run in this process, so that nothing has to be pickled.

    Raises:
        GradevalError: an unknown name of an executor, or a limit that is not positive or is for other workers.
    """

    def __init__(
        self, executor: str | Executor, workers: int, allowance: Allowance, preload: Sequence[str] = ()
    ) -> None:
        if executor not in EXECUTORS if isinstance(executor, str) else not hasattr(executor, "submit"):
            raise unknown_name("executor", executor, EXECUTORS)
        self.kind = PoolKind(executor) if isinstance(executor, str) else PoolKind.GIVEN
        self.shares_memory = self.kind is PoolKind.THREADS or isinstance(executor, ThreadPoolExecutor)
        self._check(allowance)
        self.patience = allowance.seconds if self.kind is PoolKind.GIVEN else None
        self._executor: Executor | Processes
        if not isinstance(executor, str):
            self._executor = executor
        elif self.kind is PoolKind.THREADS:
            self._executor = ThreadPoolExecutor(workers)
        else:
            memory = share_of_memory(workers) if allowance.memory is None else allowance.memory
            self._executor = Processes(workers, Allowance(allowance.seconds, memory), preload)

    def _check(self, allowance: Allowance) -> None:
        if allowance.seconds is not None and self.shares_memory:
            raise GradevalError("a timeout needs processes (--executor processes): threads that hang cannot be ended.")
        if allowance.seconds is not None and not allowance.seconds > 0:
            raise GradevalError(f"the timeout must be a positive number of seconds, found {allowance.seconds}.")
        if allowance.memory is not None and self.kind is not PoolKind.PROCESSES:
            raise GradevalError("a limit on memory needs processes of this machine (--executor processes).")
        if allowance.memory is not None and not allowance.memory > 0:
            raise GradevalError(f"the limit on memory must be positive, found {allowance.memory}.")

    def submit(
        self, owner: object, progress: Progress | None, call: Callable[..., Any], *arguments: Any
    ) -> Future[Any]:
        """Have a call made by a worker.

        Args:
            owner: whom the call is for; a process of our own works for one only.
            progress: is the last argument of the call, unless it is None; calls of the caller's executor have none.
            call: what is called.
            arguments: its arguments.

        Returns:
            The future result; the error of a process of our own is `CallLost`.
        """
        if isinstance(self._executor, Processes):
            return self._executor.submit(owner, progress, call, *arguments)
        return self._executor.submit(call, *arguments, *([] if progress is None else [progress]))

    def stop(self) -> None:
        """End our own workers: processes at once, threads after the call that they are making."""
        if isinstance(self._executor, Processes):
            self._executor.stop()
        elif self.kind is PoolKind.THREADS:
            self._executor.shutdown(cancel_futures=True)

    def close(self) -> None:
        """End our own workers once they have finished their calls."""
        if isinstance(self._executor, Processes):
            self._executor.close()
        elif self.kind is PoolKind.THREADS:
            self._executor.shutdown()


ANSWERS_WITHIN = 10.0
"""Seconds that a Dask scheduler has to answer: one that is there does at once, but its workers may be starting."""


@contextmanager
def dask_executor(address: str, seconds: float = 60.0, at_least: int = 1) -> Iterator[tuple[Executor, int]]:
    """Connect to a Dask cluster by the address of its scheduler.

    Args:
        address: such as "tcp://host:8786".
        seconds: how long to wait for the workers; for the scheduler it is `ANSWERS_WITHIN`, if that is less.
        at_least: how many workers to wait for.

    Returns:
        A context manager that gives the cluster's executor and its number of worker threads.

    Raises:
        GradevalError: Dask is not installed, or no scheduler or no worker answers in time.
    """
    try:
        from distributed import Client
    except ImportError:
        raise GradevalError("a scheduler needs Dask: pip install 'gradeval[dask]'.") from None
    try:
        client = Client(address, timeout=min(seconds, ANSWERS_WITHIN))
    except OSError:
        raise GradevalError(
            f"no Dask scheduler answers at '{address}' within {min(seconds, ANSWERS_WITHIN):g} s: start one there, or "
            "correct the address."
        ) from None
    except Exception as error:  # of what is no address, or of the answer of something else: a MemoryError, say
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise GradevalError(f"at '{address}' is no Dask scheduler ({what}); one is tcp://host:8786, say.") from None
    with client:
        try:
            client.wait_for_workers(at_least, timeout=seconds)
        except TimeoutError:
            raise GradevalError(f"the Dask scheduler at '{address}' has no workers: start some.") from None
        yield client.get_executor(), sum(client.nthreads().values())
