"""Permutation tests of independence between blocks of variables, by distance correlation and HSIC, over patients.

Under independence, the rows of a block may be assigned to other patients without changing the distribution. All visits
of a patient move together and in order, to a patient with as many visits; a patient with a number of visits of its own
stays, which costs power, not validity. Every block is permuted, so that the largest statistic over all pairs has a null
distribution, too, and with it the p-values that hold for all pairs at once (Westfall & Young 1993, single-step maxT).

Each of K blocks is permuted L times, once by the identity, and block k of the L^2 arrangements (s, t) takes its
permutation t for k = 0 and s + (k - 1) t mod L for the others, L prime: an orthogonal array of strength 2. So L
permuted matrices a block and one matrix product a pair give all L^2 statistics, and nothing is lost:

- Two arrangements share the permutation of at most one block, so they are independent: the Monte Carlo error is that of
  L^2 - 1 permutations drawn one by one.
- Relabelling the permutations of each block cyclically maps the array to itself and any arrangement to the observed
  one, so that under independence the observed statistic is equally likely to have any rank: p-values are exact.

Shape suffixes: K blocks, M matrices, N rows, Q pairs, L permutations of a block, S = L^2 arrangements, E entries.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from menvae.statistics.hsic import gaussian_kernels, median_distances
from menvae.statistics.pairwise import Centring, centred_products, distances, normalised, u_centred
from menvae.statistics.patients import Indices, rows_by_patient

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]

NUM_PERMUTATIONS = 1000
MIN_ARRANGEMENTS = 20
"""With fewer arrangements of the patients no p-value is below 5 %."""
TIE = 1e-6
"""Correlations closer than this are equal: null values are computed in single precision."""
BAND_ENTRIES = 2**14
"""Entries of a matrix that are permuted at a time."""


@dataclass(frozen=True)
class IndependenceTest:
    """Result of a test of all pairs of K blocks, Q pairs in the order of `itertools.combinations`.

    Attributes:
        values: correlations [Q], squared and bias-corrected: around 0 for independent blocks.
        p_values: one-sided p-values [Q], each for one pair alone; at least 1 / (num_permutations + 1).
        family_wise: p-values [Q] that hold for all pairs at once; their minimum tests the largest value.
        chance: 95 % quantile of the largest of the Q values under independence.
        num_permutations: permutations that were used, at least as many as wanted.
    """

    values: Floats
    p_values: Floats
    family_wise: Floats
    chance: float
    num_permutations: int

    @property
    def largest(self) -> float:
        """Largest value of all pairs."""
        return float(self.values.max())

    @property
    def p_largest(self) -> float:
        """P-value of the largest value: the probability of one as large if all blocks are independent."""
        return float(self.family_wise.min())


def dcor_test(
    blocks: Sequence[Tensor],
    patients: Sequence[Hashable],
    *,
    num_permutations: int = NUM_PERMUTATIONS,
    seed: int = 0,
) -> IndependenceTest:
    """Test the independence of blocks by bias-corrected squared distance correlations.

    Time and memory grow with N^2 (4 blocks of 4,096 rows need 1 GB).

    Args:
        blocks: K > 1 tensors [N, F_k] of the same rows.
        patients: patient of each row.
        num_permutations: smallest number of permutations, at least 19, for a p-value of 5 %.
        seed: same seed, same permutations.

    Returns:
        Values are those of `menvae.statistics.distance_correlation.u_distance_correlations_sqr`.

    Raises:
        ValueError: fewer than 4 rows or 2 blocks, values that are not finite, a block that does not vary, or too few
            patients with as many visits as another.

    >>> x = torch.linspace(-1.0, 1.0, 100)[:, None]
    >>> found = dcor_test([x, x.square()], range(100), num_permutations=120)
    >>> found.largest > found.chance, round(found.p_largest, 4), found.num_permutations
    (True, 0.0083, 120)
    """
    found = _distances(blocks, patients)
    return permutation_test(found, _all_pairs(found), range(len(found)), patients, num_permutations, seed)


def hsic_test(
    blocks: Sequence[Tensor],
    patients: Sequence[Hashable],
    *,
    bandwidth: float | None = None,
    num_permutations: int = NUM_PERMUTATIONS,
    seed: int = 0,
) -> IndependenceTest:
    """Test the independence of blocks by normalised unbiased HSIC; errors are those of `dcor_test`.

    Args:
        blocks: K > 1 tensors [N, F_k] of the same rows.
        patients: patient of each row.
        bandwidth: bandwidth of the kernels; None: the median distance of each block.
        num_permutations: smallest number of permutations, at least 19.
        seed: same seed, same permutations.

    Returns:
        Values are those of `menvae.statistics.hsic.normalised_hsic`.
    """
    found = _distances(blocks, patients)
    bandwidths = median_distances(found) if bandwidth is None else found.new_full((len(found),), bandwidth)
    kernels = gaussian_kernels(found, bandwidths)
    kernels.diagonal(dim1=1, dim2=2).zero_()
    return permutation_test(kernels, _all_pairs(found), range(len(found)), patients, num_permutations, seed)


def permutation_test(
    matrices_MNN: Tensor,
    pairs: Sequence[tuple[int, int]],
    blocks: Sequence[int],
    patients: Sequence[Hashable],
    num_permutations: int = NUM_PERMUTATIONS,
    seed: int = 0,
) -> IndependenceTest:
    """Test the correlation of U-centred matrices, pair by pair and for the largest.

    Args:
        matrices_MNN: distances or kernels, symmetric and with a zero diagonal.
        pairs: indices of the Q pairs of matrices.
        blocks: block that each matrix belongs to; all matrices of a block are permuted alike.
        patients: patient of each row.
        num_permutations: smallest number of permutations, at least 19.
        seed: same seed, same permutations.

    Raises:
        ValueError: as `dcor_test`.
    """
    if num_permutations < MIN_ARRANGEMENTS - 1:
        raise ValueError(f"num_permutations={num_permutations} is not allowed; a p-value of 5 % needs at least 19")
    products, mean_squares = centred_products(matrices_MNN, Centring.unbiased(matrices_MNN.shape[-1]))
    correlations = normalised(products, mean_squares)
    for matrix, length in enumerate(torch.diagonal(correlations).tolist()):
        if length == 0.0:
            raise ValueError(f"block {blocks[matrix]} does not vary: it is constant, or constant except for one row")
    level = _prime(max(math.isqrt(num_permutations) + 1, max(blocks)))
    orders_KLN = _permutations(patients, max(blocks) + 1, level, seed)
    orders_MLN = [orders_KLN[block] for block in blocks]
    array_LLM = _orthogonal_array(max(blocks) + 1, level)[:, :, list(blocks)]
    found_QLL = _permuted_products(_unit(matrices_MNN), pairs, orders_MLN)
    null_QS = np.stack(
        [found[array_LLM[..., a], array_LLM[..., b]].ravel() for (a, b), found in zip(pairs, found_QLL, strict=True)]
    )
    largest_S = null_QS.max(axis=0)
    values_Q = np.array([correlations[pair].item() for pair in pairs])
    return IndependenceTest(
        values_Q,
        np.mean(null_QS >= null_QS[:, :1] - TIE, axis=1),
        np.mean(largest_S >= null_QS[:, :1] - TIE, axis=1),
        float(np.quantile(largest_S[1:], 0.95)),
        null_QS.shape[1] - 1,
    )


def _all_pairs(matrices_KNN: Tensor) -> list[tuple[int, int]]:
    return list(combinations(range(len(matrices_KNN)), 2))


def check_blocks(blocks: Sequence[Tensor], patients: Sequence[Hashable]) -> None:
    """Raise ValueError for fewer than 2 blocks, blocks of other rows, or values that are not finite."""
    if len(blocks) < 2:
        raise ValueError(f"a test of independence needs at least 2 blocks, got {len(blocks)}")
    for index, block in enumerate(blocks):
        if len(block) != len(patients):
            raise ValueError(f"block {index} has {len(block)} rows for {len(patients)} rows of patients")
        if not torch.isfinite(block).all():
            raise ValueError(f"block {index} has {int((~torch.isfinite(block)).sum())} values that are not finite")


def _distances(blocks: Sequence[Tensor], patients: Sequence[Hashable]) -> Tensor:
    check_blocks(blocks, patients)
    return torch.stack([distances(block.detach()) for block in blocks])


def _prime(least: int) -> int:
    """Return the smallest prime of at least ``least``."""
    return next(n for n in itertools.count(max(least, 2)) if all(n % k for k in range(2, math.isqrt(n) + 1)))


def _orthogonal_array(num_blocks: int, level: int) -> NDArray[np.intp]:
    """Return the permutation [L, L, K] of each block in each arrangement; (0, 0) has the permutations 0."""
    s, t = np.indices((level, level))
    return np.stack([t, *((s + slope * t) % level for slope in range(num_blocks - 1))], axis=2)


def _unit(matrices_MNN: Tensor) -> Floats32:
    """U-centred matrices of length 1 in single precision; one at a time, as copies of all in double are large."""
    found: Floats32 = np.empty(tuple(matrices_MNN.shape), dtype=np.float32)
    for unit_NN, matrix_NN in zip(found, matrices_MNN, strict=True):
        centred_NN = u_centred(matrix_NN[None])[0]
        unit_NN[:] = (centred_NN / centred_NN.norm()).numpy()
    return found


def _permuted_products(unit_MNN: Floats32, pairs: Sequence[tuple[int, int]], orders_MLN: Sequence[Indices]) -> Floats:
    """Correlations [Q, L, L] of permuted matrices, band by band of rows."""
    num_rows, level = unit_MNN.shape[1], len(orders_MLN[0])
    found_QLL = np.zeros((len(pairs), level, level))
    step = max(1, BAND_ENTRIES // num_rows)
    for start in range(0, num_rows, step):
        band = slice(start, start + step)
        permuted_MLE = [
            np.stack([matrix[order[band]].take(order, axis=1).ravel() for order in orders_LN])
            for matrix, orders_LN in zip(unit_MNN, orders_MLN, strict=True)
        ]
        for found, (left, right) in zip(found_QLL, pairs, strict=True):
            found += permuted_MLE[left] @ permuted_MLE[right].T
    return found_QLL


def _permutations(patients: Sequence[Hashable], num_blocks: int, level: int, seed: int) -> NDArray[np.intp]:
    """Return permutations of the rows [K, L, N], the first of each block the identity.

    Raises:
        ValueError: too few arrangements.
    """
    sizes: dict[int, list[Indices]] = defaultdict(list)
    for rows in rows_by_patient(patients):
        sizes[len(rows)].append(rows)
    groups = [np.stack(rows) for rows in sizes.values()]
    arrangements = math.prod(math.factorial(min(len(group), MIN_ARRANGEMENTS)) for group in groups)
    if arrangements < MIN_ARRANGEMENTS:
        raise ValueError(
            f"{sum(map(len, groups))} patients can be permuted in {arrangements} way{'s' * (arrangements != 1)}, as "
            f"only patients with equal numbers of visits change places; a test needs at least {MIN_ARRANGEMENTS}"
        )
    random = np.random.default_rng(seed)
    orders = np.tile(np.arange(len(patients)), (num_blocks, level, 1))
    for block in range(num_blocks):
        for order in orders[block, 1:]:
            for group in groups:
                order[group] = group[random.permutation(len(group))]
    return orders
