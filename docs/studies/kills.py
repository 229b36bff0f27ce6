"""A run that is killed (kill −9) again and again at random moments and resumed each time.

python docs/studies/kills.py                     25 kills, at least 200 chunks; writes docs/studies/kills.md
python docs/studies/kills.py --kills 3 --draws 50000 --no-write

Checked: the tables are those of an undisturbed run, byte for byte, and every kill costs less than one chunk a worker.
The estimators write a line when they begin a chunk: a chunk that was begun twice is one that a kill cost.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ESTIMATORS = ("st", "reinforce", "arm", "concrete:temperature=0.5")
TABLES = ("summary", "curves", "exact_moments", "breakeven", "fits", "variance_reduction")
LOGGED = """
import multiprocessing, os, threading
from pathlib import Path
from gradeval.estimators import get_estimator

LOG, BEGUN = Path(__file__).with_name("begun.log"), set()

def logged(spec):
    estimator = get_estimator(spec)
    def draw(network, inputs, loss, randomness):
        # once a chunk, which has a seed of its own and draws point by point; draws that are timed have all points
        chunk = spec, randomness.generator.initial_seed()
        worker = threading.current_thread() is not threading.main_thread() or multiprocessing.parent_process()
        if worker and len(inputs) == 1 and chunk not in BEGUN:
            BEGUN.add(chunk)
            with LOG.open("a") as file:
                file.write(f"{spec}\\n")
        return estimator(network, inputs, loss, randomness)
    return draw

"""
RUN = """
import sys
from gradeval import evaluate, load_problem
if __name__ == "__main__":
    folder, module, executor, draws, workers, *names = sys.argv[1:]
    problem = load_problem("expclass", units="3-3", stage=0, points=20)
    evaluate(problem, [f"{module}:{name}" for name in names], draws=int(draws), exact="never", folder=folder,
             executor=executor, workers=int(workers))
"""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--draws", type=int, default=250_000, help="of each of four estimators")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--executor", default="threads")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        report = study(Path(temporary), options)
    print(report)
    if not options.no_write:
        Path(__file__).with_suffix(".md").write_text(report)
    return 0


def study(home: Path, options: argparse.Namespace) -> str:
    names = [f"e{k}" for k in range(len(ESTIMATORS))]
    module, log = home / "logged.py", home / "begun.log"
    lines = [f"{name} = logged({spec!r})" for name, spec in zip(names, ESTIMATORS, strict=True)]
    module.write_text(LOGGED + "\n".join(lines) + "\n")
    (home / "run.py").write_text(RUN)

    def command(folder: str, workers: int) -> list[str]:
        arguments = [home / folder, module, options.executor, options.draws, workers, *names]
        return [sys.executable, str(home / "run.py"), *map(str, arguments)]

    def chunks(folder: str) -> int:
        return sum(1 for _ in (home / folder).glob("chunks/*/*.safetensors"))

    subprocess.run(command("undisturbed", 1), check=True)
    total = chunks("undisturbed")
    log.unlink()
    moments = random.Random(options.seed)
    begun, done = [], 0
    for kill in range(options.kills):
        # a share of what is left, so that there is something to do until the last kill
        goal = done + moments.randint(1, max(1, 2 * (total - done) // (options.kills - kill + 1)))
        with subprocess.Popen(command("killed", options.workers)) as process:
            while chunks("killed") < min(goal, total - 1) and process.poll() is None:
                time.sleep(0.002)
            time.sleep(moments.uniform(0, 0.2))
            process.kill()
        done = chunks("killed")
        begun.append((done, len(log.read_text().splitlines()) if log.exists() else 0))
        assert process.returncode == -9, f"the run had ended before kill {kill + 1}: give it more draws"
    subprocess.run(command("killed", options.workers), check=True)
    same = {name: (home / "killed" / f"{name}.csv").read_bytes() for name in TABLES} == {
        name: (home / "undisturbed" / f"{name}.csv").read_bytes() for name in TABLES
    }
    assert same, "the tables differ"
    repeated = len(log.read_text().splitlines()) - total
    worst = max(b - a - (b0 - a0) for (a0, b0), (a, b) in zip([(0, 0), *begun], begun, strict=False))
    assert worst <= options.workers, f"a kill cost {worst} chunks with {options.workers} workers"
    workers = f"{options.workers} {options.executor}"
    lines = [
        "# Killed and resumed",
        "",
        f"`python docs/studies/kills.py`: a run of {total} chunks ({len(ESTIMATORS)} estimators, {options.draws:,} "
        f"draws each, {workers}) was killed with SIGKILL {options.kills} times at random moments and resumed.",
        "",
        f"* Tables ({', '.join(TABLES)}): byte-identical to those of an undisturbed run with one worker.",
        f"* Chunks on disk at the kills: {', '.join(str(a) for a, _ in begun)}.",
        f"* The kills cost {repeated} chunks that were begun and not finished, at most {worst} at one kill with "
        f"{workers} at work: at most one chunk a worker.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
