"""`gradeval` as a user runs it, in a process of its own, but without the seconds that its imports take.

The process is forked from a server, which is this file run as a program: it imports what commands load when they run.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-c", "from gradeval.program.app import main; main()"]
"""The same from the start, for what is killed or timed."""
ENVIRONMENT = {"COLUMNS": "120", "OMP_NUM_THREADS": "1"}
LOADED = ("program.app", "evaluation.run", "checking.procedure", "training.trainer", "studies.costs")
LOADED += ("analysis.run.report", "analysis.comparison.changes")


def gradeval(*arguments: object, cwd: Path, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess:
    """Run a command. Its exit code, output and errors."""
    given = {"GRADEVAL_CACHE": str(cwd / "cache")} | ENVIRONMENT | environment
    command = list(map(str, arguments))
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / "out", Path(folder) / "err"]
        request = [command, str(cwd), given, list(map(str, streams)), timeout]
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(f"{json.dumps(request)}\n")
        server.stdin.flush()
        code = json.loads(server.stdout.readline())
        if code is None:
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, code, *(path.read_text() for path in streams))


@functools.cache
def _server() -> subprocess.Popen[str]:
    """The server of this process; it ends with it."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    server = subprocess.Popen([sys.executable, "-P", __file__], env=os.environ | ENVIRONMENT, **pipes)
    atexit.register(server.terminate)
    return server


def _serve() -> None:
    for name in LOADED:
        importlib.import_module(f"gradeval.{name}")
    for line in sys.stdin:
        command, folder, environment, streams, timeout = json.loads(line)
        if (child := os.fork()) == 0:
            os._exit(_run(command, folder, environment, streams))
        print(json.dumps(_exit_code(child, time.monotonic() + timeout)), flush=True)


def _exit_code(child: int, end: float) -> int | None:
    """That of a child; None if it has to be killed."""
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _run(command: list[str], folder: str, environment: dict[str, str], streams: list[str]) -> int:
    """Run a command in this process. Its exit code."""
    from gradeval.program.app import main

    os.environ.update(environment)
    os.chdir(folder)
    for number, path in enumerate([os.devnull, *streams]):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY), number)
    tempfile.tempdir = None  # as the environment says, not as it was when the server started
    warnings.simplefilter("default")
    sys.argv = ["gradeval", *command]
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    _serve()
