"""What a run measured: the record that its tables, figures and report are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from gradeval.analysis.run.moments import Moments
from gradeval.analysis.run.rare import RareStates
from gradeval.analysis.run.sampled import SampledReference
from gradeval.analysis.statistics import Array

EXACT_COLUMNS = ["estimator", "layer", "exact_relative_bias", "exact_relative_variance", "exact_scale"]
"""The columns of `Record.exact_moments`."""
DETECT = 0.05


@dataclass(frozen=True)
class Record:
    """What a run measured, and its folder keeps.

    Attributes:
        manifest: arguments, seeds, versions, the problem's facts, timings.
        exact: g* flattened, [P]; where it was sampled, the mean in its place.
        slices: where each layer's parameters lie in it.
        moments: by estimator.
        curves: one row per estimator × layer × samples M.
        exact_moments: bias, variance and scale without sampling, of the estimators that were also run on all states.
        points, prediction: for two-dimensional inputs, the data and the mean prediction on a grid.
        rare: what states too rare to be drawn could contribute to any estimator; None where it is not known.
        own_rare: the same of estimators that were run on rare states themselves, by name.
    """

    manifest: dict[str, Any]
    exact: Array
    slices: dict[str, slice]
    moments: Mapping[str, Moments]
    curves: pd.DataFrame
    exact_moments: pd.DataFrame
    points: pd.DataFrame | None = None
    prediction: pd.DataFrame | None = None
    rare: RareStates | None = None
    own_rare: Mapping[str, RareStates] = field(default_factory=dict)

    def rare_of(self, name: str) -> RareStates | None:
        """What states too rare to be drawn could contribute to an estimator.

        Args:
            name: of the estimator.

        Returns:
            Its own, where that is known, else what any estimator's could be.
        """
        return self.own_rare.get(name, self.rare)

    @cached_property
    def norms(self) -> dict[str, float]:
        """‖g*‖ of each layer; of a sampled one an estimate, and zero where it is not told from zero."""
        if (known := self.reference) is not None:
            return {layer: known.norm(layer).estimate if known.measured(layer) else 0.0 for layer in self.slices}
        return {layer: float(np.linalg.norm(self.exact[where])) for layer, where in self.slices.items()}

    @property
    def reference(self) -> SampledReference | None:
        """What stands in the place of g* where that was sampled; None where it is exact."""
        seconds = (moments.second for moments in self.moments.values())
        return next((second.reference for second in seconds if second is not None), None)

    @property
    def seconds_per_draw(self) -> dict[str, float]:
        """Seconds of compute of one draw, by estimator."""
        found: dict[str, float] = self.manifest["timings"].get("seconds_per_draw", {})
        return found

    @property
    def detect(self) -> float:
        """The relative bias that must have been detectable before a claim of no bias holds."""
        return float(self.manifest.get("detect", DETECT))

    @property
    def looks(self) -> int:
        """How often the run was looked at, each time with more draws."""
        return int(self.manifest.get("looks", 1))
