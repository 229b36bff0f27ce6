"""Faults, each caused for real: what was finished is kept, and the tables are those of an undisturbed run."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gradeval import GradevalError, Problem, evaluate
from gradeval.errors import Incomplete
from gradeval.evaluation.status import run_status
from gradeval.files import CannotWrite
from gradeval.progress import Silent
from tests.programs import COMMAND, gradeval

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and limits")
ROOT = Path(__file__).parents[2]
TABLES = ("summary", "curves", "exact_moments", "fits")
ENVIRONMENT = os.environ | {"PYTHONWARNINGS": "default"}

MINE = '''
import multiprocessing, os, signal, threading, time, traceback
from pathlib import Path
from gradeval.estimators import get_estimator
import torch

KEPT = []
HERE = Path(__file__).parent
IN_WORKER = multiprocessing.parent_process() is not None

def first(name):
    """True for one caller only."""
    try:
        (HERE / name).touch(exist_ok=False)
        return True
    except FileExistsError:
        return False

def dies_once(*arguments):
    if IN_WORKER and first("died"):
        os.kill(os.getpid(), signal.SIGKILL)
    return get_estimator("st")(*arguments)

def drawing():
    """Whether a chunk is made: no first draws."""
    return IN_WORKER and not any("introduction.py" in frame.filename for frame in traceback.extract_stack())

def hangs(*arguments):
    if IN_WORKER:
        time.sleep(3600)
    return get_estimator("psa")(*arguments)

def hangs_late(*arguments):
    if drawing():
        (HERE / "hung").touch()
        time.sleep(3600)
    return get_estimator("psa")(*arguments)

def exits(*arguments):
    if IN_WORKER:
        os._exit(0)
    return get_estimator("psa")(*arguments)

def exits_late(*arguments):
    if drawing():
        os._exit(0)
    return get_estimator("psa")(*arguments)

def eats(*arguments):
    for _ in range(100 * IN_WORKER):
        KEPT.append(torch.ones(2**22))  # 16 MiB
    return get_estimator("psa")(*arguments)

def eats_late(*arguments):
    for _ in range(100 * drawing()):
        KEPT.append(bytearray(2**24))
    return get_estimator("psa")(*arguments)

def starts_threads(*arguments):
    for _ in range(3000 * IN_WORKER):
        threading.Thread(target=time.sleep, args=(60,)).start()
    return get_estimator("psa")(*arguments)

def plain(*arguments):
    return get_estimator("psa")(*arguments)

def slow(*arguments):
    time.sleep(0.05)
    return get_estimator("st")(*arguments)
'''


def tables(folder: Path) -> dict[str, bytes]:
    return {name: (folder / f"{name}.csv").read_bytes() for name in TABLES}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def test_kill_9() -> None:
    """A smaller version of docs/studies/kills.py, which checks tables and cost."""
    command = [sys.executable, str(ROOT / "docs" / "studies" / "kills.py"), "--kills", "1", "--no-write"]
    done = subprocess.run([*command, "--draws", "20000"], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert "byte-identical" in done.stdout


def test_a_worker_that_dies_once_costs_nothing(small: Problem, mine: Path, tmp_path: Path) -> None:
    """Planted: one kill −9 of a worker by itself."""
    specs = ["st", f"{mine}:dies_once", "reinforce"]
    evaluate(small, specs, draws=20_000, exact="never", folder=tmp_path / "undisturbed")
    assert not (tmp_path / "died").exists()
    folder = tmp_path / "run"
    evaluate(small, specs, draws=20_000, exact="never", folder=folder, executor="processes", workers=2, timeout=20.0)
    assert (tmp_path / "died").exists()
    assert tables(tmp_path / "run") == tables(tmp_path / "undisturbed")


def test_processes_give_the_tables_of_threads(small: Problem, mine: Path, tmp_path: Path) -> None:
    """Of estimators that learn, too: they are fitted in a process, and their progress is told here."""

    class Told(Silent):
        steps = 0

        def advance(self, task: str, steps: int) -> None:
            self.steps += steps * (task == "fitting relax")

    specs, told = ["st", "relax", f"{mine}:plain", "concrete"], (Told(), Told())
    for executor, progress in zip(("threads", "processes"), told, strict=True):
        options: dict[str, Any] = {"executor": executor, "workers": 2, "progress": progress}
        evaluate(small, specs, draws=10_000, folder=tmp_path / executor, **options)
    assert tables(tmp_path / "threads") == tables(tmp_path / "processes")
    assert told[0].steps == told[1].steps > 0
    plans = [json.loads((tmp_path / executor / "plan.json").read_text()) for executor in ("threads", "processes")]
    assert plans[0]["estimators"] == plans[1]["estimators"]


def failures_of(small: Problem, mine: Path, names: list[str], **options: Any) -> dict[str, str]:
    """The failures of own estimators in a run with two others, whose tables are checked to be undisturbed."""
    mine.with_name("rest").mkdir()
    evaluate(small, ["st", "reinforce"], draws=20_000, folder=mine.with_name("rest"))
    specs = ["st", *(f"{mine}:{name}" for name in names), "reinforce"]
    folder = mine.with_name("run")
    with pytest.raises(Incomplete, match=r"kept: st, reinforce\.$") as error:
        evaluate(small, specs, draws=20_000, folder=folder, executor="processes", workers=2, **options)
    assert "\n" not in str(error.value)
    assert tables(folder) == tables(mine.with_name("rest"))
    found: dict[str, str] = json.loads((folder / "manifest.json").read_text())["failures"]
    return {name.removeprefix(f"{mine}:"): text.replace(f"{mine}:", "") for name, text in found.items()}


def test_estimators_that_hang_fail_alone(small: Problem, mine: Path) -> None:
    """In their first draws, or in their chunks. Planted: a second attempt, or a run that waits for ever."""
    began = time.monotonic()
    failures = failures_of(small, mine, ["hangs", "hangs_late"], timeout=4.0)
    assert time.monotonic() - began < 60
    hung = "it hung: no result within 4 s."
    assert failures == {
        "hangs": f"estimator 'hangs', first draws: {hung}",
        "hangs_late": f"estimator 'hangs_late', chunk 0: {hung}",
    }
    rows = {row["estimator"]: row["failure"] for row in run_status(mine.with_name("run"))["estimators"]}
    assert [name for name, failure in rows.items() if failure] == [f"{mine}:hangs_late"]


def test_estimators_that_end_their_process_or_eat_memory_fail_alone(small: Problem, mine: Path) -> None:
    """Planted: an exit code 0 that is waited for for ever; memory and threads that the next estimator inherits."""
    limited = sys.platform == "linux"
    names = ["exits", "exits_late", *(["eats", "eats_late", "starts_threads"] if limited else [])]
    failures = failures_of(small, mine, names, memory=2**29 if limited else None)
    ended = "its worker process ended with exit code 0 (2 times)."
    assert failures.pop("exits") == f"estimator 'exits', first draws: {ended}"
    assert failures.pop("exits_late") == f"estimator 'exits_late', chunk 0: {ended}"
    if limited:
        assert "can't allocate memory" in failures.pop("eats")
        assert failures.pop("eats_late").startswith("estimator 'eats_late' raised MemoryError")
        assert "can't start new thread" in failures.pop("starts_threads")
    assert not failures


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_sigterm_keeps_what_is_finished_and_leaves_no_worker(
    small: Problem, mine: Path, tmp_path: Path, executor: str
) -> None:
    small.save(tmp_path / "p.json")
    options = ["run", "p.json", "--estimators", "mine.py:slow", "--draws", "40000", "--out", "run", "--exact", "never"]
    options += ["--executor", executor, "--workers", "2"]
    with subprocess.Popen([*COMMAND, *options], cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not list(tmp_path.glob("run/chunks/*/*.safetensors")):
            time.sleep(0.01)
        children = _children(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        message = process.stderr.read().decode()
        assert process.wait(timeout=60) == 130, message
    assert "interrupted; no estimator had finished." in message
    assert "to resume, repeat the command with --out run" in message
    assert "Traceback" not in message
    assert len(children) >= 2 or executor == "threads"
    _wait_until_gone(children)
    found = run_status(tmp_path / "run")
    assert 1 <= found["estimators"][0]["chunks"] <= 8
    assert found["holder"] is None
    if executor == "processes":
        return
    kept = {path.name for path in tmp_path.glob("run/chunks/*/*.safetensors")}
    done = gradeval(*options, "--json", "--no-report", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert kept <= {path.name for path in tmp_path.glob("run/chunks/*/*.safetensors")}
    assert json.loads(done.stdout)["summary"][0]["draws"] == 40_000


def test_sigterm_while_an_estimator_hangs(small: Problem, mine: Path, tmp_path: Path) -> None:
    """The program ends in seconds, what had finished is kept. Planted: a pool that waits for its last call."""
    small.save(tmp_path / "p.json")
    options = ["run", "p.json", "--estimators", "st,mine.py:hangs_late", "--draws", "5000", "--out", "run"]
    options += ["--executor", "processes", "--workers", "2", "--no-report"]
    with subprocess.Popen([*COMMAND, *options], cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not (
            (tmp_path / "hung").exists() and list(tmp_path.glob("run/chunks/*/*.safetensors"))
        ):
            time.sleep(0.01)
        time.sleep(0.5)  # the chunk is merged
        children = _children(process.pid)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.stderr is not None
        message = process.stderr.read().decode()
        assert process.wait(timeout=60) == 130, message
        assert time.monotonic() - began < 20
    assert "interrupted; kept: st." in message
    assert "Traceback" not in message
    assert len(children) >= 2
    _wait_until_gone(children)


def test_workers_end_when_their_parent_is_killed(small: Problem, mine: Path, tmp_path: Path) -> None:
    small.save(tmp_path / "p.json")
    options = ["run", "p.json", "--estimators", "mine.py:slow", "--draws", "400000", "--out", "run", "--exact", "never"]
    options += ["--executor", "processes", "--workers", "2"]
    with subprocess.Popen([*COMMAND, *options], cwd=tmp_path, env=ENVIRONMENT) as process:
        while process.poll() is None and not list(tmp_path.glob("run/chunks/*/*.safetensors")):
            time.sleep(0.01)
        children = _children(process.pid)
        process.kill()
    assert len(children) >= 2
    _wait_until_gone(children)


def _children(pid: int) -> list[int]:
    if not Path("/proc/self/task").exists():
        pytest.skip("the children of a process are read from /proc")
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in tasks for child in path.read_text().split()]


def _wait_until_gone(pids: list[int], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists() and _state(pid) != "Z"]:
        assert time.monotonic() < end, f"still there: {alive}"
        time.sleep(0.05)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """A small file system of its own on ``folder``; skips where mounting is not allowed."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(small: Problem, tmp_path: Path) -> None:
    """A file system of 400 KiB: the run stops with one line; with more room it goes on."""
    disk = tmp_path / "disk"
    with mounted(disk, "-t", "tmpfs", "-o", "size=400k", "tmpfs"):
        with pytest.raises(CannotWrite, match=r"cannot write .*tensors: No space left on device\. What was finished"):
            evaluate(small, ["st", "reinforce"], draws=40_000, exact="never", folder=disk / "run")
        assert not list(disk.rglob("*.part"))
        rows = run_status(disk / "run")["estimators"]
        assert 1 <= sum(row["chunks"] for row in rows) < 16
        assert not any(row["damaged"] for row in rows)
        subprocess.run(["mount", "-o", "remount,size=40m", str(disk)], check=True)
        evaluate(small, ["st", "reinforce"], draws=40_000, exact="never", folder=disk / "run")
        evaluate(small, ["st", "reinforce"], draws=40_000, exact="never").save(tmp_path / "elsewhere")
        assert tables(disk / "run") == tables(tmp_path / "elsewhere")


def test_a_limit_on_the_size_of_files(small: Problem, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(CannotWrite, match=os.strerror(errno.EFBIG)):
            evaluate(small, ["st"], draws=40_000, exact="never", folder=tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    evaluate(small, ["st"], draws=40_000, exact="never", folder=tmp_path / "run")


def test_a_read_only_folder(small: Problem, tmp_path: Path) -> None:
    """It can be looked at, not written: said before anything is drawn."""
    disk = tmp_path / "disk"
    small.save(tmp_path / "p.json")
    with mounted(disk, "-t", "tmpfs", "-o", "size=40m", "tmpfs"):
        evaluate(small, ["st"], draws=20_000, exact="never", folder=disk / "run")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert run_status(disk / "run")["complete"]
        with pytest.raises(GradevalError, match=r"cannot write .*: Read-only file system"):
            evaluate(small, ["st"], draws=40_000, exact="never", folder=disk / "run")
        options = ["run", "p.json", "--estimators", "st", "--out", str(disk / "run")]
        done = gradeval(*options, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.endswith("Read-only file system.\n")
        assert done.stderr.count("\n") == 1


def test_a_clock_that_jumps(small: Problem, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock leaps by a day at every look, and files stem from the future: nothing depends on either."""
    import itertools

    evaluate(small, ["st"], draws=20_000, exact="never", folder=tmp_path / "undisturbed")
    true, leaps = time.time, itertools.cycle([86_400.0, -86_400.0, 0.0])
    monkeypatch.setattr(time, "time", lambda: true() + next(leaps))
    evaluate(small, ["st"], draws=20_000, exact="never", folder=tmp_path / "run")
    for path in list(tmp_path.glob("run/chunks/*/*"))[::2]:
        path.unlink()
    for path in tmp_path.glob("run/**/*"):
        os.utime(path, (4e9, 4e9))
    evaluation = evaluate(small, ["st"], draws=20_000, exact="never", folder=tmp_path / "run")
    assert tables(tmp_path / "run") == tables(tmp_path / "undisturbed")
    assert 0 < evaluation.manifest["timings"]["total"] < 600


def test_what_cannot_be_sent_to_a_process_is_one_clear_error(small: Problem, tmp_path: Path) -> None:
    import threading

    class Held:
        lock = threading.Lock()

        def __init__(self) -> None:
            self.mine = threading.Lock()

        def __call__(self, network, inputs, loss, randomness):
            return loss(inputs.new_zeros(len(inputs), 2))

    with pytest.raises(GradevalError, match=r"cannot be sent to another process .* or use threads\."):
        evaluate(small, [Held()], draws=40, exact="never", executor="processes", workers=1)
