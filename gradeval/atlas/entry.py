"""An entry of the atlas: a problem with its exact gradient and the exact accuracy of estimators, read from a file."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import msgspec
import pandas as pd

from gradeval.atlas.definitions import DEFINITIONS
from gradeval.errors import GradevalError, unknown_name
from gradeval.model.problem import Problem

FORMAT = "gradeval-atlas/1"
FOLDER = files("gradeval.atlas") / "data"
FIGURES_KEPT = ("relative_bias", "relative_variance", "scale", "cosine")


class Results(msgspec.Struct, forbid_unknown_fields=True):
    """The content of a file of results.

    Attributes:
        format: `FORMAT`.
        name: of the entry.
        fingerprint: of the problem.
        value: J.
        norms: ‖∇J‖ by layer.
        gradient: ∇J by layer, flattened; nothing where it has many entries.
        methods: the exact methods that were compared, and the largest difference of their gradients, relative to ‖∇J‖.
        versions: of what it was made with.
        accuracy: by estimator and layer `FIGURES_KEPT`; null where ‖∇J‖ is zero.
    """

    format: str
    name: str
    fingerprint: str
    value: float
    norms: dict[str, float]
    gradient: dict[str, list[float]]
    methods: dict[str, float]
    versions: dict[str, str]
    accuracy: dict[str, dict[str, list[float | None]]]


@dataclass(frozen=True)
class Entry:
    """A problem of the atlas, and what is known of it.

    Attributes:
        name: of the entry.
        description: in a sentence.
        source: where the problem is from; empty: ours.
        results: as they are kept.
    """

    name: str
    description: str
    source: str
    results: Results

    @property
    def problem(self) -> Problem:
        """The problem: from its file where it has one, else as it is defined."""
        path = Path(str(FOLDER / f"{self.name}.problem.json"))
        return Problem.load(path) if path.exists() else DEFINITIONS[self.name].make()

    @property
    def accuracy(self) -> pd.DataFrame:
        """One row for each estimator and layer: exact relative bias, variance, scale, cosine of the mean, and RMSE."""
        rows = [
            (estimator, layer, *(float("nan") if number is None else number for number in numbers))
            for estimator, layers in self.results.accuracy.items()
            for layer, numbers in layers.items()
        ]
        table = pd.DataFrame(rows, columns=["estimator", "layer", *FIGURES_KEPT])
        variance = table["relative_variance"].clip(lower=0)  # a variance of nothing may be rounded to below
        return table.assign(relative_rmse=(table["relative_bias"] ** 2 + variance) ** 0.5)


def names() -> list[str]:
    """The names of all entries.

    Returns:
        They, in the order of the definitions.

    Examples:
        >>> "toy" in names()
        True
    """
    return list(DEFINITIONS)


def load(name: str) -> Entry:
    """An entry of the atlas.

    Args:
        name: one of `names`.

    Returns:
        It.

    Raises:
        GradevalError: there is none of that name (near matches are listed), or its file is damaged.

    Examples:
        >>> entry = load("toy")
        >>> entry.results.value
        0.250001
        >>> table = entry.accuracy
        >>> round(float(table[table["layer"] == "all"].set_index("estimator").loc["leg", "relative_bias"]), 12)
        0.0
    """
    if name not in DEFINITIONS:
        raise unknown_name("entry of the atlas", name, names())
    made, file = DEFINITIONS[name], FOLDER / f"{name}.json"
    try:
        results = msgspec.json.decode(file.read_bytes(), type=Results)
    except (OSError, msgspec.MsgspecError) as error:
        raise GradevalError(f"the atlas has no readable results of '{name}' ({error}).") from None
    return Entry(name, made.description, made.source, results)
