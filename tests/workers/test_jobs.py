"""Jobs in processes: their progress is heard, failures are told, a process that is killed costs its job alone."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gradeval.errors import GradevalError
from gradeval.workers.jobs import run_jobs

POSIX = hasattr(os, "fork")
COUNT = '''
import os, signal, time
from dataclasses import dataclass
from gradeval.errors import GradevalError

@dataclass(frozen=True)
class Count:
    """Tells so many steps, one at a time, then fails or dies if it is told to."""

    name: str
    steps: int
    end: str = ""

    def run(self, progress):
        progress.start(self.name, self.steps)
        for _ in range(self.steps):
            progress.advance(self.name, 1)
        if self.end == "fails":
            raise GradevalError(f"{self.name} cannot.")
        if self.end == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.end == "exits":
            os._exit(0)
        if self.end == "forks" and hasattr(os, "fork"):  # the child holds the pipe for a while
            if os.fork() == 0:
                time.sleep(30)
            os._exit(0)
        progress.finish(self.name, f"{self.name} is done")
'''


@pytest.fixture
def count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A kind of job, in a module that other processes find on the path."""
    (tmp_path / "count_job.py").write_text(COUNT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "count_job", raising=False)  # of another test's folder
    made: Callable[..., Any] = importlib.import_module("count_job").Count
    return made


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
def test_every_step_is_told(count, workers: int) -> None:
    """Planted fault: steps that wait to be sent are lost when a job ends, or come after its end."""
    told = Told()
    assert run_jobs([count("a", 5), count("b", 70_000), count("c", 0)], workers, told) == {}
    assert told.tasks == {
        "a": (5, 5, "a is done"),
        "b": (70_000, 70_000, "b is done"),
        "c": (0, 0, "c is done"),
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_that_fails_leaves_the_others(count, workers: int) -> None:
    told = Told()
    assert run_jobs([count("a", 3, "fails"), count("b", 2)], workers, told) == {"a": "a cannot."}
    assert told.tasks == {"a": (3, 3, ""), "b": (2, 2, "b is done")}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX signals")
def test_a_process_that_is_killed_costs_its_job_alone(count) -> None:
    jobs = [count("a", 1, "dies"), count("b", 1), count("c", 1)]
    assert run_jobs(jobs, 2) == {"a": "the process of 'a' ended with code -9."}


def test_jobs_that_exit_cost_themselves_alone(count) -> None:
    """Another process takes the place of each. Planted: a crew that is without processes before its jobs are done."""
    jobs = [count("a", 1, "exits"), count("b", 1, "exits"), count("c", 1), count("d", 1, "forks")]
    told = Told()
    assert run_jobs(jobs, 2, told) == {
        name: f"the process of '{name}' ended with code 0." for name in (("a", "b", "d") if POSIX else ("a", "b"))
    }
    assert told.tasks["c"] == (1, 1, "c is done")


def test_fewer_than_one_worker_is_refused() -> None:
    with pytest.raises(GradevalError, match="workers must be at least 1, found 0"):
        run_jobs([], 0)
