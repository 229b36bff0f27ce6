"""The house: which room may import which, and how large things may be."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {"gradeval": "gradeval", "reference": "gradeval.reference", "analysis": "gradeval.analysis"}

# from the cellar upwards: a room imports from lower floors, or from itself
FLOORS = [
    {"errors", "torch_private", "progress", "versions", "threads", "notebook"},
    {"files", "isolation", "arguments"},
    {"model", "workers", "analysis", "cache", "folder_lock", "checkpoint"},
    {"estimators"},
    {"sampling", "problems"},
    {"given"},
    {"reference"},
    {"evaluation", "checking", "training"},
    {"studies", "atlas"},
    {"program", "pytest_plugin"},
]
FILE_LINES, CLASS_LINES, FUNCTION_LINES, PARAMETERS = 450, 150, 60, 7
ESTIMATOR_LINES = 30  # of code, of a class in the table


def room_of(module: str) -> str:
    """The first name below gradeval; the paper's task belongs to the problems, its file is where the seed names it."""
    room = module.split(".")[1]
    return "problems" if room == "expclass" else room


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
    """Every gradeval module imported anywhere in a file, lazily too, except for types only."""
    known, names = modules(), []
    tree = ast.parse(path.read_text())
    typing_only = [
        node for test in ast.walk(tree) if isinstance(test, ast.If) and "TYPE_CHECKING" in ast.dump(test.test)
        for node in ast.walk(test)
    ]  # fmt: skip
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "gradeval":
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names += [name if name in known else node.module for name in inner]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names if alias.name.split(".")[0] == "gradeval"]
    return names


@pytest.mark.parametrize("module", [m for m in modules() if m != "gradeval"])
def test_arrows_run_downwards_between_rooms(module: str) -> None:
    for imported in imports(modules()[module]):
        assert imported != "gradeval", f"{module} imports the whole house"
        if room_of(imported) != room_of(module):
            assert floor_of(imported) < floor_of(module), f"{module} imports {imported}"


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """A path of arrows that ends where it began; empty where there is none."""
    try:
        list(graphlib.TopologicalSorter(arrows).static_order())
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_arrows_run_downwards_inside_a_room() -> None:
    """No module imports, however indirectly and lazily, one that imports it. Planted: an arrow from the lowest up."""
    found = {module: set(imports(path)) - {module} for module, path in modules().items() if module != "gradeval"}
    assert circle(found) == []
    found["gradeval.reference.exact"].add("gradeval.reference.moments")
    assert {"gradeval.reference.exact", "gradeval.reference.moments"} <= set(circle(found))


def definitions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node


def too_large(module: str, path: Path) -> list[str]:
    """What exceeds the house's limits in a file. Only the program's commands may have many options."""
    lines = len(path.read_text().splitlines())
    found = [f"{module}: {lines} lines"] if lines > FILE_LINES else []
    for node in definitions(path):
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if isinstance(node, ast.ClassDef):
            found += [f"{module}: class {node.name}: {length} lines"] * (length > CLASS_LINES)
        elif not (room_of(module) == "program" and node.name.endswith("_command")):
            a = node.args
            names = [arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg)))]
            many = len([name for name in names if name not in ("self", "cls", "ctx")])
            found += [f"{module}: {node.name}: {length} lines"] * (length > FUNCTION_LINES)
            found += [f"{module}: {node.name}: {many} parameters"] * (many > PARAMETERS)
    return found


def test_nothing_is_too_large(tmp_path: Path) -> None:
    """Planted: a function of 61 lines and one with eight parameters."""
    found = [text for module, path in modules().items() if module != "gradeval" for text in too_large(module, path)]
    assert not found, "\n".join(found)
    planted = tmp_path / "planted.py"
    planted.write_text("def long():\n" + "    pass\n" * 60 + "def many(a, b, c, d, *, e, f, g, **h):\n    pass\n")
    assert too_large("gradeval.model.planted", planted) == [
        "gradeval.model.planted: long: 61 lines",
        "gradeval.model.planted: many: 8 parameters",
    ]


def code_lines(path: Path, node: ast.ClassDef) -> int:
    """The lines of a class without docstrings, comments and blank lines."""
    lines, documented = path.read_text().splitlines(), set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(inner) is not None:
            documented |= set(range(inner.body[0].lineno, (inner.body[0].end_lineno or 0) + 1))
    numbers = set(range(node.lineno, (node.end_lineno or 0) + 1)) - documented
    return sum(bool(text) and text[0] != "#" for text in (lines[number - 1].strip() for number in numbers))


def test_an_estimator_reads_at_a_glance(tmp_path: Path) -> None:
    """The classes of the table. Planted: one of four lines."""
    from gradeval.estimators import BUILT_IN

    for facts in BUILT_IN.values():
        module, _, name = facts.target.partition(":")
        path = modules()[f"gradeval.estimators.{module}"]
        (node,) = (n for n in definitions(path) if isinstance(n, ast.ClassDef) and n.name == name)
        assert code_lines(path, node) <= ESTIMATOR_LINES, name
    planted = tmp_path / "planted.py"
    planted.write_text('class Four:\n    """A\n\n    B"""\n\n    # a comment\n    a = 1\n    b = 2\n    c = 3\n')
    assert [code_lines(planted, n) for n in definitions(planted) if isinstance(n, ast.ClassDef)] == [4]


def test_no_name_stands_for_two_things() -> None:
    """Public functions, classes and constants of all modules; a file's FORMAT and limits are its own."""
    homes: dict[str, set[str]] = {}
    for module, path in modules().items():
        for node in ast.parse(path.read_text()).body:
            names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            for name in names:
                if not name.startswith("_") and name not in ("FORMAT", "ROUNDING"):
                    homes.setdefault(name, set()).add(module)
    twice = {name: where for name, where in homes.items() if len(where) > 1}
    assert not twice, twice


def test_no_function_is_named_like_its_module() -> None:
    for module, path in modules().items():
        assert module.rpartition(".")[2] not in {node.name for node in definitions(path)}, module


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
