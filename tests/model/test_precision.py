"""Single precision: everything is computed in double unless the network's own is asked for, and rounding is no bias."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import gradeval
from gradeval import GradevalError, Problem, StochasticBinaryNetwork, exact_gradient, exact_moments
from gradeval.estimators import get_estimator
from gradeval.model.precision import in_precision
from gradeval.problems.tasks import Task
from gradeval.sampling.probes import check_pointwise
from gradeval.training.measures import Measures, gradient_accuracy
from gradeval.training.protocol import Protocol


def single_problem(units: tuple[int, ...] = (3, 2)) -> Problem:
    """A net in torch's default precision, as a user makes one."""
    random = torch.Generator().manual_seed(2)
    widths = (4, *units, 1)
    maps = [nn.utils.skip_init(nn.Linear, a, b) for a, b in itertools.pairwise(widths)]
    with torch.no_grad():
        for map in maps:
            for parameter in map.parameters():
                parameter.copy_(0.6 * torch.randn(parameter.shape, generator=random))
    x = torch.randn(30, 4, generator=random)
    return Problem(StochasticBinaryNetwork(maps[:-1], maps[-1]), x, torch.sign(x[:, 0] * x[:, 1]))


@pytest.fixture(scope="module")
def single() -> Problem:
    return single_problem()


def test_the_exact_gradient_is_double_unless_told_otherwise(single: Problem) -> None:
    right = exact_gradient(single.to(dtype=torch.float64)).vector
    assert torch.equal(exact_gradient(single).vector, right)
    kept = exact_gradient(single, precision="network").vector
    assert kept.dtype == torch.float32
    assert 1e-9 < float((kept - right).norm() / right.norm()) < 1e-5
    assert single.network.dtype == torch.float32  # a copy was converted


@pytest.mark.parametrize("precision", ["double", "network"])
def test_unbiased_estimators_are_not_refuted(single: Problem, precision: str) -> None:
    """In single precision exact biases of 4e-7 to 5e-6 counted. False alarms: 1 % for each run, at fixed seeds."""
    names = ["reinforce", "leg", "st"]
    found = gradeval.evaluate(single, names, draws=400, precision=precision)
    assert found.manifest["dtype"] == {"double": "float64", "network": "float32"}[precision]
    verdicts = found.summary.set_index("estimator")["verdict"]
    assert not verdicts.str.contains("refuted").any()
    assert set(verdicts[["reinforce", "leg"]]) == {"claim of no bias holds exactly"}
    exact = found.summary.set_index("estimator")["exact_relative_bias"]
    assert float(exact["leg"].max()) < 1e-12


def test_draws_that_differ_by_rounding_only_are_not_refuted() -> None:
    """PSA of one unit sums both states: its draws differ by rounding only. Planted: no allowance for it."""
    found = gradeval.evaluate(single_problem((1,)), ["psa"], draws=2000, exact="never", precision="network").summary
    assert float(found["relative_variance"].max()) < 1e-12
    assert float(found["bias_pvalue"].min()) > 0.05
    assert set(found["verdict"]) == {"no bias seen"}


@pytest.mark.parametrize("precision", ["double", "network"])
def test_check_holds(single: Problem, precision: str) -> None:
    for name in ("leg", "disarm"):  # one is decided on all states, one by draws
        assert gradeval.check(name, problems=[single], precision=precision, max_draws=2**16).verdict != "fails"
    assert gradeval.check("leg", problems=[single], precision=precision).verdict == "holds"


def test_exact_moments_and_points(single: Problem) -> None:
    assert max(exact_moments(single, get_estimator("leg")).relative_bias().values()) < 1e-12
    kept = exact_moments(single, get_estimator("leg"), precision="network")
    assert 1e-9 < max(kept.relative_bias().values()) < 1e-4
    check_pointwise(single, get_estimator("reinforce"))  # rounding is not taken for a mixing of points
    with pytest.raises(GradevalError, match="depends on the other points"):
        check_pointwise(single, mixing)


def mixing(network, inputs, loss, randomness) -> Tensor:
    f = get_estimator("reinforce")(network, inputs, loss, randomness)
    return f + 0.01 * f.mean()


def test_measures_of_training_are_double(single: Problem) -> None:
    task, double = Task(single), single.to(dtype=torch.float64)
    theta = torch.cat([p.detach().flatten() for p in single.network.trainable().values()])
    value, exact = Measures(task, Protocol()).objective(single, theta, 0, 0)
    assert exact
    assert value == pytest.approx(exact_gradient(double).value, abs=1e-14)
    rows = gradient_accuracy(single, "st", get_estimator("st"), 200, 0)
    assert rows == gradient_accuracy(double, "st", get_estimator("st"), 200, 0)


def test_what_cannot_be_converted_is_one_line(single: Problem) -> None:
    class Fixed(nn.Module):
        """Holds a tensor that `to` does not know of."""

        def __init__(self) -> None:
            super().__init__()
            self.matrix = [torch.ones(4, 4)]

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.matrix[0]

    maps = [nn.Sequential(Fixed(), single.network.layers[0].map), single.network.layers[1].map]
    problem = Problem(StochasticBinaryNetwork(maps, single.network.head), single.inputs, single.targets)
    with pytest.raises(
        GradevalError, match=r"cannot be computed in double precision .*pass precision='network'"
    ) as caught:
        exact_gradient(problem)
    assert "\n" not in str(caught.value)
    assert exact_gradient(problem, precision="network").vector.dtype == torch.float32
    with pytest.raises(GradevalError, match="unknown precision 'half'"):
        in_precision(single, "half")
