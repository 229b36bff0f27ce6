"""Whether maps and losses are functions of one data point: they fit together, and have no chance, memory or coupling.

The exact reference evaluates a map at all states, an estimator at some, in batches of any size. Both mean the same only
if what a map gives for one point depends on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn

from gradeval.errors import GradevalError
from gradeval.model.losses import Loss
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.objective import Objective
from gradeval.model.randomness import generator

MOST_POINTS = 1024  # that a map is tried with
ROUNDINGS = 1e4  # a difference of fewer roundings than this, of the largest number, is one


def try_network(network: StochasticBinaryNetwork, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate every map on the inputs, or on states, a few times over.

    Args:
        network: its maps and head.
        inputs: x⁰, [points, inputs].

    Returns:
        Some states of the last layer, [points, units], and the head's outputs at these, [points, outputs].

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
    return x, _try_map(network.head, network.head, x, "the head")


def try_loss(loss: Loss, outputs: Tensor, targets: Tensor) -> None:
    """Evaluate a loss on the outputs of some states, a few times over.

    Args:
        loss: (output, target) -> [..., points].
        outputs: [points, outputs].
        targets: [points] or [points, outputs].

    Raises:
        GradevalError: the loss does not take the outputs, gives something else than one number per point, overflows,
            has chance of its own, mixes points, or uses a network's parameters behind the back of its arguments.
    """
    with _watched("the loss", None):
        _try_points(loss, outputs, targets)
        used = _parameters_of(lambda: loss(outputs.detach(), targets))
        if used:
            raise GradevalError(
                f"the loss uses a parameter (of the shape {list(used[0].shape)}) that is not one of its arguments: its "
                "gradient would be lost, as estimators run on copies of the network. Write the loss as an object with "
                "bind(network, inputs, targets) -> loss(x_L), and use the network that bind is given."
            )


def try_objective(
    objective: Objective, network: StochasticBinaryNetwork, inputs: Tensor, targets: Tensor, states: Tensor
) -> None:
    """Bind an objective and evaluate it on some states, a few times over.

    Args:
        objective: what is bound.
        network: that it is bound to.
        inputs: [points, inputs].
        targets: [points] or [points, outputs].
        states: of the last layer, [points, units].

    Raises:
        GradevalError: as `try_loss`; also if it changes the network, or uses another one than it is given.
    """
    if isinstance(objective, type):
        raise GradevalError(f"the loss is a class: give an object of it, {objective.__name__}(…).")

    def bound(x: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        loss = objective.bind(network, inputs, targets)
        if not callable(loss):
            raise GradevalError(f"the loss's bind must return a function of the states, returned {loss!r:.80}.")
        return loss(x)

    with _watched("the loss", network):
        _try_points(bound, states, inputs, targets)
        own = {id(parameter) for parameter in network.parameters()}
        used = _parameters_of(lambda: objective.bind(deepcopy(network), inputs, targets)(states))
        if any(id(parameter) in own for parameter in used):
            raise GradevalError(
                "the loss's bind uses another network than the one it is given: estimators run on copies, so its "
                "gradient would be lost."
            )


def _try_points(loss: Callable[..., Tensor], x: Tensor, *data: Tensor) -> None:
    """Evaluate loss(x, *data), where the points are the first axis of all and x may have further ones before it."""
    points, name = len(x), "the loss"
    try:
        found = loss(x, *data)
    except (RuntimeError, IndexError) as error:
        what = "an output" if len(data) == 1 else "states"
        raise GradevalError(f"the loss cannot take {what} of shape {list(x.shape)}: {error}") from None
    except TypeError as error:
        hint = "One that needs more is an object with bind(network, inputs, targets) -> loss(x_L)."
        given = f"(outputs, targets): {error}. {hint}" if data else f"(states): {error}."
        raise GradevalError(f"the loss cannot be called with {given}") from None
    if not isinstance(found, Tensor) or found.shape != (points,):
        shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise GradevalError(f"the loss must give one number per point, {[points]}, found {shape}.")
    _check_finite(found, name)
    _check_same(found, loss(x, *data), f"{name} gives other numbers when it is called again: {_CHANCE}")
    twice = _or_mixing(name, lambda: loss(x.expand(2, *x.shape), *data))
    if twice.shape != (2, points):
        what = "outputs" if len(data) == 1 else "units"
        raise GradevalError(f"the loss must accept leading axes: of [2, points, {what}] it made {list(twice.shape)}.")
    _check_same(found.expand(2, -1), twice, f"{name} {_MIXES}")
    for some in _groups(points):
        part = _or_mixing(name, partial(_of_some, loss, some, x, *data))
        _check_same(found[some], part, f"{name} {_MIXES}")


def _parameters_of(call: Callable[[], Tensor]) -> list[nn.Parameter]:
    """The parameters that require a gradient and enter what a call returns; none where it raises."""
    met, found = set(), []
    with suppress(Exception), torch.enable_grad():  # what it raises is shown where it is used
        waiting = [call().grad_fn]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in met:
                met.add(node)
                variable = getattr(node, "variable", None)
                found += [variable] if isinstance(variable, nn.Parameter) else []
                waiting += [before for before, _ in node.next_functions]
    return found


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
