"""Simulated patients whose tumours grow, stand still or shrink."""

from __future__ import annotations

import numpy as np

from menvae.growth import Visits

SHARES = {"grow": 0.59, "stand still": 0.27, "shrink": 0.14}
"""Of 235 patients with meningiomas that were not treated (Strand et al. 2023)."""


def straight_lines(num: int, seed: int, *, noise_sd: float = 0.1, num_visits: int | None = None) -> list[Visits]:
    """Patients of a linear mixed model: intercept 9 (sd 1), rate .15 (sd .2) per year."""
    generator = np.random.default_rng(seed)
    patients = []
    for number in range(num):
        count = num_visits or int(generator.integers(2, 6))
        days = np.concatenate([[0.0], np.cumsum(generator.integers(60, 500, count - 1))]).astype(np.float64)
        size, rate = generator.normal(9.0, 1.0), generator.normal(0.15, 0.2)
        values = size + rate * days / 365.25 + generator.normal(0.0, noise_sd, count)
        patients.append(Visits(f"patient-{number}", days, values, np.zeros(count)))
    return patients


def meningiomas(num: int, seed: int, *, noise_sd: float = 0.08) -> list[Visits]:
    """Patients with Gompertz curves in the shares of `SHARES`; over half of them have two visits only."""
    generator = np.random.default_rng(seed)
    patients = []
    for number in range(num):
        count = 2 if generator.random() < 0.55 else int(generator.integers(3, 7))
        days = np.concatenate([[0.0], np.cumsum(generator.integers(90, 500, count - 1))]).astype(np.float64)
        first, capacity = generator.normal(np.log(8000.0), 0.9), np.log(80_000.0)
        kind = generator.choice(list(SHARES), p=list(SHARES.values()))
        rate = {"grow": 0.25, "stand still": 0.0, "shrink": -0.1}[str(kind)] * abs(generator.normal(1.0, 0.4))
        curve = capacity + (first - capacity) * np.exp(-rate * days / 365.25)
        patients.append(
            Visits(f"patient-{number}", days, curve + generator.normal(0.0, noise_sd, count), np.zeros(count))
        )
    return patients
