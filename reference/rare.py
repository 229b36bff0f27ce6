"""How probable the states of a network are whose gradients are large: what sampling may miss.

The yardstick is REINFORCE's gradient in every joint state, with the largest loss of any state in place of the state's
own (estimators with baselines and differences of losses are no larger), and the head's gradient as it is. Networks of
few units are enumerated. Of others paths are drawn from flattened probabilities, in which no state of a unit is rarer
than some percent, and weighted: rare states are met as often as others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from gradeval.analysis.run.rare import RareStates
from gradeval.isolation import in_company
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.problem import Problem
from gradeval.model.randomness import EnumeratedStates, FlattenedStates, Randomness, generator
from gradeval.model.states import binary_digits
from gradeval.reference.scores import LinearScores
from gradeval.reference.size_bins import BINS, LEVELS, cells_of, histogram
from gradeval.sampling.surrogates import Surrogate, weighted_gradients
from gradeval.threads import Crew
from gradeval.torch_private import quiet_vmap

MAX_ENUMERATED = 12  # bits; beyond, paths are drawn from flattened probabilities
FLATTENED_PATHS = 2**12
MAX_LOSS_BITS = 14  # of the last layer, up to which every loss is looked at
LARGE_NETWORK = 10_000  # beyond, norms are had without the gradients, or from fewer states and paths
MANY_POINTS = 1000  # likewise: so many times FLATTENED_PATHS are at most the paths, or states, of all points together
MANY_NUMBERS, FEWEST_STATES = 2**33, 2**8  # states × points × parameters of what is drawn then, and the fewest states
OPERATIONS = 100  # a number of a gradient costs about as much as so many multiply–adds of a product

_Rows = tuple[Tensor, Callable[[Tensor], EnumeratedStates], float]


def rare_states(problem: Problem, memory: int = 2**25) -> RareStates:
    """How probable the states are in which the gradient of a layer has a given size.

    Args:
        problem: network, data and loss.
        memory: bytes that a chunk of states may take, about; there is one for each thread.

    Returns:
        The sums of probabilities by size and by the probability of a state. Where paths are drawn, every joint state
        counts as rare.
    """
    network, points = problem.network, problem.points
    slices = network.layer_slices()
    size = sum(p.numel() for p in network.parameters())
    scores = LinearScores.of(problem) if size > LARGE_NETWORK or points > MANY_POINTS else None
    row = (scores.numbers if scores else points * size) * network.dtype.itemsize
    sums = torch.zeros(len(slices), LEVELS * BINS, 3, dtype=torch.float64)
    means = torch.zeros(points, len(slices), dtype=torch.float64)
    crew = Crew(network.device)
    with crew.at_work(), quiet_vmap():
        yardstick = _Yardstick(problem, _largest_loss(problem).double(), scores)
        pieces = list(_rows(problem, max(1, memory // (3 * row)), scores is not None))
        numbers = sum(len(rows) for rows, _, _ in pieces) * (scores.numbers if scores else points * size)
        for sizes, found in crew.in_order(yardstick, pieces, OPERATIONS * numbers):
            means += sizes
            sums += found
    return RareStates(list(slices), points, cells_of(sums), means.amax(0).numpy())


class _Yardstick:
    """The sizes of the yardstick's gradients on some rows."""

    def __init__(self, problem: Problem, largest: Float[Tensor, " points"], scores: LinearScores | None = None) -> None:
        self.problem, self.largest, self.scores = problem, largest, scores
        self.slices = problem.network.layer_slices()
        self._own = threading.local()

    def __call__(self, piece: _Rows) -> tuple[Float[Tensor, "points layers"], Float[Tensor, "layers bins 3"]]:
        """The mean size for each point and layer, and the sums by size and probability."""
        rows, chance, share = piece
        if self.scores is not None:
            squares, weights = self.scores(rows, least=None if share == 1 else _least(self.problem))
            return self._sums(_sizes(squares, self.slices, self.largest), weights, share)
        if not hasattr(self._own, "surrogate"):  # this thread's: a functional call exchanges the parameters
            self._own.surrogate = Surrogate(self.problem, _yardstick)
        with torch.enable_grad(), in_company():  # our own code changes nothing of the process
            scaled, _, weights = weighted_gradients(self._own.surrogate, rows, chance)
        weights = weights.expand(len(rows), self.problem.points).double()
        norms = _norms(scaled.double(), self.slices, self.largest)
        sizes = torch.where(weights[..., None] > 0, norms / weights.sqrt().clamp(min=1e-300)[..., None], 0.0)
        return self._sums(sizes, weights, share)

    def _sums(
        self, sizes: Float[Tensor, "rows points layers"], weights: Float[Tensor, "rows points"], share: float
    ) -> tuple[Float[Tensor, "points layers"], Float[Tensor, "layers bins 3"]]:
        """The weighted mean and the histograms of sizes."""
        levels = -weights.log2() if share == 1 else torch.full_like(weights, LEVELS)  # drawn paths: all are rare
        histograms = [
            histogram(*(x.flatten().cpu() for x in (sizes[..., k], weights, levels))) for k in range(len(self.slices))
        ]
        return share * (weights[..., None] * sizes).sum(0).cpu(), share * torch.stack(histograms)


def _yardstick(network: StochasticBinaryNetwork, inputs: Tensor, loss: object, randomness: Randomness) -> Tensor:
    """The head's gradient of the loss, and the layers' gradient of the path's log-probability."""
    x, score = inputs, torch.zeros(())
    for layer in network.layers:
        a = layer.preactivation(x)
        s = randomness.bernoulli(layer.probability(a))
        score = score + layer.log_prob(s, a)
        x = layer.encode(s)
    assert callable(loss)
    return loss(x) + score


def _largest_loss(problem: Problem) -> Float[Tensor, " points"]:
    """max |f| or max f − min f, whichever is larger, over the last layer's states, for every point."""
    network, width = problem.network, problem.widths[-1]
    states, parameters = 2 ** min(width, MAX_LOSS_BITS), sum(p.numel() for p in network.parameters())
    if width > MAX_LOSS_BITS and parameters > LARGE_NETWORK:
        states = _fewer(problem, states)
    numbers = torch.arange(states, device=network.device)
    digits = binary_digits(numbers, 0, min(width, MAX_LOSS_BITS)).to(network.dtype)
    if width > MAX_LOSS_BITS:
        chance = torch.rand(len(numbers), width, generator=generator(network.device, "rare"), dtype=network.dtype)
        digits = (chance < 0.5).to(network.dtype)
    loss = problem.loss_function(network)
    with torch.no_grad():
        low = high = None
        at_once = 2**22 // (problem.points * width)
        if parameters > LARGE_NETWORK:  # outputs may be far more than units
            at_once = min(at_once, 2**24 // (problem.points * network.head(digits[:1]).numel()))
        for some in network.layers[-1].encode(digits).split(max(1, at_once)):
            f = loss(some[:, None, :].expand(-1, problem.points, -1))
            least, most = f.amin(0), f.amax(0)
            low = least if low is None else torch.minimum(low, least)
            high = most if high is None else torch.maximum(high, most)
    assert low is not None
    assert high is not None
    return torch.stack([high - low, high.abs(), low.abs()]).amax(0)


def _fewer(problem: Problem, states: int) -> int:
    """As many states, or fewer where they would take long with so many parameters."""
    size = problem.points * sum(p.numel() for p in problem.network.parameters())
    return min(states, max(FEWEST_STATES, MANY_NUMBERS // size))


def _least(problem: Problem) -> float:
    """The smallest probability that a state of a unit is drawn with."""
    return min(0.25, 2 / sum(problem.widths))


def _rows(problem: Problem, at_once: int, cheap: bool = False) -> Iterator[_Rows]:
    """Chunks of rows, what makes chance of a row, and the weight of each; all paths where they are cheap."""
    dtype, device, bits = problem.network.dtype, problem.network.device, sum(problem.widths)
    random = generator(device, "rare")
    paths = min(FLATTENED_PATHS, max(FEWEST_STATES, MANY_POINTS * FLATTENED_PATHS // problem.points))
    if bits <= MAX_ENUMERATED and 2**bits <= paths:
        for numbers in torch.arange(2**bits, device=device).split(at_once):
            yield binary_digits(numbers, 0, bits).to(dtype), lambda row: EnumeratedStates(row, random, dtype), 1.0
        return
    least = _least(problem)
    if not cheap and sum(p.numel() for p in problem.network.parameters()) > LARGE_NETWORK:
        paths = _fewer(problem, paths)
    uniforms = torch.rand(paths, bits, generator=random, dtype=dtype, device=device)
    for rows in uniforms.split(at_once):
        yield rows, lambda row: FlattenedStates(row, random, dtype, least), 1 / paths


def _norms(
    scaled: Float[Tensor, "rows points P"], slices: dict[str, slice], largest: Float[Tensor, " points"]
) -> Float[Tensor, "rows points K"]:
    """The norm of every layer's part, times the largest loss where it is a score; "all" is all of them together."""
    squares = {layer: (scaled[..., where] ** 2).sum(-1) for layer, where in slices.items() if layer != "all"}
    return _sizes(squares, slices, largest)


def _sizes(
    squares: dict[str, Tensor], slices: dict[str, slice], largest: Float[Tensor, " points"]
) -> Float[Tensor, "rows points K"]:
    """The size of every layer's part from its squared norm, and that of all of them."""
    parts = [squares[layer] if layer == "head" else squares[layer] * largest**2 for layer in slices if layer != "all"]
    return torch.stack([*parts, torch.stack(parts).sum(0)], -1).sqrt()
