"""`gradeval` as a user runs it, in a process of its own, but without the seconds that its imports take.

The process is forked from a server that has imported all that the commands load when they run.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

COMMAND = [sys.executable, "-c", "from gradeval.program.app import main; main()"]
"""The same from the start, for what is killed or timed."""
ENVIRONMENT = {"COLUMNS": "120", "OMP_NUM_THREADS": "1"}

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload([
    *(f"gradeval.{name}" for name in ("program.app", "evaluation.run", "checking.procedure", "training.trainer")),
    *(f"gradeval.{name}" for name in ("analysis.run.report", "analysis.comparison.changes", "studies.costs")),
])  # fmt: skip


def gradeval(*arguments: object, cwd: Path, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess:
    """Run a command. Its exit code, output and errors."""
    given = {"GRADEVAL_CACHE": str(cwd / "cache")} | ENVIRONMENT | environment
    command = list(map(str, arguments))
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / "out", Path(folder) / "err"]
        process = _SERVER.Process(target=_run, args=(command, str(cwd), given, list(map(str, streams))))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, process.exitcode, *(path.read_text() for path in streams))


def _run(command: list[str], folder: str, environment: dict[str, str], streams: list[str]) -> None:
    os.environ.update(environment)
    os.chdir(folder)
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    tempfile.tempdir = None  # as the environment says, not as it was when the server started
    warnings.simplefilter("default")
    sys.argv = ["gradeval", *command]
    from gradeval.program.app import main

    main()
