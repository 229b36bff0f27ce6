"""The table of registered problems and tasks (read without importing torch) and the look-up of a name or a file."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradeval.arguments import folder_path, states_pair, whole, widths_text
from gradeval.errors import GradevalError, enumeration, unknown_name
from gradeval.progress import Progress

if TYPE_CHECKING:
    from gradeval.model.problem import Problem
    from gradeval.problems.tasks import Task


@dataclass(frozen=True)
class RegisteredProblem:
    """A registered problem: the functions that make it, what it is and where it comes from.

    Args:
        name: by which it is looked up.
        target: "module:function" that makes the problem; where it is empty, the problem is the task's training data
            with the network at its initial parameters.
        task: "module:function" that makes what is trained on.
        description: one line for `gradeval list`.
        source: of the problem or its data.
        epochs, batch, optimiser: of `gradeval train`, unless told otherwise.
    """

    name: str
    target: str
    task: str
    description: str
    source: str
    epochs: int = 2000
    batch: int = 10
    optimiser: str = "sgd"


PROBLEMS: dict[str, RegisteredProblem] = {
    facts.name: facts
    for facts in (
        RegisteredProblem(
            "expclass",
            "gradeval.expclass:expclass_problem",
            "gradeval.expclass:expclass_task",
            "2-D classification by a trained network of linear binary layers (--units, --stage)",
            "Shekhovtsov et al. 2020, arXiv:2006.03143, appendix C.1",
        ),
        RegisteredProblem(
            "digits",
            "",
            "gradeval.problems.image_tasks:digits_task",
            "classification of images by a convolutional network (--units 24c-48c-96; 1c-2c can be enumerated)",
            "scikit-learn's 8×8 digits; MNIST, CIFAR-10 or a folder of images where they are on disk (--data, --root)",
            epochs=40,
            batch=32,
            optimiser="adam",
        ),
        RegisteredProblem(
            "autoencoder",
            "",
            "gradeval.problems.image_tasks:autoencoder_task",
            "reconstruction of images through one to three layers of binary codes (--units 8-8)",
            "the same images",
            epochs=100,
            batch=32,
            optimiser="adam",
        ),
        RegisteredProblem(
            "vae",
            "gradeval.problems.variational:vae_problem",
            "gradeval.problems.variational:vae_task",
            "variational autoencoder of binary images (--units 200, --encoder, --decoder, --kl, --samples K)",
            "Tucker et al. 2017, arXiv:1703.07370; Dong et al. 2020, arXiv:2006.10680; the same images",
            epochs=100,
            batch=50,
            optimiser="adam",
        ),
    )
}
"""The registered problems, by name."""


def load_problem(name: str | Path, *, progress: Progress | None = None, **options: Any) -> Problem:
    """Make a registered problem by its name, or read a problem file by its path.

    Args:
        name: of a registered problem (see `gradeval list`), the path of a problem file, or a network of a training,
            FOLDER:ESTIMATOR@EPOCH (`gradeval.problems.trained`).
        progress: receives the progress of training the problem's network, where it is trained.
        options: of the registered problem, such as ``units="5-5-5"`` or ``units=(5, 5, 5)``.

    Returns:
        The problem.

    Raises:
        GradevalError: an unknown name (with near matches) or option, or an unusable file.

    Examples:
        >>> problem = load_problem("expclass", units="3-2", stage=0, points=20)
        >>> problem.widths, problem.points
        ([3, 2], 20)
    """
    name = str(folder_path(name, "the name of a problem, or the path of its file,"))
    if name not in PROBLEMS:
        return _load_file(name, options)
    facts = PROBLEMS[name]
    problem: Problem = (
        _make(name, facts.target, options, progress) if facts.target else load_task(name, **options).train
    )
    return problem


def load_task(name: str | Path, **options: Any) -> Task:
    """Make a registered task by its name, or read a problem file by its path as training data alone.

    Args:
        name: of a registered problem (see `gradeval list`), or the path of a problem file.
        options: of the registered task, such as ``units="5-5-5"``.

    Returns:
        The task.

    Raises:
        GradevalError: an unknown name (with near matches) or option, or an unusable file.

    Examples:
        >>> task = load_task("digits", units="1c-2c", points=100)
        >>> {name: problem.points for name, problem in task.splits.items()}
        {'train': 100, 'validation': 270, 'test': 270}
    """
    name = str(folder_path(name, "the name of a problem, or the path of its file,"))
    if name in PROBLEMS:
        task: Task = _make(name, PROBLEMS[name].task, options)
        return replace(task, made=_as_saved(name, options))
    from gradeval.problems.tasks import Task

    return Task(_load_file(name, options), made=_as_saved(str(Path(name).resolve()), {}))


def _as_saved(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The arguments that make a task again, where a JSON file can hold them; else none."""
    made = {"name": name} | {option: _as_meant(option, value) for option, value in options.items()}
    try:
        saved: dict[str, Any] = json.loads(json.dumps(made))
    except TypeError:  # a noise of one's own, say
        return {}
    return saved


def _make(name: str, target: str, options: dict[str, Any], progress: Progress | None = None) -> Any:
    """Call the function that makes a problem; options that it takes in a dataclass are given by its fields' names."""
    make, parameters = _signature(target)
    arguments: dict[str, Any] = {"progress": progress} if "progress" in parameters else {}
    groups: dict[str, Any] = {key: default for key, default in parameters.items() if is_dataclass(default)}
    home = {field.name: key for key, default in groups.items() for field in fields(default)}
    known = _options(target)
    for option, value in options.items():
        if option not in known:
            raise _refused(name, option, known)
        value = _as_meant(option, value)
        if option in home:
            groups[home[option]] = replace(groups[home[option]], **{option: value})
        else:
            arguments[option] = value
    return make(**arguments, **groups)


def _signature(target: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """A function that makes a problem or task, and the defaults of its parameters."""
    module, _, attribute = target.partition(":")
    make: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return make, {key: parameter.default for key, parameter in inspect.signature(make).parameters.items()}


def _options(target: str) -> list[str]:
    """The options that the function takes, also those that lie in a dataclass."""
    parameters = {key: default for key, default in _signature(target)[1].items() if key != "progress"}
    own = [key for key, default in parameters.items() if not is_dataclass(default)]
    return own + [field.name for default in parameters.values() if is_dataclass(default) for field in fields(default)]


def _refused(name: str, option: str, known: list[str]) -> GradevalError:
    """The error for an option that a problem or task does not take; that it exists elsewhere is said."""
    having = [
        facts.name
        for facts in PROBLEMS.values()
        if any(option in _options(target) for target in (facts.target, facts.task) if target)
    ]
    if not having:
        return unknown_name(f"option of problem '{name}'", option, known)
    if name in having:
        what = f"to train on, '{name}' has no option '{option}', which the problem has"
    else:
        verb = "has" if len(having) == 1 else "have"
        what = f"problem '{name}' has no option '{option}', which {enumeration(having)} {verb}"
    return GradevalError(f"{what}: it takes {enumeration(sorted(known))}.")


_WIDTHS, _WHOLE = ("units", "encoder", "decoder"), ("stage", "points", "seed", "samples")


def _as_meant(option: str, value: Any) -> Any:
    """An option's value, as the functions that make problems take it."""
    if option in _WIDTHS:
        return widths_text(option, value)
    if option in _WHOLE and value is not None:
        return whole(option, value)
    return states_pair(value) if option == "states" else value


def _load_file(name: str, options: dict[str, Any]) -> Problem:
    from gradeval.analysis.training_manifest import TRAINING_FILE
    from gradeval.problems.trained import trained_name, trained_problem

    if not Path(name).exists() and (trained := trained_name(name)):
        if unknown := [option for option in options if option != "task"]:
            raise GradevalError(f"a trained network takes no options but task, found {', '.join(unknown)}.")
        return trained_problem(trained, load_task, options.get("task"))
    if not Path(name).exists() and not name.endswith(".json"):
        raise GradevalError(f"{unknown_name('problem', name, PROBLEMS)} A problem file is given by its path.")
    if (Path(name) / TRAINING_FILE).is_file():
        raise GradevalError(f"{name} holds a training: a network of it is named {name}:ESTIMATOR@EPOCH.")
    if options:
        raise GradevalError(f"a problem file takes no options, found {', '.join(options)}.")
    from gradeval.model.problem import Problem

    return Problem.load(name)
