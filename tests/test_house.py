"""The house: which room may import which, and what lands in a user's site-packages."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {"gradeval": "gradeval", "reference": "gradeval.reference", "analysis": "gradeval.analysis"}

# every module's floor: a module imports from lower floors, or from its own package
FLOORS = [
    {"gradeval.errors", "gradeval.cache"},
    {
        "gradeval.model.noise",
        "gradeval.model.losses",
        "gradeval.model.maps",
        "gradeval.workers.jobs",
        "gradeval.files",
        "gradeval.workers.executors",
    },
    {"gradeval.model.randomness", "gradeval.model.flips"},
    {"gradeval.model.network"},
    {"gradeval.model.problem"},
    {"gradeval.problems.tasks", "gradeval.training.prediction"},
    {"gradeval.estimators", "gradeval.reference", "gradeval.analysis"},
    {
        *(
            "gradeval.expclass",
            "gradeval.sampling.streaming",
            "gradeval.checking.battery",
            "gradeval.checking.diagnosis",
            "gradeval.checking.sequential",
        ),
        *("gradeval.problems.images", "gradeval.training.stacked"),
    },
    {"gradeval.evaluation.store"},
    {"gradeval.problems.catalogue", "gradeval.evaluation.run"},
    {"gradeval.checking.procedure", "gradeval.studies.costs", "gradeval.training.trainer", "gradeval.studies.sweeps"},
    {"gradeval.program.terminal", "gradeval.pytest_plugin"},
    {"gradeval.program.app"},
]


def room_of(module: str) -> str:
    for package in ("gradeval.estimators", "gradeval.reference", "gradeval.analysis"):
        if module == package or module.startswith(package + "."):
            return package
    return module


def floor_of(module: str) -> int:
    (floor,) = (i for i, rooms in enumerate(FLOORS) if room_of(module) in rooms)
    return floor


def modules() -> dict[str, Path]:
    found = {}
    for folder, package in ROOMS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(path: Path) -> list[str]:
    """Every gradeval module imported anywhere in a file, except for types only."""
    tree = ast.parse(path.read_text())
    typing_only = [
        node for test in ast.walk(tree) if isinstance(test, ast.If) and "TYPE_CHECKING" in ast.dump(test.test)
        for node in ast.walk(test)
    ]  # fmt: skip
    names = []
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("gradeval"):
            names.append(node.module)
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names if alias.name.startswith("gradeval")]
    return names


@pytest.mark.parametrize("module", [m for m in modules() if m != "gradeval"])
def test_arrows_run_downwards(module: str) -> None:
    for imported in imports(modules()[module]):
        if room_of(imported) != room_of(module):
            assert floor_of(imported) < floor_of(module), f"{module} imports {imported}"


def test_analysis_knows_no_network_and_no_estimator() -> None:
    for module, path in modules().items():
        if module.startswith("gradeval.analysis"):
            others = {name for name in imports(path) if not name.startswith("gradeval.analysis")}
            assert others <= {"gradeval.errors", "gradeval.files"}, module
            assert not re.search(r"^\s*(import|from) torch", path.read_text(), re.M), module


def test_reference_knows_no_estimator() -> None:
    for module, path in modules().items():
        if module.startswith("gradeval.reference"):
            assert not [name for name in imports(path) if name.startswith("gradeval.estimators")], module


def test_the_packages_listed_are_those_on_disk() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    on_disk = set()
    for folder, package in ROOMS.items():
        for path in (ROOT / folder).rglob("__init__.py"):
            on_disk.add(".".join([package, *path.parent.relative_to(ROOT / folder).parts]))
    assert listed == on_disk


def test_nothing_lands_outside_gradevals_folder() -> None:
    files = importlib.metadata.files("gradeval")
    assert files is not None
    tops = {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"gradeval"}
    names = {str(file) for file in files}
    assert {"gradeval/py.typed", "gradeval/analysis/report.html.jinja", "gradeval/reference/joint.py"} <= names


def test_the_readmes_example_runs(tmp_path, monkeypatch) -> None:
    """Python blocks of README.md and CONTRIBUTING.md run as they stand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADEVAL_CACHE", str(tmp_path / "cache"))
    for name in ("README.md", "CONTRIBUTING.md"):
        blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.S)
        script = tmp_path / f"{name}.py"
        script.write_text("\n".join(blocks))
        runpy.run_path(str(script), run_name="example")


def test_shapes_are_checked_at_run_time(make_problem) -> None:
    """Tests run with jaxtyping's hook: a wrong shape, and a wrong type, of an estimator's input raises."""
    import torch
    from jaxtyping import TypeCheckError

    from gradeval.estimators import get_estimator
    from gradeval.model.losses import logistic
    from gradeval.model.randomness import RandomDraws, generator

    problem = make_problem()
    chance = RandomDraws(generator("cpu", 1))
    with pytest.raises(TypeCheckError):
        get_estimator("st")(problem.network, problem.inputs.long(), problem.loss_function(), chance)
    with pytest.raises(TypeCheckError):
        logistic(torch.zeros(4, 2), torch.zeros(4))
