"""How much memory the code of others may take in a process of its own, where the system has such a limit (Linux)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LEAST = 2**30  # bytes that every process may take, however little is free


def share_of_memory(workers: int) -> int | None:
    """The share of each process in the memory that is free now.

    Args:
        workers: how many processes share it.

    Returns:
        Bytes, at least 1 GiB; None where the system has no such limit.
    """
    if sys.platform != "linux":
        return None
    return max(LEAST, _kilobytes("/proc/meminfo", "MemAvailable") // workers)


def data_of_process() -> int:
    """The bytes of data that this process has, as Linux limits them."""
    return _kilobytes("/proc/self/status", "VmData")


@contextmanager
def limited_data(limit: int | None) -> Iterator[None]:
    """Run code of others with a limit on the data of this process; what is beyond it raises `MemoryError`.

    The limit is on private memory that can be written (RLIMIT_DATA): it counts the stacks of threads, so that these
    are limited, too, but neither libraries nor what is only reserved, such as CUDA's addresses. It is lifted at the
    end, for there must be memory to tell the error.

    Args:
        limit: bytes; None for no limit.
    """
    if limit is None or sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    hard = before[1]
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _kilobytes(file: str, name: str) -> int:
    """A size in a file of /proc, in bytes."""
    lines = Path(file).read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
