"""The norm of a mean of draws with many more entries than there are draws: its interval, and the test that it is zero.

No covariance is known then, only what inner products of means of blocks of draws tell of it: its trace, the trace of
its square, its leading eigenvalues, and how far the draws vary along the mean itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import special

from gradeval.analysis.hypotheses import DETECTION, FAMILY_ALPHA, BiasTest, constant_test
from gradeval.analysis.roots import crossing
from gradeval.analysis.statistics import (
    AT_BOUNDARY,
    LEVEL,
    ONE_TAIL,
    REGULAR,
    Array,
    Interval,
    check_finite,
    quadratic_form_score,
)

LEADING_DIRECTIONS = 12  # of a covariance, that are told apart at most; the others count as equally wide
WIDE = 0.1  # of tr Σ²: an eigenvalue whose square is above this share is told apart, however uncertain the rest is
NOTHING = 1e-24  # of ‖b̂‖²: a variance below this share is rounding


@dataclass(frozen=True)
class Spectrum:
    """The eigenvalues of Σ as far as few blocks of draws tell them: leading ones, and equally wide others.

    Attributes:
        values: eigenvalues, none of them twice, the largest first.
        counts: how often each occurs, at least once; of the last not always a whole number.
        blocks: of how many means of draws this was found.
        weights: how much each block counts in the eigenvector of each leading one, [leading, blocks].
    """

    values: Array
    counts: Array
    blocks: int
    weights: Array

    @property
    def trace(self) -> float:
        """tr Σ."""
        return float(self.counts @ self.values)

    @property
    def square(self) -> float:
        """tr Σ²."""
        return float(self.counts @ self.values**2)

    @property
    def widest(self) -> float:
        """The largest eigenvalue."""
        return float(self.values[0])

    @classmethod
    def of(cls, products: Array, draws: int, trace: float, size: int) -> Spectrum:
        """Estimate the spectrum of Σ.

        tr Σ² is estimated by `trace_of_square`. Eigenvalues of the sample covariance S are too large by the noise of
        all others, λ̃ⱼ = λ̂ⱼ − (tr S − Σᵢ≤ⱼ λ̂ᵢ)/(B − 1 − j) are not (noise reduction: Yata & Aoshima, J. Multivariate
        Analysis 105, 2012, doi:10.1016/j.jmva.2011.09.002). The leading ones are kept; the rest of tr Σ and of tr Σ²
        makes d equal ones, d = (rest of tr Σ)²/(rest of tr Σ²): Welch and Satterthwaite's approximation, as in the
        tests of Zhang, Guo, Zhou & Cheng (Journal of the American Statistical Association 115, 2020,
        doi:10.1080/01621459.2019.1604366). Where the leading ones leave no room for a rest, tr Σ² is larger than
        estimated, towards caution.

        Args:
            products: inner products of the means of B ≥ 4 blocks, [B, B].
            draws: in each block.
            trace: tr Σ of one draw, which all draws tell better than the blocks.
            size: P, the number of entries of a draw.

        Returns:
            The spectrum of Σ of one draw; that of a Σ of zero where nothing varies.

        Examples:
            >>> rows = np.random.default_rng(0).standard_normal((50, 4000))
            >>> found = Spectrum.of(rows @ rows.T, 1, 4000.0, 4000)
            >>> bool(3000 < found.square < 5000), round(found.trace)
            (True, 4000)
        """
        count = len(products)
        centred = products - products.mean(0)
        centred = draws * (centred - centred.mean(1)[:, None])
        total = float(centred.trace()) / (count - 1)
        if not trace > 0 or not total > 0:
            return cls(np.zeros(1), np.ones(1), count, np.zeros((0, count)))
        centred *= trace / total
        square = trace_of_square(centred)
        square = min(max(square, trace**2 / size), trace**2)
        eigenvalues, vectors = np.linalg.eigh(centred)
        found = np.maximum(eigenvalues[::-1] / (count - 1), 0.0)[: min(size, count - 2)]
        rest = trace - np.cumsum(found)
        leading = found - np.maximum(rest, 0.0) / (count - 1 - np.arange(1, len(found) + 1))
        values, counts = _leading_and_rest(leading[:LEADING_DIRECTIONS], trace, square, size)
        lengths = np.sqrt(found[: len(values) - 1] * (count - 1) * total / trace / draws)
        return cls(values, counts, count, (vectors[:, ::-1][:, : len(lengths)] / lengths).T)


def trace_of_square(centred: Array) -> float:
    """Estimate tr Σ² without bias, whatever the law of the draws.

    With the sample covariance S of B draws eᵢ, and Q = Σ ‖eᵢ − ē‖⁴/(B − 1), it is
    (B − 1)/B(B − 2)(B − 3) × [(B − 1)(B − 2) tr S² + (tr S)² − B Q].
    Source: Himeno & Yamada, Journal of Multivariate Analysis 130, 2014, doi:10.1016/j.jmva.2014.05.005.

    Args:
        centred: ⟨eᵢ − ē, eⱼ − ē⟩, [B, B], B ≥ 4.

    Returns:
        The estimate, which may be negative by chance.

    Examples:
        >>> rows = np.random.default_rng(0).standard_normal((50, 4000))
        >>> rows -= rows.mean(0)
        >>> bool(3000 < trace_of_square(rows @ rows.T) < 5000)
        True
    """
    count = len(centred)
    fourth = float((np.diag(centred) ** 2).sum()) / (count - 1)
    square, trace = float((centred**2).sum()) / (count - 1) ** 2, float(centred.trace()) / (count - 1)
    square = (count - 1) * ((count - 1) * (count - 2) * square + trace**2 - count * fourth)
    return square / (count * (count - 2) * (count - 3))


def _leading_and_rest(leading: Array, trace: float, square: float, size: int) -> tuple[Array, Array]:
    """As many of the leading eigenvalues as leave a trace and a square for equal others, and these."""
    wide = int((np.cumprod((leading > 0) & (leading**2 > WIDE * square))).sum())  # these are told apart for certain
    for kept in range(min(len(leading), size - 1), -1, -1):
        values = leading[:kept]
        rest, rest_square = trace - float(values.sum()), square - float(values @ values)
        if kept and not (values[-1] > 0 and rest > 0):
            continue
        # equal others have a square between rest²/(as many as there can be) and that of values no larger than these
        least = rest**2 / (size - kept)
        most = min(rest * (values[-1] if kept else trace), rest**2)
        if least <= rest_square <= most or kept <= wide:
            rest_square = max(min(rest_square, most), least)
            return np.append(values, rest_square / rest), np.append(np.ones(kept), rest**2 / rest_square)
    raise AssertionError("none kept is always possible")


@dataclass(frozen=True)
class NormLaw:
    """What is known of ‖b‖, b = E g − g*, from n draws of g with covariance Σ.

    Attributes:
        square: U, which estimates ‖b‖² without bias.
        draws: n.
        spectrum: of Σ.
        rest: how much of U lies outside the leading directions of Σ, and the variance of a draw along b there.
        leading: the components of b̂ in these directions.

    Source: U is the U-statistic Σᵢ≠ⱼ⟨eᵢ, eⱼ⟩/n(n − 1) of the draws' errors eᵢ (Bai & Saranadasa, Statistica Sinica 6,
    1996; Chen & Qin, Annals of Statistics 38, 2010, doi:10.1214/09-AOS716), with variance 2 tr Σ²/n(n − 1) + 4 bᵀΣb/n.
    """

    square: float
    draws: int
    spectrum: Spectrum
    rest: tuple[float, float]
    leading: Array

    @classmethod
    def of(cls, products: Array, per_block: int, draws: int, numbers: tuple[float, float], size: int) -> Self:
        """From inner products.

        U = (n ‖b̂‖² − mean of ‖eᵢ‖²)/(n − 1) is that of all single draws. b̂ᵀΣ̂b̂ is the variance of the blocks' ⟨e, b̂⟩; it
        is above bᵀΣb by tr Σ²/n on average, and outside the leading directions this is subtracted.

        Args:
            products: of the errors' means over blocks of draws, and in the last row and column of b̂, [B + 1, B + 1].
            per_block: draws in each block.
            draws: n.
            numbers: the mean of ‖g − g*‖² over all draws, and tr Σ.
            size: P, the number of entries of a draw.

        Returns:
            What is known.

        Raises:
            GradevalError: a number is NaN or infinite.
        """
        check_finite("inner products of means of draws", products, *numbers)
        mean_square, trace = numbers
        spectrum = Spectrum.of(products[:-1, :-1], per_block, trace, size)
        square = (draws * float(products[-1, -1]) - mean_square) / max(draws - 1, 1)
        values, inner = spectrum.values[:-1], products[:-1, -1]
        leading = spectrum.weights @ inner
        rest = square - float((leading**2 - values / draws).sum())
        rest_square = spectrum.square - float(values @ values)
        along = per_block * float(inner.var(ddof=1)) - float(values @ leading**2) - rest_square / draws
        error = math.sqrt(2 * rest_square) / draws
        least = float(spectrum.counts[-1] * spectrum.values[-1]) / size
        share = along / max(rest, error) if max(rest, error) > 0 else 0.0
        most = float(spectrum.values[max(len(values) - 1, 0)])
        return cls(square, draws, spectrum, (rest, min(max(share, least), most)), leading)

    def along(self, square: float) -> float:
        """bᵀΣb/‖b‖², the variance of a draw along b, given ‖b‖².

        Of all b of this length the most likely is taken (hybrid resampling, as in `bias_interval`): in the leading
        directions bⱼ = b̂ⱼ/(1 + μλⱼ/n), and outside ‖b‖² is smaller than estimated by μ/2 times the variance of that,
        with the μ that gives the length. So what chance has added to b̂ along the widest directions does not count as b.

        Args:
            square: ‖b‖².

        Returns:
            The variance.
        """
        values, (rest, beside) = self.spectrum.values[:-1], self.rest
        if not square > 0 or not len(values):
            return beside if square > 0 else self.spectrum.widest
        noise = values / self.draws
        leading = np.maximum(np.abs(self.leading), 1e-3 * np.sqrt(noise))
        rest_square = float(self.spectrum.counts[-1] * self.spectrum.values[-1] ** 2)
        error = 4 * max(rest, 0.0) * beside / self.draws + 2 * rest_square / self.draws**2

        def parts(shrink: float) -> tuple[Array, float]:
            mu = (1 / shrink - 1) / float(noise[0])  # from infinity to −n/λ₁
            return (leading / (1 + mu * noise)) ** 2, max(0.0, rest - mu * error / 2)

        def length(shrink: float) -> float:
            inside, outside = parts(shrink)
            return float(inside.sum()) + outside - square

        found = crossing(length, 1e-9, 2.0)
        if not found < math.inf:
            return self.spectrum.widest
        inside, outside = parts(found)
        return (float(values @ inside) + beside * outside) / (float(inside.sum()) + outside or 1.0)

    @property
    def freedom(self) -> int:
        """Degrees of freedom of what the blocks tell of Σ."""
        return max(self.spectrum.blocks - 1, 1)

    @property
    def linear_share(self) -> float:
        """The share of U's variance that is linear in the noise."""
        linear = 4 * max(self.square, 0.0) * self.along(self.square) / self.draws
        rest = 2 * self.spectrum.square / self.draws**2
        return linear / (linear + rest) if linear + rest > 0 else 0.0

    def score(self, square: float, bias: float, variance: float) -> float:
        """How far out a value of U is, as a normal score.

        U + tr Σ/n is taken for Σ yᵢ², yᵢ normal with variances λᵢ/n, whose distribution `quadratic_form_score` has.

        Args:
            square: the value of U.
            bias: ‖b‖.
            variance: of a draw along b.

        Returns:
            The score; infinite where nothing varies.
        """
        # one more direction, no wider than any: b lies in the two whose variances are next to the wanted one
        least = min(variance, float(self.spectrum.values[-1]))
        values, counts = np.append(self.spectrum.values, least), np.append(self.spectrum.counts, 1.0)
        upper = max(int((values >= variance).sum()) - 1, 0)
        lower = min(upper + 1, len(values) - 1)
        share = (variance - values[lower]) / (values[upper] - values[lower]) if values[upper] > values[lower] else 0.0
        means = np.zeros(len(values))
        means[lower] += bias**2 * (1 - min(max(share, 0.0), 1.0))
        means[upper] += bias**2 * min(max(share, 0.0), 1.0)
        trace, spread = (self.spectrum.trace + least) / self.draws, math.sqrt(self.spectrum.square) / self.draws
        x = max(square + trace, 1e-6 * spread)
        unit = max(x, trace)
        return quadratic_form_score(x / unit, values / self.draws / unit, np.sqrt(means / unit), counts)


@dataclass(frozen=True)
class MeanNorm(NormLaw):
    """The interval of ‖b‖, and the test that it is zero.

    Attributes:
        square, draws, spectrum, rest, leading: what is known, as in `NormLaw`.
    """

    def interval(self) -> Interval:
        """‖b‖ with an interval that is honest where b = 0, and never empty.

        It holds all θ for which a test of ‖b‖ = θ by U does not reject, with tails split as in `bias_interval`: in two
        equal ones where U is nearly linear in the noise, and near zero mostly above. What is said of Σ comes from B
        blocks: so scores are held against Student's quantiles with B − 1 degrees of freedom.

        Returns:
            ‖b‖ with its 95 % interval.
        """
        size = math.sqrt(max(self.square, 0.0))
        error = math.sqrt(2 * self.spectrum.square / self.draws**2 + 4 * size**2 * self.spectrum.widest / self.draws)
        if self.spectrum.trace <= NOTHING * self.draws * size**2 or error == 0:
            return Interval(size, size, size)
        noise = 2 * self.spectrum.square / self.draws**2

        def excess(bias: float, above: bool) -> float:
            variance = self.along(bias**2)
            linear = 4 * bias**2 * variance / self.draws / noise
            regular = min(max((linear - ONE_TAIL) / (REGULAR - ONE_TAIL), 0.0), 1.0)
            tail = (1 - LEVEL) / 2 * regular
            if not above:
                tail = 1 - AT_BOUNDARY - (1 - LEVEL - AT_BOUNDARY) * regular + tail
            end = float(special.stdtrit(self.freedom, max(tail, 1e-300)))
            return self.score(self.square, bias, variance) - end

        far = math.sqrt(size**2 + error)
        low = crossing(lambda bias: -excess(bias, False), 0.0, far, rtol=1e-8)
        high = crossing(lambda bias: -excess(bias, True), 0.0, far, rtol=1e-8)
        low, high = low if low < math.inf else 0.0, high if high < math.inf else math.inf  # where it is NaN
        return Interval(size, min(low, size), max(high, size))

    def test(self, missing: float, scale: float, comparisons: int, deterministic: bool = False) -> BiasTest:
        """Test ‖b‖ = 0, or rather that b is no more than what rare states may be missing.

        U is held against its distribution where ‖b‖ = φ = ``missing``, along the widest direction: with the observed
        states alone, so much bias is not refuted. Without φ it is the L²-norm test of Zhang, Guo, Zhou & Cheng (2020),
        with leading directions apart (see `Spectrum.of`), which holds its level where few of them make Σ. As Σ is
        known from B blocks, the normal score of the probability is taken as Student's with B − 1 degrees of freedom.

        Args:
            missing: φ, the norm that states too rare to be drawn may be missing in the mean, at the test's level.
            scale: ‖g*‖.
            comparisons: number of tests that share the significance level of 0.01.
            deterministic: whether all draws are the same by construction.

        Returns:
            The p-value, and the bias in the widest direction that is found with probability 0.95.

        Raises:
            GradevalError: a number is NaN or infinite.
        """
        check_finite("a bias, its scale and what may be missing", self.square, scale, missing)
        alpha, widest = FAMILY_ALPHA / comparisons, self.spectrum.widest
        if math.sqrt(widest) <= 1e-12 * scale:
            size = math.sqrt(max(self.square, 0.0))
            return constant_test(size, missing, scale, (self.draws, alpha), deterministic)
        pvalue = float(special.stdtr(self.freedom, -self.score(self.square, missing, widest)))
        needed = -float(special.stdtrit(self.freedom, alpha))
        wide = math.sqrt(self.spectrum.square) / self.draws + widest / self.draws + missing**2
        trace = self.spectrum.trace / self.draws
        critical = crossing(lambda x: self.score(x - trace, missing, widest) - needed, 0.0, trace + 4 * wide) - trace
        found = float(special.ndtri(1 - DETECTION))
        if not critical < math.inf:
            return BiasTest(1.0 if math.isnan(pvalue) else pvalue, math.inf)
        detectable = crossing(lambda b: found - self.score(critical, b, widest), 0.0, math.sqrt(abs(critical) + wide))
        return BiasTest(1.0 if math.isnan(pvalue) else pvalue, detectable if detectable < math.inf else math.inf)
