"""Problem files: JSON of the format gradeval-problem/1. They may come from strangers, so all that is read is checked.

This module knows what such a file holds and how its parts must fit together, and nothing of networks:
`gradeval.model.problem.Problem` builds itself from a `ProblemDocument`, and is saved as one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec

from gradeval.errors import GradevalError, unknown_name
from gradeval.files import Finite, convert, read_json

FORMAT = "gradeval-problem/1"
MAX_FILE_BYTES = 256 * 2**20

Vector = Annotated[list[Finite], msgspec.Meta(min_length=1)]
"""[entries], at least one."""
Matrix = Annotated[list[Vector], msgspec.Meta(min_length=1)]
"""[rows, columns], at least one of each; `read_document` checks that all rows are equally long."""


class AffineMap(msgspec.Struct, frozen=True):
    """weight · x + bias.

    Attributes:
        weight: [outputs, inputs].
        bias: [outputs].
    """

    weight: Matrix
    bias: Vector


class ProblemDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What a problem file holds, in the order in which it is written.

    Attributes:
        format: `FORMAT`.
        name: shown in reports; None where the file has none.
        description: shown in reports.
        noise: the name of the injected noise.
        states: the two values (lo, hi) of a unit.
        layers: the map of every layer; the first one's inputs are those of a data point.
        head: the map from the last layer's states to the outputs.
        prior_logits: of every unit of the last layer, where the head is a `BernoulliDecoder`; else None, and left out.
        loss: the name of the loss.
        inputs: x⁰, [points, inputs].
        targets: [points] or [points, outputs].
    """

    format: str
    name: str | None = None
    description: str = ""
    noise: str
    states: tuple[Finite, Finite]
    layers: Annotated[list[AffineMap], msgspec.Meta(min_length=1)]
    head: AffineMap
    loss: str
    inputs: Matrix
    targets: Annotated[list[Finite | Vector], msgspec.Meta(min_length=1)]
    prior_logits: Vector | None = None


def read_document(path: Path) -> ProblemDocument:
    """What a problem file holds; numbers are finite, and all shapes fit together.

    Args:
        path: the file, of at most `MAX_FILE_BYTES`.

    Returns:
        The document. Whether its noise and its loss exist, and whether the targets suit the loss, is not checked.

    Raises:
        GradevalError: one line that names the file and the place in it: it is missing, too large, no JSON, of another
            format, lacks a key, has one that is unknown or stands twice, or a value of a wrong type, size or shape.
    """
    content = read_json(path, MAX_FILE_BYTES)
    with naming(path):
        if content.get("format") != FORMAT:
            raise GradevalError(f"format: this version reads '{FORMAT}', found {content.get('format')!r:.80}.")
        _refuse_unknown_keys(content)
        document = convert(content, ProblemDocument, "")
        _check_texts(document)
        _check_shapes(document)
    return document


def document_bytes(document: ProblemDocument) -> bytes:
    """The content of a problem file; numbers keep every bit.

    Args:
        document: what it holds.

    Returns:
        The bytes.
    """
    content = msgspec.to_builtins(document)
    if document.prior_logits is None:
        del content["prior_logits"]
    return json.dumps(content).encode()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name before the message of a `GradevalError`.

    Args:
        path: the file that the errors are about.

    Raises:
        GradevalError: what was raised inside, with the file's name.
    """
    try:
        yield
    except GradevalError as error:
        raise GradevalError(f"{path}: {error}") from None


def _refuse_unknown_keys(content: dict[str, Any]) -> None:
    """A misspelt key that may be missing would go unnoticed."""
    layers = content.get("layers")
    maps = [(f"layers[{k}].", layer) for k, layer in enumerate(layers)] if isinstance(layers, list) else []
    for place, part in (*maps, ("head.", content.get("head"))):
        _refuse_unknown(part, AffineMap, place)
    _refuse_unknown(content, ProblemDocument, "")


def _refuse_unknown(part: Any, kind: type[msgspec.Struct], place: str) -> None:
    known = kind.__struct_fields__
    for key in part if isinstance(part, dict) else ():
        if key not in known:
            shown = ascii(key)[1:-1] if not key.isprintable() else key
            raise GradevalError(f"{place}{shown:.40}: {unknown_name('key', f'{shown:.40}', known)}")


def _check_texts(document: ProblemDocument) -> None:
    texts = {"name": document.name or "", "description": document.description}
    for place, text in {**texts, "noise": document.noise, "loss": document.loss}.items():
        if not text.isprintable():
            raise GradevalError(f"{place}: must be printable text, found {text[:40]!r}.")


def _check_shapes(document: ProblemDocument) -> None:
    points, fan_in = len(document.inputs), len(document.inputs[0])
    _check_rows(document.inputs, fan_in, "inputs")
    for place, map in (
        *((f"layers[{k}]", layer) for k, layer in enumerate(document.layers)),
        ("head", document.head),
    ):
        if place == "head" and document.prior_logits is not None:
            _check_length(document.prior_logits, fan_in, "prior_logits")
        _check_rows(map.weight, fan_in, f"{place}.weight")
        fan_in = len(map.weight)
        _check_length(map.bias, fan_in, f"{place}.bias")
    _check_length(document.targets, points, "targets")
    first = document.targets[0]
    for k, target in enumerate(document.targets):
        if isinstance(target, list) != isinstance(first, list):
            wanted, found = ("list", "number")[:: 1 if isinstance(first, list) else -1]
            raise GradevalError(f"targets[{k}]: must be a {wanted} as targets[0] is, found a {found}.")
        if isinstance(target, list) and isinstance(first, list):
            _check_length(target, len(first), f"targets[{k}]")


def _check_rows(rows: Sequence[Sequence[float]], columns: int, place: str) -> None:
    for k, row in enumerate(rows):
        if len(row) != columns:
            _check_length(row, columns, f"{place}[{k}]")


def _check_length(entries: Sequence[Any], wanted: int, place: str) -> None:
    if len(entries) != wanted:
        raise GradevalError(f"{place}: must have {wanted} entries, found {len(entries)}.")
