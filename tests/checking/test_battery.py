"""The problems of the battery: they span what they say, and no two explanations of a factor agree on all of them."""

from __future__ import annotations

from gradeval.checking.battery import EDGES, ROWS, make_problem
from gradeval.checking.diagnosis import NATURAL
from gradeval.checking.places import place_of, rarest_state
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
    places = [place_of(make_problem(row), get_estimator("rloo")) for row in (*ROWS, *EDGES)]
    seen: dict[tuple[float, ...], str] = {}
    for name, factor in NATURAL:
        values = tuple(round(factor(p, k), 9) for p in places for k in sorted({"1", str(len(p.widths))}))
        if len(set(values)) > 1:
            seen.setdefault(values, name)
            assert seen[values] == name or {seen[values], name} <= {
                "the layer's own number of units",
                "the width of the last layer",
                *(f"{sign}{pre}{w}" for sign in ("", "minus ") for pre in ("", "1 / ") for w in (
                    "the layer's own number of units", "the width of the last layer")),
            }, (seen[values], name)  # fmt: skip


def test_the_edges_are_what_the_ordinary_problems_leave_out() -> None:
    assert {row.states for row in EDGES} > {(0.0, 2.0), (-0.5, 0.5), (-0.3, 1.2)}
    assert {row.rare for row in EDGES} == {0.0, *(10.0**-k for k in range(1, 7))}
    assert {row.points for row in (*ROWS, *EDGES)} >= {1, 2, 5, 7, 16}
    assert (max(w for row in EDGES for w in row.widths), max(len(row.widths) for row in EDGES)) == (10, 5)
    assert any(row.convolution for row in EDGES)
    assert any(row.zero for row in EDGES)
    assert not all(row.bias for row in EDGES)
    assert len({row.name for row in (*ROWS, *EDGES)}) == len(ROWS) + len(EDGES)
    values = {row.loss: exact_gradient(make_problem(row)).value for row in EDGES}
    assert abs(values["reward"]) < 0.05
    assert values["large"] > 1e4
    for row in EDGES:
        found = exact_gradient(make_problem(row)).by_layer()
        assert all(float(g.norm()) > 1e-3 * min(1.0, row.rare or 1.0) for g in found.values()), row
        if row.rare:
            assert 0.5 < rarest_state(make_problem(row)) / row.rare < 2, row
