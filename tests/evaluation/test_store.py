"""Runs in a folder: continued, extended, refused where they would be mixed; damage is noticed."""

from __future__ import annotations

import importlib.util
import json
import linecache
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from gradeval import Evaluation, GradevalError, Problem, evaluate
from gradeval.errors import Incomplete
from gradeval.evaluation.chunk_file import chunk_bytes, parse_chunk
from gradeval.evaluation.plan import Plan, Planned, check_problem
from gradeval.evaluation.status import run_status
from gradeval.evaluation.store import Store
from gradeval.files import sealed
from gradeval.sampling.streaming import Scorer, reduce_chunk

SPECS = ["st", "relax", "tanh"]
TABLES = ("summary", "curves", "exact_moments", "breakeven", "fits", "variance_reduction")


def tables(folder: Path) -> dict[str, bytes]:
    return {name: (folder / f"{name}.csv").read_bytes() for name in TABLES}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small: Problem) -> Path:
    """A run of 12,500 draws in a folder."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    evaluate(small, SPECS, draws=12_500, seed=5, folder=folder)
    return folder


@pytest.fixture
def begun(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "begun"))


def chunks(folder: Path) -> list[Path]:
    return sorted(folder.glob("chunks/*/*.safetensors"))


class Counting:
    """Progress that counts."""

    def __init__(self) -> None:
        self.notes = ""

    def start(self, estimator: str, draws: int) -> None:
        pass

    def advance(self, task: str, steps: int) -> None:
        pass

    def finish(self, task: str, note: str = "") -> None:
        self.notes += note


def test_a_folder_changes_no_table_and_holds_the_run(small: Problem, finished: Path, tmp_path: Path) -> None:
    evaluate(small, SPECS, draws=12_500, seed=5).save(tmp_path / "without")
    assert tables(finished) == tables(tmp_path / "without")
    found = run_status(finished)
    assert found["complete"]
    assert found["holder"] is None
    assert {row["estimator"]: row["chunks"] for row in found["estimators"]} == {
        "st": 3, "relax": 3, "tanh": 1
    }  # fmt: skip
    assert not list(finished.rglob("*.part"))
    assert not (finished / "holder.json").exists()


def test_again_does_nothing_and_missing_chunks_are_made(small: Problem, begun: Path, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in chunks(begun)}
    evaluate(small, SPECS, draws=12_500, seed=5, folder=begun)
    assert {path: path.stat().st_mtime_ns for path in chunks(begun)} == before
    for lost in chunks(begun)[1::3]:
        lost.unlink()
    evaluate(small, SPECS, draws=12_500, seed=5, folder=begun, workers=3)
    assert {path.name for path in chunks(begun)} == {path.name for path in before} or tables(begun) == tables(finished)
    assert tables(begun) == tables(finished)


@pytest.mark.parametrize("draws", [5000, 17_000])
def test_more_or_fewer_draws_are_as_if_made_at_once(small: Problem, begun: Path, tmp_path: Path, draws: int) -> None:
    whole = {path for path in chunks(begun) if "-5000-" in path.name}
    before = {path: path.stat().st_mtime_ns for path in whole}
    evaluate(small, SPECS, draws=draws, seed=5, folder=begun)
    evaluate(small, SPECS, draws=draws, seed=5).save(tmp_path / "at once")
    more, once = Evaluation.load(begun), Evaluation.load(tmp_path / "at once")
    assert (more.manifest["looks"], once.manifest["looks"]) == (2, 1)  # the error rate is spent over the looks
    one_look = replace(more, manifest=more.manifest | {"looks": 1})
    one_look.save(tmp_path / "one look")
    assert tables(tmp_path / "one look") == tables(tmp_path / "at once")
    assert {path: path.stat().st_mtime_ns for path in whole} == before


def test_estimators_are_added(small: Problem, begun: Path, tmp_path: Path) -> None:
    evaluate(small, [*SPECS, "psa"], draws=12_500, seed=5, folder=begun)
    evaluate(small, [*SPECS, "psa"], draws=12_500, seed=5).save(tmp_path / "at once")
    assert tables(begun) == tables(tmp_path / "at once")


def flip(content: bytearray, place: int) -> bytes:
    content[place] ^= 1
    return bytes(content)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: flip(bytearray(content), 0),
        lambda content: flip(bytearray(content), len(content) // 2),
        lambda content: flip(bytearray(content), len(content) - 1),
    ],
)
def test_a_damaged_chunk_is_noticed_and_made_again(
    small: Problem, begun: Path, finished: Path, spoil: Callable[[bytes], bytes]
) -> None:
    path = next(iter(begun.glob("chunks/st-*/0000001-*.safetensors")))
    path.write_bytes(spoil(path.read_bytes()))
    assert run_status(begun)["estimators"][0]["damaged"] == [path.name]
    progress = Counting()
    evaluation = evaluate(small, SPECS, draws=12_500, seed=5, folder=begun, progress=progress)
    assert "damaged (its checksum is wrong)" in progress.notes
    assert "computed again" in evaluation.manifest["estimators"]["st"]["notes"][0]
    assert tables(begun) == tables(finished)
    assert run_status(begun)["estimators"][0]["damaged"] == []


def test_a_chunk_in_anothers_place_is_noticed(small: Problem, begun: Path, finished: Path) -> None:
    """A whole file with a good checksum, under the name of another chunk or of another estimator."""
    first, second, _ = sorted(begun.glob("chunks/st-*/*.safetensors"))
    shutil.copy(first, second.with_name(first.name.replace("0000000-", "0000001-")))
    second.unlink()
    other = next(iter(begun.glob("chunks/relax-*/0000000-*.safetensors")))
    other.unlink()
    shutil.copy(first, other.with_name(first.name))
    assert [len(row["damaged"]) for row in run_status(begun)["estimators"]] == [1, 1, 0]
    evaluate(small, SPECS, draws=12_500, seed=5, folder=begun)
    assert tables(begun) == tables(finished)


def test_damaged_exact_moments_are_made_again(small: Problem, begun: Path, finished: Path) -> None:
    path = next(iter(begun.glob("chunks/st-*/exact-*.json")))
    path.write_bytes(flip(bytearray(path.read_bytes()), 300))
    evaluate(small, SPECS, draws=12_500, seed=5, folder=begun)
    assert tables(begun) == tables(finished)


def change(folder: Path, **values: object) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_bytes(sealed({k: v for k, v in plan.items() if k != "digest"} | values))


def test_other_runs_are_refused(small: Problem, begun: Path, make_problem) -> None:
    def refused(message: str, problem: Problem = small, specs: list[str] = SPECS, seed: int = 5) -> None:
        before = {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()}
        with pytest.raises(GradevalError, match=message):
            evaluate(problem, specs, draws=12_500, seed=seed, folder=begun)
        assert {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()} == before

    refused("holds a run of another problem", make_problem((2,), seed=1))
    refused("holds a run of another seed", seed=6)
    refused("also holds 'relax'", specs=["st", "tanh"])
    refused("holds a run of another list of layers|another problem", make_problem((2, 2)))
    plan = json.loads((begun / "plan.json").read_text())
    change(begun, engine="0" * 32)
    refused("another version of gradeval's sources")
    change(begun, engine=plan["engine"], format="gradeval-plan/9")
    refused("its format is 'gradeval-plan/9', this version continues 'gradeval-plan/4'")
    change(begun, format=plan["format"], chunk=1000)
    refused("its chunks are not of 5000 draws")
    change(begun, chunk=5000)
    plan["estimators"]["st"]["source"] = "0" * 32
    change(begun, estimators=plan["estimators"])
    refused("the source of 'st' has changed since its chunks were made: remove .*st-")
    plan = Plan.read(begun)
    shutil.rmtree(next(iter(begun.glob("chunks/st-*"))))
    evaluate(small, SPECS, draws=12_500, seed=5, folder=begun)
    assert Plan.read(begun).estimators["st"].source != plan.estimators["st"].source


def test_a_run_of_an_older_version_is_refused_with_what_to_do(small: Problem, begun: Path) -> None:
    change(begun, format="gradeval-plan/1")
    with pytest.raises(GradevalError, match="repeat the command that began it with a new --out"):
        evaluate(small, SPECS, draws=12_500, seed=5, folder=begun)
    assert Evaluation.load(begun).moments.keys() == set(SPECS)


ENGINE = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from gradeval import GradevalError, Problem, evaluate
from gradeval.evaluation import sources

assert Path(sources.__file__).is_relative_to(sys.argv[1]), sources.__file__
problem = Problem.load(sys.argv[2])
evaluate(problem, ["tanh"], draws=20, folder="run")
first, modules = sources._gradeval_hash(), sources.engine_modules()
for name, path in modules.items():
    before = path.read_text()
    path.write_text(before + "# another line")
    sources._gradeval_hash.cache_clear()
    if name not in list(modules)[:3]:  # evaluate takes long, and goes by the hash
        if sources._gradeval_hash() == first:
            print(name, "was edited, and the hash is the same")
        path.write_text(before)
        continue
    try:
        evaluate(problem, ["tanh"], draws=20, folder="run")
        print(name, "was edited, and nobody noticed")
    except GradevalError as error:
        if "holds a run of another version of gradeval's sources" not in str(error):
            print(name, error)
    path.write_text(before)
sources._gradeval_hash.cache_clear()
evaluate(problem, ["tanh"], draws=20, folder="run")
print("tried", *sources.engine_modules())
"""


def test_an_edit_of_any_source_that_decides_the_numbers_is_refused(small: Problem, tmp_path: Path) -> None:
    """In a copy of the package every such module is edited in turn. Planted: a constant hash (nothing is noticed)."""
    copy = tmp_path / "copy"
    for package in ("gradeval", "gradeval.analysis", "gradeval.reference"):
        (home,) = importlib.import_module(package).__path__
        shutil.copytree(home, copy.joinpath(*package.split(".")), dirs_exist_ok=True)
    small.save(tmp_path / "p.json")
    command = [sys.executable, "-P", "-c", ENGINE, str(copy), str(tmp_path / "p.json")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (tried,) = done.stdout.splitlines()
    for module in ("model.flips", "model.maps", "model.losses", "model.problem", "model.noise", "model.network"):
        assert f"gradeval.{module}" in tried.split()
    for module in ("model.randomness", "sampling.surrogates", "sampling.sampler", "sampling.streaming"):
        assert f"gradeval.{module}" in tried.split()
    assert not {"gradeval.program", "gradeval.analysis.run.figures"} & set(tried.split())


def test_an_edit_of_an_own_loss_or_map_is_refused(small: Problem, tmp_path: Path) -> None:
    """The fingerprint knows an own loss by its name only; the source decides the numbers."""
    file = tmp_path / "own_loss.py"

    def written(power: int) -> Problem:
        file.write_text(f"def loss(output, target):\n    return (output.squeeze(-1) ** 2) ** {power} + 0 * target\n")
        linecache.checkcache()
        spec = importlib.util.spec_from_file_location("own_loss", file)
        assert spec is not None
        assert spec.loader is not None
        sys.modules["own_loss"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return Problem(small.network, small.inputs, small.targets, module.loss)

    try:
        evaluate(written(1), ["tanh"], draws=20, folder=tmp_path / "run")
        evaluate(written(1), ["tanh"], draws=20, folder=tmp_path / "run")
        with pytest.raises(GradevalError, match="another version of gradeval's sources"):
            evaluate(written(2), ["tanh"], draws=20, folder=tmp_path / "run")
    finally:
        sys.modules.pop("own_loss", None)


def test_an_own_loss_without_a_source_is_refused_in_a_folder(small: Problem, tmp_path: Path) -> None:
    names = {"__name__": "nowhere"}
    exec("def loss(output, target):\n    return output.squeeze(-1) ** 2 + 0 * target", names)
    problem = Problem(small.network, small.inputs, small.targets, names["loss"])  # type: ignore[arg-type]
    assert evaluate(problem, ["tanh"], draws=20).moments
    with pytest.raises(GradevalError, match="the source of the loss loss cannot be found"):
        evaluate(problem, ["tanh"], draws=20, folder=tmp_path / "run")


def test_an_estimator_that_draws_otherwise_is_refused(small: Problem, tmp_path: Path) -> None:
    """The planted change is in a file that the estimator imports."""
    (tmp_path / "helper_of_mine.py").write_text("SCALE = 1.0\n")
    (tmp_path / "mine_with_helper.py").write_text(
        "import helper_of_mine\n"
        "from gradeval.estimators import get_estimator\n"
        "def mine(*arguments):\n"
        "    return helper_of_mine.SCALE * get_estimator('st')(*arguments)\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        spec = "mine_with_helper:mine"
        evaluate(small, [spec], draws=40, folder=tmp_path / "run")
        sys.modules["helper_of_mine"].SCALE = 1.1  # type: ignore[attr-defined]
        with pytest.raises(GradevalError, match=r"what is drawn by 'mine_with_helper:mine' has changed"):
            evaluate(small, [spec], draws=40, folder=tmp_path / "run")
        with (tmp_path / "mine_with_helper.py").open("a") as file:
            file.write("# another line\n")
        with pytest.raises(GradevalError, match=r"the source of 'mine_with_helper:mine' has changed"):
            evaluate(small, [spec], draws=40, folder=tmp_path / "run")
    finally:
        sys.path.remove(str(tmp_path))


def test_a_folder_with_something_else_is_refused(small: Problem, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(GradevalError, match="exists and is not empty"):
        evaluate(small, ["st"], draws=40, folder=tmp_path)
    with pytest.raises(GradevalError, match="is a file, not a folder"):
        evaluate(small, ["st"], draws=40, folder=tmp_path / "thesis.txt")
    assert os.listdir(tmp_path) == ["thesis.txt"]
    with pytest.raises(GradevalError, match=r"holds no run: it has no plan\.json"):
        run_status(tmp_path)


def test_the_second_process_is_told_who_holds_the_folder(small: Problem, begun: Path) -> None:
    code = (
        "import sys, time\n"
        "from gradeval.evaluation.store import Store\n"
        "with Store(sys.argv[1]):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(begun)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert f"process {holder.pid} on " in run_status(begun)["holder"]
        with pytest.raises(GradevalError, match=rf"in use by process {holder.pid} on \S+ since \d{{4}}-.*: wait"):
            evaluate(small, SPECS, draws=12_500, seed=5, folder=begun)
        holder.kill()
        holder.wait()
    assert (begun / "holder.json").exists()  # it had no time to tidy up
    assert run_status(begun)["holder"] is None
    evaluate(small, SPECS, draws=12_500, seed=5, folder=begun)


@pytest.mark.parametrize("place", ["chunks/st-56af4bde", "summary.csv", "plan.json", "lock"])
def test_a_stranger_s_links_lead_nowhere(small: Problem, begun: Path, tmp_path: Path, place: str) -> None:
    """Planted: a link in the place of a file or of a chunk folder; files outside were overwritten or deleted."""
    outside = tmp_path / "outside"
    (begun / place).rename(outside)
    (begun / place).symlink_to(outside)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(GradevalError, match=rf"{place} is a link: gradeval writes only where"):
        evaluate(small, SPECS, draws=12_500, seed=5, folder=begun)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_problem_of_a_run_is_the_plan_s(small: Problem, begun: Path) -> None:
    """Another description would go into the report of a resumed run."""
    assert run_status(begun)["damaged"] == []
    replace(small, description="another").save(begun / "problem.json")
    (text,) = run_status(begun)["damaged"]
    assert "problem.json is not the problem of this run" in text
    with pytest.raises(GradevalError, match=r"problem.json is not the problem of this run"):
        check_problem(begun, Plan.read(begun))
    evaluate(small, SPECS, draws=12_500, seed=5, folder=begun)  # the command again writes it again
    assert run_status(begun)["complete"]


def test_two_runs_in_one_process_do_not_share_a_folder(begun: Path) -> None:
    with Store(begun), pytest.raises(GradevalError, match=f"in use by process {os.getpid()} on"), Store(begun):
        pass


def test_a_number_that_is_none_is_read_in_silence(begun: Path) -> None:
    """A signalling NaN, which a flipped bit can make: any arithmetic with it warns, and a warning is an error here."""
    plan = Plan.read(begun)
    path = next(begun.glob("chunks/st-*/*.safetensors"))
    arrays = load(path.read_bytes())
    arrays["squares"].view(np.uint64)[1] = 0x7FF4000000000000
    index, count = map(int, path.name.split("-")[:2])
    assert np.isnan(parse_chunk(save(arrays), plan, "st", index, count).joint.squares).any()


@pytest.mark.parametrize(("index", "count"), [(0, 5000), (3, 1720), (7, 2)])
def test_chunks_keep_every_bit(index: int, count: int) -> None:
    """Of whole, partial and tiny chunks; also NaN, the cosines of a layer whose gradient is zero."""
    random = torch.Generator().manual_seed(0)
    gradients = torch.randn(count, 5, generator=random, dtype=torch.float64)
    layers = {"1": slice(0, 3), "head": slice(3, 5), "all": slice(0, 5)}
    exact = torch.tensor([0.1, 0.2, 0.3, 0.0, 0.0], dtype=torch.float64)
    chunk = reduce_chunk(Scorer(exact, layers), gradients, gradients[:, 0], index)
    chunk.times = np.array([[count, 0.1]])
    places = {layer: (where.start, where.stop) for layer, where in layers.items()}
    plan = Plan(
        "f" * 64, 0, "cpu", "float64", "e" * 32, places, exact.tolist(), {"st": Planned("s", 10**6, [])}, [10**6]
    )
    content = chunk_bytes(chunk, plan, "st", index, count)
    again = parse_chunk(content, plan, "st", index, count)
    assert chunk_bytes(again, plan, "st", index, count) == content
    for one, two in ((chunk.joint, again.joint), *((chunk.levels[m][0], again.levels[m][0]) for m in chunk.levels)):
        assert one.count == two.count
        for key in ("mean", "squares"):
            np.testing.assert_array_equal(getattr(one, key), getattr(two, key), strict=True)
    for m in chunk.levels:
        np.testing.assert_array_equal(chunk.levels[m][1], again.levels[m][1], strict=True)
    np.testing.assert_array_equal(chunk.means, again.means, strict=True)
    np.testing.assert_array_equal(chunk.thirds, again.thirds, strict=True)
    np.testing.assert_array_equal(chunk.descents, again.descents, strict=True)
    assert chunk.levels.keys() == again.levels.keys()
    np.testing.assert_array_equal(again.times, chunk.times, strict=True)


def test_any_executor_serves(small: Problem, finished: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as executor:
        evaluate(small, SPECS, draws=12_500, seed=5, executor=executor, workers=2).save(tmp_path / "run")
        assert executor.submit(int, 3).result() == 3  # it is left running
    assert tables(tmp_path / "run") == tables(finished)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": "proceses"}, "unknown executor 'proceses': did you mean processes"),
        ({"timeout": 3.0}, "a timeout needs processes"),
        ({"executor": "processes", "timeout": -1.0}, "the timeout must be a positive number"),
    ],
)
def test_unusable_ways_to_run(small: Problem, options: dict[str, object], message: str) -> None:
    with pytest.raises(GradevalError, match=message):
        evaluate(small, ["st"], draws=40, **options)  # type: ignore[arg-type]


def test_an_executor_that_was_shut_down(small: Problem) -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(GradevalError, match="the executor takes no more work"):
        evaluate(small, ["st"], draws=40, executor=executor)


def nan_now_and_then(network, inputs, loss, randomness):
    return loss(inputs.new_zeros(len(inputs), 2)) * torch.where(randomness.uniform((1,)) < 5e-5, torch.nan, 1.0)


class RaisesInOneChunk:
    """In its 27th call; the first three are trials."""

    calls = 0

    def __call__(self, network, inputs, loss, randomness):
        type(self).calls += 1
        if type(self).calls == 27:
            raise ArithmeticError("lost the thread")
        return loss(inputs.new_zeros(len(inputs), 2)) * randomness.uniform((1,))


def test_an_estimator_that_fails_in_one_chunk_is_marked_and_the_others_finish(small: Problem, tmp_path: Path) -> None:
    """Planted: NaN in one draw of 20,000, and an exception in one of 40 chunks."""
    folder = tmp_path / "run"
    RaisesInOneChunk.calls = 0
    specs = ["tanh", nan_now_and_then, RaisesInOneChunk(), "st"]
    with pytest.raises(
        Incomplete, match=r"gave NaN or infinite gradients in \d of 5000 draws.*kept: tanh, st"
    ) as caught:
        evaluate(small, specs, draws=200_000, exact="never", folder=folder, workers=2)
    assert len(caught.value.evaluation.manifest["failures"]) == 2  # type: ignore[union-attr]
    assert set(Evaluation.load(folder).moments) == {"tanh", "st"}
    rows = {row["estimator"].rpartition(":")[2]: row for row in run_status(folder)["estimators"]}
    assert rows["st"]["failure"] is None
    assert rows["st"]["chunks"] == 40
    assert "ArithmeticError: lost the thread" in rows["RaisesInOneChunk"]["failure"]
    text = next(iter(folder.glob("chunks/*RaisesInOneChunk*/failure-*.txt"))).read_text()
    assert re.search(r"in chunk \d+\n", text)
    assert "raise ArithmeticError" in text
    # it raises no more: only the chunks that are missing are made, and it is no failure any more
    with pytest.raises(Incomplete):
        evaluate(small, specs, draws=200_000, exact="never", folder=folder, workers=2)
    assert not list(folder.glob("chunks/*RaisesInOneChunk*/failure-*.txt"))
