"""Holes in the latent space: how much of the prior is near an encoded subject, and the reverse."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from menvae.metrics import Direction, Findings, Floats, Interval, Metric, MetricContext, SplitRecord, When
from menvae.metrics.posterior import sections
from menvae.registry import Field, register
from menvae.statistics.bootstrap import jackknife_intervals
from menvae.statistics.coverage import expected_coverage, neighbourhoods
from menvae.statistics.estimate import Estimate
from menvae.statistics.patients import Indices, spaced

MOST_SAMPLES = 1000
"""Largest number of subjects, evenly spaced, and of samples of the prior, in sets of as many as there are subjects."""


@register("metric", "latent_coverage", reference="Naeem et al. 2020")
class LatentCoverage(Metric):
    """Mutual coverage of prior and encoded subjects, of z and each partition: ``diag/coverage(_<partition>)``.

    One sample is drawn from the posterior of each subject, and sets of as many from the prior. A sample of the prior is
    covered if a posterior sample is at least as near to it as the k-th nearest sample of its own set; a posterior
    sample is covered if a sample of the prior is at least as near as its k-th nearest posterior sample. The value is
    the smaller of the two shares. The first finds holes of the prior, near to which no subject is encoded. In many
    dimensions it misses posteriors that are together narrower than the prior, whose centre is near everything; the
    second does not. If the posteriors together are the prior, both shares are expected to be `expected_coverage`: .97
    for k = 5.
    """

    direction: ClassVar[Direction | None] = "higher"
    range = (0.0, 1.0)
    needs = frozenset({"mean", "logvar"})
    when: ClassVar[When] = "final"
    interval: ClassVar[Interval | None] = "jackknife"

    def __init__(self, context: MetricContext, *, k: Annotated[int, Field(ge=1)] = 5) -> None:
        """Set the size of neighbourhoods.

        Args:
            context: run context.
            k: a neighbourhood reaches to the k-th nearest sample of the prior.
        """
        super().__init__(context)
        self.k = k

    def meaning(self, key: str) -> str:
        """Name the partition, and the value without holes."""
        partition = key.removeprefix("diag/coverage").removeprefix("_") or "z"
        without = expected_coverage(MOST_SAMPLES, MOST_SAMPLES, self.k)
        return f"Share of the prior of {partition} near a subject, or of subjects near it; {without:.2f} without holes."

    def names(self) -> list[str]:
        """One key for z and one per partition."""
        return [f"diag/coverage{ending}" for ending in sections(self.context.layout)]

    def reason(self, key: str, record: SplitRecord) -> str:
        """Return how many subjects there are."""
        return f"neighbourhoods of {self.k} need at least {self.k + 1} subjects; there are {len(record.subject_id)}"

    def compute(self, record: SplitRecord) -> dict[str, float | None]:
        """Return the coverage; None with at most ``k`` subjects."""
        if len(record.subject_id) <= self.k:
            return dict.fromkeys(self.names())
        everyone = spaced(np.arange(len(record.subject_id)), MOST_SAMPLES)
        record, everyone = record.rows(everyone), np.arange(len(everyone))
        return {key: covered.share(everyone) for key, covered in self._covered(record).items()}

    def findings(self, record: SplitRecord) -> Findings:
        """Return the coverage with intervals that leave out patients, but neither samples of the prior nor radii."""
        num = len(set(record.patient_id))
        if len(record.subject_id) <= self.k:
            return Findings({key: Estimate(None, None, None, num, self.reason(key, record)) for key in self.names()})
        record = record.rows(spaced(np.arange(len(record.subject_id)), MOST_SAMPLES))
        covered = self._covered(record)
        found = jackknife_intervals(
            lambda rows: {key: each.share(rows) for key, each in covered.items()}, record.patient_id
        )
        return Findings({key: _within_range(estimate) for key, estimate in found.items()})

    def _covered(self, record: SplitRecord) -> Mapping[str, _Covered]:
        mean, logvar = record.arrays["mean"], record.arrays["logvar"]
        noise = [
            np.random.default_rng(zlib.crc32(subject.encode())).standard_normal(mean.shape[1])
            for subject in record.subject_id
        ]
        samples = mean + np.exp(0.5 * logvar) * np.stack(noise)
        size = min(len(mean), MOST_SAMPLES)
        sets = np.random.default_rng(0).standard_normal((max(1, MOST_SAMPLES // size), size, mean.shape[1]))
        parts = sections(self.context.layout)
        return {f"diag/coverage{end}": self._of(samples[:, part], sets[:, :, part]) for end, part in parts.items()}

    def _of(self, samples: Floats, sets: Floats) -> _Covered:
        near = np.concatenate([neighbourhoods(prior, samples, self.k) for prior in sets])
        reached = [neighbourhoods(samples, prior, self.k).any(axis=1) for prior in sets]
        return _Covered(near, np.mean(reached, axis=0))


@dataclass(frozen=True)
class _Covered:
    """Samples of N subjects and M of the prior.

    Attributes:
        near: whether a subject is in the neighbourhood of a sample of the prior [M, N].
        reached: share of the sets of the prior that have a sample in the neighbourhood of a subject [N].
    """

    near: NDArray[np.bool_]
    reached: Floats

    def share(self, rows: Indices) -> float:
        """Return the coverage by, and of, some of the subjects."""
        return float(min(self.near[:, rows].any(axis=1).mean(), self.reached[rows].mean()))


def _within_range(found: Estimate) -> Estimate:
    if found.low is None or found.high is None:
        return found
    return replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0))
