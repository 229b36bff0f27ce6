"""The folder that trained networks are kept in: $GRADEVAL_CACHE, else the user's cache folder.

A file is called LABEL-KEY-DIGEST.json. KEY says what was asked for, DIGEST is of the key and of the content. So neither
a changed file nor one that was renamed is taken for what it is not, and two programs that write at once both write a
whole file.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from gradeval.errors import GradevalError
from gradeval.files import digest_of, read_whole, write_whole

KEY_DIGITS = 24
_OURS = re.compile(r"expclass-[\w-]*-\d+-[0-9a-f]{24}(-[0-9a-f]{32})?\.json(\.[0-9a-f]{16}\.part)?")
"""The names of the files of this cache, of those that an older version wrote, and of what a killed program left."""


def cache_folder() -> Path:
    """Find the folder of cached files.

    Returns:
        Its path; it need not exist.
    """
    if chosen := os.environ.get("GRADEVAL_CACHE"):
        return Path(chosen)
    from platformdirs import user_cache_path

    return user_cache_path("gradeval")


def cached_files(label: str, key: str) -> Iterator[Path]:
    """The files of a key.

    Args:
        label: readable, the beginning of their name.
        key: what was asked for, `KEY_DIGITS` hexadecimal digits.

    Returns:
        An iterator over their paths.
    """
    name = re.compile(rf"{re.escape(label)}-{key}-[0-9a-f]{{32}}\.json")
    yield from sorted(path for path in cache_folder().glob(f"*-{key}-*.json") if name.fullmatch(path.name))


def check_cached(path: Path, key: str, limit: int) -> None:
    """Refuse a cached file that is not as it was written for this key.

    Args:
        path: of the file.
        key: what was asked for.
        limit: the most bytes it may have.

    Raises:
        GradevalError: it is changed, or was written for another key.
    """
    if _digest(key, read_whole(path, limit)) != path.stem.rpartition("-")[2]:
        raise GradevalError(f"{path} is not as gradeval wrote it (its digest is wrong).")


def keep(label: str, key: str, content: bytes) -> None:
    """Write a file into the cache, whole or not at all.

    Args:
        label: readable, the beginning of its name.
        key: what was asked for.
        content: of the file.

    Raises:
        OSError: it cannot be written.
    """
    path = cache_folder() / f"{label}-{key}-{_digest(key, content)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)


def _digest(key: str, content: bytes) -> str:
    return digest_of(key.encode() + content)


def clear_cache() -> int:
    """Remove the cached files; what else lies in the folder stays.

    Returns:
        How many there were.
    """
    found = [path for path in cache_folder().glob("expclass-*") if _OURS.fullmatch(path.name)]
    files = [path for path in found if stat.S_ISREG(path.lstat().st_mode)]
    for path in files:
        path.unlink()
    return len(files)
