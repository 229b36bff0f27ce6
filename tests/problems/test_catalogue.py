"""The look-up of problems: options that are not known or cannot be are refused."""

from __future__ import annotations

import pytest

from gradeval import GradevalError
from gradeval.problems.catalogue import PROBLEMS, load_problem, load_task


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digits", {"data": "mnits"}, "unknown data 'mnits': did you mean mnist"),
        ("digits", {"units": "16k"}, "units must be layers joined by '-'"),
        ("digits", {"units": "8-4c"}, "a convolution cannot follow a linear layer"),
        ("digits", {"points": 0}, "points must be from 1 to 1257"),
        ("autoencoder", {"units": "4-4-4-4"}, "one to three code layers"),
        ("autoencoder", {"encoder": "x"}, "encoder must be widths"),
        ("autoencoder", {"unit": "4"}, "unknown option of problem 'autoencoder' 'unit': did you mean units"),
        ("digit", {}, "unknown problem 'digit': did you mean digits"),
    ],
)
def test_bad_options_are_refused(name: str, options, message: str) -> None:
    with pytest.raises(GradevalError, match=message):
        load_task(name, **options)


OPTIONS = {"stage", "kl", "samples", "encoder", "decoder", "data", "root"}  # of some of them
HAVE = {"expclass": {"stage"}, "digits": {"data", "root"}, "autoencoder": {"data", "root", "encoder", "decoder"}}


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, option) for name in PROBLEMS for option in sorted(OPTIONS - HAVE.get(name, OPTIONS - {"stage"}))],
)
def test_an_option_of_another_problem_is_named_as_such(name: str, option: str) -> None:
    """All options that one problem has and another lacks; `vae --stage` was answered "did you mean states?"."""
    with pytest.raises(
        GradevalError, match=rf"^problem '{name}' has no option '{option}', which .*: it takes "
    ) as error:
        load_problem(name, **{option: "1"})
    which = str(error.value).split("which ")[1].split(" ha")[0]
    owners = {owner for owner in PROBLEMS if option in HAVE.get(owner, OPTIONS - {"stage"})}
    assert set(which.replace(" and ", ", ").split(", ")) == owners


def test_a_problem_is_not_trained_to_a_stage() -> None:
    with pytest.raises(GradevalError, match="to train on, 'expclass' has no option 'stage', which the problem has"):
        load_task("expclass", stage=1)
