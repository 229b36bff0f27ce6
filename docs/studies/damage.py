"""A run's folder that is damaged, or whose writing is killed: whether anything is taken for what it is not.

python docs/studies/damage.py                    200 bits a file, 40 boundaries, 25 moments; writes damage.md
python docs/studies/damage.py --bits 5 --boundaries 6 --moments 2 --no-write

1. Every file of a finished run is cut, emptied, removed, replaced by a folder, by a link to nothing, by a link to
   another file and by another run's file of that name, and each of 200 random bits of it is flipped. `report`,
   `baseline` (which `compare` reads) and `status` must refuse in one line or give what they gave before; `status` may
   say what is damaged. A finding is anything else: another figure, a traceback, a warning, two lines.
2. A run is written, repeated with another order of estimators, extended by draws, and by estimators, and is killed at
   boundaries of the writing (before and after fsync, replace, rename, rmdir, unlink), and at random moments. What is
   read then must be the state before or after, or be refused in one line; the same command again must give the tables
   of an undisturbed run, byte for byte, and leave nothing over.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from gradeval import Evaluation, GradevalError, Problem, evaluate, load_problem
from gradeval.analysis.comparison.baseline import Baseline
from gradeval.analysis.tables import table_files, without_timings
from gradeval.evaluation.status import run_status
from gradeval.files import is_left_over

SPECS = ("st", "reinforce", "concrete:temperature=0.5")
Seen = dict[str, Any]


# --- damage -------------------------------------------------------------------------------------------------------


def as_report(folder: Path) -> Seen:
    """The tables that `gradeval report` would write."""
    run = Evaluation.load(folder)
    tables = {"summary": run.summary, "curves": run.curves, "pairs": run.pairs, "exact": run.exact_moments}
    return {"manifest": run.manifest, **{name: table_files(name, table) for name, table in tables.items()}}


def as_baseline(folder: Path) -> Seen:
    """What `gradeval baseline` and `gradeval compare` take from the folder."""
    return {"baseline": repr(Baseline.read(folder))}


def as_status(folder: Path) -> Seen:
    """What `gradeval status` says."""
    return run_status(folder)


READERS: dict[str, Callable[[Path], Seen]] = {"report": as_report, "baseline": as_baseline, "status": as_status}


def damages(path: Path, other: Path, bits: int, chance: random.Random) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is done to a file, by name; ``other`` is another run's file of the same kind."""
    content = path.read_bytes()

    def written(new: bytes) -> Callable[[], Any]:
        return lambda: path.write_bytes(new)

    def replaced(put: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: (path.unlink(), put())

    yield "cut", written(content[: len(content) // 2])
    yield "emptied", written(b"")
    yield "removed", path.unlink
    yield "a folder", replaced(path.mkdir)
    yield "a link to nothing", replaced(lambda: path.symlink_to("nowhere"))
    yield "a link to another file", replaced(lambda: path.symlink_to("/etc/passwd"))
    yield "a pipe", replaced(lambda: os.mkfifo(path))
    yield "another run's", written(other.read_bytes())
    for place in chance.sample(range(8 * len(content)), min(bits, 8 * len(content))):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        yield "a flipped bit", written(bytes(flipped))


def judged(reader: str, folder: Path, before: Seen) -> str:
    """What a reader makes of the folder: refused, the same, said to be damaged; anything else is a finding."""
    try:
        found = READERS[reader](folder)
    except GradevalError as error:
        return "refused" if len(str(error).splitlines()) == 1 else f"FINDING: {error!r}"
    except BaseException:
        return f"FINDING: {traceback.format_exc()}"
    if found == before:
        return "the same"
    if reader == "status":
        rows = zip(found["estimators"], before["estimators"], strict=True)
        if found["damaged"] or any(new != old and _is_said(new, old) for new, old in rows):
            return "said"
        if found["holder"] or found["bytes"] != before["bytes"] or not found["complete"]:
            return "said"
    return f"FINDING: {found!r:.500}"


def _is_said(new: dict[str, Any], old: dict[str, Any]) -> bool:
    """Whether a row of `status` shows that something is missing or damaged."""
    return bool(new["damaged"]) or new["chunks"] < old["chunks"] or new["exact_moments"] < old["exact_moments"]


def damage(
    home: Path, bits: int, share: float, chance: random.Random
) -> tuple[Counter[tuple[str, str, str]], list[str]]:
    """Damage every file of a run. Returns outcomes by (file, damage, outcome), and findings."""
    run, other = home / "whole", home / "other"
    begin(problem(0), run)
    begin(problem(1), other)
    before = {reader: read(run) for reader, read in READERS.items()}
    outcomes: Counter[tuple[str, str, str]] = Counter()
    findings = []
    for path in sorted(p for p in run.rglob("*") if p.is_file()):
        name = path.relative_to(run)
        kind = name.name if len(name.parts) == 1 else f"chunks/{path.suffix[1:]}"
        same = other / name
        alike = same if same.exists() else next(other.glob(f"chunks/{name.parts[1]}/*{path.suffix}"))
        content = path.read_bytes()
        for what, spoil in damages(path, alike, bits, chance):
            if chance.random() >= share:
                continue
            spoil()
            for reader in READERS:
                outcome = judged(reader, run, before[reader])
                if outcome.startswith("FINDING"):
                    findings.append(f"{name}, {what}, {reader}: {outcome}")
                    outcome = "FINDING"
                outcomes[kind, what, outcome] += 1
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
            path.write_bytes(content)
    return outcomes, findings


# --- kills --------------------------------------------------------------------------------------------------------


def problem(seed: int) -> Problem:
    """A small network, another one for another seed."""
    return load_problem("expclass", units="2-2", stage=0, points=12, seed=seed)


def begin(given: Problem, folder: Path) -> None:
    evaluate(given, SPECS, draws=400, folder=folder, workers=1)


def reordered(given: Problem, folder: Path) -> None:
    evaluate(given, SPECS[::-1], draws=400, folder=folder, workers=1)


def extended(given: Problem, folder: Path) -> None:
    evaluate(given, SPECS[::-1], draws=5600, folder=folder, workers=1)


def added(given: Problem, folder: Path) -> None:
    evaluate(given, (*SPECS, "tanh"), draws=5600, folder=folder, workers=1)


STEPS = (begin, reordered, extended, added)


def forked(step: Callable[[], None], hook: Callable[[], None], wait: Callable[[int], None]) -> int:
    """Carry a step out in a process of its own, which may be killed. Returns its status."""
    if (child := os.fork()) == 0:
        hook()
        try:
            step()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(3)
    wait(child)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


BOUNDARIES = [(os, "fsync"), (os, "replace"), (os, "rename"), (os, "rmdir"), (os, "unlink"), (os, "mkdir")]


def killer(after: int | None, log: Path) -> Callable[[], None]:
    """What makes the process die at a boundary; None: it counts them in a file."""

    def install() -> None:
        seen = [0]

        def boundary() -> None:
            if after is None:
                log.write_text(str(seen[0] + 1))
            elif seen[0] == after:
                os.kill(os.getpid(), signal.SIGKILL)
            seen[0] += 1

        for module, name in BOUNDARIES:
            real = getattr(module, name)

            def hooked(*arguments: Any, real: Callable[..., Any] = real, **named: Any) -> Any:
                boundary()
                result = real(*arguments, **named)
                boundary()
                return result

            setattr(module, name, hooked)

    return install


def tables(folder: Path) -> dict[str, bytes]:
    """The files that must be the same; times are in the others."""
    timed = ("timings", "choice")
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.csv")) if path.stem not in timed}


def names(folder: Path) -> set[str]:
    """Every file's place, but for the chunks, whose names have the digest of their times, too."""
    return {
        str(path.relative_to(folder)).partition("-5000-")[0] for path in folder.rglob("*") if "chunks" not in path.parts
    }


def checked(folder: Path, given: Problem, step: Callable[..., None], sides: list[Seen], undisturbed: Path) -> list[str]:
    """After a kill: what is read is right or refused, and the same command again makes it as if nothing had been."""
    findings = []
    if (folder / "manifest.json").exists():
        try:
            if _tables_of(folder) not in sides:
                findings.append("the report is neither that of before nor that of after")
        except GradevalError as error:
            if len(str(error).splitlines()) != 1:
                findings.append(f"more than one line: {error}")
    code = forked(lambda: step(given, folder), lambda: None, lambda child: None)
    if code != 0:
        return [*findings, f"the command again ended with {code}"]
    if tables(folder) != tables(undisturbed):
        findings.append("the tables differ")
    if left := [str(path) for path in folder.rglob("*") if is_left_over(path.name)]:
        findings.append(f"left over: {left}")
    if names(folder) != names(undisturbed):
        findings.append(f"other files: {names(folder) ^ names(undisturbed)}")
    return findings


def _tables_of(folder: Path) -> Seen:
    run = Evaluation.load(folder)
    return {"estimators": list(run.moments), "summary": without_timings(run.summary).to_csv()}


def kills(home: Path, boundaries: int, moments: int, chance: random.Random) -> tuple[Counter[str], list[str]]:
    """Kill at boundaries and at random moments. Returns the number of each, and findings."""
    given, done, findings = problem(0), Counter[str](), []
    states = [home / "empty"]
    spent, lengths = [], []
    for number, step in enumerate(STEPS):
        folder = home / f"undisturbed-{number}"
        if number:
            shutil.copytree(states[-1], folder)
        log, began = home / "count", time.monotonic()
        if forked(lambda step=step, folder=folder: step(given, folder), killer(None, log), lambda child: None):
            return done, [f"{step.__name__} failed"]
        spent.append(time.monotonic() - began)
        lengths.append(int(log.read_text()))
        states.append(folder)
    places = [(number, place) for number, length in enumerate(lengths) for place in range(length)]
    chosen = [places[k * len(places) // boundaries] for k in range(boundaries)] if boundaries else []
    chosen += [(chance.randrange(len(STEPS)), -1) for _ in range(moments)]
    for number, place in chosen:
        step, folder = STEPS[number], home / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        if number:
            shutil.copytree(states[number], folder)
        sides = [_tables_of(state) for state in states[max(1, number) : number + 2]]
        delay = chance.uniform(0, spent[number])
        code = forked(
            lambda step=step, folder=folder: step(given, folder),
            killer(place, home / "count") if place >= 0 else lambda: None,
            (lambda child: None) if place >= 0 else lambda child, delay=delay: (time.sleep(delay), _kill(child)),
        )
        kind = "boundary" if place >= 0 else "moment"
        done[f"{kind} ({step.__name__})"] += code == -signal.SIGKILL
        where = f"{step.__name__}, {kind} {place}"
        findings += [f"{where}: {text}" for text in checked(folder, given, step, sides, states[number + 1])]
    return done, findings


def _kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)


# --- the page -----------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bits", type=int, default=200)
    parser.add_argument("--share", type=float, default=1.0, help="of the damages, chosen at random")
    parser.add_argument("--boundaries", type=int, default=40)
    parser.add_argument("--moments", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("error")
    torch.set_num_threads(1)  # a fork of a process with threads of OpenMP can hang
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        killed, wrong = kills(Path(temporary), options.boundaries, options.moments, chance)
        outcomes, findings = damage(Path(temporary), options.bits, options.share, chance)
    page = "\n".join(page_of(outcomes, killed, wrong + findings))
    print(page)
    if not options.no_write:
        Path(__file__).with_suffix(".md").write_text(page)
    return 1 if wrong or findings else 0


def page_of(outcomes: Counter[tuple[str, str, str]], killed: Counter[str], findings: list[str]) -> Iterator[str]:
    yield "# A folder that is damaged, and a writing that is killed"
    yield ""
    total = sum(outcomes.values()) // len(READERS)
    yield (
        f"`python docs/studies/damage.py`: {total:,} damaged folders, each read by {', '.join(READERS)}; "
        f"{sum(killed.values())} kills. {len(findings)} findings."
    )
    yield ""
    yield "| file | cases | refused | said by status | no difference |"
    yield "|---|---|---|---|---|"
    for kind in dict.fromkeys(kind for kind, _, _ in outcomes):
        found = Counter[str]()
        for (name, _, outcome), count in outcomes.items():
            found[outcome] += count * (name == kind)
        counts = [sum(found.values()), *(found[outcome] for outcome in ("refused", "said", "the same"))]
        yield f"| {kind} | {' | '.join(f'{count:,}' for count in counts)} |"
    yield ""
    yield "A case is a damage and a reader. No difference: the reader does not use the file, or the bit is in white"
    yield "space, and what it gives is what it gave before."
    yield ""
    yield "| killed | kills |"
    yield "|---|---|"
    for kind, count in sorted(killed.items()):
        yield f"| {kind} | {count} |"
    yield ""
    yield "After each kill: what is read is the state before or after, or is refused in one line; the same command"
    yield "again gives the tables of an undisturbed run, byte for byte, and leaves nothing over."
    yield ""
    yield from (f"* {text}" for text in findings[:50])


if __name__ == "__main__":
    sys.exit(main())
