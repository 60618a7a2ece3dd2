"""What all metrics after training cost: 1,000 subjects, 128 latents, 13 targets, 1,000 permutations, with intervals.

The images are of 8 x 9 x 10 voxels, so that metrics of latents count and not the images; models and data are not timed.
Every metric with a permutation test gets 1,000 permutations. The exit status is 1 if all take more than a minute.

    python tests/benchmarks/metrics_cost.py
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

from interleaved import judged

from menvae.conformance.metrics import SplitExample, recorded
from menvae.cores import num_cores
from menvae.evaluation.estimates import estimate
from menvae.latent import LatentLayout
from menvae.metrics import MetricContext, build_metrics

NUM_SUBJECTS, NUM_PERMUTATIONS, MOST_SECONDS = 1000, 1000, 60.0
SUPERVISION = {
    "vol": ["vol_total", "vol_ncr", "vol_ed", "vol_et"],
    "loc": ["loc_x", "loc_y", "loc_z"],
    "shape": [f"shape_{number}" for number in range(6)],
}
CONTEXT = MetricContext(
    LatentLayout({"vol": 24, "loc": 8, "shape": 12, "residual": 84}),
    ("t1c", "t1n"),
    (8, 9, 10),
    SUPERVISION,
    labelled=True,
    factors=SUPERVISION,
)


def main() -> int:
    """Time every metric, and return 0 if all together take at most a minute."""
    tests = {name: {"name": name, "num_permutations": NUM_PERMUTATIONS} for name in ("leak", "independence")}
    split, training = (SplitExample.make(CONTEXT, 0.9, NUM_SUBJECTS, seed) for seed in (0, 1))
    seconds: dict[str, float] = {}
    for metric in build_metrics(tests, CONTEXT):
        fitted = recorded(metric, training)
        names = tuple(f"t{subject}" for subject in fitted.subject_id)
        fitted = replace(fitted, subject_id=names, patient_id=names)
        record = replace(recorded(metric, split), training=fitted)
        started = time.perf_counter()
        estimate([metric], record)
        seconds[type(metric).__name__] = time.perf_counter() - started
    for name, value in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"{name:<26}{value:8.2f} s")
    total = sum(seconds.values())
    words = (
        f"all {len(seconds)} metrics of {NUM_SUBJECTS:,} subjects: {total:.1f} s on the clock of {num_cores()} cores"
    )
    return judged([(f"{words}, at most {MOST_SECONDS:.0f}", total <= MOST_SECONDS)])


if __name__ == "__main__":
    sys.exit(main())
