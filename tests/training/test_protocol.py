"""Protocols: numbers that cannot be are refused."""

from __future__ import annotations

import pytest

from gradeval import GradevalError
from gradeval.training.protocol import Protocol


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimiser": "sdg"}, "unknown optimiser 'sdg': did you mean sgd"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"rates": (0.1, -1.0)}, "learning rates must be positive"),
        ({"epochs": 5, "gradient_epochs": (6,)}, "gradient_epochs must be from 0 to 5"),
    ],
)
def test_protocols_that_cannot_be_are_refused(settings, message: str) -> None:
    with pytest.raises(GradevalError, match=message):
        Protocol(**settings)
