"""The problems of the battery: they span what they say, and no two explanations of a factor agree on all of them."""

from __future__ import annotations

from gradeval.checking.battery import ROWS, make_problem
from gradeval.checking.diagnosis import NATURAL
from gradeval.estimators import get_estimator
from gradeval.reference import exact_gradient


def test_the_battery_spans_what_it_says() -> None:
    widths = [w for row in ROWS for w in row.widths]
    assert {len(row.widths) for row in ROWS} == {1, 2, 3}
    assert (min(widths), max(widths)) == (1, 6)
    assert {row.states for row in ROWS} == {(0.0, 1.0), (-1.0, 1.0)}
    assert len({row.noise for row in ROWS}) >= 4
    assert {row.loss for row in ROWS} == {"logistic", "squared", "cross-entropy"}
    assert {row.points for row in ROWS} >= {1, 16}
    assert any(row.saturated for row in ROWS)
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert all(float(g.norm()) > 1e-3 for g in exact_gradient(make_problem(row)).by_layer().values()), row


def test_natural_factors_differ_between_the_problems() -> None:
    """No two explanations say the same on all problems: the first that fits is the right one."""
    from gradeval.checking.places import place_of

    places = [place_of(make_problem(row), get_estimator("rloo")) for row in ROWS]
    seen: dict[tuple[float, ...], str] = {}
    for name, factor in NATURAL:
        values = tuple(round(factor(p, str(len(p.widths))), 9) for p in places)
        if len(set(values)) > 1:
            seen.setdefault(values, name)
            assert seen[values] == name or {seen[values], name} <= {
                "the layer's own number of units",
                "the width of the last layer",
                *(f"{sign}{pre}{w}" for sign in ("", "minus ") for pre in ("", "1 / ") for w in (
                    "the layer's own number of units", "the width of the last layer")),
            }, (seen[values], name)  # fmt: skip
