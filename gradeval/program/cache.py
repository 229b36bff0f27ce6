"""`gradeval cache`: the folder of trained networks."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from gradeval.program.terminal import say


def cache_command(
    clear: Annotated[bool, typer.Option("--clear", help="Remove the cached networks.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print folder and number of removed files as JSON.")] = False,
) -> None:
    """Print the folder in which trained networks are cached ($GRADEVAL_CACHE sets it)."""
    from gradeval.cache import cache_folder, clear_cache

    folder, number = cache_folder(), clear_cache() if clear else 0
    if as_json:
        print(json.dumps({"folder": str(folder), "removed": number}))
        return
    say(str(folder))
    if clear:
        print(f"removed {number} {'file' if number == 1 else 'files'}")
