"""Long jobs in processes of their own, a few at a time, that end when the program does."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, runtime_checkable

from gradeval.errors import GradevalError, TooLong
from gradeval.progress import Progress, Silent
from gradeval.torch_private import LAZILY_IMPORTED
from gradeval.workers.messages import Sender
from gradeval.workers.processes import end_with_parent, process_context

LOOK_SECONDS = 1.0  # how often processes that are silent are looked at


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


# --- in a process -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _JobEnded:
    """The process is free for another job; ``failure`` is the message of an error, or None."""

    failure: str | None


def _work(connection: Any) -> None:
    """What a process does: jobs come in; progress and the end of every job go out; None ends it."""
    end_with_parent()
    import torch

    torch.set_num_threads(1)
    sender = Sender(connection.send)
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
        modules = {type(job).__module__ for job in jobs} - {"__main__"}
        self.context = process_context([*sorted(modules), LAZILY_IMPORTED])
        self.failures: dict[str, str] = {}
        self.processes: dict[Any, BaseProcess] = {}
        self.current: dict[Any, Job | None] = {}

    def run(self, workers: int) -> dict[str, str]:
        try:
            for _ in range(min(workers, len(self.todo))):
                self._start()
            while self.processes:
                heard = wait(list(self.processes), LOOK_SECONDS)
                # what a job has begun may outlive its process and hold the pipe
                ended = [connection for connection, process in self.processes.items() if not process.is_alive()]
                for connection in {*heard, *ended}:
                    self._hear(connection)
        finally:
            for process in self.processes.values():
                process.terminate()
        return self.failures

    def _start(self) -> None:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_work, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        self.processes[ours] = process
        self._give(ours)

    def _give(self, connection: Any) -> None:
        """Send the next job, or None: there is no more."""
        job = self.todo.popleft() if self.todo else None
        self.current[connection] = job
        with suppress(OSError):  # it has ended, which is heard next
            connection.send(job)

    def _hear(self, connection: Any) -> None:
        job = self.current[connection]
        try:
            if not connection.poll():
                raise EOFError
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
        """A process has ended: by itself where it had no job; else its job has failed, and another takes its place."""
        process = self.processes.pop(connection)
        process.join()
        connection.close()
        if job is None:
            return
        self.failures[job.name] = f"the process of '{job.name}' ended with code {process.exitcode}."
        if self.todo:
            self._start()
