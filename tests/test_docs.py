"""The documents name what exists: modules, names, files; and the examples of README and CONTRIBUTING run."""

from __future__ import annotations

import importlib
import re
import runpy
from pathlib import Path

import pytest

from tests.test_api import WITHOUT_SECTIONS, public_modules

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")) if path.name != "CHANGELOG.md")
SCRIPTS = sorted(ROOT.glob("docs/**/*.py"))

IMPORTED = re.compile(r"^[^\S\n]*from (gradeval[\w.]*) import (\([^)]*\)|[^\n#]+)", re.M)
DOTTED = re.compile(r"`(gradeval(?:\.\w+)+)[`(]|^[^\S\n]*import (gradeval[\w.]*)", re.M)
FILES = re.compile(r"\b((?:gradeval|reference|analysis|tests|docs)/[\w/.-]+\.\w+)|\]\((?!https?:)([^)#\s]+)")


def resolve(dotted: str) -> object:
    """A module, or what lies in one; raises AttributeError or ImportError where there is none."""
    parts = dotted.split(".")
    found: object = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], 2):
        try:
            found = getattr(found, part)
        except AttributeError:
            found = importlib.import_module(".".join(parts[:i]))
    return found


def names(text: str) -> set[str]:
    """The dotted names of gradeval's that a script imports, in strings of code too, or a page imports or quotes."""
    found = {match[0] or match[1] for match in DOTTED.findall(text)}
    for module, listed in IMPORTED.findall(text):
        found |= {f"{module}.{part.split()[0]}" for part in listed.strip("() \n").split(",") if part.strip()}
    return found


@pytest.mark.parametrize("path", [*SCRIPTS, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_names_of_gradevals_exist(path: Path) -> None:
    for dotted in sorted(names(path.read_text())):
        try:
            resolve(dotted)
        except (AttributeError, ImportError) as error:
            pytest.fail(f"{path.relative_to(ROOT)} names {dotted}: {error}")


def test_a_name_that_is_gone_is_seen() -> None:
    """Planted: a module of old, a name that a module lacks, one in an example and one in a list over lines."""
    text = "`gradeval.maps`\n    from gradeval.check import check\nfrom gradeval.errors import (\n    Lost,\n)\n"
    assert names(text) == {"gradeval.maps", "gradeval.check.check", "gradeval.errors.Lost"}
    for dotted in ("gradeval.maps", "gradeval.errors.Lost"):
        with pytest.raises((AttributeError, ImportError)):
            resolve(dotted)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_pages_name_exist(path: Path) -> None:
    for from_root, linked in FILES.findall(path.read_text()):
        found = ROOT / from_root if from_root else path.parent / linked
        assert found.exists(), f"{path.relative_to(ROOT)} names {from_root or linked}"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python blocks of a page are a script that runs as it stands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADEVAL_CACHE", str(tmp_path / "cache"))
    script = tmp_path / "example.py"
    script.write_text("\n".join(re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.S)))
    runpy.run_path(str(script), run_name="example")


def test_the_api_pages_have_every_public_module() -> None:
    """Planted: a module that is added, and not named in docs/api."""
    listed = set()
    for page in ROOT.glob("docs/api/*.md"):
        listed |= set(re.findall(r"automodule:: (\S+)", page.read_text()))
    expected = {name for name in public_modules() if not name.startswith(WITHOUT_SECTIONS)} - {"gradeval"}
    assert listed - {"gradeval.pytest_plugin"} == expected
