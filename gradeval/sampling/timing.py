"""The time of a draw where a run's own draws are too few to tell, or do not count as others do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from gradeval.errors import GradevalError
from gradeval.model.randomness import RandomDraws, generator
from gradeval.sampling.extent import CHUNK
from gradeval.sampling.sampler import Sampler, Times, compute_seconds, turn_of
from gradeval.torch_private import quiet_vmap

TIMED_BATCHES, FEWEST_BATCHES = 8, 4  # of draws that are timed, at least; fewer where they would take long
FURTHER_SECONDS = 0.02  # beyond which more than the fewest batches count as long
LOOP = 20  # draws of a further batch where draws are made in a loop, each as the one before


def further_times(sampler: Sampler, planned: int, times: Times, *names: object) -> Times:
    """The times of the first chunk's batches, with those of batches beyond the run's draws where these are few.

    A deterministic estimator is timed as others are, on batches of many draws, not on the two that it needs. The
    further draws have seeds of their own and are thrown away.

    Args:
        sampler: of the estimator.
        planned: number of draws that the run was asked for.
        times: of the first chunk's batches, number of draws and seconds.
        names: what the seeds of the further draws follow from.

    Returns:
        The times to judge by.
    """
    if sampler.own_chance:  # more draws might change those that follow
        return times
    size = min(sampler.batch, CHUNK, planned)
    batches = 0 if sampler.deterministic else -(-planned // size)
    found = [] if sampler.deterministic else list(times)
    budget = FURTHER_SECONDS + sum(seconds for _, seconds in found)
    for number in range(batches, TIMED_BATCHES):
        if number >= FEWEST_BATCHES and budget < 0:
            break
        more: Times = []
        try:
            if sampler.deterministic and sampler.vectorised:
                more.append((size, _seconds_apart(sampler, size, number == batches)))
            else:
                sampler.chunk(size if sampler.vectorised else min(size, LOOP), *names, "time", number, times=more)
        except (GradevalError, RuntimeError):  # the draws that count were good
            break
        found += more
        budget -= sum(seconds for _, seconds in more)
    return found or times


def _seconds_apart(sampler: Sampler, count: int, first: bool) -> float:
    """Seconds of ``count`` draws of a deterministic estimator, each made on its own.

    As nothing differs between its draws, vmap would make one and copy it. So a bias of the first layer has an axis of
    draws here: what follows is computed for every draw, as it is where states are sampled.
    """
    surrogate, parameters = sampler._surrogate()
    problem = sampler.problem
    device, dtype = problem.network.device, problem.network.dtype
    randomness = RandomDraws(generator(device, "time"), dtype)
    apart = next((name for name, p in parameters.items() if p.ndim <= 1), next(iter(parameters)))

    def draw(nothing: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        def value(parameters: dict[str, Tensor]) -> Tensor:
            own = {**parameters, apart: parameters[apart] + nothing}
            result: Tensor = functional_call(surrogate, own, (problem.inputs, problem.targets, randomness)).mean()
            return result

        result: tuple[dict[str, Tensor], Tensor] = grad_and_value(value)(parameters)
        return result

    def run(rows: Tensor) -> Any:
        with quiet_vmap(), turn_of(sampler):
            gradients, values = vmap(draw, randomness="different")(rows)
        return torch.cat([g.reshape(len(rows), -1) for g in gradients.values()], 1), values

    zeros = torch.zeros(count, dtype=dtype, device=device)
    if first:
        run(zeros[:2])
    began = compute_seconds(device)
    run(zeros)
    return compute_seconds(device) - began
