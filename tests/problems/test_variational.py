"""The task `vae`: all exact methods agree, its images are binary, and it is evaluated and trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torch import nn

from gradeval import GradevalError, check, evaluate, exact_gradient, load_problem, load_task
from gradeval.estimators import get_estimator
from gradeval.model.elbo import NegativeElbo
from gradeval.model.randomness import RandomDraws, generator
from gradeval.problems.image_files import load_images
from gradeval.problems.image_tasks import split_images
from gradeval.problems.variational import binarise
from gradeval.training.prediction import predict, score


@pytest.mark.parametrize(
    "options",
    [
        {"units": 4},
        {"units": "5", "encoder": "6-3", "decoder": "7", "states": (-1.0, 1.0)},
        {"units": 3, "noise": "uniform"},
    ],
)
def test_all_methods_and_both_forms_of_the_kl_agree(options) -> None:
    truth = exact_gradient(load_problem("vae", points=5, **options), "joint")
    assert float(truth.vector.norm()) > 0.1
    for kl in ("sampled", "analytic"):
        problem = load_problem("vae", points=5, kl=kl, **options)
        for method in ("joint", "layerwise", "plain"):
            found = exact_gradient(problem, method)
            assert found.value == pytest.approx(truth.value, rel=1e-12)
            assert (found.vector - truth.vector).norm() < 1e-12 * truth.vector.norm(), (kl, method)


def test_twelve_units_by_two_methods_and_by_sampling() -> None:
    """J of 2^12 states; a Monte-Carlo mean of f within 5 standard errors (false alarm 6e-7)."""
    problem = load_problem("vae", units=12, points=3)
    layerwise, plain = exact_gradient(problem, "layerwise"), exact_gradient(problem, "plain")
    assert layerwise.value == pytest.approx(plain.value, rel=1e-12)
    assert (layerwise.vector - plain.vector).norm() < 1e-12 * plain.vector.norm()
    layer, loss = problem.network.layers[0], problem.loss_function()
    p = layer.probability(layer.preactivation(problem.inputs)).detach().expand(4000, -1, -1)
    f = loss(layer.encode(RandomDraws(generator("cpu", 1)).bernoulli(p))).mean(1).detach()
    assert abs(float(f.mean()) - plain.value) < 5 * float(f.std()) / 4000**0.5


def test_the_images_are_binary_and_follow_from_the_seed() -> None:
    images = load_images()
    binary = binarise(images, 0)
    assert set(binary.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(binary, binarise(images, 0))
    assert not torch.equal(binary, binarise(images, 1))
    grey = images.pixels.flatten(1)
    error = ((grey * (1 - grey)).sum() ** 0.5) / grey.numel()  # of the mean over all pixels
    assert abs(float(binary.mean() - grey.mean())) < 5 * float(error)
    assert torch.equal(binary[grey == 0], torch.zeros(int((grey == 0).sum()), dtype=torch.float64))
    task = load_task("vae", units=3)
    for name, numbers in split_images(images, 0).items():
        problem = task.splits[name]
        assert torch.equal(problem.inputs, binary[numbers])
        assert torch.equal(problem.targets, problem.inputs)


def test_what_is_evaluated_are_a_hundred_points_and_what_is_trained_on_all() -> None:
    problem, task = load_problem("vae", units=3), load_task("vae", units=3)
    assert (problem.points, task.train.points) == (100, 1257)
    assert load_problem("vae").widths == [200]
    assert problem.loss == NegativeElbo("sampled")


def test_initial_parameters() -> None:
    """By seed; preactivations standardised; the decoder's logits centred at those of the pixels' rates."""
    task = load_task("vae", units=6, decoder="9")
    network, inputs = task.train.network, task.train.inputs
    a = network.layers[0].preactivation(inputs[:1000])
    assert a.mean(0).abs().max() < 1e-12
    assert (a.std(0) - 1).abs().max() < 1e-12
    assert not network.head.prior_logits.any()
    s = (torch.rand(1000, 6, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    rate = (inputs.sum(0) + 0.5) / (len(inputs) + 1)
    assert ((network.head(s).mean(0) - torch.logit(rate)).abs() < 0.5).all()
    assert torch.equal(task.initial_parameters(0), nn.utils.parameters_to_vector(network.parameters()))
    assert not torch.equal(task.initial_parameters(0), task.initial_parameters(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": "3-2"}, "units must be the width of one layer of binary units, such as 200; found '3-2'"),
        ({"units": "0"}, "units must be widths"),
        ({"encoder": "x"}, "encoder must be widths joined by '-'"),
        ({"kl": "exact"}, "unknown form of the KL 'exact': known are analytic, sampled"),
        ({"points": 5000}, "points must be from 1 to 1257"),
        ({"decode": "3"}, "unknown option of problem 'vae' 'decode': did you mean decoder"),
        ({"noise": "logit"}, "unknown noise 'logit': did you mean logistic"),
    ],
)
def test_bad_options_are_refused(options, message: str) -> None:
    with pytest.raises(GradevalError, match=message):
        load_problem("vae", **options)


def test_it_is_evaluated() -> None:
    problem = load_problem("vae", units=3, points=5)
    found = evaluate(problem, ["reinforce", "arm", "disarm", "rebar", "ram", "psa", "st", "concrete"], draws=40)
    assert not found.manifest["failures"]
    assert found.manifest["problem"]["loss"] == "NegativeElbo(kl='sampled')"
    assert found.manifest["problem"]["exact_value"] == pytest.approx(exact_gradient(problem, "joint").value)


def test_it_is_checked() -> None:
    """Exactly; an estimator that counts the KL twice fails."""
    problem = load_problem("vae", units=2, points=3)
    assert check("disarm", problems=[problem]).verdict == "holds"

    def twice(network, inputs, loss, randomness):
        kl = NegativeElbo().divergence(network, inputs)
        return get_estimator("disarm")(network, inputs, loss, randomness) + kl

    verdict = check(twice, unbiased=True, problems=[problem])
    assert verdict.verdict == "fails", verdict


def test_predictions_are_probabilities_of_pixels() -> None:
    """The score is the cross-entropy of the averaged probabilities; of one state that is −log p(x|s)."""
    problem = load_problem("vae", units=3, points=5)
    network = problem.network
    found = predict(problem, "mode", RandomDraws(generator("cpu", 1)))
    assert found.shape == (5, 64)
    layer = network.layers[0]
    s = (layer.preactivation(problem.inputs) >= 0).double()
    reconstruction = torch.nn.functional.binary_cross_entropy_with_logits(
        network.head(s), problem.targets, reduction="sum"
    )
    assert score(problem, found)["loss"] == pytest.approx(float(reconstruction.detach()) / 5, rel=1e-9)
    assert score(problem, torch.ones_like(found))["loss"] < 64 * 710  # a probability of 0 is no infinity


def test_omniglots_file(tmp_path: Path) -> None:
    """Columns are images, column after column; the test set is its own."""
    (tmp_path / "omniglot").mkdir()
    path = tmp_path / "omniglot" / "chardata.mat"
    images = np.zeros((5, 28, 28))
    images[:, 2, 20] = [0.1, 0.2, 0.3, 0.4, 1.0]
    columns = images.transpose(0, 2, 1).reshape(5, 784).T
    savemat(path, {"data": columns[:, :3], "testdata": columns[:, 3:], "target": np.zeros(1)})
    found = load_images("omniglot", str(tmp_path))
    assert torch.equal(found.pixels[:, 0], torch.as_tensor(images))
    assert found.is_test is not None
    assert found.is_test.tolist() == [False] * 3 + [True] * 2
    for content in (
        {"data": columns},
        {"data": 2 * columns + 1, "testdata": columns},
        {"data": columns[:5], "testdata": columns},
    ):
        savemat(path, content)
        with pytest.raises(GradevalError, match=r"chardata.mat: not Omniglot's images of 28 × 28") as caught:
            load_images("omniglot", str(tmp_path))
        assert "\n" not in str(caught.value)
    path.write_bytes(b"no mat file")
    with pytest.raises(GradevalError, match="not Omniglot's images"):
        load_images("omniglot", str(tmp_path))
    with pytest.raises(GradevalError, match=r"data 'omniglot': .* is not there"):
        load_images("omniglot", str(tmp_path / "elsewhere"))
