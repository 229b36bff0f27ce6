"""The versions of Python and of libraries, as they are kept with results."""

from __future__ import annotations

import platform
from importlib.metadata import version


def versions_of(*packages: str) -> dict[str, str]:
    """The versions of Python and of some installed packages.

    Args:
        packages: their names.

    Returns:
        Versions by name, "python" first.
    """
    return {"python": platform.python_version()} | {package: version(package) for package in packages}
