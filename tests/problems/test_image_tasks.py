"""Tasks on images: their split, and exact references of autoencoders and convolutional nets."""

from __future__ import annotations

import torch
from torch import nn

from gradeval import load_problem
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.problem import Problem
from gradeval.problems.image_files import load_images
from gradeval.problems.image_tasks import binary_maps, split_images
from gradeval.problems.tasks import standardise
from gradeval.reference import exact_gradient


def test_the_split_is_a_partition_fixed_by_the_seed() -> None:
    digits = load_images()
    parts = split_images(digits, 3)
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(1797))
    assert [len(part) for part in parts.values()] == [1257, 270, 270]
    assert all(
        torch.equal(part, again) for part, again in zip(parts.values(), split_images(digits, 3).values(), strict=True)
    )
    assert not torch.equal(parts["test"], split_images(digits, 4)["test"])


def test_exact_gradient_of_a_convolutional_net() -> None:
    """Layer by layer, with the tables shared by classes, as by the oracle that enumerates joint states."""
    random = torch.Generator().manual_seed(0)
    maps, width = binary_maps((1, 4, 4), "1c-2c")
    head = nn.Linear(width, 3, dtype=torch.float64)
    network = StochasticBinaryNetwork(maps, head, states=(-1.0, 1.0))
    inputs = torch.randn(6, 16, generator=random, dtype=torch.float64)
    standardise(network, inputs, 0)
    problem = Problem(network, inputs, torch.tensor([0, 1, 2, 0, 1, 2]), "cross-entropy")
    assert problem.widths == [4, 2]
    torch.testing.assert_close(
        exact_gradient(problem, "layerwise").vector, exact_gradient(problem, "joint").vector, rtol=1e-10, atol=1e-13
    )


def test_exact_gradient_of_an_autoencoders_bottleneck() -> None:
    """Every image is a target of its own."""
    problem = load_problem("autoencoder", units="4-3", encoder="5", points=7)
    layerwise, joint = exact_gradient(problem, "layerwise"), exact_gradient(problem, "joint")
    torch.testing.assert_close(layerwise.vector, joint.vector, rtol=1e-10, atol=1e-13)
    whole = exact_gradient(load_problem("digits", units="1c-2c"), "layerwise")  # all 1257 digits, 2^24 joint states
    assert float(whole.vector.norm()) > 0
