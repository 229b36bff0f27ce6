"""The draws of an estimator beside those of a sampled reference: the moments of one know the error of the other."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from gradeval.analysis.run.moments import BlockProducts, Moments
from gradeval.analysis.run.sampled import FORMS, SampledReference, SecondSample
from gradeval.sampling.extent import BlockMeans, products_of


def with_reference(
    moments: Moments, reference: SampledReference, directions: np.ndarray | None, blocks: BlockMeans | None = None
) -> Moments:
    """The same moments with what the error of r̄, which g* was replaced by, adds to them.

    At size, products of means of blocks are made anew. In place of a block's mean error eᵢ stands eᵢ − w ρᵢ, where ρᵢ
    is the mean of a block of the reference less r̄, and w such that the covariance of that is the one of a block if
    single draws had Σ_g + n Σ_r/m: then all that follows from the products is of two samples.

    Args:
        moments: of the estimator, all of g − r̄.
        reference: r̄; at size with its means of blocks.
        directions: the mean of g/‖g‖ of each layer, one after the other.
        blocks: at size, those of the estimator.

    Returns:
        The moments, with `Moments.second`.

    Examples:
        >>> from gradeval import load_problem
        >>> from gradeval.estimators import get_estimator
        >>> from gradeval.reference import sampled_gradient
        >>> problem = load_problem("expclass", units="2-2", stage=0, points=4)
        >>> found = sampled_gradient(problem, {"ram": get_estimator("ram")})
        >>> import gradeval
        >>> run = gradeval.evaluate(problem, ["st"], draws=100)
        >>> with_reference(run.moments["st"], found.sampled, None).second.forms.shape
        (4, 4)
    """
    if reference.covariance is not None:
        return replace(moments, second=SecondSample(reference, _forms(moments, reference, directions)))
    assert reference.blocks is not None
    assert moments.products is not None
    rests, count, slices = reference.blocks, len(reference.blocks), dict(reference.slices)
    second = SecondSample(reference.without_blocks(), _forms_of_blocks(moments, reference, directions))
    vectors = np.stack([moments.mean_error, reference.mean])
    if moments.deterministic:
        rows = (moments.mean_error - rests).astype(np.float32)
        parts = np.zeros((count, len(slices))), np.array([reference.block_draws], dtype=np.int64)
        return replace(moments, products=BlockProducts(products_of(rows, vectors, slices), *parts), second=second)
    assert blocks is not None
    both = min(count, len(blocks.errors))
    weight = math.sqrt(moments.draws * reference.block_draws / reference.draws / blocks.draws)
    rows = blocks.errors[:both] - np.float32(weight) * rests[:both]
    parts = moments.products.deviations[:both], moments.products.draws
    return replace(moments, products=BlockProducts(products_of(rows, vectors, slices), *parts), second=second)


def _forms(moments: Moments, reference: SampledReference, directions: np.ndarray | None) -> np.ndarray:
    """`SecondSample.forms` from the covariance of the reference."""
    forms, beside = np.zeros((len(reference.slices), FORMS)), _beside(reference, directions)
    for k, (layer, where) in enumerate(reference.slices.items()):
        bias, mean, aside = moments.bias(layer), reference.mean[where], beside[k, where]
        along, moved = reference.of_layer(layer) @ bias, reference.of_layer(layer) @ aside
        forms[k] = bias @ along, mean @ along, aside @ moved, mean @ moved
    return forms


def _forms_of_blocks(moments: Moments, reference: SampledReference, directions: np.ndarray | None) -> np.ndarray:
    """The same from means of blocks of the reference."""
    assert reference.blocks is not None
    count = len(reference.blocks)
    vectors = np.concatenate([[moments.mean_error, reference.mean], _beside(reference, directions)])
    found = products_of(reference.blocks, vectors, dict(reference.slices))[:, :count, count:]
    found = (found - found.mean(1, keepdims=True)) * math.sqrt(reference.block_draws / reference.draws / (count - 1))
    own, along = found[..., 0], found[..., 1]
    aside = np.stack([found[k, :, 2 + k] for k in range(len(found))])
    return np.stack([(x * y).sum(1) for x, y in ((own, own), (own, along), (aside, aside), (aside, along))], 1)


def _beside(reference: SampledReference, directions: np.ndarray | None) -> np.ndarray:
    """The part of each layer's mean direction that is beside r̄, [K, P]; zero where it is not known."""
    found, start = np.zeros((len(reference.slices), len(reference.mean))), 0
    for k, where in enumerate(reference.slices.values() if directions is not None else []):
        assert directions is not None
        part, mean = directions[start : start + where.stop - where.start], reference.mean[where]
        found[k, where] = part - mean * (mean @ part) / (mean @ mean or 1.0)
        start += where.stop - where.start
    return found
