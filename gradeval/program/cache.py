"""`gradeval cache`: the folder of trained networks."""

from __future__ import annotations

from typing import Annotated

import typer

from gradeval.program.terminal import say


def cache_command(clear: Annotated[bool, typer.Option("--clear", help="Remove the cached networks.")] = False) -> None:
    """Print the folder in which trained networks are cached ($GRADEVAL_CACHE sets it)."""
    from gradeval.cache import cache_folder, clear_cache

    say(str(cache_folder()))
    if clear:
        number = clear_cache()
        print(f"removed {number} {'file' if number == 1 else 'files'}")
