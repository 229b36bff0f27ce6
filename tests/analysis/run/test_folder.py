"""A run's folder: written whole, read back as it was, and refused in one line where it is damaged."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gradeval import Evaluation, GradevalError, evaluate
from gradeval.analysis.run.folder import read_run
from gradeval.analysis.run.record import Record
from gradeval.files import CannotWrite


@pytest.fixture(scope="module")
def saved(small, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    evaluation = evaluate(small, ["reinforce", "st", "tanh", "arm", "ram"], draws=500)
    return evaluation, evaluation.save(tmp_path_factory.mktemp("saved") / "run")


@pytest.fixture
def folder(saved, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(saved[1], tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_is_read_as_it_was_saved(saved, folder: Path) -> None:
    evaluation, _ = saved
    again = Evaluation.load(folder)
    assert isinstance(again, Record)
    assert again.manifest == json.loads(json.dumps(evaluation.manifest))
    for name in ("summary", "curves", "exact_moments", "breakeven", "variance_reduction", "fits", "points"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(evaluation, name))
    for name, moments in evaluation.moments.items():
        np.testing.assert_array_equal(again.moments[name].covariance, moments.covariance)
    before = contents(folder)
    again.rewrite(folder)
    assert contents(folder) == before
    assert not [name for name in before if name.startswith(".") or name.endswith(".part")]
    with pytest.raises(GradevalError, match="exists and is not empty"):
        evaluation.save(folder)


def test_only_the_table_of_timings_has_timings(saved) -> None:
    _, folder = saved
    columns = {path.stem: set(pd.read_csv(path).columns) for path in folder.glob("*.csv")}
    assert {name for name, found in columns.items() if any(c.startswith("seconds") for c in found)} == {"timings"}


def test_a_full_disk_leaves_the_files_as_they_were(saved, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the eighth write fails; a folder that was rewritten file by file would be half new."""
    before, calls, fsync = contents(folder), [], os.fsync

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    changed = Evaluation.load(folder)
    changed.curves.loc[0, "cosine"] = 0.125
    with pytest.raises(CannotWrite, match="No space left on device"):
        changed.rewrite(folder)
    assert contents(folder) == before
    calls.clear()
    with pytest.raises(GradevalError, match=r"cannot write .*No space left on device"):
        changed.save(folder.parent / "new")
    assert [path.name for path in folder.parent.iterdir()] == ["run"]


def in_manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return damage


def in_text(old: str, new: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        text = (folder / "manifest.json").read_text()
        assert old in text
        (folder / "manifest.json").write_text(text.replace(old, new, 1))

    return damage


def half(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


def in_arrays(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        with np.load(folder / "moments.npz") as file:
            arrays = dict(file)
        change(arrays)
        np.savez(folder / "moments.npz", **arrays)

    return damage


def foreign_entry(folder: Path) -> None:
    """An entry of the archive that is no array, in the place of one."""
    content = io.BytesIO()
    with zipfile.ZipFile(folder / "moments.npz") as old, zipfile.ZipFile(content, "w") as new:
        for entry in old.namelist():
            new.writestr("exact" if entry == "exact.npy" else entry, b"x" if entry == "exact.npy" else old.read(entry))
    (folder / "moments.npz").write_bytes(content.getvalue())


def in_table(name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        change(pd.read_parquet(folder / f"{name}.parquet")).to_parquet(folder / f"{name}.parquet")

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "is not a run: it has no readable manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), r"manifest.json: not a JSON file"),
        (in_manifest(lambda m: m.update(format="gradeval-run/9")), "reads runs of format 'gradeval-run/4', found"),
        (in_manifest(lambda m: m.pop("seed")), "manifest.json: Object missing required field `seed`"),
        (in_manifest(lambda m: m["problem"].update(points="4")), "manifest.json: problem.points: expected `int`, got"),
        (
            in_manifest(lambda m: m["problem"].update(widths=[2, True])),
            r"problem.widths\[1\]: expected `int`",
        ),
        (in_manifest(lambda m: m["problem"]["slices"].update({"1": [0]})), "problem.slices.1: expected `array` of"),
        (in_manifest(lambda m: m["problem"]["slices"].update({"1": [3, 3]})), "problem.slices.1: must be two numbers"),
        (in_manifest(lambda m: m["problem"]["slices"].update({"1": [0, 99]})), "layer 1 is slice"),
        (in_manifest(lambda m: m["estimators"]["st"].update(draws=1)), "estimators.st.draws: expected `int` >= 2"),
        (in_manifest(lambda m: m["estimators"]["st"].update(notes=[7])), r"estimators.st.notes\[0\]: expected `str`"),
        (in_manifest(lambda m: m["estimators"].update(st=None)), "estimators.st: expected `object`, got `null`"),
        (in_manifest(lambda m: m["failures"].update(psa=7)), "failures.psa: expected `str`, got `int`"),
        (
            in_manifest(lambda m: m["timings"]["seconds_per_draw"].update(st="1")),
            "seconds_per_draw.st: expected",
        ),
        (
            in_manifest(lambda m: m["estimators"]["st"].update(notes=["\ud800"])),
            "manifest.json: not a JSON file .*surrogates",
        ),
        (in_text('"seed": 0', '"seed": 0, "seed": 1'), "the key 'seed' stands twice"),
        (in_text('"seed": 0', '"seed": NaN'), "seed: must be a finite number, found NaN"),
        (in_text('"seed": 0', '"seed": -Infinity'), "seed: must be a finite number, found -Infinity"),
        (in_manifest(lambda m: m["files"].update({"../up.csv": "0"})), "files: must be names without folders, found"),
        (half("moments.npz"), "moments.npz: damaged"),
        (in_arrays(lambda a: a.pop("mean/reinforce")), "a damaged run .*mean/reinforce"),
        (in_arrays(lambda a: a.update({"mean/reinforce": a["mean/reinforce"][:-1]})), "mean of 'reinforce' is float64"),
        (in_arrays(lambda a: a.update(exact=a["exact"].astype(str))), "the exact gradient is <U"),
        (in_arrays(lambda a: a["mean/st"].fill(np.inf)), "moments of 'st' are not finite"),
        (in_arrays(lambda a: a["descents/st"].fill(501)), "'st' has a number of descents that cannot be"),
        (half("curves.parquet"), "curves.parquet: damaged"),
        (
            lambda folder: (folder / "exact_moments.parquet").unlink(),
            "exact_moments.parquet: No such file",
        ),
        (in_table("curves", lambda t: t.assign(estimator="psa")), "curves.parquet names another estimator"),
        (in_table("curves", lambda t: t.assign(cosine="0.5")), "column cosine of curves.parquet is no number"),
        (in_table("curves", lambda t: t.assign(samples=0)), r"curves\.parquet has means of less than one draw"),
        (
            in_table("exact_moments", lambda t: t.assign(exact_relative_variance=-1.0)),
            r"exact_moments\.parquet has a bias or a variance below zero",
        ),
        (foreign_entry, r"moments\.npz: damaged \(ValueError: 'exact' is no array\)"),
        (in_table("exact_moments", lambda t: t.assign(exact_scale=1e200)), "column exact_scale .* beyond 1e\\+100"),
        (in_table("curves", lambda t: t.drop(columns="samples")), "curves.parquet: damaged .*no column samples"),
    ],
)
def test_a_damaged_run_is_refused_in_one_line_that_names_the_place(
    folder: Path, damage: Callable[[Path], Any], message: str, forge: Callable[[Path], None]
) -> None:
    damage(folder)
    forge(folder)
    with pytest.raises(GradevalError) as caught:
        read_run(folder)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert str(caught.value).removeprefix("cannot read ").startswith(str(folder))
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GradevalError, match="nowhere is not a run"):
        Evaluation.load(tmp_path / "nowhere")


# --- a run is one thing ------------------------------------------------------------------------------------------


def flipped(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 4
        (folder / name).write_bytes(content)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flipped("moments.npz"), r"moments.npz is not what gradeval wrote with manifest.json.*repeat the command"),
        (flipped("curves.parquet"), "curves.parquet is not what gradeval wrote"),
        (flipped("points.parquet"), "points.parquet is not what gradeval wrote"),
        (flipped("pairs.csv"), r"pairs.csv is not what gradeval wrote.*remove it: `gradeval report"),
        (half("summary.parquet"), "summary.parquet is not what gradeval wrote"),
        (in_manifest(lambda m: m.update(draws=400)), r"manifest.json is not as gradeval wrote it \(its digest"),
        (in_manifest(lambda m: m["files"].update({"moments.npz": "0" * 32})), "its digest is wrong"),
        (in_manifest(lambda m: m.pop("digest")), "its digest is wrong"),
    ],
)
def test_what_the_manifest_does_not_vouch_for_is_refused(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    """A flipped bit in curves.parquet passed one time in three, an edited manifest always."""
    damage(folder)
    with pytest.raises(GradevalError, match=message) as caught:
        read_run(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_the_moments_of_another_order_are_not_taken(saved, folder: Path) -> None:
    """A kill between moments.npz and manifest.json, after the same command with another order of estimators."""
    evaluation, _ = saved
    other = Evaluation(
        {**evaluation.manifest, "estimators": dict(reversed(evaluation.manifest["estimators"].items()))},
        *(getattr(evaluation, field.name) for field in fields(Record)[1:]),
    )
    before = read_run(folder)
    other.save(folder.parent / "other")
    assert read_run(folder.parent / "other").moments.keys() == before.moments.keys()
    for name, moments in read_run(folder.parent / "other").moments.items():  # by name, whatever the order
        np.testing.assert_array_equal(moments.mean, before.moments[name].mean)
    again = evaluate_again(evaluation)
    again.save(folder.parent / "again")
    shutil.copy(folder.parent / "again" / "moments.npz", folder)
    with pytest.raises(GradevalError, match=r"moments.npz is not what gradeval wrote"):
        read_run(folder)


def evaluate_again(evaluation: Evaluation) -> Evaluation:
    """The same run with its first two estimators' moments exchanged."""
    first, second, *_ = moments = dict(evaluation.moments)
    moments[first], moments[second] = moments[second], moments[first]
    return replace(evaluation, moments=moments)


def test_a_table_that_was_removed_is_made_again(saved, folder: Path) -> None:
    before = contents(folder)
    (folder / "pairs.csv").unlink()
    Evaluation.load(folder).rewrite(folder)
    assert contents(folder) == before


@pytest.mark.parametrize("stopped", range(1, 22))
def test_a_rewriting_that_is_killed_is_noticed_or_has_no_trace(
    saved, folder: Path, monkeypatch: pytest.MonkeyPatch, stopped: int
) -> None:
    """At each replacement; the process dies without tidying up. Whatever is read afterwards is the old or the new."""
    changed = replace(Evaluation.load(folder), curves=Evaluation.load(folder).curves.assign(cosine=0.125))
    count, move = [], Path.replace

    def killed(self: Path, target: Path) -> Path:
        count.append(target)
        if len(count) == 19 + stopped:  # the first are those of `write_whole`
            raise KeyboardInterrupt
        return move(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with suppress(KeyboardInterrupt):
        changed.rewrite(folder)
    monkeypatch.undo()
    try:
        found = read_run(folder).curves["cosine"]
    except GradevalError as error:
        assert "not what gradeval wrote" in str(error)  # noqa: PT017
    else:
        assert (found == 0.125).all() or found.equals(read_run(saved[1]).curves["cosine"])
