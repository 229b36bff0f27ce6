"""`gradeval cache`: the folder of trained networks."""

from __future__ import annotations

from typing import Annotated

import typer


def cache_command(clear: Annotated[bool, typer.Option("--clear", help="Remove the cached networks.")] = False) -> None:
    """Print the folder of cached trained networks ($GRADEVAL_CACHE sets it)."""
    from gradeval.cache import cache_folder, clear_cache

    print(cache_folder())
    if clear:
        print(f"removed {clear_cache()} files")
