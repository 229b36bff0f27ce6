"""The draws of an estimator beside those of a sampled reference: the moments of one know the error of the other."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from gradeval.analysis.run.moments import BlockProducts, Moments
from gradeval.analysis.run.sampled import SampledReference, SecondSample
from gradeval.sampling.extent import BlockMeans, products_of


def with_reference(moments: Moments, reference: SampledReference, blocks: BlockMeans | None = None) -> Moments:
    """The same moments with what the error of r̄, which g* was replaced by, adds to them.

    At size, products of means of blocks are made anew. In place of a block's mean error eᵢ stands eᵢ − w ρᵢ, where ρᵢ
    is the mean of a block of the reference less r̄, and w such that the covariance of that is the one of a block if
    single draws had Σ_g + n Σ_r/m: then all that follows from the products is of two samples.

    Args:
        moments: of the estimator, all of g − r̄.
        reference: r̄; at size with its means of blocks.
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
        >>> with_reference(run.moments["st"], found.sampled).second.forms.shape
        (4, 2)
    """
    bias, slices = moments.mean_error, dict(reference.slices)
    if reference.covariance is not None:
        forms = np.zeros((len(slices), 2))
        for k, (layer, where) in enumerate(slices.items()):
            along = reference.of_layer(layer) @ bias[where]
            forms[k] = bias[where] @ along, reference.mean[where] @ along
        return replace(moments, second=SecondSample(reference, forms))
    assert reference.blocks is not None
    assert moments.products is not None
    own, count = reference.blocks, len(reference.blocks)
    vectors = np.stack([bias, reference.mean])
    found = products_of(own, vectors, slices)[:, :count, count:]
    found = (found - found.mean(1, keepdims=True)) * math.sqrt(reference.block_draws / reference.draws / (count - 1))
    forms = np.stack([(found[..., 0] ** 2).sum(1), (found[..., 0] * found[..., 1]).sum(1)], 1)
    second = SecondSample(reference.without_blocks(), forms)
    if moments.deterministic:
        rows = (bias - own).astype(np.float32)
        products = BlockProducts(
            products_of(rows, vectors, slices),
            np.zeros((count, len(slices))),
            np.array([reference.block_draws], dtype=np.int64),
        )
        return replace(moments, products=products, second=second)
    assert blocks is not None
    both = min(count, len(blocks.errors))
    weight = math.sqrt(moments.draws * reference.block_draws / reference.draws / blocks.draws)
    rows = blocks.errors[:both] - np.float32(weight) * own[:both]
    known = moments.products
    products = BlockProducts(products_of(rows, vectors, slices), known.deviations[:both], known.draws)
    return replace(moments, products=products, second=second)
