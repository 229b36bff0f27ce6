"""The entries of the atlas: python docs/make_atlas.py [NAME ...] (three minutes for all of them)."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from gradeval.atlas import names
from gradeval.atlas.make import write_entry

FOLDER = Path(__file__).parents[1] / "gradeval" / "atlas" / "data"


def main() -> None:
    for name in sys.argv[1:] or names():
        began = time.perf_counter()
        results = write_entry(name, FOLDER)
        print(
            f"{name}: J = {results.value:.15g}, {len(results.accuracy)} estimators, {time.perf_counter() - began:.1f} s"
        )


if __name__ == "__main__":
    main()
