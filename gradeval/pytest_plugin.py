"""The pytest plugin: a fixture that checks an estimator. Nothing heavy is imported before the fixture is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gradeval.checking.verdict import Verdict


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the fixture's options; an argument in the call overrides its option.

    Args:
        parser: pytest's.
    """
    group = parser.getgroup("gradeval", "checks of gradient estimators (gradeval)")
    group.addoption("--gradeval-seed", type=int, default=0, metavar="N", help="seed of the draws (0)")
    group.addoption("--gradeval-alpha", type=float, default=1e-6, metavar="A", help="false-alarm rate (1e-6)")
    group.addoption("--gradeval-draws", type=int, metavar="N", help="maximum number of draws on one problem")


@pytest.fixture
def gradeval_check(request: pytest.FixtureRequest) -> Callable[..., Verdict]:
    """`gradeval.check` as an assertion: the test fails, with table and diagnosis, unless every claim holds.

    Args:
        request: pytest's, with the options.

    Returns:
        A function that takes the arguments of `gradeval.check` and returns its verdict.
    """

    def check(estimator: Any, **arguments: Any) -> Verdict:
        __tracebackhide__ = True
        from gradeval.checking.procedure import check as run
        from gradeval.errors import GradevalError

        option = request.config.getoption
        given = {
            "seed": option("--gradeval-seed"),
            "alpha": option("--gradeval-alpha"),
            "max_draws": option("--gradeval-draws"),
        }
        try:
            verdict = run(estimator, **given | arguments)
        except GradevalError as error:
            pytest.fail(f"gradeval_check: {error}", pytrace=False)
        if verdict.verdict != "holds":
            pytest.fail(str(verdict), pytrace=False)
        return verdict

    return check
