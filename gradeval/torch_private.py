"""What gradeval uses of torch beyond its documented interface, in one place: what to look at when torch changes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

__all__ = [
    "LAZILY_IMPORTED",
    "TorchDispatchMode",
    "flop_formula",
    "inside_transform",
    "named_modules_of",
    "quiet_vmap",
    "storage_key",
    "times_written",
]

LAZILY_IMPORTED = "torch._dynamo"
"""What torch.func imports in its first call, which takes seconds: processes are started with it."""


def inside_transform() -> bool:
    """Whether a `torch.func` transform (vmap, grad) is active; these do not take checkpoints."""
    return bool(torch._C._are_functorch_transforms_active())


def storage_key(tensor: Tensor) -> tuple[int, Any]:
    """The identity of a tensor's memory.

    Args:
        tensor: any.

    Returns:
        A number that no other storage has while this one lives, and the storage.
    """
    storage = tensor.untyped_storage()
    return storage._cdata, storage


def times_written(tensor: Tensor) -> int:
    """How often a tensor, or a view of it, has been written to in place.

    Args:
        tensor: any.

    Returns:
        A number that grows with every such operation.
    """
    return tensor._version


def named_modules_of(parent: nn.Module) -> list[tuple[str, nn.Module]]:
    """The direct children of a module, also one that stands in several places (`named_children` gives it once).

    Args:
        parent: any module.

    Returns:
        Name and child of every place.
    """
    return [(name, child) for name, child in parent._modules.items() if child is not None]


def flop_formula(operation: Any) -> Callable[..., int] | None:
    """Torch's formula for the FLOPs of an operation.

    Args:
        operation: an overload, as `TorchDispatchMode` gets it.

    Returns:
        The function that counts them; None where torch has none.
    """
    formula: Callable[..., int] | None = flop_registry.get(operation.overloadpacket)
    return formula


@contextmanager
def quiet_vmap() -> Iterator[None]:
    """Without vmap's warnings that an operation has no batching rule and is looped over."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        yield
