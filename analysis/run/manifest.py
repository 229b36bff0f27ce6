"""What the tables and the report take for granted in a run's manifest.json, which may be damaged, or a stranger's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec

from gradeval.analysis.run.reference import REFERENCE_METHODS
from gradeval.analysis.run.times import TIMING
from gradeval.analysis.statistics import ENDS
from gradeval.errors import GradevalError
from gradeval.files import Finite, convert, convert_entries, one_line, read_json, unsealed

RUN_FORMAT = "gradeval-run/4"
MAX_MANIFEST_BYTES = 2**26

_Draws = Annotated[int, msgspec.Meta(ge=2, le=2**53)]
_Place = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _Estimator(msgspec.Struct):
    """One estimator's entry."""

    source: str
    unbiased_claim: bool
    deterministic: bool
    vectorised: bool
    draws: _Draws
    layer_evaluations: Finite
    loss_evaluations: Finite
    notes: list[str]
    head: str = ""
    family: str = ""
    settings: dict[str, bool | int | Finite | str | None] = {}


class _Problem(msgspec.Struct):
    """The problem's entry; ``gradient_norms`` and ``slices`` are checked layer by layer."""

    name: str
    description: str
    fingerprint: str
    points: int
    widths: list[int]
    noise: str
    states: list[Finite]
    loss: str
    parameters: int
    exact_value: Finite
    gradient_norms: dict[str, Any]
    slices: dict[str, Any]


class _Timings(msgspec.Struct):
    """The entry of timings."""

    seconds_per_draw: dict[str, Any]
    seconds_per_draw_low: dict[str, Any] = {}
    seconds_per_draw_high: dict[str, Any] = {}


class _Exact(msgspec.Struct):
    """The entry of a reference that is exact; ``errors`` is checked layer by layer."""

    method: str
    states_log2: _Place
    seconds: Finite
    errors: dict[str, Any]


class _Sampled(msgspec.Struct):
    """The entry of a reference that was sampled; older ones lack what has a default."""

    method: str
    estimator: str
    draws: _Draws
    block_draws: _Place
    target: Finite
    errors: dict[str, Any]
    states_log2: _Place = 0
    seconds: Finite = 0.0


class _Manifest(msgspec.Struct):
    """The whole manifest; what is a ``dict`` here is checked entry by entry, so that messages name the entry."""

    created: str
    arguments: dict[str, Any]
    seed: int
    draws: int
    versions: dict[str, Any]
    device: str
    dtype: str
    detect: Annotated[float, msgspec.Meta(gt=0, le=1)]
    looks: Annotated[int, msgspec.Meta(ge=1, le=10**6)]
    failures: dict[str, Any]
    timings: _Timings
    problem: _Problem
    estimators: dict[str, Any]
    files: dict[str, Any]
    reference: dict[str, Any] | None = None


def read_manifest(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a run's manifest.

    Args:
        path: of manifest.json.

    Returns:
        The manifest, whose entries have the types that tables and report rely on, and the digest of each file of the
        run, which is not a part of it.

    Raises:
        GradevalError: it is missing, of another format or damaged; the message names the file and the entry.
    """
    document = read_json(path, MAX_MANIFEST_BYTES)
    found = document.get("format")
    if found != RUN_FORMAT:
        raise GradevalError(
            f"{path.parent}: this version reads runs of format '{RUN_FORMAT}', found {found!r:.80}: repeat the command "
            "that made it, with a new --out."
        )
    document = unsealed(document, path)
    try:
        _check(document)
    except GradevalError as error:
        raise GradevalError(f"{path}: {one_line(str(error))}") from None
    return document, document.pop("files")


def _check(document: dict[str, Any]) -> None:
    manifest = convert(document, _Manifest, "")
    named: tuple[tuple[dict[str, Any], Any, str], ...] = (
        (manifest.versions, str, "versions"),
        (manifest.failures, str, "failures"),
        *((getattr(manifest.timings, f"{TIMING}{end}"), Finite, f"timings.{TIMING}{end}") for end in ENDS),
        (manifest.problem.gradient_norms, Finite, "problem.gradient_norms"),
        (_errors(manifest.reference), Finite, "reference.errors"),
        (manifest.problem.slices, tuple[_Place, _Place], "problem.slices"),
        (manifest.estimators, _Estimator, "estimators"),
        (manifest.files, str, "files"),
    )
    for entries, kind, place in named:
        convert_entries(entries, kind, place)
    for name in manifest.files:
        if Path(name).name != name:
            raise GradevalError(f"files: must be names without folders, found {name!r:.80}.")
    for layer, (start, stop) in manifest.problem.slices.items():
        if start >= stop:
            raise GradevalError(f"problem.slices.{layer}: must be two numbers, the first below the second.")


def _errors(reference: dict[str, Any] | None) -> dict[str, Any]:
    """The errors of a reference by layer. Raises GradevalError where its entry cannot be used."""
    if reference is None:  # exact, of an older version
        return {}
    if (method := reference.get("method")) not in REFERENCE_METHODS:
        raise GradevalError(f"reference.method: must be one of {', '.join(REFERENCE_METHODS)}; found {method!r:.80}.")
    if method == "sampled":
        return convert(reference, _Sampled, "reference").errors
    return convert(reference, _Exact, "reference").errors
