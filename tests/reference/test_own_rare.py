"""An estimator's own gradients in rare states, on flattened chance: what its draws may miss in large networks.

All numbers follow from fixed seeds: the tests that compare with enumeration have no false alarms.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gradeval import Problem, StochasticBinaryNetwork, evaluate
from gradeval.analysis.run.evaluation import Evaluation
from gradeval.analysis.run.rare import RareStates
from gradeval.analysis.run.summary import BiasVerdict
from gradeval.errors import GradevalError
from gradeval.estimators import get_estimator
from gradeval.estimators.surrogate import carry
from gradeval.isolation import in_company
from gradeval.model.randomness import EnumeratedStates, generator
from gradeval.model.states import binary_digits
from gradeval.reference import Precision, own_rare
from gradeval.reference.own_rare import own_rare_states
from gradeval.reference.rare import rare_states
from gradeval.sampling.probes import count_chance
from gradeval.sampling.sampler import Sampler
from gradeval.sampling.surrogates import Surrogate, weighted_gradients
from gradeval.torch_private import quiet_vmap

pytestmark = pytest.mark.no_shapes
NAMES = ["st", "psa", "reinforce", "disarm", "rloo", "reinmax"]
LEVEL = 0.01 / 40


@pytest.fixture
def at_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network counts as large."""
    monkeypatch.setattr(own_rare, "MOST_OF_COVARIANCE", 0)


def planted(widths: tuple[int, ...], probability: float = 1e-3) -> Problem:
    """The first unit of the last layer has a state of some probability, in which the head's loss is huge."""
    random = torch.Generator().manual_seed(1)
    network = StochasticBinaryNetwork.linear(2, widths, 1, states=(0.0, 1.0))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=random, dtype=torch.float64))
        network.layers[-1].map.weight[0] = 0.0
        network.layers[-1].map.bias[0] = math.log(probability / (1 - probability))
        network.head.weight[0, 0] = 100.0
    inputs = torch.randn(2, 2, generator=random, dtype=torch.float64)
    return Problem(network, inputs, torch.tensor([[1.0], [0.0]], dtype=torch.float64), "squared")


def sampler_of(problem: Problem, name: str) -> Sampler:
    return Sampler(problem, name, get_estimator(name))


def enumerated(problem: Problem, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """All joint states of an estimator's chance, their probabilities, and the gradients of each point there."""
    surrogate = Surrogate(problem, get_estimator(name))
    bits, continuous = count_chance(problem, surrogate.estimator)
    assert not continuous
    rows, random = binary_digits(torch.arange(2**bits), 0, bits).double(), generator("cpu", "an oracle")
    with quiet_vmap():
        scaled, _, weights = weighted_gradients(surrogate, rows, lambda row: EnumeratedStates(row, random))
    weights = weights.expand(len(rows), problem.points)
    return rows, weights, torch.where(weights > 0, scaled.movedim(-1, 0) / weights.sqrt(), 0.0).movedim(0, -1)


def oracle(problem: Problem, name: str) -> RareStates:
    """What all states tell: a cell for each of them."""
    _, weights, gradients = enumerated(problem, name)
    slices, cells = problem.network.layer_slices(), []
    for k, where in enumerate(slices.values()):
        sizes, chances = gradients[..., where].norm(dim=-1).flatten(), weights.flatten()
        order = sizes.argsort(descending=True)
        columns = (torch.full_like(sizes, k), torch.zeros_like(sizes), chances, chances * sizes, chances * sizes**2)
        cells.append(torch.stack(columns, -1)[order])
    usual = torch.zeros(len(slices))
    return RareStates(list(slices), problem.points, torch.cat(cells).numpy(), usual.numpy())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("widths", [(2,), (1, 2)])
def test_all_that_rare_states_could_hide_is_covered(name: str, widths: tuple[int, ...]) -> None:
    """Planted: chance that is not flattened, see below. What is added for what was not seen is at most fivefold."""
    problem = planted(widths)
    known, own = oracle(problem, name), own_rare_states(sampler_of(problem, name))
    for layer in known.layers:
        for draws in (100, 1000, 10_000, 100_000):
            least, found = known.unseen(layer, draws, LEVEL), own.unseen(layer, draws, LEVEL)
            assert least.mean <= found.mean <= 5 * least.mean + own.usual[known.layers.index(layer)] * 20 / draws
            assert least.square <= found.square


@pytest.mark.parametrize("name", NAMES)
def test_a_mean_without_the_rare_state_is_as_far_off_as_said(name: str) -> None:
    """The mean of all draws that miss a state of 10⁻³ in each of their paths, by enumeration; so many draws as miss it
    with a probability of `LEVEL`."""
    problem = planted((2,))
    rows, weights, gradients = enumerated(problem, name)
    missed = (rows[:, 0::2] < 0.5).all(1)  # the first of two units, in each path
    rare = float(1 - weights[missed].sum(0)[0])
    whole = (weights[..., None] * gradients).sum(0).mean(0)
    without = (weights[missed][..., None] * gradients[missed]).sum(0).mean(0) / (1 - rare)
    draws = int(math.log(1 / LEVEL) / (rare * problem.points))
    assert draws > 500
    own = own_rare_states(sampler_of(problem, name))
    for layer, where in problem.network.layer_slices().items():
        off, said = float((whole - without)[where].norm()), own.unseen(layer, draws, LEVEL).mean
        assert off <= said
        assert said < 20 * off or layer == "head" or name in ("st", "reinmax")  # of which the usual gradient is large


def test_without_flattening_the_rare_state_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: this is what the tests above can see."""
    problem = planted((2,), 1e-6)
    known = oracle(problem, "disarm").unseen("1", 1_000_000, LEVEL).mean
    assert known <= own_rare_states(sampler_of(problem, "disarm")).unseen("1", 1_000_000, LEVEL).mean
    made = own_rare.FlattenedChance
    monkeypatch.setattr(own_rare, "FlattenedChance", lambda row, random, dtype, least: made(row, random, dtype, 1e-9))
    assert own_rare_states(sampler_of(problem, "disarm")).unseen("1", 1_000_000, LEVEL).mean < 0.1 * known


def test_of_reinforce_it_is_about_the_yardstick(make_problem) -> None:
    """Which takes the largest loss for that of every state."""
    problem = make_problem((8, 8), scale=0.5)
    yardstick, own = rare_states(problem), own_rare_states(sampler_of(problem, "reinforce"))
    for layer in ("1", "2", "all"):
        for draws in (1000, 100_000):
            ratio = own.unseen(layer, draws, LEVEL).mean / yardstick.unseen(layer, draws, LEVEL).mean
            assert 0.1 < ratio < 5


@pytest.mark.parametrize("name", ["arm", "ram", "concrete", "local-reparam"])
def test_other_chance_is_flattened_too(name: str) -> None:
    """The weights have the mean 1 within five standard errors, of 16,384 paths, none above e²; rare states are met."""
    sampler = sampler_of(planted((2, 2)), name)
    which = torch.arange(2**14) % 2
    with in_company():
        sizes, weights = own_rare._sizes(sampler, which, [slice(None)])
    assert float(weights.max()) < 1.05 * math.exp(2)
    assert float(weights.mean() - 1) == pytest.approx(0, abs=5 * float(weights.std()) / 128)
    huge = sizes[:, 0] > 0.5 * sizes.max()
    assert name == "local-reparam" or int(huge.sum()) > 100
    assert float(weights[huge].sum()) < 0.02 * len(weights)


def test_what_is_added_to_a_tail() -> None:
    """A hundred equal weights: the last eight again, of which less than an eighth is below the largest; and more."""
    sizes, shares = torch.arange(100.0, 0.0, -1.0, dtype=torch.float64), torch.full((100,), 0.01, dtype=torch.float64)
    found, upper = own_rare._cautious(sizes, shares)
    beyond, added = found[:-100], upper[:-100]
    assert float(added.sum()) == pytest.approx(0.08)
    assert bool((beyond >= 0.999 * 93 * 2 ** (torch.arange(1, 41) / 3)).all())
    assert bool((beyond[3:] >= 100).all())
    assert upper[-100:].cumsum(0)[[0, 99]].tolist() == pytest.approx([0.03, 1.2])
    with pytest.raises(GradevalError, match="uneven"):
        own_rare._cautious(sizes, shares * (torch.arange(100) == 50))


def blow_up(network: StochasticBinaryNetwork, inputs: Tensor, loss, randomness) -> Tensor:
    """RAM, and a tenth of its size more but for one draw in 10,000, which makes up for it."""
    value = get_estimator("ram")(network, inputs, loss, randomness)
    s = randomness.bernoulli(torch.full((len(inputs), 1), 1e-4, dtype=inputs.dtype)).squeeze(-1)
    return value + (1 - s / 1e-4) * 0.1 * carry(network.layers[0].map.bias.sum())


blow_up.unbiased = True
BLOW_UP = f"{__name__}:blow_up"


def test_a_rare_blow_up_neither_holds_nor_is_refuted(at_size, make_problem, tmp_path, monkeypatch) -> None:
    """1000 draws of a point meet it once in ten runs. The yardstick, which knows the network's states only, refuted."""
    problem = make_problem((2,), points=1)
    found = evaluate(problem, [blow_up, "ram"], draws=1000, exact="never", folder=tmp_path / "run")
    table = found.summary.set_index(["estimator", "layer"])["verdict"]
    assert table[BLOW_UP, "1"] == table[BLOW_UP, "all"] == BiasVerdict.UNDECIDED
    assert found.rare is None
    assert list(found.own_rare) == [BLOW_UP, "ram"]
    again = Evaluation.load(tmp_path / "run")
    for name, own in found.own_rare.items():
        np.testing.assert_array_equal(again.own_rare[name].cells, own.cells)
        np.testing.assert_array_equal(again.own_rare[name].usual, own.usual)
    assert again.summary.equals(found.summary)
    resumed = evaluate(problem, [blow_up, "ram"], draws=1000, exact="never", folder=tmp_path / "run", workers=2)
    assert resumed.summary.equals(found.summary)
    monkeypatch.setattr(own_rare, "MOST_OF_COVARIANCE", 2048)
    small = evaluate(problem, [blow_up], draws=1000, exact="never").summary.set_index("layer")["verdict"]
    assert small["1"] == BiasVerdict.REFUTED


def test_where_it_cannot_be_told_the_yardstick_is_taken_and_a_note_says_so(at_size, small) -> None:
    """Points that share a baseline; "tanh" has no chance."""

    def batch(network, inputs, loss, randomness):
        value = get_estimator("reinforce")(network, inputs, loss, randomness)
        return value + carry(value) * value.detach().mean()

    found = evaluate(small, [batch, "st", "tanh"], draws=100, exact="never")
    assert list(found.own_rare) == ["st"]
    name = next(iter(found.moments))
    assert found.rare_of(name) is found.rare is not None
    (note,) = (n for n in found.manifest["estimators"][name]["notes"] if "REINFORCE" in n)
    assert "depends on the other points" in note
    assert not any("REINFORCE" in n for n in found.manifest["estimators"]["tanh"]["notes"])


def test_a_sampled_reference_has_its_own(at_size, make_problem, tmp_path) -> None:
    problem, rough = make_problem((2, 2)), Precision(0.1, 5.0)
    found = evaluate(problem, ["st"], draws=100, reference=rough, folder=tmp_path / "run")
    assert found.rare is None
    again = Evaluation.load(tmp_path / "run")
    assert found.reference is not None
    assert again.reference is not None
    np.testing.assert_array_equal(again.reference.rare.cells, found.reference.rare.cells)
    assert again.summary.equals(found.summary)


def test_numbers_do_not_depend_on_threads(make_problem) -> None:
    sampler, before = sampler_of(make_problem((3, 2)), "disarm"), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(own_rare_states(sampler))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*(one.cells for one in found))
    np.testing.assert_array_equal(*(one.usual for one in found))


def test_an_estimator_that_fails_on_rare_states_says_so(small) -> None:
    def overflowing(network, inputs, loss, randomness):
        value = get_estimator("reinforce")(network, inputs, loss, randomness)
        u = randomness.uniform((len(inputs),))
        return value + carry(network.head.weight.sum()) * torch.where(u < 1e-6, math.inf, 1.0)

    with pytest.raises(GradevalError, match="gives NaN, infinite or huge gradients on rare states"):
        own_rare_states(Sampler(small, "overflowing", overflowing))
