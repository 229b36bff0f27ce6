"""A real Dask cluster on this machine: a scheduler and two worker processes, one of which is killed midway."""

from __future__ import annotations

import os
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gradeval import GradevalError, Problem, evaluate
from gradeval.workers import pools
from gradeval.workers.pools import dask_executor

pytest.importorskip("distributed", reason="needs gradeval[dask]")
TABLES = ("summary", "curves", "exact_moments", "fits")
ESTIMATORS = ["st", "relax", "reinforce", "concrete:temperature=0.5"]


class Greeting(socketserver.BaseRequestHandler):
    """A server of something else."""

    def handle(self) -> None:
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 4)


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", *arguments]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(
        command, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}, **quiet
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


class KillOne:
    """Progress that kills a worker once a third of the draws are done."""

    def __init__(self, victim: subprocess.Popen[bytes]) -> None:
        self.victim, self.done = victim, 0

    def start(self, estimator: str, draws: int) -> None:
        pass

    def advance(self, task: str, draws: int) -> None:
        self.done += draws
        if self.done >= 100_000 and self.victim.poll() is None:
            self.victim.kill()
            self.victim.wait()

    def finish(self, task: str, note: str = "") -> None:
        pass


def test_a_worker_of_the_cluster_is_killed_midway(small: Problem, tmp_path: Path) -> None:
    evaluate(small, ESTIMATORS, draws=75_000, exact="never", folder=tmp_path / "in process")
    file = tmp_path / "scheduler.json"
    with ExitStack() as stack:
        address = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
        stack.enter_context(process("distributed.cli.dask_scheduler", *address))
        wait_for(file.exists)
        time.sleep(0.2)
        options = ("--scheduler-file", str(file), "--nworkers", "1", "--nthreads", "1", "--no-nanny", "--no-dashboard")
        local = ("--local-directory", str(tmp_path))
        workers = [stack.enter_context(process("distributed.cli.dask_worker", *options, *local)) for _ in range(2)]
        import json

        with dask_executor(json.loads(file.read_text())["address"], at_least=2) as (executor, threads):
            assert threads == 2
            evaluate(
                small,
                ESTIMATORS,
                draws=75_000,
                exact="never",
                folder=tmp_path / "cluster",
                executor=executor,
                workers=threads,
                progress=KillOne(workers[0]),
            )
        assert workers[0].returncode == -9
        assert workers[1].poll() is None
    for name in TABLES:
        one, two = ((tmp_path / folder / f"{name}.csv").read_bytes() for folder in ("in process", "cluster"))
        assert one == two, name


def test_no_scheduler_is_one_clear_error_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens there; workers would be waited for longer. Planted: the time for workers, which took a minute."""
    monkeypatch.setattr(pools, "ANSWERS_WITHIN", 0.3)
    began = time.monotonic()
    with (
        ExitStack() as stack,
        pytest.raises(
            GradevalError, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:9' within 0\.3 s: [^\n]*$"
        ),
    ):
        stack.enter_context(dask_executor("tcp://127.0.0.1:9", seconds=30))
    assert time.monotonic() - began < 15


def test_what_is_no_scheduler_is_one_clear_error() -> None:
    """No address; and a server that answers with something else, whose first bytes Dask takes for a length."""
    with socketserver.TCPServer(("127.0.0.1", 0), Greeting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for address in ("nonsense://x", f"tcp://127.0.0.1:{server.server_address[1]}"):
            with ExitStack() as stack, pytest.raises(GradevalError, match=r"^at '.*' is no Dask scheduler \([^\n]*$"):
                stack.enter_context(dask_executor(address, seconds=2))
        server.shutdown()
