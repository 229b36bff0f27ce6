"""The folder that trained networks are kept in: $GRADEVAL_CACHE, else the user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Find the folder of cached files.

    Returns:
        Its path; it need not exist.
    """
    if chosen := os.environ.get("GRADEVAL_CACHE"):
        return Path(chosen)
    from platformdirs import user_cache_path

    return user_cache_path("gradeval")


def clear_cache() -> int:
    """Remove the cached files.

    Returns:
        How many there were.
    """
    files = [path for path in cache_folder().glob("*.json*") if path.is_file()]
    for path in files:
        path.unlink()
    return len(files)
