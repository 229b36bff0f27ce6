"""The pytest fixture, in a project of a user."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ENVIRONMENT = os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, text=True, capture_output=True, timeout=300)


def test_a_users_project(tmp_path: Path) -> None:
    """Own analysis.py and reference/ beside own tests: they are not shadowed, and the fixture passes and fails."""
    (tmp_path / "analysis.py").write_text("MINE = 'my analysis'\n")
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "__init__.py").write_text("MINE = 'my reference'\n")
    (tmp_path / "mine.py").write_text(
        "import analysis, reference\n"
        "from gradeval.estimators import get_estimator\n"
        "assert analysis.MINE + reference.MINE == 'my analysismy reference'\n"
        "good = get_estimator('reinforce')\n"
        "def bad(network, inputs, loss, randomness):\n"
        "    f = good(network, inputs, loss, randomness)\n"
        "    return 2 * f - f.detach()\n"
    )
    (tmp_path / "test_mine.py").write_text(
        "import mine, gradeval\n"
        "PROBLEMS = [gradeval.load_problem('expclass', units='2-2', stage=0, points=4)]  # the battery takes long\n"
        "def test_good(gradeval_check):\n"
        "    assert gradeval_check(mine.good, unbiased=True, problems=PROBLEMS).verdict == 'holds'\n"
        "def test_bad(gradeval_check):\n"
        "    gradeval_check(mine.bad, unbiased=True, problems=PROBLEMS)\n"
        "def test_unusable(gradeval_check):\n"
        "    gradeval_check('psaa')\n"
        "def test_options(request):\n"
        "    assert request.config.getoption('--gradeval-seed') in (0, 7)\n"
    )
    pytest_ = ("-m", "pytest", "-q", "-W", "error")
    done = run(*pytest_, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 failed, 2 passed" in done.stdout
    assert "all layers and the head: the exact gradient times 2 (scale 2)" in done.stdout
    assert "relative_bias" in done.stdout
    assert "gradeval_check: unknown estimator 'psaa': did you mean psa" in done.stdout
    assert "Traceback" not in done.stdout
    parallel = run(
        *pytest_, "-n", 1, "-k", "good or options", "--gradeval-seed", 7, "--gradeval-alpha", "1e-4", cwd=tmp_path
    )
    assert parallel.returncode == 0, parallel.stdout + parallel.stderr
    assert "2 passed" in parallel.stdout


def test_the_plugin_imports_nothing_heavy(tmp_path: Path) -> None:
    """Nothing of what takes long; 50 ms of start-up is asserted as the best of five, above pytest's own."""
    code = (
        "import sys, time, pytest\n"
        "began = time.perf_counter()\n"
        "import gradeval.pytest_plugin\n"
        "took = time.perf_counter() - began\n"
        "heavy = {'torch', 'numpy', 'pandas', 'rich', 'typer', 'gradeval.checking.procedure'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(took)"
    )
    times = []
    for _ in range(5):
        done = run("-c", code, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        times.append(float(done.stdout))
    assert min(times) < 0.05
