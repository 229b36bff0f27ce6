"""Jobs in processes: their progress is heard, failures are told, a process that is killed costs its job alone."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field

import pytest

from gradeval.errors import GradevalError
from gradeval.progress import Progress
from gradeval.workers.jobs import run_jobs


@dataclass(frozen=True)
class Count:
    """Tells so many steps, one at a time, then fails or dies if it is told to."""

    name: str
    steps: int
    end: str = ""

    def run(self, progress: Progress) -> None:
        progress.start(self.name, self.steps)
        for _ in range(self.steps):
            progress.advance(self.name, 1)
        if self.end == "fails":
            raise GradevalError(f"{self.name} cannot.")
        if self.end == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        progress.finish(self.name, f"{self.name} is done")


@dataclass
class Told:
    """Progress that is kept: (total, steps, note) of each task, in the order in which they were told."""

    tasks: dict[str, tuple[int, int, str]] = field(default_factory=dict)

    def start(self, task: str, total: int) -> None:
        assert task not in self.tasks
        self.tasks[task] = total, 0, ""

    def advance(self, task: str, steps: int) -> None:
        total, done, note = self.tasks[task]
        assert not note
        self.tasks[task] = total, done + steps, ""

    def finish(self, task: str, note: str = "") -> None:
        total, done, _ = self.tasks[task]
        self.tasks[task] = total, done, note


@pytest.mark.parametrize("workers", [1, 2])
def test_every_step_is_told(workers: int) -> None:
    """Planted fault: steps that wait to be sent are lost when a job ends, or come after its end."""
    told = Told()
    assert run_jobs([Count("a", 5), Count("b", 70_000), Count("c", 0)], workers, told) == {}
    assert told.tasks == {
        "a": (5, 5, "a is done"),
        "b": (70_000, 70_000, "b is done"),
        "c": (0, 0, "c is done"),
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_that_fails_leaves_the_others(workers: int) -> None:
    told = Told()
    assert run_jobs([Count("a", 3, "fails"), Count("b", 2)], workers, told) == {"a": "a cannot."}
    assert told.tasks == {"a": (3, 3, ""), "b": (2, 2, "b is done")}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX signals")
def test_a_process_that_is_killed_costs_its_job_alone() -> None:
    jobs = [Count("a", 1, "dies"), Count("b", 1), Count("c", 1)]
    assert run_jobs(jobs, 2) == {"a": "the process of 'a' ended with code -9."}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX signals")
def test_jobs_for_which_no_process_is_left_are_named() -> None:
    jobs = [Count("a", 1, "dies"), Count("b", 1, "dies"), Count("c", 1)]
    failures = run_jobs(jobs, 2)
    assert failures.keys() == {"a", "b", "c"}
    assert failures["c"] == "'c' was not begun, since no process was left."


def test_fewer_than_one_worker_is_refused() -> None:
    with pytest.raises(GradevalError, match="workers must be at least 1, found 0"):
        run_jobs([], 0)
