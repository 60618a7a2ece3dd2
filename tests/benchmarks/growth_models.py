"""What leaving out each patient costs by a model's shortcut and by naive refits, and the whole ladder of growth models.

Of every registered growth model but latent_ode, at 33 and 56 simulated patients: seconds of `GrowthModel.fit` without
each patient, and of the model's own `fit_without_each`; their ratio; and the largest difference of any forecast's mean
or variance. Then all models are judged by leave-one-patient-out with jackknife+ intervals, which leave out one more.

Seconds are process-CPU of one thread. The exit status is 1 when a ratio, a difference or the time of the ladder misses
its goal.

    OMP_NUM_THREADS=1 python tests/benchmarks/growth_models.py
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from interleaved import Claim, at_least, at_most, judged

from menvae.forecasting.judging import judge
from menvae.growth import FittedGrowth, GrowthModel, Visits
from menvae.registry import bind, parts

sys.path.insert(0, str(Path(__file__).parents[1]))  # of tests

from growth.cohorts import meningiomas

LEAST_RATIO, LARGEST_DIFFERENCE, MOST_SECONDS = 20.0, 1e-8, 600.0
SIZES = (33, 56)


def ladder(names: Sequence[str]) -> dict[str, GrowthModel]:
    """Return the models, with the defaults of their constructors."""
    found = [part.name for part in parts() if part.group == "growth" and part.name != "latent_ode"]
    return {name: bind("growth", {"name": name})() for name in found if not names or name in names}


def largest_difference(
    fits: Sequence[FittedGrowth], others: Sequence[FittedGrowth], patients: Sequence[Visits]
) -> float:
    """Of forecasts of the patient that each fit lacks, on the day of the last visit, and one and five years later."""
    largest = 0.0
    for mine, theirs, visits in zip(fits, others, patients, strict=True):
        days = visits.days[-1] + np.array([0.0, 365.25, 5 * 365.25])
        found, expected = (fitted.predict(visits[:1], days) for fitted in (mine, theirs))
        both = ((found.mean, expected.mean), (found.variance, expected.variance))
        largest = max(largest, *(float(np.abs(one - other).max()) for one, other in both))
    return largest


def compare(name: str, model: GrowthModel, num: int, repeats: int) -> list[Claim]:
    """Measure both ways to leave out each of some patients."""
    patients, seconds = meningiomas(num, 0), {"naive": [], "shortcut": []}
    model.fit(patients[:5])  # what is imported on first use
    for _ in range(repeats):
        started = time.process_time()
        naive = GrowthModel.fit_without_each(model, patients)
        between = time.process_time()
        shortcut = model.fit_without_each(patients)
        seconds["shortcut"].append(time.process_time() - between)
        seconds["naive"].append(between - started)
    slow, fast = (min(seconds[kind]) for kind in ("naive", "shortcut"))
    difference = largest_difference(shortcut, naive, patients)
    print(f"{name:<17} {num} patients: naive {slow:6.2f} s, shortcut {fast:6.3f} s, x {slow / fast:5.1f}", end="")
    print(f", largest difference {difference:.1e}", flush=True)
    return [
        at_least(f"{name}, {num} patients: naive / shortcut", slow / fast, LEAST_RATIO),
        at_most(f"{name}, {num} patients: largest difference", difference, LARGEST_DIFFERENCE),
    ]


def judge_all(models: dict[str, GrowthModel], num: int) -> Claim:
    """Judge all models by leaving out each of some patients, nested."""
    patients, whole = meningiomas(num, 0), 0.0
    for name, model in models.items():
        started = time.process_time()
        judge(model, patients, None, protocol="last_from_rest", level=0.95, intervals=["jackknife_plus"])
        seconds = time.process_time() - started
        whole += seconds
        print(f"{name:<17} {num} patients, nested: {seconds:6.1f} s", flush=True)
    return at_most(f"{len(models)} models, {num} patients, nested, jackknife+: seconds", whole, MOST_SECONDS)


def main() -> int:
    """Measure and judge; 0 when ratios, differences and seconds are as wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=[], help="names; all by default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["shortcuts", "ladder"], help="one of the two; both by default")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    models = ladder(arguments.models)
    claims = []
    if arguments.only != "ladder":
        for name, model in models.items():
            claims += [claim for num in SIZES for claim in compare(name, model, num, arguments.repeats)]
    if arguments.only != "shortcuts":
        claims.append(judge_all(models, max(SIZES)))
    return judged(claims)


if __name__ == "__main__":
    sys.exit(main())
