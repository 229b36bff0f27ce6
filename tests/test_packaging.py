"""What is built and shipped: sdist, wheel, metadata, citation; and the hooks that run the same tools as tox."""

from __future__ import annotations

import configparser
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from trove_classifiers import classifiers

import gradeval

ROOT = Path(__file__).parents[1]
PACKAGES = {"gradeval": "gradeval", "reference": "gradeval.reference", "analysis": "gradeval.analysis"}
FOLDERS = (*PACKAGES, "docs", "tests", ".ci")
TOP = ("*.md", "*.cf[fg]", "*.in", "*.ini", "*.toml", ".*.yaml", ".gitignore", "LICENSE", "constraints.txt")
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def ini(name: str) -> configparser.ConfigParser:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / name)
    return config


def shipped() -> list[Path]:
    """The files that belong to the project, relative to its root."""
    top = (path for pattern in TOP for path in ROOT.glob(pattern))
    inner = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    return sorted(p.relative_to(ROOT) for p in (*top, *inner) if p.is_file() and "__pycache__" not in p.parts)


def build(what: str, source: Path, target: Path) -> Path:
    """An sdist or a wheel of a folder, without a network: setuptools is a test dependency."""
    command = [sys.executable, "-P", "-c", BUILD, f"build_{what}", str(target)]
    done = subprocess.run(command, cwd=source, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return target / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist of a copy of the project."""
    home = tmp_path_factory.mktemp("sdist")
    for path in shipped():
        (home / "copy" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, home / "copy" / path)
    with tarfile.open(build("sdist", home / "copy", home)) as archive:
        archive.extractall(home / "unpacked", filter="data")
    (folder,) = (home / "unpacked").iterdir()
    return folder


def test_the_sdist_holds_the_project(sdist: Path) -> None:
    """Tests, docs and settings too, so that the tests run from it. Planted: MANIFEST.in without `graft tests`."""
    missing = [str(path) for path in shipped() if not (sdist / path).is_file()]
    assert not missing, missing


def test_nothing_lands_outside_gradevals_folder(sdist: Path, tmp_path: Path) -> None:
    """The wheel of the sdist: whole, and no user's own `analysis` or `reference` is shadowed."""
    with zipfile.ZipFile(build("wheel", sdist, tmp_path)) as wheel:
        names = {Path(name) for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {
        Path(*PACKAGES[path.parts[0]].split("."), *path.parts[1:]) for path in shipped() if path.parts[0] in PACKAGES
    }
    assert names == expected


def test_the_packages_listed_are_those_on_disk() -> None:
    listed = set(ini("setup.cfg")["options"]["packages"].split())
    on_disk = set()
    for folder, package in PACKAGES.items():
        for path in (ROOT / folder).rglob("__init__.py"):
            on_disk.add(".".join([package, *path.parent.relative_to(ROOT / folder).parts]))
    assert listed == on_disk


def test_there_is_one_version() -> None:
    version = ini("setup.cfg")["metadata"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert importlib.metadata.version("gradeval") == version
    assert gradeval.__version__ == version


def test_the_citation_names_software_and_paper() -> None:
    """The keys that the Citation File Format 1.2.0 requires; cffconvert --validate checks the rest."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= paper.keys()
    assert [author["family-names"] for author in paper["authors"]] == ["Shekhovtsov", "Yanush", "Flach"]
    assert paper["url"] == "https://arxiv.org/abs/2006.03143"


def test_classifiers_are_known_and_name_the_pythons_supported() -> None:
    metadata = ini("setup.cfg")
    named = metadata["metadata"]["classifiers"].split("\n")[1:]
    assert set(named) <= classifiers
    assert len(set(named)) == len(named)
    oldest = metadata["options"]["python_requires"].removeprefix(">=")
    assert f"Programming Language :: Python :: {oldest}" in named


def test_the_hooks_run_the_tools_of_tox() -> None:
    """Same commands, same versions. Planted: another version of ruff in a hook."""
    tox = ini("tox.ini")
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = {hook["id"]: hook for hook in repository["hooks"]}
    assert hooks.keys() == {"ruff-check", "ruff-format", "codespell", "mypy"}
    lint = tox["testenv:lint"]
    tools = {re.split("[<>=]", text)[0]: text for text in lint["deps"].split()}
    for line in lint["commands"].strip().splitlines():
        words = [word for word in line.split() if word not in (".", "--check")]
        hook = hooks["-".join(words)]
        assert hook["entry"].replace(" --force-exclude", "").split() == words
        assert hook["additional_dependencies"] == [tools[words[0]]]
    assert tox["testenv"]["commands"].endswith("-p gradeval")
    assert "exec python -m mypy --config-file" in hooks["mypy"]["entry"]
    assert hooks["mypy"]["entry"].endswith("-p gradeval'")


def test_the_checkouts_folder_says_that_it_is_not_the_package() -> None:
    """It was "No module named gradeval.reference", though the package was installed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    command = [sys.executable, "-c", "import gradeval; gradeval.exact_gradient"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: this gradeval is a folder of the checkout")
