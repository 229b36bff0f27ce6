"""Data as people have them: arrays of numpy, tables of pandas and lists become tensors."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from gradeval.arguments import shown
from gradeval.errors import GradevalError

Data: TypeAlias = Any
"""A tensor, an array of numpy, a DataFrame or a Series, or lists of numbers, of equal lengths."""


def as_tensor(name: str, values: Data) -> Tensor:
    """Numbers as a tensor.

    Args:
        name: of what they are, for messages.
        values: a tensor, an array of numpy, a DataFrame or a Series, or lists of numbers, of equal lengths.

    Returns:
        The tensor; a tensor is returned as it is, but without its graph.

    Raises:
        GradevalError: they are texts, inputs without a row for each point, complex, of unequal lengths, or missing.

    Examples:
        >>> as_tensor("inputs", [[0, 1], [1, 0]])
        tensor([[0, 1],
                [1, 0]])
    """
    if not isinstance(values, Tensor):
        values = _from_array(name, values)
    if name == "inputs" and values.ndim == 1:
        raise GradevalError(f"inputs must have a row for each point, [points, inputs], found {list(values.shape)}.")
    if values.is_complex():
        raise GradevalError(f"{name} must be real numbers, found complex ones.")
    return values.detach() if values.requires_grad else values


def check_same_rows(inputs: Data, targets: Data) -> None:
    """Refuse two tables whose rows have other indices: rows are taken by their place.

    Args:
        inputs: as given.
        targets: as given.

    Raises:
        GradevalError: both are a DataFrame or a Series, of as many rows, and a row has another index in each.

    Examples:
        >>> import pandas as pd
        >>> check_same_rows(pd.DataFrame({"a": [1, 2]}), pd.Series([0, 1]))
    """
    if not (hasattr(inputs, "iloc") and hasattr(targets, "iloc")) or len(inputs) != len(targets):
        return
    if inputs.index.equals(targets.index):  # two missing indices are the same here
        return
    for place, (one, two) in enumerate(zip(inputs.index, targets.index, strict=True)):
        if one != two:
            raise GradevalError(
                f"row {place} of inputs has the index {shown(one)}, that of targets {shown(two)}: bring both in the "
                "same order (targets.loc[inputs.index]), or pass to_numpy() of each to have rows taken by their place."
            )


def _from_array(name: str, values: Any) -> Tensor:
    if isinstance(values, list | tuple) and values and all(isinstance(row, Tensor) for row in values):
        values = [row.detach().cpu().numpy() for row in values]
    try:
        array = np.asarray(values)
    except (ValueError, TypeError):
        raise GradevalError(f"{name} must be rows of equal lengths, found {shown(values)}.") from None
    if array.dtype == object:  # a table with several types of numbers, or with missing ones
        with suppress(ValueError, TypeError):
            array = array.astype(np.float64)
    if array.dtype.kind not in "biufc" or array.ndim == 0:
        raise GradevalError(
            f"{name} must be numbers, in a tensor, an array, a table or lists, found {_first(array, values)}."
        )
    if array.dtype.kind == "u":  # torch has few operations for them
        array = array.astype(np.float64)
    return torch.from_numpy(np.array(array, order="C"))  # a copy, which may be written to


def _first(array: np.ndarray, values: Any) -> str:
    """The first entry that is no number."""
    entries = (entry for entry in array.flat if not isinstance(entry, int | float | np.number))
    return shown(next(entries, None) if array.ndim else values)
