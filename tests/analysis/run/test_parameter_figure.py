"""The figure along a hyper-parameter shows the numbers of the table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from gradeval.analysis.drawing import Drawing
from gradeval.analysis.run.parameter_figure import parameter_curves
from gradeval.errors import GradevalError
from gradeval.evaluation.run import evaluate


@pytest.fixture(scope="module")
def run(small):
    return evaluate(small, "st, concrete:temperature=1|0.1|0.5, gumbel-rao:temperature=1,samples=1|2", draws=60)


def test_the_figure_shows_the_table(run) -> None:
    """In the order of the hyper-parameter, whatever that of the estimators; on the axes that are given."""
    ax = Figure().subplots()
    assert parameter_curves(run, "temperature", Drawing(layers="1"), ax) == {"1": ax}
    bias, spread = (line.get_xydata() for line in ax.lines)
    table = run.best[run.best["layer"] == "1"].set_index("estimator")
    for row, temperature in enumerate((0.1, 0.5, 1.0)):
        found = table.loc[f"concrete:temperature={temperature}"]
        np.testing.assert_allclose(bias[row], (temperature, found["relative_bias"] or np.nan))
        np.testing.assert_allclose(spread[row], (temperature, found["relative_variance"] ** 0.5))
    unseen = table.filter(like="concrete", axis=0).query("relative_bias == 0")
    np.testing.assert_allclose(np.sort(ax.collections[1].get_offsets()[:, 1]), np.sort(unseen["relative_bias_high"]))
    assert len(unseen)
    assert ax.get_xscale() == "log"
    assert parameter_curves(run, "samples")["all"].get_xscale() == "linear"


@pytest.mark.parametrize(
    ("parameter", "options", "message"),
    [
        ("temprature", {}, "unknown hyper-parameter of this run 'temprature': did you mean temperature?"),
        ("temperature", {"family": "gumbel-rao"}, "temperature must vary within one family of estimators; found one"),
        ("temperature", {"drawing": Drawing(layers="7")}, "unknown layer '7'"),
    ],
)
def test_what_cannot_be_drawn(run, parameter: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(GradevalError, match=message.replace("?", "[?]")):
        parameter_curves(run, parameter, **options)
