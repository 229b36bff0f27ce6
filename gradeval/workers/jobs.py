"""Long jobs in processes of their own, a few at a time, that end when the program does."""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, runtime_checkable

from gradeval.errors import GradevalError, TooLong
from gradeval.progress import Progress, Silent
from gradeval.workers.pools import end_with_parent

SEND_SECONDS = 0.5  # a process tells of its steps no more often than this


@runtime_checkable
class Job(Protocol):
    """Something to do that can be sent to another process."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    def run(self, progress: Progress) -> None:
        """Do it.

        Args:
            progress: receives the progress of its tasks.

        Raises:
            GradevalError: it cannot be done.
        """


def run_jobs(jobs: Sequence[Job], workers: int, progress: Progress | None = None) -> dict[str, str]:
    """Run all jobs: here where there is one worker, else each in a process.

    Args:
        jobs: what is to be done; with several workers, what can be pickled.
        workers: how many run at once.
        progress: receives the progress of all jobs; that of processes every half second.

    Returns:
        By the name of each job that failed, the message of its error.

    Raises:
        GradevalError: fewer than one worker.
    """
    if workers < 1:
        raise GradevalError(f"workers must be at least 1, found {workers}.")
    progress = progress or Silent()
    if workers > 1:
        return _Crew(jobs, progress).run(workers)
    failures = {}
    for job in jobs:
        try:
            job.run(progress)
        except TooLong:
            raise
        except GradevalError as error:
            failures[job.name] = str(error)
    return failures


# --- what a process sends ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Started:
    task: str
    total: int

    def pass_on(self, progress: Progress) -> None:
        progress.start(self.task, self.total)


@dataclass(frozen=True)
class _Advanced:
    task: str
    steps: int

    def pass_on(self, progress: Progress) -> None:
        progress.advance(self.task, self.steps)


@dataclass(frozen=True)
class _Finished:
    task: str
    note: str

    def pass_on(self, progress: Progress) -> None:
        progress.finish(self.task, self.note)


@dataclass(frozen=True)
class _JobEnded:
    """The process is free for another job; ``failure`` is the message of an error, or None."""

    failure: str | None


class _Sender:
    """Progress in a process: it is sent to the program, steps a few at a time."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._steps: dict[str, int] = {}
        self._last = 0.0

    def start(self, task: str, total: int) -> None:
        self.send_steps()
        self._connection.send(_Started(task, total))

    def advance(self, task: str, steps: int) -> None:
        self._steps[task] = self._steps.get(task, 0) + steps
        if time.monotonic() - self._last > SEND_SECONDS:
            self.send_steps()

    def finish(self, task: str, note: str = "") -> None:
        self.send_steps()
        self._connection.send(_Finished(task, note))

    def send_steps(self) -> None:
        for task, steps in self._steps.items():
            self._connection.send(_Advanced(task, steps))
        self._steps.clear()
        self._last = time.monotonic()


def _work(connection: Any) -> None:
    """What a process does: jobs come in; progress and the end of every job go out; None ends it."""
    end_with_parent()
    import torch

    torch.set_num_threads(1)
    sender = _Sender(connection)
    while (job := connection.recv()) is not None:
        failure = None
        try:
            job.run(sender)
        except GradevalError as error:
            failure = str(error)
        sender.send_steps()
        connection.send(_JobEnded(failure))


# --- the program's side -----------------------------------------------------------------------------------------------


class _Crew:
    """The processes, and what each of them is doing."""

    def __init__(self, jobs: Sequence[Job], progress: Progress) -> None:
        self.todo = deque(jobs)
        self.progress = progress
        self.failures: dict[str, str] = {}
        self.processes: dict[Any, BaseProcess] = {}
        self.current: dict[Any, Job | None] = {}

    def run(self, workers: int) -> dict[str, str]:
        try:
            for _ in range(min(workers, len(self.todo))):
                self._start()
            while self.processes:
                for connection in wait(list(self.processes)):
                    self._hear(connection)
        finally:
            for process in self.processes.values():
                process.terminate()
        return self.failures

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        self.processes[ours] = process
        self._give(ours)

    def _give(self, connection: Any) -> None:
        """Send the next job, or None: there is no more."""
        job = self.todo.popleft() if self.todo else None
        self.current[connection] = job
        connection.send(job)

    def _hear(self, connection: Any) -> None:
        job = self.current[connection]
        try:
            message = connection.recv()
        except (EOFError, ConnectionResetError):
            self._ended(connection, job)
            return
        if not isinstance(message, _JobEnded):
            message.pass_on(self.progress)
            return
        if message.failure is not None and job is not None:
            self.failures[job.name] = message.failure
        self._give(connection)

    def _ended(self, connection: Any, job: Job | None) -> None:
        """A process has ended: by itself where it had no job, else something killed it."""
        process = self.processes.pop(connection)
        process.join()
        if job is None:
            return
        self.failures[job.name] = f"the process of '{job.name}' ended with code {process.exitcode}."
        if not self.processes:
            for left in self.todo:
                self.failures[left.name] = f"'{left.name}' was not begun, since no process was left."
