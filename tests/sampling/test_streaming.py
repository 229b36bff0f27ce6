"""Streamed statistics equal those of all draws kept in memory, however they are cut into chunks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradeval.sampling.streaming import CHUNK, SAMPLE, Level, Scorer, Spread, Stream, kept, reduce_chunk, tree

SLICES = {"1": slice(0, 3), "head": slice(3, 5), "all": slice(0, 5)}


def draws(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    exact = torch.randn(5, generator=random, dtype=torch.float64)
    mix = torch.randn(5, 5, generator=random, dtype=torch.float64)
    gradients = exact + 0.1 + torch.randn(count, 5, generator=random, dtype=torch.float64) @ mix
    return exact, gradients, torch.randn(count, generator=random, dtype=torch.float64)


def stream_of(exact: torch.Tensor, gradients: torch.Tensor, values: torch.Tensor) -> Stream:
    scorer = Scorer(exact, SLICES)
    stream = Stream(scorer)
    for index, (part, value) in enumerate(zip(gradients.split(CHUNK), values.split(CHUNK), strict=True)):
        stream.add(reduce_chunk(scorer, part, value, index))
    return stream


def test_the_tree_of_means() -> None:
    assert tree(60) == [(1, 1), (2, 1), (5, 1), (10, 5), (20, 10), (50, 10)]
    for samples, source in tree(10**6):
        assert samples % source == 0


@pytest.mark.parametrize("count", [20, 999, 1000, 7300])
def test_moments_equal_numpys(count: int) -> None:
    exact, gradients, values = draws(count)
    moments = stream_of(exact, gradients, values).moments()
    g, e = gradients.numpy(), exact.numpy()
    columns = [g - e]
    columns += [np.stack([((g - e)[:, w] ** 2).sum(1) for w in SLICES.values()], 1)]
    cosine = [g[:, w] @ e[w] / np.linalg.norm(g[:, w], axis=1) / np.linalg.norm(e[w]) for w in SLICES.values()]
    rows = np.concatenate([*columns, np.stack(cosine, 1), values.numpy()[:, None]], 1)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(rows.T), rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(moments.descents, [(g[:, w] @ e[w] > 0).sum() for w in SLICES.values()])
    pieces = []
    cuts = range(CHUNK, count, CHUNK)
    for part, own in zip(np.split(rows, cuts), np.split(g, cuts), strict=True):
        sums = [each[:, w].sum(1) for each in ((own - own.mean(0)) ** 2, own * e) for w in SLICES.values()]
        scores = np.column_stack([part[:, g.shape[1] : -1], *sums])
        pieces.append(((scores - scores.mean(0)) ** 3).sum(0))
    np.testing.assert_allclose(moments.thirds, np.sum(pieces, 0) / count, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("samples", [1, 2, 5, 10, 50, 200, 1000, 2000, 5000, 10_000, 20_000])
def test_levels_equal_means_of_consecutive_draws(samples: int) -> None:
    exact, gradients, values = draws(24_000)
    level = stream_of(exact, gradients, values).levels[samples]
    blocks = 24_000 // samples
    means = gradients[: blocks * samples].reshape(blocks, samples, 5).mean(1)
    squares = (means - exact) ** 2
    expected = torch.stack([squares[:, w].sum(1) for w in SLICES.values()], 1)
    assert level.spread.count == blocks
    np.testing.assert_allclose(np.asarray(level.spread.mean)[:3], expected.mean(0), rtol=1e-10)
    if blocks > 1:
        np.testing.assert_allclose(level.spread.variance[:3], expected.var(0), rtol=1e-8)


def test_the_sample_of_cosines_is_bounded_and_even() -> None:
    level = Level()
    for start in range(0, 20_000, 700):
        rows = torch.arange(start, min(start + 700, 20_000), dtype=torch.float64)[:, None]
        level.add(Spread.of(rows), rows.numpy()[kept(start, len(rows))])
        assert level.sample is not None
        assert SAMPLE // 2 < len(level.sample) <= SAMPLE or start + 700 < SAMPLE
        stride = level.sample[1, 0]
        np.testing.assert_array_equal(level.sample[:, 0], np.arange(0, start + len(rows), stride))


def test_zero_gradients_have_no_direction() -> None:
    exact, gradients, _ = draws(3)
    gradients[1] = 0
    _squares, cosines, inner = Scorer(exact, SLICES)(gradients)
    assert (cosines[1] == 0).all()
    assert (inner[1] == 0).all()
    assert torch.isnan(Scorer(0 * exact, SLICES)(gradients)[1]).all()


def test_a_swapped_layer_is_seen() -> None:
    """The planted fault: gradients whose first two layers' parameters stand in each other's place."""
    exact, gradients, _ = draws(100)
    swapped = gradients[:, [3, 4, 0, 1, 2]]
    right, wrong = (Scorer(exact, SLICES)(g)[0] for g in (gradients, swapped))
    assert (wrong.mean(0) > 1.5 * right.mean(0)).any()
