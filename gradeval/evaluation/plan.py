"""A run's plan: what it draws, and what must be the same for a later run to continue it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta

from gradeval.analysis.run.moments import Layout
from gradeval.errors import GradevalError
from gradeval.files import Finite, convert, digest_of, read_json, read_whole, sealed, unsealed, write_whole
from gradeval.model.problem_file import MAX_FILE_BYTES
from gradeval.sampling.extent import WORKING_MEMORY, Extent

FORMAT = "gradeval-plan/4"
PLAN_FILE, PROBLEM_FILE, REFERENCE_FILE = "plan.json", "problem.json", "reference.safetensors"
MAX_PLAN_BYTES = 2**26  # about three million parameters


@dataclass(frozen=True)
class Planned:
    """One estimator of a plan.

    Args:
        source: hash of the source.
        draws: their number.
        probe: some entries of one draw, by which a change is noticed.
    """

    source: str
    draws: Annotated[int, Meta(gt=0)]
    probe: list[Finite]


@dataclass(frozen=True)
class Plan:
    """What a run draws.

    Attributes:
        fingerprint, seed, device, dtype: of the problem; of the draws; where, and in which precision, they are made.
        engine: hash of the source of all that decides a chunk except the estimators.
        layers: where the parameters of each of the K layers begin and end.
        exact: g*, [P].
        estimators: by name.
        looks: the numbers of draws after which tables were made, in their order.
        arguments, versions: of the command that began it, and of the libraries then.
        problem: the digest of problem.json beside it; empty where the problem cannot be saved.
        memory: as of `Extent`.
        reference, reference_seconds: the digest of reference.safetensors beside it, empty where g* is exact; its cost.
    """

    fingerprint: str
    seed: int
    device: str
    dtype: Literal["float32", "float64"]
    engine: str
    layers: Annotated[Mapping[str, tuple[int, int]], Meta(min_length=1)]
    exact: Annotated[list[Finite], Meta(min_length=1)]
    estimators: Mapping[str, Planned]
    looks: Annotated[list[int], Meta(min_length=1, max_length=10**6)]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    memory: Annotated[int, Meta(gt=0)] = WORKING_MEMORY
    reference: str = ""
    reference_seconds: Annotated[float, Meta(ge=0)] = 0.0

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """The plan of a folder.

        Args:
            folder: of the run.

        Returns:
            The plan.

        Raises:
            GradevalError: it is missing, of another format or damaged.
        """
        document = read_json(path := folder / PLAN_FILE, MAX_PLAN_BYTES)
        if (found := document.get("format")) != FORMAT:
            raise GradevalError(
                f"{folder} was begun by another version of gradeval (its format is {found!r:.40}, this version "
                f"continues '{FORMAT}'): repeat the command that began it with a new --out."
            )
        content = unsealed(document, path)
        plan = convert({key: content[key] for key in content if key not in ("format", "chunk")}, cls, f"{path}: ")
        if document.get("chunk") != plan.extent.chunk:
            raise GradevalError(f"{folder}: its chunks are not of {plan.extent.chunk} draws: it cannot be continued.")
        for name, (start, stop) in plan.layers.items():
            if not 0 <= start < stop <= len(plan.exact):
                raise GradevalError(f"{path}: layers: {name!r} has the parameters {start} to {stop}: there are none.")
        return plan

    @property
    def layout(self) -> Layout:
        """Where what lies in the moments of its chunks."""
        return Layout(len(self.exact), {name: slice(*ends) for name, ends in self.layers.items()})

    @property
    def extent(self) -> Extent:
        """How many draws a chunk has, and what is kept of them."""
        return Extent.of(len(self.exact), len(self.layers), self.memory)

    @property
    def draws(self) -> int:
        """The number of draws of each estimator that is not deterministic."""
        return max((planned.draws for planned in self.estimators.values()), default=0)

    def write(self, folder: Path) -> None:
        """Write the plan as ``folder``/plan.json.

        Args:
            folder: of the run.
        """
        write_whole(folder / PLAN_FILE, sealed({"format": FORMAT, "chunk": self.extent.chunk, **_content(self)}))

    def continuing(self, there: Plan) -> Plan:
        """This plan with what an earlier one fixed: the gradient, the versions, and how often it was looked at.

        Args:
            there: the plan that is continued.

        Returns:
            The plan to follow.
        """
        kept: dict[str, Any] = {key: getattr(there, key) for key in _FIXED}
        return replace(self, **kept, looks=there.looks + self.looks[-1:] * (self.draws != there.draws))

    def identity(self, name: str) -> list[Any]:
        """What the numbers of an estimator's chunks depend on; it is stored in each of their files.

        Args:
            name: of an estimator.

        Returns:
            Format, problem, seed, engine, name, source; at size the extent; the digest of a sampled reference.
        """
        own = [self.estimators[name].source, *self.extent.identity, *filter(None, [self.reference])]
        return [FORMAT, self.fingerprint, self.seed, self.engine, name, *own]

    def refuse_others(self, wanted: Plan, folder: Path) -> None:
        """Refuse a ``wanted`` plan that draws something else than this one, which lies in ``folder``.

        Args:
            wanted: what is asked for.
            folder: where this plan lies.

        Raises:
            GradevalError: it draws something else.
        """
        advice = "choose another folder, or remove this one."
        for what, old, new in (
            ("problem", self.fingerprint[:12], wanted.fingerprint[:12]),
            ("seed", self.seed, wanted.seed),
            ("device", self.device, wanted.device),
            ("precision", self.dtype, wanted.dtype),
            ("reference", *("sampled" if plan.reference else "exact" for plan in (self, wanted))),
            ("list of layers", list(self.layers), list(wanted.layers)),
            ("working memory", *((plan.extent.chunk, plan.extent.blocks) for plan in (self, wanted))),
            ("version of gradeval's sources", self.engine[:12], wanted.engine[:12]),
        ):
            if old != new:
                raise GradevalError(f"{folder} holds a run of another {what} ({old}; asked for: {new}): {advice}")
        if missing := set(self.estimators) - set(wanted.estimators):
            raise GradevalError(f"{folder} also holds '{min(missing)}': name it too, or {advice}")
        if not np.allclose(self.exact, wanted.exact, rtol=1e-6, atol=1e-12):
            raise GradevalError(f"{folder} holds another exact gradient of this problem: {advice}")

    def changed(self, name: str, wanted: Plan) -> str:
        """What has changed of an estimator since this plan was written, in words; empty if nothing has.

        Args:
            name: of the estimator.
            wanted: what is asked for now.

        Returns:
            The beginning of a sentence, or an empty text.
        """
        old, new = self.estimators[name], wanted.estimators[name]
        if old.source != new.source:
            return "the source of"
        same = len(old.probe) == len(new.probe) and np.allclose(old.probe, new.probe, 1e-3, 1e-6)
        return "" if same else "what is drawn by"


_FIXED = ("exact", "versions", "reference", "reference_seconds")
"""What the plan that began a run fixes."""


def _content(plan: Plan) -> dict[str, Any]:
    """What is written of a plan; an exact reference is not mentioned."""
    return {key: value for key, value in asdict(plan).items() if not key.startswith("reference") or value}


def with_digest(plan: Plan, reference: bytes, seconds: float) -> tuple[Plan, bytes]:
    """A plan that names the file of a sampled reference.

    Args:
        plan: any.
        reference: the content of the file; none for an exact reference.
        seconds: that a sampled one took.

    Returns:
        The plan, and the content.
    """
    if not reference:
        return plan, reference
    return replace(plan, reference=digest_of(reference), reference_seconds=seconds), reference


def check_problem(folder: Path, plan: Plan) -> None:
    """Refuse a problem.json that is not the one of a run's plan.

    Args:
        folder: of the run.
        plan: of the run.

    Raises:
        GradevalError: it is missing, or another file.
    """
    path = folder / PROBLEM_FILE
    if digest_of(read_whole(path, MAX_FILE_BYTES)) != plan.problem:
        raise GradevalError(
            f"{path} is not the problem of this run (plan.json has another digest): repeat the command that began it, "
            f"with --out {folder}."
        )
