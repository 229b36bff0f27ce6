"""Whether maps and losses are functions of one data point: they fit together, and have no chance, memory or coupling.

The exact reference evaluates a map at all states, an estimator at some, in batches of any size. Both mean the same only
if what a map gives for one point depends on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from gradeval.errors import GradevalError
from gradeval.model.losses import Loss
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.randomness import generator

MOST_POINTS = 1024  # that a map is tried with
ROUNDINGS = 1e4  # a difference of fewer roundings than this, of the largest number, is one


def try_network(network: StochasticBinaryNetwork, inputs: Tensor) -> Tensor:
    """Evaluate every map on the inputs, or on states, a few times over.

    Args:
        network: its maps and head.
        inputs: x⁰, [points, inputs].

    Returns:
        The head's outputs at some states, [points, outputs].

    Raises:
        GradevalError: a map does not take what the one below gives, overflows, has chance of its own, changes when it
            is called, or mixes points.
    """
    x, random = inputs, generator(network.device, "states to try")
    for k, layer in enumerate(network.layers, 1):
        a = _try_map(layer.preactivation, layer, x, f"layer {k}")
        if a.shape[-1] == 0:
            raise GradevalError(f"layer {k} has width 0; every width must be at least 1.")
        s = torch.rand(a.shape, generator=random, dtype=a.dtype, device=a.device) < 0.5
        x = layer.encode(s.to(a.dtype))
    return _try_map(network.head, network.head, x, "the head")


def try_loss(loss: Loss, outputs: Tensor, targets: Tensor) -> None:
    """Evaluate a loss on the outputs of some states, a few times over.

    Args:
        loss: (output, target) -> [..., points].
        outputs: [points, outputs].
        targets: [points] or [points, outputs].

    Raises:
        GradevalError: the loss does not take the outputs, gives something else than one number per point, overflows,
            has chance of its own, or mixes points.
    """
    points, name = len(outputs), "the loss"
    with _watched(name, None):
        try:
            found = loss(outputs, targets)
        except (RuntimeError, IndexError) as error:
            raise GradevalError(f"the loss cannot take an output of shape {list(outputs.shape)}: {error}") from None
        if found.shape != (points,):
            wanted, shape = [points], list(found.shape)
            raise GradevalError(f"the loss must give one number per point, {wanted}, found {shape}.")
        _check_finite(found, name)
        _check_same(found, loss(outputs, targets), f"{name} gives other numbers when it is called again: {_CHANCE}")
        twice = _or_mixing(name, lambda: loss(outputs.expand(2, *outputs.shape), targets))
        if twice.shape != (2, points):
            raise GradevalError(f"the loss must accept leading axes: of [2, points, outputs] it made {twice.shape}.")
        _check_same(found.expand(2, -1), twice, f"{name} {_MIXES}")
        for some in _groups(points):
            part = _or_mixing(name, partial(_of_some, loss, some, outputs, targets))
            _check_same(found[some], part, f"{name} {_MIXES}")


_CHANCE = "all chance must come from the units (dropout? call eval() on it)."
_MIXES = "mixes data points (batch normalisation in training mode? call eval() on it): each must be on its own."


def _try_map(function: Callable[[Tensor], Tensor], module: nn.Module, x: Tensor, name: str) -> Tensor:
    """What a map gives for x, [points, …]."""
    with _watched(name, module):
        try:
            result = function(x)
        except RuntimeError as error:
            raise GradevalError(f"{name} does not accept its input of shape {list(x.shape)}: {error}") from None
        except ValueError as error:  # batch normalisation of a single point
            raise GradevalError(f"{name} cannot be run ({_first_line(error)}).") from None
        _check_finite(result, name)
        x, found = x[:MOST_POINTS], result[:MOST_POINTS]
        whole = _or_mixing(name, lambda: function(x))
        _check_same(found, whole, f"{name} gives other numbers when it is called again: {_CHANCE}")
        for some in _groups(len(x)):
            part = _or_mixing(name, partial(_of_some, function, some, x))
            _check_same(found[some], part, f"{name} {_MIXES}")
    return result


@contextmanager
def _watched(name: str, module: nn.Module | None) -> Iterator[None]:
    """Refuse what uses torch's generator, or changes a module's parameters or buffers; these are put back."""
    tensors = {} if module is None else {key: (t, t.clone()) for key, t in module.state_dict(keep_vars=True).items()}
    generators = torch.get_rng_state()

    def refuse_chance() -> None:
        if not torch.equal(generators, torch.get_rng_state()):
            raise GradevalError(f"{name} has chance of its own: {_CHANCE}") from None

    try:
        yield
    except GradevalError:
        refuse_chance()  # which may look like a mixing of points: rare chance is seen in a few calls only
        raise
    finally:
        changed = [key for key, (tensor, before) in tensors.items() if not torch.equal(tensor, before)]
        with torch.no_grad():
            for key in changed:
                tensors[key][0].copy_(tensors[key][1])
    refuse_chance()
    if changed:
        raise GradevalError(
            f"{name} changes its '{changed[0]}' when it is called (batch normalisation in training mode? call eval() "
            "on it): it must give the same numbers each time."
        )


def _groups(points: int) -> list[slice]:
    """A few points alone, and the others in two parts."""
    singles = sorted({0, points // 2, points - 1})
    return [slice(i, i + 1) for i in singles] + [slice(0, (points + 1) // 2), slice((points + 1) // 2, points)][
        : 2 * (points > 1)
    ]


def _of_some(function: Callable[..., Tensor], some: slice, *tensors: Tensor) -> Tensor:
    return function(*(tensor[some] for tensor in tensors))


def _or_mixing(name: str, call: Callable[[], Tensor]) -> Tensor:
    """What a call returns; what it raises for a part of the points, having taken all of them, is due to mixing."""
    try:
        return call()
    except Exception as error:
        raise GradevalError(f"{name} {_MIXES[:-1]} ({type(error).__name__}: {_first_line(error)}).") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check_finite(numbers: Tensor, name: str) -> None:
    if not bool(torch.isfinite(numbers).all()):
        raise GradevalError(
            f"{name} gives infinite numbers or NaN: its parameters, the states or the data are too large."
        )


def _check_same(first: Tensor, second: Tensor, message: str) -> None:
    if first.shape == second.shape:
        first, second = first.detach(), second.detach()  # a loss may turn gradients on
        size = float(first.abs().max()) if first.numel() else 0.0
        if bool(((first - second).abs() <= ROUNDINGS * torch.finfo(first.dtype).eps * size).all()):
            return
    raise GradevalError(message)
