"""What options of several commands stand for."""

from __future__ import annotations

from gradeval.estimators import TABLE, specs_of


def test_all_are_those_that_run_at_any_size() -> None:
    """`exact` enumerates layers, so it is asked for by name."""
    assert {*specs_of("all"), "exact"} == set(TABLE)
    assert "exact" not in specs_of("all")
    assert specs_of("exact,all")[0] == "exact"
    assert specs_of("st,all").count("st") == 1
