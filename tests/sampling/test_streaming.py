"""Streamed statistics equal those of all draws kept in memory, however they are cut into chunks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradeval.sampling.extent import CHUNK
from gradeval.sampling.streaming import SAMPLE, Level, Scorer, Spread, Stream, kept, reduce_chunk, tree

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
    cuts, deviations = range(CHUNK, count, CHUNK), []
    for own in np.split(g, cuts):  # from the mean of the chunk
        squares = (own - own.mean(0)) ** 2 * len(own) / (len(own) - 1)
        deviations.append(np.stack([squares[:, w].sum(1) for w in SLICES.values()], 1))
    rows = np.concatenate([*columns, np.stack(cosine, 1), np.concatenate(deviations), values.numpy()[:, None]], 1)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(rows.T), rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(moments.descents, [(g[:, w] @ e[w] > 0).sum() for w in SLICES.values()])
    pieces = []
    for part, own in zip(np.split(rows, cuts), np.split(g, cuts), strict=True):
        sums = [(own * e)[:, w].sum(1) for w in SLICES.values()]
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


def test_given_deviations_take_the_place_of_those_of_the_whole_draw() -> None:
    exact, gradients, values = draws(1000)
    given = torch.rand(1000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scorer = Scorer(exact, SLICES)
    stream = Stream(scorer)
    stream.add(reduce_chunk(scorer, gradients, values, 0, given))
    moments = stream.moments()
    for k, layer in enumerate(SLICES):
        assert moments.deviation(layer) == pytest.approx((given[:, k].mean().item(), given[:, k].var().item()))
        assert moments.blocks_of(layer)[:, 1] == pytest.approx(given[:, k].reshape(20, 50).mean(1).numpy())
        # bias² + variance: with the whole draws' deviations these are the squared errors
        whole = reduce_chunk(scorer, gradients, values, 0)
        squares = whole.blocks[:, k].mean()
        assert squares == pytest.approx(moments.square(layer)[0])
        deviation = whole.blocks[:, 3 + k].mean()
        assert moments.blocks_of(layer)[:, 0].mean() == pytest.approx(squares - deviation + given[:, k].mean().item())


@pytest.mark.parametrize(("count", "size"), [(20, 1), (999, 49), (1000, 50), (7300, 50)])
def test_blocks_are_means_of_equally_many_draws(count: int, size: int) -> None:
    exact, gradients, values = draws(count)
    moments = stream_of(exact, gradients, values).moments()
    g, e = gradients.numpy(), exact.numpy()
    blocks = count // size
    squares = ((g - e) ** 2).sum(1)[: blocks * size].reshape(blocks, size).mean(1)
    assert moments.blocks_of("all")[:, 0] == pytest.approx(squares)


def test_many_blocks_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the last of an odd number lost, blocks joined out of order."""
    exact, gradients, values = draws(30_000)
    all_blocks = stream_of(exact, gradients, values).blocks
    monkeypatch.setattr("gradeval.sampling.streaming.MAX_PAIRED", 70)
    joined = stream_of(exact, gradients, values).blocks
    assert len(all_blocks) == 600
    assert len(joined) == 37
    np.testing.assert_allclose(joined, all_blocks[:592].reshape(37, 16, -1).mean(1), rtol=1e-12)
