"""Whether latents that say nothing about growth harm `latent_ode`, and what those that tell the rate are worth.

In each repeat, `latent_ode` and the model without latents that it is built on are fitted to 40 patients, and forecast
the last visit of 40 others:

- noise: latents of each visit are drawn anew
- fixed: latents of each patient are drawn once, which chance relates to the rate
- told: the first latent is the rate, but for a small rest

The exit status is 1 when latents that say nothing change the CRPS by more than 2 %, or latents
that tell the rate do not improve it by 10 %.

    python tests/benchmarks/growth_latents.py --repeats 20
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import numpy as np
import torch
from interleaved import Claim, at_least, judged

from menvae.growth import FittedGrowth, Visits
from menvae.growth.gompertz import OneCapacityGompertz
from menvae.growth.latent_ode import LatentODE
from menvae.statistics.forecasts import crps_normal

PATIENTS, LATENTS = 40, 8
LOG_CAPACITY = np.log(80_000.0)


def cohort(kind: str, seed: int) -> list[Visits]:
    """Gompertz curves of patients, over half of whom have two visits."""
    generator = np.random.default_rng(seed)
    patients = []
    for number in range(PATIENTS):
        count = 2 if generator.random() < 0.55 else int(generator.integers(3, 7))
        days = np.concatenate([[0.0], np.cumsum(generator.integers(90, 500, count - 1))]).astype(np.float64)
        own, first = generator.normal(size=LATENTS), generator.normal(np.log(8000.0), 0.9)
        told = own[0] if kind == "told" else generator.normal()
        rate = 0.08 + 0.1 * told + 0.03 * generator.normal()
        curve = LOG_CAPACITY + (first - LOG_CAPACITY) * np.exp(-rate * days / 365.25)
        values = curve + generator.normal(0.0, 0.08, count)
        latents = own + generator.normal(0.0, 0.1, (count, LATENTS))
        visits = Visits(f"patient-{number}", days, values, np.zeros(count), latents)
        if kind == "noise":
            visits = replace(visits, latents=generator.normal(size=(count, LATENTS)))
        patients.append(visits)
    return patients


def score(fitted: FittedGrowth, patients: list[Visits]) -> float:
    """Mean CRPS of the last visits, from the visits before."""
    found = []
    for visits in patients:
        forecast = fitted.predict(visits[:-1], visits.days[-1:])
        found.append(crps_normal(forecast.mean, np.sqrt(forecast.variance), visits.log_volume[-1:])[0])
    return float(np.mean(found))


def changes(kind: str, repeats: int) -> np.ndarray:
    """Relative change of the CRPS by latents [repeats]."""
    found = []
    for repeat in range(repeats):
        known, unseen = cohort(kind, 2 * repeat), cohort(kind, 2 * repeat + 1)
        with_latents, without = (score(model.fit(known), unseen) for model in (LatentODE(), OneCapacityGompertz()))
        found.append(with_latents / without - 1.0)
        print(f"{kind} {repeat}: {found[-1]:+.4f}", file=sys.stderr, flush=True)
    return np.array(found)


def null(kind: str, found: np.ndarray) -> Claim:
    mean, error = float(found.mean()), float(found.std(ddof=1) / np.sqrt(len(found)))
    words = f"{kind}: latents that say nothing change the CRPS by {mean:+.4f} +- {error:.4f} (goal at most .02)"
    return words, abs(mean) <= 0.02


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    claims = [null(kind, changes(kind, repeats)) for kind in ("noise", "fixed")]
    gain = -float(changes("told", repeats).mean())
    return judged([*claims, at_least("share of the CRPS that latents save which tell the rate", gain, 0.1)])


if __name__ == "__main__":
    sys.exit(main())
