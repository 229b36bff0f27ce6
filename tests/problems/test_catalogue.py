"""The look-up of problems: options that are not known or cannot be are refused."""

from __future__ import annotations

import pytest

from gradeval import GradevalError
from gradeval.problems.catalogue import load_task


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
