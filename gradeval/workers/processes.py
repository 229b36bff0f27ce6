"""Calls made by processes of our own: one that dies or hangs costs its own call alone.

A thread stands by each process. It sends a call, waits for the answer, and starts another process where the last one
has died, hung, or worked for another owner.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from multiprocessing import forkserver
from multiprocessing.connection import wait
from typing import Any

from gradeval.progress import Progress
from gradeval.workers.memory import data_of_process, limited_data
from gradeval.workers.messages import Sender, Told

END_SECONDS = 10.0  # between the end of a process and the news of it, on a busy machine


class CallLost(Exception):
    """A call has no result.

    Args:
        message: why, as a sentence without its end.
        again: whether it may succeed if it is made again.
    """

    def __init__(self, message: str, *, again: bool = False) -> None:
        super().__init__(message)
        self.again = again


@dataclass(frozen=True)
class Allowance:
    """What a process may take.

    Args:
        seconds: for a call, without any news of its progress; None for any time.
        memory: bytes beyond what it has at its start; None for any.
    """

    seconds: float | None = None
    memory: int | None = None


@dataclass(frozen=True)
class Answer:
    """What a process sends at the end of a call.

    Args:
        result: of the call.
        error: that it raised, in words; None where it raised none.
    """

    result: Any = None
    error: str | None = None


class Processes:
    """Processes that make one call at a time each.

    Args:
        workers: their number.
        allowance: what each of them may take.
        preload: modules that they are started with.
    """

    def __init__(self, workers: int, allowance: Allowance, preload: Sequence[str] = ()) -> None:
        self._allowance = allowance
        self._context, self._preload = process_context(preload), tuple(preload)
        self._threads = ThreadPoolExecutor(workers)
        self._own = threading.local()
        self._all: set[_Process] = set()
        self._starting, self._telling = threading.Lock(), threading.Lock()
        self._stopped = threading.Event()

    def submit(
        self, owner: object, progress: Progress | None, call: Callable[..., Any], *arguments: Any
    ) -> Future[Any]:
        """Have a call made, by a process that has worked for nobody else.

        Args:
            owner: whom the call is for.
            progress: what is told to it is heard here; it is the last argument of the call, unless it is None.
            call: what is called.
            arguments: its arguments.

        Returns:
            The future result; its error is `CallLost`.
        """
        return self._threads.submit(self._make, owner, progress, call, arguments)

    def stop(self) -> None:
        """Kill all processes."""
        self._stopped.set()
        for process in list(self._all):
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in list(self._all):  # that no thread waits for
            process.join()

    def close(self) -> None:
        """End the processes once they have made their calls."""
        self._threads.shutdown()
        self.stop()

    def _make(
        self, owner: object, progress: Progress | None, call: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Any:
        process = self._process_for(owner)
        try:
            answer = process.ask(
                pickle.dumps((call, arguments, progress is not None)),
                self._allowance.seconds,
                partial(self._tell, progress),
            )
        except CallLost:
            self._end(process)
            raise
        if answer.error is not None:
            raise CallLost(answer.error)
        return answer.result

    def _tell(self, progress: Progress | None, told: Told) -> None:
        if progress is not None:
            with self._telling:
                told.pass_on(progress)

    def _process_for(self, owner: object) -> _Process:
        """This thread's process. Where code of others has left much memory or threads, its successor has none."""
        process: _Process | None = getattr(self._own, "process", None)
        if process is not None and process.owner != owner:
            self._end(process)
            process = None
        if process is None:
            with self._starting:
                if self._stopped.is_set():
                    raise CallLost("it was stopped")
                arguments = self._preload, self._allowance.memory
                process = self._own.process = _Process(owner, self._context, arguments, self._starting)
            self._all.add(process)
            if self._stopped.is_set():  # meanwhile
                process.kill()
        return process

    def _end(self, process: _Process) -> None:
        self._own.process = None
        self._all.discard(process)
        process.kill()
        process.join()


class _Process:
    """A process, and the program's end of the pipe to it.

    Args:
        owner: whom it works for.
        context: how it is started.
        arguments: of its `_work`, beside its end of the pipe.
        polling: is held while Python asks for ends of processes, which two threads must not do at once.
    """

    def __init__(self, owner: object, context: Any, arguments: tuple[Any, ...], polling: threading.Lock) -> None:
        self.owner = owner
        self._polling = polling
        self._ready = False
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, *arguments))
        self._process.start()
        theirs.close()

    def ask(self, content: bytes, seconds: float | None, tell: Callable[[Told], None]) -> Answer:
        """Have a call made. Its time begins when the process is ready for it."""
        if not self._ready:
            self._receive(None)
            self._ready = True
        try:
            self._connection.send_bytes(content)
        except OSError:
            raise self._death() from None
        while not isinstance(message := self._receive(seconds), Answer):
            tell(message)
        return message

    def kill(self) -> None:
        if not wait([self._process.sentinel], 0):  # else its number may be another process's by now
            self._process.kill()

    def join(self) -> None:
        with self._polling:
            self._process.join()
        self._connection.close()

    def _receive(self, seconds: float | None) -> Any:
        """The next message; where none comes, but the end of the process or of the time, `CallLost`."""
        there = wait([self._connection, self._process.sentinel], seconds)
        if not there:
            raise CallLost(f"it hung: no result within {seconds:g} s")
        if self._connection in there:
            try:
                return pickle.loads(self._connection.recv_bytes())
            except (EOFError, OSError):
                pass
        raise self._death()

    def _death(self) -> CallLost:
        wait([self._process.sentinel], END_SECONDS)
        with self._polling:
            code = self._process.exitcode
        return CallLost(f"its worker process ended with exit code {code}", again=True)


# --- in the process ---------------------------------------------------------------------------------------------------


def end_with_parent() -> None:
    """Prepare a worker process: it leaves Ctrl-C to its parent, and ends when the parent dies by whatever signal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)  # at once: the files are the parent's business

    threading.Thread(target=watch, daemon=True).start()


def _work(connection: Any, preload: tuple[str, ...], memory: int | None) -> None:
    """What a process does: it says that it is ready; then calls come in, their progress and answers go out."""
    end_with_parent()
    for name in preload:  # no call's time; the server may have been started without them
        with suppress(ImportError):
            import_module(name)

    def send(message: Any) -> None:
        connection.send_bytes(_pickled(message))

    limit = None if memory is None else data_of_process() + memory
    send(None)
    while True:
        try:
            content = connection.recv_bytes()
        except EOFError:  # the program has ended
            return
        answer = _answer(content, limit, Sender(send))
        try:
            send(answer)
        except Exception as error:  # a result that cannot be pickled
            send(Answer(error=_in_words(error)))


def _answer(content: bytes, limit: int | None, sender: Sender) -> Answer:
    try:
        with limited_data(limit):
            call, arguments, tells = pickle.loads(content)
            result = call(*arguments, sender) if tells else call(*arguments)
        sender.send_steps()
    except BaseException as error:
        return Answer(error=_in_words(error))
    return Answer(result)


def _pickled(message: Any) -> bytes:
    try:
        return pickle.dumps(message)
    except Exception:  # of a class that is defined in the main program, say
        try:
            from cloudpickle import dumps  # comes with Dask
        except ImportError:
            dumps = pickle.dumps
        content: bytes = dumps(message)
        return content


def _in_words(error: BaseException) -> str:
    return ": ".join(filter(None, [type(error).__name__, str(error)]))


def process_context(preload: Sequence[str]) -> Any:
    """How processes are started: forked from a server that only imports, where the system has such; else afresh.

    They are not forked from this process: a fork of a process with threads, such as torch's, can hang.

    Args:
        preload: modules that the server imports, if it is not there yet.

    Returns:
        A context of `multiprocessing`.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    # The server imports these before it has our sys.path: a folder `gradeval` where we stand must not come first.
    safe = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        forkserver.ensure_running()
    finally:
        if safe is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = safe
    return context
