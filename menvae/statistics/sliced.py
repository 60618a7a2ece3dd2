"""Max-sliced distance correlation: that of the most dependent pair of one-dimensional projections of two blocks.

The distance correlation of blocks of many dimensions is diluted: that of v and v^2, .54, falls to .11 when each side
gets 7 dimensions of noise. Two blocks are independent if and only if all their projections u'x and w'y are (Cramer &
Wold 1936), so the largest distance correlation of two projections measures dependence as well. Noise does not dilute
it, and it is the same after any invertible linear map of a block, such as a rotation. Shen & Dong 2024
(arXiv:2001.01095) take the maximum over pairs of dimensions, Tsur, Goldfeld & Greenewald 2023 (Max-sliced mutual
information) over directions; Sheng & Yin 2013 (J. Multivar. Anal. 122:148) find directions by distance covariance.

On the rows that it is maximised on, the maximum is large for independent blocks, too. Here the directions come from
other rows, such as training subjects or one half of a split. Given the directions, the estimate on the judged rows is
unbiased, 0 under independence, and permutation tests are exact. It is a lower bound of the maximum: a few hundred rows
do not find a weak dependence in a rotated block of 84 dimensions.

Half of the patients rank all pairs of dimensions and of principal axes and give canonical directions; gradient ascent
improves these and some random directions. The other half of the patients choose the best of all, so that none wins by
overfitting. The objective is a quadrature of the squared distance covariance, which is a weighted distance between the
joint characteristic function and the product of the marginal ones (Szekely, Rizzo & Bakirov 2007, definition 2); it
costs N instead of N^2. Principal axes, canonical and random directions rotate with the block. The dimensions do not:
they are candidates because a VAE with a diagonal posterior tends to align factors with them.

Shape suffixes: N rows, F and G columns, D directions, Z points of the quadrature, P = D Z.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from menvae.statistics.distance_correlation import u_distance_correlation_sqr
from menvae.statistics.independence import NUM_PERMUTATIONS, IndependenceTest, check_blocks, permutation_test
from menvae.statistics.pairwise import distances
from menvae.statistics.patients import rows_by_patient

MIN_PATIENTS = 20
"""Fewer patients give no directions: 10 search and 10 choose."""
FREQUENCIES = (0.5, 1.0, 2.0)
"""Of the characteristic functions of projections with unit variance: each stands for an octave."""
NUM_PAIRS, NUM_CANONICAL, NUM_RANDOM = 8, 4, 8
"""Starting points of the ascent."""
LEAST_VARIANCE = 1e-10
"""Of a direction, as a share of the largest: one of less variance is rounding."""
NUM_STEPS = 40
FIRST_STEP, LAST_STEP = 0.5, 0.025
"""Lengths of the steps on the unit sphere."""


class Directions(NamedTuple):
    """Weights of the columns of two blocks, [F] and [G]."""

    left: Tensor
    right: Tensor


def most_dependent_directions(
    blocks: Sequence[Tensor], patients: Sequence[Hashable], *, seed: int = 0
) -> list[Directions]:
    """Find the most dependent directions of each pair of blocks.

    Args:
        blocks: K > 1 tensors [N, F_k] of the same rows, which should not be those that are judged later.
        patients: patient of each row; at least `MIN_PATIENTS`.
        seed: splits the patients and draws starting points.

    Returns:
        Directions of each pair, in the order of `itertools.combinations`.

    Raises:
        ValueError: fewer than 2 blocks, too few patients, values that are not finite, or a constant block.

    >>> x = torch.linspace(-1.0, 1.0, 100)[:, None]
    >>> ((left, right),) = most_dependent_directions([x, x.square()], range(100))
    >>> left.shape, right.shape
    (torch.Size([1]), torch.Size([1]))
    """
    check_blocks(blocks, patients)
    rows = rows_by_patient(patients)
    if len(rows) < MIN_PATIENTS:
        raise ValueError(f"directions need at least {MIN_PATIENTS} patients; there are {len(rows)}")
    order = np.random.default_rng(seed).permutation(len(rows))
    searching, choosing = (
        torch.from_numpy(np.concatenate([rows[patient] for patient in half])) for half in np.array_split(order, 2)
    )
    doubles = [block.detach().double() for block in blocks]
    for index, block in enumerate(doubles):
        if not (block[searching] != block[searching][:1]).any():
            raise ValueError(f"block {index} is constant over {len(searching)} rows: it has no directions")
    generator = torch.Generator().manual_seed(seed)
    found = []
    with _one_thread():
        whitened = [_Whitened(block[searching]) for block in doubles]
        for left, right in combinations(range(len(blocks)), 2):
            left_FD, right_GD = _candidates(whitened[left], whitened[right], generator)
            scores_D = _dependence(doubles[left][choosing] @ left_FD, doubles[right][choosing] @ right_GD)
            best = int(scores_D.argmax())
            found.append(Directions(left_FD[:, best], right_GD[:, best]))
    return found


def sliced_correlations_sqr(blocks: Sequence[Tensor], directions: Sequence[Directions]) -> list[float]:
    """Bias-corrected squared distance correlations of projections, one for each pair of blocks.

    Args:
        blocks: K > 1 tensors [N, F_k] with N > 3.
        directions: from `most_dependent_directions` of other rows.

    Returns:
        In the order of `itertools.combinations`; 0 where a projection is constant.

    Raises:
        ValueError: fewer than 4 rows.
    """
    pairs = combinations([block.double() for block in blocks], 2)
    return [
        u_distance_correlation_sqr((left @ u)[:, None], (right @ w)[:, None]).item()
        for (left, right), (u, w) in zip(pairs, directions, strict=True)
    ]


def sliced_dcor_test(
    blocks: Sequence[Tensor],
    directions: Sequence[Directions],
    patients: Sequence[Hashable],
    *,
    num_permutations: int = NUM_PERMUTATIONS,
    seed: int = 0,
) -> IndependenceTest:
    """Test the independence of blocks by `sliced_correlations_sqr`; permutations as `independence.dcor_test`.

    Every pair of blocks has two matrices of its own: 6 pairs of 4,096 rows need 3 GB, of 1,000 rows 0.2 GB.

    Args:
        blocks: K > 1 tensors [N, F_k] of the same rows.
        directions: from `most_dependent_directions` of other patients: otherwise p-values are too small.
        patients: patient of each row.
        num_permutations: smallest number of permutations, at least 19.
        seed: same seed, same permutations.

    Raises:
        ValueError: as `independence.dcor_test`; a projection that does not vary.
    """
    check_blocks(blocks, patients)
    owners = [block for pair in combinations(range(len(blocks)), 2) for block in pair]
    weights = [side for pair in directions for side in pair]
    matrices = torch.stack(
        [
            distances((blocks[owner].detach().double() @ side)[:, None])
            for owner, side in zip(owners, weights, strict=True)
        ]
    )
    pairs = [(2 * index, 2 * index + 1) for index in range(len(directions))]
    return permutation_test(matrices, pairs, owners, patients, num_permutations, seed)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run small operations in one thread: on busy cores, two threads that wait for each other are 10 times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Whitened:
    """Rows of a block in coordinates with unit covariance.

    A ridge would only hide directions of small variance; that none wins by overfitting is left to the second half.

    Attributes:
        rows_NF: centred, times the symmetric root of the inverse covariance: a rotated block gives rotated rows.
        root_FF: maps directions in these coordinates to weights of the columns of the block.
        axes_FD: unit vectors of the dimensions of the block and of its principal axes, in these coordinates.
    """

    def __init__(self, block_NF: Tensor) -> None:
        centred_NF = block_NF - block_NF.mean(dim=0)
        variances_F, principal_FF = torch.linalg.eigh(centred_NF.T @ centred_NF / len(block_NF))
        scales_F = variances_F.clamp_min(LEAST_VARIANCE * float(variances_F.max())).sqrt()
        self.root_FF = principal_FF / scales_F @ principal_FF.T
        self.rows_NF = centred_NF @ self.root_FF
        dimensions_FF = principal_FF * scales_F @ principal_FF.T
        self.axes_FD = _unit(torch.cat([dimensions_FF, principal_FF], dim=1))


def _candidates(left: _Whitened, right: _Whitened, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return weights [F, D] and [G, D]: the starting points, and what the ascent makes of them."""
    starts = [_best_axes(left, right), _canonical(left, right), _random(left, right, generator)]
    left_FD, right_GD = (_unit(torch.cat(sides, dim=1)) for sides in zip(*starts, strict=True))
    better_FD, better_GD = _ascended(left, right, left_FD, right_GD)
    return left.root_FF @ torch.cat([left_FD, better_FD], 1), right.root_FF @ torch.cat([right_GD, better_GD], 1)


def _best_axes(left: _Whitened, right: _Whitened) -> tuple[Tensor, Tensor]:
    left_DNZ, right_DNZ = (_waves(side.rows_NF @ side.axes_FD) for side in (left, right))
    num_left, num_rows, num_points = left_DNZ.shape
    left_PN, right_PN = (waves.mT.flatten(0, 1) for waves in (left_DNZ, right_DNZ))
    moments = left_PN @ right_PN.T / num_rows
    scores = moments.square().view(num_left, num_points, -1, num_points).sum(dim=(1, 3))
    best = scores.flatten().topk(min(NUM_PAIRS, scores.numel())).indices
    return left.axes_FD[:, best // scores.shape[1]], right.axes_FD[:, best % scores.shape[1]]


def _canonical(left: _Whitened, right: _Whitened) -> tuple[Tensor, Tensor]:
    u_FD, _, w_DG = torch.linalg.svd(left.rows_NF.T @ right.rows_NF, full_matrices=False)
    return u_FD[:, :NUM_CANONICAL], w_DG.T[:, :NUM_CANONICAL]


def _random(left: _Whitened, right: _Whitened, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random sums of rows, so that they rotate with the block."""
    left_ND, right_ND = torch.randn(2, len(left.rows_NF), NUM_RANDOM, generator=generator, dtype=torch.float64).unbind()
    return left.rows_NF.T @ left_ND, right.rows_NF.T @ right_ND


def _ascended(left: _Whitened, right: _Whitened, left_FD: Tensor, right_GD: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient ascent on two unit spheres, with steps of given lengths: it does not depend on coordinates."""
    sides = [left_FD, right_GD]
    for length in np.geomspace(FIRST_STEP, LAST_STEP, NUM_STEPS):
        sides = [side.detach().requires_grad_() for side in sides]
        with torch.enable_grad():
            total = _dependence(left.rows_NF @ sides[0], right.rows_NF @ sides[1]).sum()
        gradients = torch.autograd.grad(total, sides)
        along = [
            gradient - (gradient * side).sum(dim=0) * side for gradient, side in zip(gradients, sides, strict=True)
        ]
        sides = [
            _unit(side.detach() + float(length) * _unit(step.detach())) for side, step in zip(sides, along, strict=True)
        ]
    return sides[0], sides[1]


def _dependence(left_ND: Tensor, right_ND: Tensor) -> Tensor:
    """Quadrature [D] of squared distance covariances of projections with unit variance."""
    moments_DZZ = _waves(left_ND).mT @ _waves(right_ND) / len(left_ND)
    return moments_DZZ.square().sum(dim=(1, 2))


def _waves(projected_ND: Tensor) -> Tensor:
    """Centred cosines and sines [D, N, Z] of standardised projections; their squares have the weight ds / s^2."""
    centred_ND = projected_ND - projected_ND.mean(dim=0)
    standard_ND = centred_ND / centred_ND.square().mean(dim=0).sqrt().clamp_min(1e-12)
    frequencies_Z = standard_ND.new_tensor(FREQUENCIES)
    angles_DNZ = standard_ND.T[:, :, None] * frequencies_Z
    waves_DNZ = torch.cat([angles_DNZ.cos(), angles_DNZ.sin()], dim=2) / frequencies_Z.repeat(2).sqrt()
    return waves_DNZ - waves_DNZ.mean(dim=1, keepdim=True)


def _unit(vectors_FD: Tensor) -> Tensor:
    unit_FD: Tensor = vectors_FD / vectors_FD.norm(dim=0).clamp_min(1e-12)
    return unit_FD
