"""The versions of Python and of libraries, as they are kept with results."""

from __future__ import annotations

import functools
import platform
from importlib.metadata import version


def versions_of(*packages: str) -> dict[str, str]:
    """The versions of Python and of some installed packages.

    Args:
        packages: their names.

    Returns:
        Versions by name, "python" first.
    """
    return {"python": platform.python_version()} | {package: _version(package) for package in packages}


@functools.cache
def _version(package: str) -> str:
    """Read once: a run asks twice, and a file is parsed for each."""
    return version(package)
