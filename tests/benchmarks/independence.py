"""What a permutation test of independence costs, next to that of the dcor package, and whether they agree.

1,000 subjects, 4 partitions of 128 latents, 1,000 permutations or more:

- dcor: `dcor.independence.distance_covariance_test` of one pair of partitions, 6 of which are needed
- pair: `dcor_test` of the same pair
- all pairs: `dcor_test` of 4 partitions, with the p-value of the largest
- hsic: `hsic_test` of 4 partitions
- sliced: `most_dependent_directions` of 4 partitions of other subjects, and `sliced_dcor_test`

Times are process-CPU milliseconds of one thread, a permutation. The exit status is 1 when the wanted ratio is missed,
or when p-values differ by more than 4 standard errors.

    OMP_NUM_THREADS=1 python tests/benchmarks/independence.py --repeats 5
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import time

import numpy as np
import torch
from interleaved import Claim, judged, show, take_turns
from threadpoolctl import threadpool_limits
from torch import Tensor

from menvae.statistics.independence import IndependenceTest, dcor_test, hsic_test
from menvae.statistics.sliced import most_dependent_directions, sliced_dcor_test

NUM_ROWS, NUM_PERMUTATIONS, SIZES = 1000, 1000, [24, 8, 12, 84]
LEAST_RATIO = 10.0
MOST_SECONDS = 60.0


def partitions(strength: float) -> list[Tensor]:
    """Independent normal latents, but for the first of vol, of which the first of residual has a share."""
    generator = torch.Generator().manual_seed(0)
    blocks = list(torch.randn(NUM_ROWS, sum(SIZES), generator=generator, dtype=torch.float64).split(SIZES, dim=1))
    blocks[3] = blocks[3].clone()
    blocks[3][:, 0] += strength * blocks[0][:, 0]
    return blocks


def theirs(blocks: list[Tensor], num: int) -> float:
    """P-value of vol and residual by the dcor package."""
    import dcor

    arrays = [np.ascontiguousarray(block.numpy()) for block in (blocks[0], blocks[3])]
    found = dcor.independence.distance_covariance_test(*arrays, num_resamples=num, random_state=0)
    return float(found.pvalue)


def sliced(blocks: list[Tensor]) -> IndependenceTest:
    """Test of the most dependent projections; the rows in reverse serve as those of other subjects."""
    directions = most_dependent_directions([block.flip(0) for block in blocks], range(NUM_ROWS))
    return sliced_dcor_test(blocks, directions, range(NUM_ROWS))


def agreement() -> list[Claim]:
    """P-values of both for dependences from none to one that is seen."""
    claims = []
    for strength in (0.0, 0.4, 0.6):
        blocks = partitions(strength)
        ours, dcors = dcor_test([blocks[0], blocks[3]], range(NUM_ROWS)).p_largest, theirs(blocks, NUM_PERMUTATIONS)
        allowed = 4.0 * math.sqrt(2.0 * max(dcors * (1.0 - dcors), 1.0 / NUM_PERMUTATIONS) / NUM_PERMUTATIONS)
        words = f"strength {strength}: p {ours:.4f}, of dcor {dcors:.4f}, at most {allowed:.4f} apart"
        claims.append((words, abs(ours - dcors) <= allowed))
    return claims


def main() -> int:
    """Measure and judge; 0 when ratios and p-values are as wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    blocks, subjects = partitions(0.0), range(NUM_ROWS)
    pair = [blocks[0], blocks[3]]
    used = dcor_test(pair, subjects).num_permutations
    print(f"median of {repeats}, one thread of {os.cpu_count()} cores; {used} permutations, of dcor {NUM_PERMUTATIONS}")
    with threadpool_limits(1):
        found = take_turns(
            {
                "dcor": lambda: theirs(blocks, NUM_PERMUTATIONS),
                "pair": lambda: dcor_test(pair, subjects),
                "all pairs": lambda: dcor_test(blocks, subjects),
                "hsic": lambda: hsic_test(blocks, subjects),
                "sliced": lambda: sliced(blocks),
            },
            repeats,
        )
        claims = agreement()
    per_permutation = {
        name: [value / (NUM_PERMUTATIONS if name == "dcor" else used) for value in values]
        for name, values in found.items()
    }
    ratio = show(per_permutation, "pair")["dcor"]
    of_six = 6.0 * statistics.median(found["dcor"]) / statistics.median(found["all pairs"])
    print(f"six pairs: dcor / all pairs {of_six:.0f} for whole tests")
    claims.append((f"one pair: dcor / pair {ratio:.1f} a permutation, wanted {LEAST_RATIO:.0f}", ratio >= LEAST_RATIO))
    whole = statistics.median(found["dcor"]) / statistics.median(found["pair"])
    claims.append(
        (f"one pair: dcor / pair {whole:.1f} for whole tests, wanted {LEAST_RATIO:.0f}", whole >= LEAST_RATIO)
    )
    started = time.perf_counter()
    for test in (lambda: dcor_test(blocks, subjects), lambda: hsic_test(blocks, subjects), lambda: sliced(blocks)):
        test()
    seconds = time.perf_counter() - started
    words = f"the three tests of all pairs: {seconds:.1f} s on the clock, at most {MOST_SECONDS:.0f}"
    claims.append((words, seconds <= MOST_SECONDS))
    return judged(claims)


if __name__ == "__main__":
    sys.exit(main())
