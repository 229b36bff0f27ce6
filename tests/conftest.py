"""Tests import what is installed, check shapes at run time, and enumerate small problems."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from jaxtyping import config, install_import_hook

# `python -m pytest` and `python -c` put the current folder first on the path. In the checkout that hides the installed
# package behind a `gradeval` without `gradeval.analysis` and `gradeval.reference`, which setup.cfg maps. So programs
# that tests start leave the folder out, and here it goes last, where worker processes find the modules of tests.
os.environ["PYTHONSAFEPATH"] = "1"
CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:] = [*(entry for entry in sys.path if Path(entry).resolve() != CHECKOUT), str(CHECKOUT)]
# A shell ignores Ctrl-C in what it starts in the background, and programs that tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "gradeval" in sys.modules:  # pytest has imported the plugin, perhaps from there
    for name in [name for name in sys.modules if name.partition(".")[0] == "gradeval"]:
        del sys.modules[name]
if "--benchmark-only" not in sys.argv:  # the checks would be timed too
    # for all that tests import from here on, where shapes are written: a check of every call takes long
    folders = {"gradeval": "gradeval", "reference": "gradeval.reference", "analysis": "gradeval.analysis"}
    shaped = [
        ".".join([package, *path.relative_to(CHECKOUT / folder).with_suffix("").parts])
        for folder, package in folders.items()
        for path in (CHECKOUT / folder).rglob("*.py")
        if "jaxtyping" in path.read_text()
    ]
    install_import_hook(shaped, "beartype.beartype")

import torch

from gradeval.errors import GradevalError
from gradeval.files import digest_of, parse_json, sealed
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.problem import Problem

MakeProblem = Callable[..., Problem]
# Where shapes are checked: a check of every call takes a third of the time, and elsewhere the same code runs again.
SHAPES = ("model", "estimators", "sampling", "reference", "checking", "training")
SHAPES += ("test_conformance.py", "test_api.py", "test_house.py")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Shapes are checked in the rooms where they are written, but for what is marked ``no_shapes``."""
    room = item.path.relative_to(Path(__file__).parent).parts[0]
    config.update("jaxtyping_disable", room not in SHAPES or item.get_closest_marker("no_shapes") is not None)


def random_problem(
    units: Sequence[int] = (2, 3),
    *,
    noise: str = "logistic",
    states: tuple[float, float] = (0.0, 1.0),
    loss: str = "logistic",
    points: int = 4,
    seed: int = 0,
    scale: float = 1.0,
) -> Problem:
    """Two inputs, linear layers with normal weights of the given scale, and targets that suit the loss."""
    random = torch.Generator().manual_seed(seed)
    outputs = {"logistic": 1, "squared": 2, "cross-entropy": 3, "bernoulli": 2}[loss]
    network = StochasticBinaryNetwork.linear(2, units, outputs, noise, states)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=random, dtype=torch.float64))
    inputs = torch.randn(points, 2, generator=random, dtype=torch.float64)
    labels = torch.randint(0, outputs + (loss == "logistic"), (points,), generator=random)
    targets = {
        "logistic": 2.0 * labels - 1,
        "squared": torch.randn(points, 2, generator=random, dtype=torch.float64),
        "cross-entropy": labels.double(),
        "bernoulli": torch.rand(points, 2, generator=random, dtype=torch.float64),
    }[loss]
    return Problem(network, inputs, targets, loss)


def forged(folder: Path) -> None:
    """Give a run's manifest and plan the digests of what is there, as a stranger could: other checks must stand."""
    for name in ("manifest.json", "plan.json"):
        with suppress(OSError, GradevalError, AttributeError, TypeError):  # missing, or no document any more
            document = parse_json((folder / name).read_bytes(), name)
            document.pop("digest", None)
            for file in document.get("files", {}):
                if (folder / file).is_file():
                    document["files"][file] = digest_of((folder / file).read_bytes())
            (folder / name).unlink()  # it may be a hard link
            (folder / name).write_bytes(sealed(document))


@pytest.fixture(scope="session")
def forge() -> Callable[[Path], None]:
    """`forged`."""
    return forged


@pytest.fixture(scope="session")
def make_problem() -> MakeProblem:
    """`random_problem`."""
    return random_problem


@pytest.fixture(scope="session")
def small() -> Problem:
    """The smallest problem of use: one layer of two units, four points."""
    return random_problem((2,))
