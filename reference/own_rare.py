"""How large an estimator's own gradients are in rare states of a large network: what its draws may miss.

The yardstick of `rare_states` bounds what any estimator does, and that of small networks is close. In a large one it is
far too much for most: REINFORCE's gradient with the largest loss may be fifty times that of an estimator that takes
differences of losses. So there the estimator itself is run, on flattened chance.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, grad, vmap

from gradeval.analysis.run.rare import RareStates
from gradeval.errors import GradevalError
from gradeval.model.randomness import FlattenedChance, generator
from gradeval.reference.size_bins import LEVELS, cells_of, histogram, rounded_up
from gradeval.sampling.extent import MOST_OF_COVARIANCE
from gradeval.sampling.independence import independent_points
from gradeval.sampling.probes import check_pointwise, uniforms_of
from gradeval.sampling.sampler import Sampler, turn_of
from gradeval.sampling.streaming import LARGEST_GRADIENT
from gradeval.sampling.surrogates import Surrogate
from gradeval.threads import one_thread
from gradeval.torch_private import quiet_vmap

GRADIENT_NUMBERS, FEWEST_PATHS, MOST_PATHS = 2**27, 2**11, 2**14  # of all gradients; and paths, each of one data point
PATHS_BYTES = 2**24  # of the gradients that are made at once
SEEN = 8  # paths in a tail, counted by their weights, from which its probability is known to a factor of two
ERRORS = 2  # standard errors that are added to the probability of each tail
GROWTH, HALVINGS = 1 / 3, 40  # beyond, sizes grow by 2^GROWTH each time the probability halves, so many times


def is_large(sampler: Sampler) -> bool:
    """Whether an estimator's own gradients tell what its draws may miss: of so many parameters no covariance is kept.

    Args:
        sampler: of the estimator.

    Returns:
        False also where all its draws are the same.
    """
    return not sampler.deterministic and _parameters(sampler) > MOST_OF_COVARIANCE


def own_rare_states(sampler: Sampler) -> RareStates:
    """How probable the states are in which an estimator's own gradient of a layer has a given size.

    Some thousand paths are drawn, each of one data point, the points in turn (at 26,000 parameters 5149 paths). All
    chance that the estimator asks for is flattened (`FlattenedChance`): of n variables each is rare with probability
    2/n at least, however rare it is in truth. No weight is above e², so the paths count as an eighth of their number
    at least. An event that has the probability q in a flattened path of a random point is met with
    probability 1 − (1 − q)^M by M paths: for 99 %, q ≥ 4.6/M. Flattening makes q > 1/2n of what depends on one unit in
    a rare state, of whatever probability, and in no event is q below e⁻² of the true probability.

    Every tail of large sizes is taken to be more probable than the weights say, by two standard errors √Σw². Of the
    last 8 paths (counted by their weights, (Σw)²/Σw²) and beyond little is known: as much again is added there, with
    the sizes of the paths or sizes that grow like u^(−1/3) as their probability u falls, whichever are larger: as fast
    as sizes with a third moment can, on which all intervals rest. What this misses are sizes far beyond those of the
    tail in events that need three units and more, each in a rare state at once, or that are too rare for the paths and
    for the draws alike.

    Args:
        sampler: of the estimator.

    Returns:
        The sums of probabilities by size; every state counts as rare.

    Raises:
        GradevalError: the estimator cannot be run so; the message says why and lacks its subject.

    Examples:
        >>> import gradeval
        >>> problem = gradeval.load_problem("expclass", units="2-2", stage=0, points=4)
        >>> from gradeval.estimators import get_estimator
        >>> states = own_rare_states(Sampler(problem, "st", get_estimator("st")))
        >>> states.layers, bool(states.unseen("all", 10_000, 0.01).mean < 1e-3)
        (['1', '2', 'head', 'all'], True)
    """
    problem, slices = sampler.problem, sampler.problem.network.layer_slices()
    _check(sampler)
    which = _points(problem.points, _parameters(sampler))
    try:
        with one_thread(), turn_of(sampler, "rare"), torch.enable_grad():
            sizes, weights = _sizes(sampler, which, list(slices.values()))
    except Exception as error:
        raise GradevalError(f"fails on rare states ({str(error).strip().partition(chr(10))[0]})") from error
    sizes = torch.where(weights[:, None] > 0, sizes, 0.0)
    if not bool((sizes < LARGEST_GRADIENT).all()):
        raise GradevalError("gives NaN, infinite or huge gradients on rare states")
    shares = weights * (problem.points / len(which))  # the expected number of points in such a state
    sums = []
    for size in sizes.T:
        every, upper = _cautious(size, shares)
        sums.append(histogram(rounded_up(every), upper, torch.full_like(upper, LEVELS)))
    paths = torch.bincount(which, minlength=problem.points).clamp(min=1).to(weights)
    means = torch.zeros(problem.points, len(slices), dtype=torch.float64)
    means = means.index_add(0, which, weights[:, None] * sizes) / paths[:, None]
    return RareStates(list(slices), problem.points, cells_of(torch.stack(sums)), means.amax(0).numpy())


def _parameters(sampler: Sampler) -> int:
    return sum(p.numel() for p in sampler.problem.network.trainable().values())


def _check(sampler: Sampler) -> None:
    """Raise GradevalError unless the points of a draw can be drawn alone, from chance that is handed to it."""
    if sampler.own_chance:
        raise GradevalError("has chance of its own")
    if not sampler.vectorised:
        raise GradevalError("is drawn in a loop")
    try:
        check_pointwise(sampler.problem, sampler.estimator)
    except GradevalError as error:
        raise GradevalError(f"cannot be run on one data point alone ({error})") from error
    if not independent_points(sampler.problem, sampler.estimator):
        raise GradevalError("has points that are not independent")


def _points(points: int, parameters: int) -> Tensor:
    """The point of each path: all in turn; where there are more points than paths, some of them."""
    paths = min(max(FEWEST_PATHS, GRADIENT_NUMBERS // parameters), MOST_PATHS)
    if paths < points:
        return torch.randperm(points, generator=generator("cpu", "rare points"))[:paths]
    return torch.arange(paths // points * points) % points


def _sizes(
    sampler: Sampler, which: Tensor, slices: list[slice]
) -> tuple[Float[Tensor, "paths layers"], Float[Tensor, " paths"]]:
    """The norm of each layer's gradient on flattened paths, one of each given point, and their weights."""
    network = sampler.problem.network
    surrogate = Surrogate(sampler.problem, sampler.estimator)
    parameters = {name: p.detach() for name, p in surrogate.trainable().items()}
    variables = uniforms_of(sampler.problem, sampler.estimator)
    least, random = min(0.25, 2 / max(variables, 1)), generator(network.device, "own rare states")

    def one(row: Tensor, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        chance = FlattenedChance(row, random, network.dtype, least)

        def value(parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            found = functional_call(surrogate, parameters, (x[None], y[None], chance)).squeeze(0)
            return found, torch.as_tensor(chance.weight, dtype=network.dtype, device=network.device).detach()

        result: Any = grad(value, has_aux=True)(parameters)
        return result

    size = sum(p.numel() for p in parameters.values())
    sizes, weights = [], []
    for points in which.to(network.device).split(max(1, PATHS_BYTES // (size * network.dtype.itemsize))):
        rows = torch.rand(len(points), variables, generator=random, dtype=network.dtype, device=network.device)
        with quiet_vmap():
            found, weight = vmap(one)(rows, surrogate.inputs[points], surrogate.targets[points])
        flat = torch.cat([g.reshape(len(points), -1) for g in found.values()], -1)
        sizes.append(torch.stack([flat[:, where].norm(dim=1) for where in slices], -1).double().cpu())
        weights.append(weight.double().cpu())
    surrogate.check_untouched()
    return torch.cat(sizes), torch.cat(weights)


def _cautious(sizes: Float[Tensor, " paths"], shares: Float[Tensor, " paths"]) -> tuple[Tensor, Tensor]:
    """The sizes, the largest first, and as much as they, and larger ones, may be in truth: sizes and shares."""
    sizes, order = sizes.sort(descending=True, stable=True)
    mass, squares = shares[order].cumsum(0), (shares[order] ** 2).cumsum(0)
    few = (mass**2 < (1 - 1e-9) * SEEN * squares).nonzero()
    last = int(few[-1]) + 1 if len(few) else 0
    if last == len(sizes):
        raise GradevalError("has paths of too uneven weights")
    halves = torch.arange(1, HALVINGS + 1, dtype=torch.float64)
    added = mass[last] * 0.5**halves
    seen = sizes[torch.searchsorted(mass, added).clamp(max=last)]
    beyond = torch.maximum(seen, sizes[last] * 2 ** (GROWTH * halves))
    upper = mass + ERRORS * squares.sqrt()
    return torch.cat([beyond, sizes]), torch.cat([added, upper.diff(prepend=upper.new_zeros(1))])
