"""Central finite differences of the exact value: an oracle for gradients that uses no automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gradeval.model.problem import Problem


def finite_differences(problem: Problem, value: Callable[[Problem], Tensor], step: float = 1e-3) -> list[Tensor]:
    """The gradient of a value by central differences at steps h, h/2 and h/4, extrapolated to an error of order h⁶.

    The parameters are moved in place and put back.

    Args:
        problem: whose network's parameters are moved.
        value: J, or any other number, of the problem.
        step: h.

    Returns:
        ∂J/∂θ for every trainable parameter, with its shape.

    Examples:
        >>> from gradeval import load_problem
        >>> from gradeval.reference import exact_gradient, layerwise_values
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> found = finite_differences(problem, lambda p: layerwise_values(p).mean(), step=1e-2)
        >>> exact = exact_gradient(problem).gradient.values()
        >>> all(torch.allclose(d, g, rtol=0, atol=1e-10) for d, g in zip(found, exact))
        True
    """
    gradients = []
    with torch.no_grad():
        for parameter in problem.network.trainable().values():
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
