"""Processes of our own: each that dies, hangs, eats memory or starts threads costs its own call alone."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gradeval.progress import Progress
from gradeval.workers import processes
from gradeval.workers.executors import Assignment, Lost, Workers
from gradeval.workers.memory import share_of_memory
from gradeval.workers.processes import Allowance

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="a limit on memory")
MIB = 2**20
KEPT: list[Any] = []


def starts_late(*arguments: Any) -> None:
    """What a process does, begun after two seconds."""
    time.sleep(2)
    processes._work(*arguments)


def sleeps(number: int, seconds: float) -> int:
    time.sleep(seconds)
    return number


def exits(code: int) -> None:
    os._exit(code)


def dies_once(mark: str) -> str:
    """Ends its process, if it is the first to be called."""
    try:
        Path(mark).touch(exist_ok=False)
    except FileExistsError:
        return "done"
    os._exit(9)


def counts(mark: str) -> None:
    """Dies, and leaves a line."""
    with Path(mark).open("a") as file:
        file.write("called\n")
    os._exit(0)


def eats(mebibytes: int) -> int:
    """Takes so much memory, in pieces, and keeps it."""
    KEPT.extend(bytearray(16 * MIB) for _ in range(mebibytes // 16))
    return mebibytes


def starts_threads(number: int) -> int:
    """A bounded bomb of threads."""
    for _ in range(number):
        threading.Thread(target=time.sleep, args=(60,)).start()
    return number


def threads() -> int:
    return threading.active_count()


def goes_on(seconds: float, progress: Progress) -> str:
    """Is slow, but tells of its progress."""
    progress.start("slow", 4)
    for _ in range(4):
        time.sleep(seconds)
        progress.advance("slow", 1)
    progress.finish("slow")
    return "done"


def raises() -> None:
    raise ValueError("no such thing")


def no_pickle() -> Any:
    return threading.Lock()


def is_imported(name: str) -> bool:
    return name in sys.modules


def make(*calls: Assignment[Any], workers: int = 2, **allowance: Any) -> list[Any]:
    with Workers("processes", workers, Allowance(**allowance)) as pool:
        return [result for _, result in pool.in_order(calls, lambda finished: None)]


def call(owner: str, function: Any, *arguments: Any, **options: Any) -> Assignment[Any]:
    return Assignment(owner, function, arguments, owner=owner, **options)


def test_a_call_that_hangs_is_lost_after_its_time_and_not_made_again() -> None:
    """Its owner's other calls are not even begun; those of others are made. Planted: three attempts of a call."""
    hanging = [call("hangs", sleeps, k, 3600) for k in range(6)]
    others = [call("sleeps", sleeps, k, 0.1) for k in range(4)]
    make(call("warm", abs, 1))
    began = time.monotonic()
    results = make(*hanging, *others, seconds=2.0)
    assert (
        time.monotonic() - began < 20
    )  # with three attempts of six calls by two processes: nine seconds and nine starts
    assert results[:6] == [Lost("it hung: no result within 2 s")] * 6
    assert results[6:] == [0, 1, 2, 3]


def test_the_time_of_a_call_begins_with_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a clock that runs while processes start, which here takes longer than a call may."""
    monkeypatch.setattr(processes, "_work", starts_late)
    assert make(call("a", sleeps, 1, 0.0), call("b", sleeps, 2, 0.0), seconds=1.0) == [1, 2]


def test_modules_are_imported_before_the_first_call() -> None:
    """Planted: the server of processes alone imports them; it may have been started without them."""
    with Workers("processes", 1, preload=["colorsys", "no_such_module"]) as pool:
        ((_, found),) = pool.in_order([call("a", is_imported, "colorsys")], lambda finished: None)
    assert found is True


def test_a_call_that_tells_of_its_progress_does_not_hang() -> None:
    class Told:
        steps = 0

        def start(self, task: str, total: int) -> None:
            assert (task, total) == ("slow", 4)

        def advance(self, task: str, steps: int) -> None:
            self.steps += steps

        def finish(self, task: str, note: str = "") -> None:
            assert self.steps == 4

    told = Told()
    assert make(call("a", goes_on, 0.8, progress=told), seconds=2.0) == ["done"]
    assert told.steps == 4


@pytest.mark.parametrize("code", [0, 3])
def test_a_process_that_exits_costs_its_own_call(code: int) -> None:
    """Planted: the exit code 0, which pebble takes for a worker that had nothing more to do."""
    results = make(call("a", sleeps, 1, 0.3), call("exits", exits, code), call("b", sleeps, 2, 0.3))
    assert results == [1, Lost(f"its worker process ended with exit code {code} (2 times)"), 2]


def test_a_call_whose_process_died_is_made_once_more(tmp_path: Path) -> None:
    assert make(call("a", dies_once, str(tmp_path / "died"))) == ["done"]
    make(call("b", counts, str(tmp_path / "calls")))
    assert (tmp_path / "calls").read_text() == "called\n" * 2


def test_an_error_of_a_call_is_told() -> None:
    lost, unsent, done = make(call("a", raises), call("b", no_pickle), call("c", abs, -1))
    assert lost == Lost("ValueError: no such thing")
    assert isinstance(unsent, Lost)
    assert "pickle" in unsent.message
    assert done == 1


@LINUX
def test_memory_is_limited_beyond_what_a_process_has_at_its_start() -> None:
    """What one owner has kept is not there for the next: it has another process."""
    results = make(call("a", eats, 160), call("greedy", eats, 512), call("b", eats, 160), workers=1, memory=256 * MIB)
    assert results == [160, Lost("MemoryError"), 160]


@LINUX
def test_threads_without_bound_fail_for_their_stacks() -> None:
    bombs = make(call("bomb", starts_threads, 5000), call("b", threads), workers=1, memory=512 * MIB)
    assert bombs == [Lost("RuntimeError: can't start new thread"), 2]  # the second one watches the parent


@LINUX
def test_the_share_of_memory() -> None:
    assert share_of_memory(10**6) == 2**30
    one, two = share_of_memory(1), share_of_memory(2)
    assert one is not None
    assert two is not None
    assert one > 1.5 * two or two == 2**30


def test_nothing_is_left_when_it_is_stopped() -> None:
    """Planted: a pool that waits for the call that its process makes."""
    with Workers("processes", 2) as pool:
        results = pool.in_order([call("a", os.getpid), call("b", sleeps, 1, 3600)], lambda finished: None)
        _, pid = next(results)
        began = time.monotonic()
        pool.stop()
    assert time.monotonic() - began < 5
    assert isinstance(pid, int)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
