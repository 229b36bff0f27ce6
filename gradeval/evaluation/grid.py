"""For two-dimensional inputs: the data, and what the network predicts in the plane around them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gradeval.analysis.run.points import some_points
from gradeval.model.problem import Problem
from gradeval.reference import layerwise_values, predicted_cost

GRID_SECONDS = 60.0  # of the enumeration of the problem itself
GRID_BYTES = 2**31  # and its memory: where the transform has an affordable gradient, enumeration may have none


def mean_prediction(problem: Problem, side: int = 61) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    """The data, and E[σ(head(x^L))] exactly on a grid, for two-dimensional inputs and the logistic loss.

    Args:
        problem: network and data.
        side: points of the grid in each direction.

    Returns:
        The data (x, y, target), see `some_points`, and the grid (x, y, prediction); None for other problems, and where
        enumeration takes long, or much memory.
    """
    if problem.loss != "logistic" or problem.inputs.shape[1:] != (2,):
        return None, None
    cost = predicted_cost(problem, "layerwise")
    if cost.seconds > GRID_SECONDS or cost.bytes > GRID_BYTES:
        return None, None
    x = problem.inputs.cpu().numpy()
    points = pd.DataFrame({"x": x[:, 0], "y": x[:, 1], "target": problem.targets.cpu().numpy()})
    low, high = x.min(0), x.max(0)
    margin = 0.05 * np.maximum(high - low, 1e-9)
    axes = [np.linspace(a - m, b + m, side) for a, b, m in zip(low, high, margin, strict=True)]
    grid = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)

    def probability(output: Tensor, target: Tensor) -> Tensor:
        return torch.sigmoid(output.squeeze(-1)) + 0 * target

    on_grid = Problem(problem.network, torch.as_tensor(grid), torch.zeros(len(grid)), probability)
    with torch.no_grad():
        values = layerwise_values(on_grid).cpu().numpy()
    return some_points(points), pd.DataFrame({"x": grid[:, 0], "y": grid[:, 1], "prediction": values})
