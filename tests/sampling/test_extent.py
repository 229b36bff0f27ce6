"""What is kept of draws with many parameters: blocks of the right draws, whatever the number of chunks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradeval.analysis.run.estimates import variance_along
from gradeval.sampling.extent import BlockMeans, Extent, products_of
from gradeval.sampling.streaming import Scorer, Stream, reduce_chunk, tree

SLICES = {"1": slice(0, 12), "head": slice(12, 20), "all": slice(0, 20)}


def stream_of(extent: Extent, gradients: torch.Tensor, exact: torch.Tensor) -> Stream:
    scorer = Scorer(exact, SLICES, extent)
    stream = Stream(scorer)
    for index, part in enumerate(gradients.split(extent.chunk)):
        stream.add(reduce_chunk(scorer, part, part.sum(1), index))
    return stream


def test_a_covariance_is_kept_where_its_eigenvectors_are_had_in_a_second() -> None:
    """At 4354 parameters those of one estimator's tables took 90 s."""
    assert Extent.of(2048, 20) == Extent()
    assert Extent.of(2048, 20, memory=2**24).blocks > 0
    assert Extent.of(4354, 3) == Extent(1000, blocks=128)
    assert Extent.of(26_000, 3).blocks == 128
    for parameters in (10**4, 10**5, 10**6, 10**7, 10**8):
        extent = Extent.of(parameters, 4)
        lengths = [samples for samples, _ in tree(extent.block)]
        assert all(extent.chunk % samples == 0 for samples in lengths)


@pytest.mark.parametrize("chunk", [10, 50, 100, 500, 1000, 5000])
@pytest.mark.parametrize("blocks", [32, 128])
def test_blocks_hold_nearly_all_draws_and_are_bounded(chunk: int, blocks: int) -> None:
    """In the order of the draws, of equal length, at most so many; no draw twice."""
    extent, seen = Extent(chunk, 10 ** (len(str(chunk)) - 1), blocks), BlockMeans(blocks)
    for index in range(400):
        draws = torch.arange(index * chunk, (index + 1) * chunk, dtype=torch.float64)[:, None]
        seen.add(BlockMeans.of(extent, draws, draws, index))
        assert len(seen.errors) <= blocks
        if index in (0, 1, 2, 5, 17, 399):
            assert len(seen.errors) >= min(blocks // 4, (index + 1) * chunk // 2)
            assert len(seen.errors) * seen.draws >= 0.85 * (index + 1) * chunk - seen.draws
            assert (np.diff(seen.deviations[:, 0]) >= 0.999 * seen.draws).all()


def test_moments_at_size_are_those_with_a_covariance() -> None:
    random = torch.Generator().manual_seed(0)
    exact = torch.randn(20, generator=random, dtype=torch.float64)
    gradients = exact + 0.3 + torch.randn(1230, 20, generator=random, dtype=torch.float64)
    small = stream_of(Extent(), gradients, exact).moments()
    large = stream_of(Extent(100, 100, 64), gradients, exact).moments()
    assert large.at_size
    assert not small.at_size
    np.testing.assert_allclose(large.mean_error, small.mean_error, rtol=1e-12)
    np.testing.assert_array_equal(large.descents, small.descents)
    for layer in SLICES:
        np.testing.assert_allclose(large.square(layer), small.square(layer), rtol=1e-10)
        np.testing.assert_allclose(large.cosine(layer), small.cosine(layer), rtol=1e-10)
        np.testing.assert_allclose(large.deviation(layer)[0], small.deviation(layer)[0], rtol=0.01)
        target = exact[SLICES[layer]].numpy()
        assert variance_along(large, layer, target) == pytest.approx(variance_along(small, layer, target), rel=1e-10)
    with pytest.raises(ValueError, match="no covariance"):
        large.spread("all")


def test_curves_at_size_are_those_of_longer_chunks() -> None:
    """Every number of draws has the same means, whether chunks hold 100 draws or 5000."""
    random = torch.Generator().manual_seed(1)
    exact = torch.randn(20, generator=random, dtype=torch.float64)
    gradients = exact + torch.randn(6000, 20, generator=random, dtype=torch.float64)
    small, large = (stream_of(extent, gradients, exact) for extent in (Extent(), Extent(100, 100, 64)))
    assert small.levels.keys() == large.levels.keys()
    for samples, level in small.levels.items():
        assert level.spread.count == large.levels[samples].spread.count
        np.testing.assert_allclose(level.spread.mean, large.levels[samples].spread.mean, rtol=1e-10)
        np.testing.assert_allclose(level.sample, large.levels[samples].sample, rtol=1e-8)


def test_products_are_those_of_the_blocks() -> None:
    """Planted: a block left out changes them."""
    random = torch.Generator().manual_seed(2)
    exact = torch.randn(20, generator=random, dtype=torch.float64)
    gradients = exact + torch.randn(200, 20, generator=random, dtype=torch.float64)
    known = stream_of(Extent(100, 100, 64), gradients, exact).moments().products
    assert known is not None
    errors = (gradients - exact).numpy()
    length = int(known.draws[0])
    parts = [errors[start : start + length] for chunk in (0, 100) for start in range(chunk, chunk + 97, length)]
    rows = np.stack([*(part.mean(0) for part in parts), errors.mean(0), exact.numpy()])
    for k, where in enumerate(SLICES.values()):
        np.testing.assert_allclose(known.products[k], rows[:, where] @ rows[:, where].T, rtol=1e-5, atol=1e-6)
    across = known.across(2)
    assert across[-1, -1] == pytest.approx(
        np.sum((rows[-2] - (rows[-2] @ rows[-1]) / (rows[-1] @ rows[-1]) * rows[-1]) ** 2), rel=1e-5
    )


def test_products_do_not_depend_on_how_many_entries_are_taken_at_a_time() -> None:
    random = np.random.default_rng(0)
    rows, vectors = random.standard_normal((6, 20)).astype(np.float32), random.standard_normal((2, 20))
    whole = products_of(rows, vectors, SLICES)
    np.testing.assert_allclose(products_of(rows, vectors, SLICES, 3), whole, rtol=1e-12)
