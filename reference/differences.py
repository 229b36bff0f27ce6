"""Central finite differences of the exact value: an oracle for gradients that uses no automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gradeval.model.problem import Problem


def finite_differences(problem: Problem, value: Callable[[Problem], Tensor], step: float = 1e-3) -> list[Tensor]:
    """∂J/∂θ for every parameter, extrapolated from steps h, h/2 and h/4 (error of order h⁶), of ``value(problem)``.

    The parameters are moved in place and put back.
    """
    gradients = []
    with torch.no_grad():
        for parameter in problem.network.parameters():
            gradient = torch.zeros_like(parameter)
            flat = parameter.view(-1)
            for i in range(flat.numel()):
                centre = flat[i].item()

                def slope(h: float, flat: Tensor = flat, i: int = i, centre: float = centre) -> Tensor:
                    flat[i] = centre + h
                    above = value(problem)
                    flat[i] = centre - h
                    below = value(problem)
                    flat[i] = centre
                    return (above - below) / (2 * h)

                d1, d2, d4 = slope(step), slope(step / 2), slope(step / 4)
                e1, e2 = (4 * d2 - d1) / 3, (4 * d4 - d2) / 3
                gradient.view(-1)[i] = (16 * e2 - e1) / 15
            gradients.append(gradient)
    return gradients
