"""Running the code of others alone: what it changes of the process is put back, and it cannot end the program.

Torch's default precision, its threads and the generators of random numbers belong to the whole process. So code that is
known to change them runs while no other does (`alone`); code that has been seen to leave them as they are may run
beside others (`in_company`).
"""

from __future__ import annotations

import random
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gradeval.errors import GradevalError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class ProcessState:
    """What code may change of the process that it runs in.

    Attributes:
        generators: the states of the generators that belong to the process, by whose they are.
        settings: torch's settings by their names.
    """

    generators: dict[str, Any]
    settings: dict[str, Any]

    @classmethod
    def now(cls) -> ProcessState:
        """The present state."""
        generators = {"torch's": torch.get_rng_state(), "numpy's": np.random.get_state(), "Python's": random.getstate()}
        generators["CUDA's"] = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        settings = {
            "grad mode": torch.is_grad_enabled(),
            "default precision": torch.get_default_dtype(),
            "number of threads": torch.get_num_threads(),
        }
        return cls(generators, settings)

    def put_back(self) -> None:
        """Make it the present state again."""
        torch.set_rng_state(self.generators["torch's"])
        np.random.set_state(self.generators["numpy's"])
        random.setstate(self.generators["Python's"])
        if self.generators["CUDA's"]:
            torch.cuda.set_rng_state_all(self.generators["CUDA's"])
        _put_back_settings(self.settings)

    def changed_generators(self, after: ProcessState) -> list[str]:
        """Whose generators have been used.

        Args:
            after: a later state.

        Returns:
            Their owners: "torch's", "numpy's", "CUDA's". Python's own is put back but not watched: libraries use it for
            what decides no number (beartype does).
        """
        own, other = _comparable(self.generators), _comparable(after.generators)
        return [name for name in own if own[name] != other[name]]

    def changed_settings(self, after: ProcessState) -> list[str]:
        """Which of torch's settings have been changed.

        Args:
            after: a later state.

        Returns:
            Their names.
        """
        return [name for name, value in self.settings.items() if after.settings[name] != value]


def _comparable(generators: dict[str, Any]) -> dict[str, Any]:
    numbers = generators["numpy's"]
    return {
        "torch's": generators["torch's"].numpy().tobytes(),
        "numpy's": (numbers[0], numbers[1].tobytes(), *numbers[2:]),
        "CUDA's": [state.numpy().tobytes() for state in generators["CUDA's"]],
    }


def _put_back_settings(settings: dict[str, Any]) -> None:
    torch.set_grad_enabled(settings["grad mode"])
    if torch.get_default_dtype() != settings["default precision"]:
        torch.set_default_dtype(settings["default precision"])
    if torch.get_num_threads() != settings["number of threads"]:
        torch.set_num_threads(settings["number of threads"])


@dataclass
class Footprint:
    """What code that ran alone has changed; known when it has ended.

    Attributes:
        generators: whose generators it has used.
        settings: the names of the settings of torch that it has changed.
    """

    generators: list[str]
    settings: list[str]

    @property
    def intrudes(self) -> bool:
        """Whether it changes what others rely on, so that it must run alone."""
        return bool(self.generators or self.settings)

    @property
    def notes(self) -> list[str]:
        """What the user should know."""
        if not self.settings:
            return []
        return [f"changes torch's {' and '.join(self.settings)}: put back after each call, nothing else has seen it"]


@contextmanager
def alone(seed: int | None = None) -> Iterator[Footprint]:
    """Run code while no other code of this kind runs in this process.

    Generators and settings are put back. What it prints goes to standard error. A `SystemExit` or `KeyboardInterrupt`
    that it raises itself becomes an error like any other; Ctrl-C interrupts as ever.

    Args:
        seed: the process's generators are seeded with it; None leaves them as they are.

    Returns:
        A context manager with the footprint, which is filled in at its end.

    Raises:
        GradevalError: the code raised `SystemExit` or `KeyboardInterrupt`; the message lacks its subject.
        KeyboardInterrupt: after Ctrl-C.

    Examples:
        >>> with alone() as footprint:
        ...     drawn = torch.rand(1)
        >>> footprint.generators
        ["torch's"]
    """
    found = Footprint([], [])
    with _TURNS.exclusive():
        before = ProcessState.now()
        if seed is not None:
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
        begin = before if seed is None else ProcessState.now()
        try:
            with contained():
                yield found
        finally:
            after = ProcessState.now()
            found.generators, found.settings = begin.changed_generators(after), before.changed_settings(after)
            before.put_back()


@contextmanager
def in_company() -> Iterator[None]:
    """Run code that leaves the process as it is, beside other such code in other threads.

    Raises:
        GradevalError: the code raised `SystemExit` or `KeyboardInterrupt`; the message lacks its subject.
        KeyboardInterrupt: after Ctrl-C.
    """
    with _TURNS.shared():
        before = {"grad mode": torch.is_grad_enabled(), "default precision": torch.get_default_dtype()}
        try:
            with contained():
                yield
        finally:
            _put_back_settings(before | {"number of threads": torch.get_num_threads()})


@contextmanager
def in_turn() -> Iterator[None]:
    """Run code in the turn that this thread has, `alone` where it has none: no code of others is ever run without.

    Raises:
        GradevalError: the code raised `SystemExit` or `KeyboardInterrupt`; the message lacks its subject.
        KeyboardInterrupt: after Ctrl-C.
    """
    if _TURNS.has:
        yield
        return
    with alone():
        yield


@contextmanager
def contained() -> Iterator[None]:
    """Run code that may change the process, but not end it, nor print on standard output.

    Raises:
        GradevalError: the code raised `SystemExit` or `KeyboardInterrupt`; the message lacks its subject.
        KeyboardInterrupt: after Ctrl-C.
    """
    with _DIVERSION.here(), _signals_noted() as signalled:
        try:
            yield
        except (SystemExit, KeyboardInterrupt) as error:
            if signalled:
                raise KeyboardInterrupt from None
            code = f" ({error})" if str(error) else ""
            raise GradevalError(f"raised {type(error).__name__}{code}, which would have ended the program") from error
        except Exception:
            if signalled:  # made into another error
                raise KeyboardInterrupt from None
            raise
        if signalled:  # caught and forgotten
            raise KeyboardInterrupt


@contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """The signals that arrive meanwhile; each is handled as before. Only the main thread gets any."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in before.items() if callable(handler)}

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        before[signal.Signals(number)](number, frame)

    for number in before:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Diversion:
    """Standard output of some threads goes to standard error."""

    def __init__(self) -> None:
        self._lock, self._local = threading.Lock(), threading.local()
        self._threads = 0
        self._proxy: _Diverted | None = None

    @property
    def on(self) -> bool:
        """Whether this thread's output is diverted."""
        return getattr(self._local, "depth", 0) > 0

    @contextmanager
    def here(self) -> Iterator[None]:
        with self._lock:
            if self._threads == 0:
                self._proxy = _Diverted(sys.stdout, self)
                sys.stdout = self._proxy
            self._threads += 1
        self._local.depth = getattr(self._local, "depth", 0) + 1
        try:
            yield
        finally:
            self._local.depth -= 1
            with self._lock:
                self._threads -= 1
                if self._threads == 0 and self._proxy is not None:
                    if sys.stdout is self._proxy:
                        sys.stdout = self._proxy.original
                    self._proxy = None


class _Diverted:
    """In the place of sys.stdout."""

    def __init__(self, original: Any, diversion: _Diversion) -> None:
        self.original = original
        self._diversion = diversion

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr if self._diversion.on else self.original, name)


class _Turns:
    """Many may share, or one may have it for itself. A thread that has a turn already takes no second one."""

    def __init__(self) -> None:
        self._free, self._local = threading.Condition(), threading.local()
        self._sharing, self._taken = 0, False

    @property
    def has(self) -> bool:
        """Whether this thread has a turn."""
        return getattr(self._local, "has", False)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        if self.has:
            yield
            return
        with self._free:
            self._free.wait_for(lambda: not self._taken and self._sharing == 0)
            self._taken = self._local.has = True
        try:
            yield
        finally:
            with self._free:
                self._taken = self._local.has = False
                self._free.notify_all()

    @contextmanager
    def shared(self) -> Iterator[None]:
        if self.has:
            yield
            return
        with self._free:
            self._free.wait_for(lambda: not self._taken)
            self._sharing += 1
            self._local.has = True
        try:
            yield
        finally:
            with self._free:
                self._sharing -= 1
                self._local.has = False
                self._free.notify_all()


# What they guard belongs to the process, and so do they.
_TURNS, _DIVERSION = _Turns(), _Diversion()
