"""Spoilt and hostile files for every loader, which must refuse them with clean errors.

python docs/studies/fuzz.py                      120,000 inputs; writes docs/studies/fuzz.md
python docs/studies/fuzz.py --inputs 2000 --no-write

Valid files are spoilt (bits flipped, cut, spliced; JSON values replaced, removed, nested, extreme; arrays and columns
of other types, shapes and sizes; pickles), or a pipe, a device, a link or a folder stands in their place. In half of
all cases the digests that vouch for them are forged, too. Then they are loaded.
Success and GradevalError are fine. A finding is any other exception, a warning, a crash of the process, a pickle that
was loaded, more than 20 s for one input, or more than 2 GiB of memory.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import random
import resource
import socket
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.numpy import load, save

from gradeval import Evaluation, GradevalError, Problem, evaluate
from gradeval.analysis.run.report import report_page
from gradeval.evaluation.chunk_file import parse_chunk, read_chunk
from gradeval.evaluation.plan import Plan
from gradeval.evaluation.status import run_status
from gradeval.files import digest_of, sealed
from gradeval.model.network import StochasticBinaryNetwork

BATCH = 500
LOADERS = ("problem", "plan", "chunk", "run", "status")
SHARES = {"problem": 0.3, "plan": 0.2, "chunk": 0.25, "run": 0.2, "status": 0.05}
MEMORY = 2 * 2**30
SECONDS = 20.0
DEEP = "in its place comes a deep nest of lists"
MARK = "GRADEVAL_FUZZ_PICKLE_WAS_LOADED"


class Pickle:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.putenv, (MARK, "1")


def originals(home: Path) -> None:
    """Valid files to be spoilt."""
    network = StochasticBinaryNetwork.linear(2, (2,), 1)
    numbers = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=numbers, dtype=torch.float64))
    inputs = torch.randn(4, 2, generator=numbers, dtype=torch.float64)
    problem = Problem(network, inputs, torch.tensor([1.0, -1, 1, 1]), "logistic")
    evaluate(problem, ["st", "tanh"], draws=300, folder=home / "run")
    problem.save(home / "problem.json")


def spoil_bytes(content: bytes, chance: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 4, 16])):
        place = chance.randrange(max(1, len(data)))
        match chance.randrange(7):
            case 0 if data:
                data[place % len(data)] ^= 1 << chance.randrange(8)
            case 1 if data:
                data[place % len(data)] = chance.choice([0, 255, chance.randrange(256)])
            case 2:
                del data[place:]
            case 3:
                del data[place : place + chance.randrange(1, 64)]
            case 4:
                data[place:place] = chance.randbytes(chance.randrange(1, 64))
            case 5:
                start = chance.randrange(max(1, len(data)))
                data[place:place] = data[start : start + 256]
            case 6 if data:
                size = chance.choice([4, 8])
                data[place : place + size] = chance.choice([0, 2 ** (8 * size) - 1, 2**31 - 1]).to_bytes(size, "little")
    return bytes(data)


def strange(chance: random.Random) -> Any:
    return chance.choice(
        [
            *(None, True, False, 0, -1, 1, 2**63, -(2**63), 10**400, 1e308, -1e308, 1e-320, float("nan"), float("inf")),
            *(5e-324, 2.2e-308, 1.8e308, -0.0, 1e299, -1e299, 1e100, 1 + 2**-52, 2**53 + 1, 1e-300),
            *("", "x", "\ud800", "\x00", "<script>alert(1)</script>", "$\\frac", "../../etc/passwd", "x" * 100_000),
            *([], {}, [[]], [None], {"": None}, [1, 2, 3], [[1.0], [2.0, 3.0]], ["a"], DEEP, [0] * 10_000, 0.5),
        ]
    )


def spoil_json(content: bytes, chance: random.Random) -> bytes:
    document = json.loads(content)
    for _ in range(chance.choice([1, 1, 2, 3])):
        node: Any = document
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
            if not keys:
                break
            key = chance.choice(keys)
            if isinstance(node[key], dict | list) and chance.random() < 0.7:
                node = node[key]
                continue
            match chance.randrange(5):
                case 0 | 1:
                    node[key] = strange(chance)
                case 2:
                    del node[key]
                case 3 if isinstance(node, dict):
                    node[chance.choice(["", "x", "all", "1"])] = node.pop(key)
                case 3:
                    node.append(strange(chance))
                case 4:
                    node[key] = [node[key]]
            break
    text = json.dumps(document, ensure_ascii=chance.random() < 0.9)
    depth = chance.choice([5, 3000])
    text = text.replace(f'"{DEEP}"', "[" * depth + "]" * depth)
    return text.encode("utf-8", errors="surrogatepass")


def spoil_one_array(arrays: dict[str, Any], chance: random.Random, others: list[Callable[[Any], Any]]) -> None:
    """Replace one of the arrays, or leave it out."""
    name = chance.choice(list(arrays))
    choices: list[Callable[[Any], Any]] = [
        lambda old: np.zeros(0),
        lambda old: old[None],
        lambda old: old.ravel()[:-1],
        lambda old: old * np.nan,
        lambda old: -np.abs(old.astype(float)),
        lambda old: old.astype(np.float16),
        lambda old: old > 0,
        lambda old: np.full(old.shape, 1e308),
        *others,
    ]
    arrays[name] = chance.choice(choices)(arrays[name])
    if chance.random() < 0.1:
        del arrays[name]


def spoil_safetensors(content: bytes, chance: random.Random) -> bytes:
    """Other arrays, or a header that lies about them."""
    if chance.random() < 0.5:
        arrays = load(content)
        spoil_one_array(arrays, chance, [lambda old: np.full(old.shape, np.inf), lambda old: old.astype(np.int8)])
        return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    end = 8 + int.from_bytes(content[:8], "little")
    header = spoil_json(content[8:end], chance)
    size = chance.choice([len(header)] * 4 + [0, 2**63])
    return size.to_bytes(8, "little") + header + content[end:]


def spoil_arrays(content: bytes, chance: random.Random) -> bytes:
    with np.load(io.BytesIO(content)) as file:
        arrays: dict[str, Any] = {name: file[name] for name in file.files}
    others: list[Callable[[Any], Any]] = [
        lambda old: np.array([Pickle()], dtype=object),
        lambda old: np.asarray(old, dtype=str),
        lambda old: np.zeros((1,) * 32),
        lambda old: old.astype(complex),
        lambda old: np.zeros(3, dtype=[("a", "f8"), ("b", "i4")]),
    ]
    spoil_one_array(arrays, chance, others)
    sink = io.BytesIO()
    chance.choice([np.savez, np.savez_compressed])(sink, **arrays)
    if chance.random() < 0.2:  # a header that lies about the size, or a foreign entry
        with zipfile.ZipFile(sink, "a") as file:
            shape = chance.choice(["(1000000000000,)", "(-1,)", "(10000000,)", "((1,),)", "()"])
            header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
            file.writestr("exact2.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
            file.writestr(chance.choice(["x", "../x", "x.npy"]), chance.choice([b"", pickle.dumps(Pickle()), b"x"]))
    return sink.getvalue()


def spoil_table(content: bytes, chance: random.Random) -> bytes:
    table = pq.read_table(io.BytesIO(content))
    column = chance.randrange(table.num_columns)
    rows = table.num_rows
    others = [
        lambda: pa.nulls(rows),
        lambda: pa.array(["x"] * rows),
        lambda: pa.array([b"\xff"] * rows),
        lambda: pa.array([[1.0]] * rows),
        lambda: pa.array([{"a": 1}] * rows),
        lambda: pa.array([True] * rows),
        lambda: pa.array([0] * rows, pa.timestamp("ns")),
        lambda: pa.array(["x"] * rows).dictionary_encode(),
        lambda: pa.array([float("nan")] * rows),
        lambda: pa.array([1e308] * rows),
        lambda: pa.array([-1] * rows),
    ]
    match chance.randrange(5):
        case 0:
            table = table.drop_columns([table.column_names[column]])
        case 1:
            table = table.slice(0, chance.randrange(rows + 1))
        case 2:
            table = table.rename_columns([chance.choice(["", "x", name]) for name in table.column_names])
        case _:
            table = table.set_column(column, table.column_names[column], chance.choice(others)())
    if chance.random() < 0.2:
        table = table.replace_schema_metadata({"pandas": chance.choice(["", "{", "[]", '{"columns": 1}'])})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression=chance.choice(["none", "snappy", "zstd", "gzip"]))
    return sink.getvalue()


def spoil(path: Path, content: bytes, chance: random.Random) -> bytes:
    structures = {
        ".json": spoil_json,
        ".npz": spoil_arrays,
        ".parquet": spoil_table,
        ".safetensors": spoil_safetensors,
    }
    return (spoil_bytes if chance.random() < 0.4 else structures[path.suffix])(content, chance)


def forge(folder: Path) -> None:
    """Give a run's manifest and plan the digests of what is there, as a stranger could."""
    for name in ("manifest.json", "plan.json"):
        path = folder / name
        if not path.is_file():  # a device would be read for ever
            continue
        try:
            document = json.loads(path.read_bytes())
            document.pop("digest", None)
            for file in document.get("files", {}):
                if (folder / file).is_file():
                    document["files"][file] = digest_of((folder / file).read_bytes())
            path.write_bytes(sealed(document))
        except (ValueError, AttributeError, TypeError, RecursionError, OSError):  # no document any more
            continue


def misplace(path: Path, chance: random.Random) -> None:
    """Put something in a file's place that is no file."""
    path.unlink()
    match chance.randrange(6):
        case 0:
            os.mkfifo(path)
        case 1:
            path.symlink_to(chance.choice(["/dev/zero", "/dev/null", "/dev/stdin", "/dev/random"]))
        case 2:
            path.symlink_to(chance.choice(["nowhere", path.name, "..", "/etc/passwd", "/proc/self/mem"]))
        case 3:
            path.mkdir()
        case 4:
            with socket.socket(socket.AF_UNIX) as end:
                end.bind(str(path))


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def one(loader: str, home: Path, chance: random.Random) -> None:
    """Spoil one file, load it, put it back."""
    run = home / "run"
    plan_path = run / "plan.json"
    if loader == "chunk":  # also past the checksum, which a stranger can forge
        plan = Plan.read(run)
        (path,) = run.glob("chunks/st-*/*.safetensors")
        parse_chunk(spoil(path, path.read_bytes(), chance), plan, "st", chance.choice([0, 0, 0, 1, 10**9]), 300)
        return
    choices = {
        "problem": [home / "problem.json"],
        "plan": [plan_path],
        "run": [run / name for name in ("manifest.json", "moments.npz", "curves.parquet", "exact_moments.parquet")],
        "status": [plan_path, *run.glob("chunks/*/*.safetensors"), run / "plan.json"],
    }
    path = chance.choice(choices[loader])
    kept = {path: path.read_bytes() for path in (path, run / "manifest.json", run / "plan.json")}
    try:
        if chance.random() < 0.1:
            misplace(path, chance)
        else:
            path.write_bytes(spoil(path, kept[path], chance))
        if chance.random() < 0.5:
            forge(run)
        if loader == "problem":
            Problem.load(path).fingerprint()
        elif loader == "plan":
            plan = Plan.read(run)
            if "st" in plan.estimators:
                (chunk,) = run.glob("chunks/st-*/*.safetensors")
                read_chunk(chunk, plan, "st")
        elif loader == "run":
            found = Evaluation.load(run)
            if chance.random() < 0.05:
                report_page(found, [])
        else:
            run_status(run)
    finally:
        for path, content in kept.items():
            remove(path)
            path.write_bytes(content)


def batch(loader: str, seed: int, count: int) -> tuple[Counter[str], list[str], float, int]:
    """Spoil and load ``count`` files. Returns outcomes, findings, the longest time and the peak of memory."""
    warnings.simplefilter("error")
    chance = random.Random(f"{loader} {seed}")
    outcomes: Counter[str] = Counter()
    findings, longest = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        originals(Path(folder))
        for number in range(count):
            began = time.monotonic()
            try:
                one(loader, Path(folder), chance)
                outcomes["loaded"] += 1
            except GradevalError as error:
                outcomes["refused"] += 1
                if "\n" in str(error).strip() and len(findings) < 5:
                    findings.append(f"{loader} {seed} {number}: more than one line: {error!r:.300}")
            except BaseException:  # a clean error is all that may come
                findings.append(f"{loader} {seed} {number}: {traceback.format_exc()}")
            longest = max(longest, time.monotonic() - began)
            if os.environ.get(MARK) or _putenv_seen():
                findings.append(f"{loader} {seed} {number}: a pickle was loaded")
                break
    return outcomes, findings, longest, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _putenv_seen() -> bool:
    """os.putenv bypasses os.environ: ask the C library."""
    import ctypes

    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    return getenv(MARK.encode()) is not None


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=120_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    began = time.monotonic()
    tasks = []
    for loader in LOADERS:
        count = int(options.inputs * SHARES[loader])
        tasks += [(loader, options.seed * 10_000 + s, min(BATCH, count - s)) for s in range(0, count, BATCH)]
    outcomes: dict[str, Counter[str]] = {loader: Counter() for loader in LOADERS}
    findings, longest, peak = [], 0.0, 0
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:  # a crash breaks the pool: a finding
        futures = [(loader, pool.submit(batch, loader, seed, count)) for loader, seed, count in tasks]
        for loader, future in futures:
            counted, found, slowest, memory = future.result()
            outcomes[loader] += counted
            findings += found
            longest, peak = max(longest, slowest), max(peak, memory)
    total = sum(sum(counted.values()) for counted in outcomes.values()) + len(findings)
    lines = [
        "# Spoilt files",
        "",
        f"`python docs/studies/fuzz.py`: {total:,} inputs in {time.monotonic() - began:.0f} s, "
        f"{len(findings)} findings. Longest: {longest:.1f} s; peak of memory, with the libraries: "
        f"{peak / 2**20:.0f} MiB. A report is made of one in 20 of the runs that can be loaded.",
        "",
        "| loader | inputs | refused with GradevalError | loaded (harmless) |",
        "|---|---|---|---|",
    ]
    for loader, counted in outcomes.items():
        lines.append(f"| {loader} | {sum(counted.values()):,} | {counted['refused']:,} | {counted['loaded']:,} |")
    report = "\n".join(lines) + "\n"
    print(report)
    for finding in findings[:20]:
        print(finding, file=sys.stderr)
    if findings or longest > SECONDS or peak > MEMORY:
        return 1
    if not options.no_write:
        Path(__file__).with_suffix(".md").write_text(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
