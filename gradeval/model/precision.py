"""In which precision a problem is computed: double, whatever its network's, unless the network's own is asked for.

A gradient in single precision is wrong by some 10⁻⁶ of its size. A test that is sharper than that, such as an exact
one, would take the rounding for a bias.
"""

from __future__ import annotations

import torch

from gradeval.errors import GradevalError, unknown_name
from gradeval.model.problem import Problem

PRECISIONS = ("double", "network")
"""What `in_precision` takes: double precision, or that of the network's parameters."""


def in_precision(problem: Problem, precision: str = "double") -> Problem:
    """A problem in the precision in which it is to be computed.

    Args:
        problem: any.
        precision: "double", or "network" to keep the one that its network has, single or double.

    Returns:
        The problem itself where it has that precision already, else a copy.

    Raises:
        GradevalError: an unknown precision, a network that cannot be run in double precision, or one to be kept that is
            neither single nor double.

    Examples:
        >>> network = torch.nn.Linear(2, 1)
        >>> from gradeval import StochasticBinaryNetwork
        >>> network = StochasticBinaryNetwork([torch.nn.Linear(2, 2)], torch.nn.Linear(2, 1))
        >>> problem = Problem(network, torch.eye(2), torch.tensor([1.0, -1.0]))
        >>> [in_precision(problem, precision).network.dtype for precision in PRECISIONS]
        [torch.float64, torch.float32]
    """
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    dtype = problem.network.dtype
    if dtype == torch.float64:
        return problem
    if precision == "network":
        if dtype != torch.float32:
            raise GradevalError(f"precision 'network' needs a network in single or double precision, found {dtype}.")
        return problem
    try:
        return problem.to(dtype=torch.float64)
    except (GradevalError, RuntimeError, TypeError) as error:
        raise GradevalError(
            f"the problem cannot be computed in double precision ({str(error).splitlines()[0]}); have its maps hold "
            "their tensors as buffers, or pass precision='network'."
        ) from None
