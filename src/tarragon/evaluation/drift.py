"""Whether two batches of vectors are alike: how each lies in space, and a test that asks whether chance made the gap.

Pure: arrays in, figures out. A new batch of documents, or this week's questions, against those before them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tarragon.errors import InvalidInput

Rows = NDArray[np.float32] | NDArray[np.float64]

PERMUTATIONS = 1_000
"""The least p that they can give is .001."""

MOST = 1_000
"""Vectors of a batch that are looked at: the test holds the square of their number."""

FEWEST = 20
"""Vectors below which a batch is not judged: with ten a side the test sees only what everybody sees."""


@dataclass(frozen=True, slots=True)
class Batch:
    """How vectors lie in space.

    Attributes:
        count: How many there are.
        length: Mean length.
        variance: Mean squared distance from their mean.
        cosine: Mean cosine of two different ones: 1 where all point the same way.
    """

    count: int
    length: float
    variance: float
    cosine: float


@dataclass(frozen=True, slots=True)
class Drift:
    """Two batches of one space, compared.

    Attributes:
        first: The earlier one.
        second: The later one.
        across: Mean cosine of one of the first and one of the second. Near both batches' own where nothing has drifted.
        shift: Distance between the means, in standard deviations of the first: the square root of its variance.
        mmd: Squared maximum mean discrepancy, unbiased: about 0, also below, where both come from one distribution.
        p: How often chance alone makes it as large.
    """

    first: Batch
    second: Batch
    across: float
    shift: float
    mmd: float
    p: float

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, ready for JSON."""
        return asdict(self)


def describe(vectors: Rows) -> Batch:
    """How vectors, shape ``(n, dimensions)``, n ≥ 2, lie in space."""
    rows = _checked(vectors)
    units = _units(rows)
    total, count = units.sum(axis=0), len(rows)
    cosine = (float(total @ total) - float((units * units).sum())) / (count * (count - 1))
    return Batch(count, float(np.linalg.norm(rows, axis=1).mean()), _variance(rows), cosine)


def compare(first: Rows, second: Rows, *, permutations: int = PERMUTATIONS, most: int = MOST, seed: int = 0) -> Drift:
    """Compare two batches of vectors of one space.

    The test is the kernel two-sample test of Gretton et al., "A Kernel Two-Sample Test", JMLR 2012: a Gaussian kernel
    as wide as the median distance of the pooled vectors, and p by permutation. It holds for vectors that were drawn one
    by one: of chunks take one a document, since those of one document are alike.

    Args:
        first: Shape ``(n, dimensions)``, n ≥ 2.
        second: Shape ``(m, dimensions)``, m ≥ 2.
        permutations: Of the test.
        most: Rows of each that are looked at; of more, so many are drawn.
        seed: Of the draws.

    Raises:
        InvalidInput: A batch has fewer than two vectors, or they are of different lengths.
    """
    chance = np.random.default_rng(seed)
    one, two = (_drawn(_checked(rows), most, chance) for rows in (first, second))
    if one.shape[1] != two.shape[1]:
        raise InvalidInput(f"vectors of {one.shape[1]} and of {two.shape[1]} numbers are of different spaces")
    mmd, p = two_sample(one, two, permutations, chance)
    deviation = np.sqrt(_variance(one))
    gap = float(np.linalg.norm(one.mean(axis=0) - two.mean(axis=0)))
    across = float(_units(one).mean(axis=0) @ _units(two).mean(axis=0))
    return Drift(describe(one), describe(two), across, gap / deviation if deviation else 0.0, mmd, p)


def two_sample(
    first: NDArray[Any], second: NDArray[Any], permutations: int, chance: np.random.Generator
) -> tuple[float, float]:
    """Squared maximum mean discrepancy, unbiased (lemma 6 of the paper), and its p.

    p counts the observed split among the permutations, so that it is never 0 and the test is exact.
    """
    pooled = np.concatenate([first, second])
    kernel = _kernel(pooled)
    own = np.zeros((len(pooled), 1))
    own[: len(first)] = 1
    observed = float(_discrepancies(kernel, own)[0])
    splits = chance.permuted(np.repeat(own, permutations, axis=1), axis=0)
    as_large = int((_discrepancies(kernel, splits) >= observed - 1e-12).sum())
    return observed, (1 + as_large) / (1 + permutations)


def _kernel(rows: NDArray[Any]) -> NDArray[Any]:
    """exp(-d² / 2w²) of every pair, 0 on the diagonal; w is the median of the distances d."""
    squares = (rows * rows).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * rows @ rows.T, 0.0)
    width = float(np.median(distances[np.triu_indices(len(rows), 1)]))
    kernel: NDArray[Any] = np.exp(-distances / (2 * width)) if width > 0 else (distances == 0).astype(np.float64)
    np.fill_diagonal(kernel, 0.0)
    return kernel


def _discrepancies(kernel: NDArray[Any], splits: NDArray[Any]) -> NDArray[Any]:
    """Of each split; a column has 1 where a vector counts for the first batch."""
    n = splits[:, 0].sum()
    m = len(splits) - n
    of_first = kernel @ splits
    within = (splits * of_first).sum(axis=0)
    across = of_first.sum(axis=0) - within
    others = kernel.sum() - 2 * across - within
    result: NDArray[Any] = within / (n * (n - 1)) + others / (m * (m - 1)) - 2 * across / (n * m)
    return result


def _checked(vectors: Rows) -> NDArray[np.float64]:
    rows = np.asarray(vectors, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < 2:
        raise InvalidInput(f"a batch has at least two vectors, not an array of shape {rows.shape}")
    return rows


def _drawn(rows: NDArray[np.float64], most: int, chance: np.random.Generator) -> NDArray[np.float64]:
    return rows if len(rows) <= most else rows[np.sort(chance.choice(len(rows), most, replace=False))]


def _variance(rows: NDArray[np.float64]) -> float:
    return float(((rows - rows.mean(axis=0)) ** 2).sum(axis=1).mean())


def _units(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of length 1; a row of zeros stays."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units: NDArray[np.float64] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return units
