"""Who holds the folder of a run, a training or a sweep: one process at a time writes it."""

from __future__ import annotations

import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from gradeval.errors import GradevalError
from gradeval.files import is_left_over, read_json, reason, refuse_links, remove_left_overs, write_whole

LOCK_FILES = ("lock", "holder.json")


class FolderLock:
    """The lock of a folder, with a note of who holds it; a context manager that holds a folder that exists.

    Args:
        folder: need not exist before it is held.
        marker: the name of a file that tells that the folder is one of ours; an empty folder is as good.
    """

    def __init__(self, folder: Path, marker: str) -> None:
        self.folder, self._marker = folder, marker
        self._lock = FileLock(folder / "lock", timeout=0.5)  # `status` takes it for an instant

    def __enter__(self) -> FolderLock:
        if self.folder.exists():
            self.hold()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def hold(self) -> None:
        """Make the folder and hold it, unless it is held by this object already.

        Raises:
            GradevalError: another process holds it, it holds something else, a link that leads elsewhere is in it, or
                it cannot be written.
        """
        if self._lock.is_locked:
            return
        check_folder(self.folder, self._marker)
        refuse_links(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            remove_left_overs(self.folder)
            since = datetime.now(UTC).isoformat(timespec="seconds")
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
            write_whole(self.folder / "holder.json", json.dumps(holder).encode())
        except Timeout:
            raise GradevalError(
                f"{self.folder} is in use by {holder_of(self.folder) or 'another process'}: wait until it has ended, "
                "or choose another folder."
            ) from None
        except (OSError, NotImplementedError) as error:
            raise GradevalError(f"cannot write {self.folder}: {reason(error)}.") from None

    def release(self) -> None:
        """Let others hold the folder, if it is held."""
        if self._lock.is_locked:
            (self.folder / "holder.json").unlink(missing_ok=True)
            self._lock.release()


def check_folder(folder: Path, marker: str) -> None:
    """Refuse a folder that holds something else than what can be continued.

    Args:
        folder: that is to be written to.
        marker: as of `FolderLock`.

    Raises:
        GradevalError: it holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise GradevalError(f"{folder} is a file, not a folder: choose another folder.")
    if folder.exists() and not (folder / marker).exists():
        others = [path for path in folder.iterdir() if path.name not in LOCK_FILES and not is_left_over(path.name)]
        if others:
            raise GradevalError(
                f"{folder} exists and is not empty: it holds something else ({others[0].name}). Choose another folder."
            )


def holder_of(folder: Path) -> str | None:
    """Who holds a folder, in words; None where nobody does.

    Args:
        folder: of a run, a training or a sweep.

    Returns:
        Process, host and since when, or None.
    """
    lock = FileLock(folder / "lock", timeout=0)
    try:
        if (folder / "lock").exists():
            with lock:
                return None
        return None
    except Timeout:
        pass
    except OSError:  # a folder that cannot be written: nobody writes it
        return None
    try:
        found = read_json(folder / "holder.json", 4096)
    except GradevalError:
        return "another process"
    return f"process {found.get('pid')} on {found.get('host')} since {found.get('since')}"
