"""Long work in processes of its own, a few at a time, that end when the program does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any, Protocol, runtime_checkable

from gradeval.errors import GradevalError

Report = Callable[[str, str, int, int], None]
"""Told (job, phase, steps done, steps in all)."""

REPORT_SECONDS = 0.5  # a process tells of its progress this often


@runtime_checkable
class Job(Protocol):
    """Something to do, that can be sent to another process."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    def run(self, progress: Report | None) -> None:
        """Do it. Raises GradevalError where it cannot be done."""


def run_jobs(jobs: Sequence[Job], workers: int, progress: Report | None = None) -> dict[str, str]:
    """Run all jobs, here where there is one worker, else each in a process; the messages of those that failed."""
    if workers < 1:
        raise GradevalError(f"workers must be at least 1, found {workers}.")
    failures: dict[str, str] = {}
    if workers == 1:
        for job in jobs:
            try:
                job.run(progress)
            except GradevalError as error:
                failures[job.name] = str(error)
        return failures
    context = multiprocessing.get_context("spawn")
    todo = deque(jobs)
    running: dict[Any, tuple[Any, Job | None]] = {}
    try:
        for _ in range(min(workers, len(todo))):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            running[ours] = process, None
            _next(ours, todo, running)
        while running:
            for connection in wait(list(running)):
                process, current = running[connection]
                try:
                    message = connection.recv()  # type: ignore[union-attr,call-arg]
                except (EOFError, ConnectionResetError):
                    del running[connection]
                    process.join()
                    if current is not None:
                        failures[current.name] = f"the process of '{current.name}' ended with code {process.exitcode}"
                        for left in () if running else todo:
                            failures[left.name] = f"'{left.name}' was not begun"
                    continue
                if message is None or isinstance(message, str):  # done, or why not
                    if message and current is not None:
                        failures[current.name] = message
                    _next(connection, todo, running)
                elif progress:
                    progress(*message)
    finally:
        for process, _ in running.values():
            process.terminate()
    return failures


def _next(connection: Any, todo: deque[Job], running: dict[Any, tuple[Any, Job | None]]) -> None:
    """Send the process at the other end the next job, or None: it may go."""
    job = todo.popleft() if todo else None
    running[connection] = running[connection][0], job
    connection.send(job)


def _work(connection: Any) -> None:
    """A process: jobs come in; progress, and for every job None or a message of failure, go out."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the program's, which ends this process
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)  # the program was killed: leave its files alone

    threading.Thread(target=follow, daemon=True).start()
    last = 0.0

    def progress(*message: Any) -> None:
        nonlocal last
        if time.monotonic() - last > REPORT_SECONDS or message[2] == message[3]:
            connection.send(message)
            last = time.monotonic()

    while (job := connection.recv()) is not None:
        try:
            job.run(progress)
        except GradevalError as error:
            connection.send(str(error))
        else:
            connection.send(None)
