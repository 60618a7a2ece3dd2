"""Quality of each subject of a cohort, and the order in which to look at them.

Every reason to look at a subject has a kind (`Kind`). Kinds are ordered: problems that make a subject unusable come
first, then those that make its targets wrong, then what is merely unusual. Within a kind, the worse value comes first.
Subjects without a reason are ordered by their largest robust z-score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal

import numpy as np

from menvae.data.batches.splits import Split
from menvae.data.cache.cohort import Cohort, PreparedSubject
from menvae.data.files.findings import Finding, merged
from menvae.data.files.subjects import REGION_CODES
from menvae.data.geometry.box import MOST_OFF_BRAIN, MOST_VOLUME_CHANGE, SMALL_TUMOUR_MM3, Problem
from menvae.preparation.intensities import LARGEST_PLATEAU, ChannelIntensities

MOST_ROBUST_Z: Final = 5.0
FEWEST_FOR_OUTLIERS: Final = 20
RARELY_MISSING: Final = 0.2
LEAST_COVERAGE: Final = 0.9

Verdict = Literal["left out", "look", "ok"]


def percent(share: float, sign: str = "") -> str:
    """Format a share in whole percent; a share below 1 is never shown as 100 %.

    >>> percent(0.414), percent(0.999), percent(-0.1, "+")
    ('41 %', '99 %', '−10 %')
    """
    rounded = 99 if 0.985 < share < 1 else round(100 * share)
    return f"{rounded:{sign}} %".replace("-", "\N{MINUS SIGN}")


class Kind(IntEnum):
    """Kinds of reasons, the least severe first; a NOTE is no reason to look at a subject."""

    NOTE = 0
    INTENSITY = 1
    REGION = 2
    OUTLIER = 3
    SMALL = 4
    RESAMPLING = 5
    BRAIN_CUT = 6
    TUMOUR_CUT = 7
    DUPLICATE = 8
    OFF_BRAIN = 9
    FAULT = 10


@dataclass(frozen=True)
class Limits:
    """Minimum shares of a subject inside the box.

    Attributes:
        tumour_kept: share of the resampled tumour.
        brain_kept: share of the resampled voxels with signal.
    """

    tumour_kept: float = 0.98
    brain_kept: float = 0.95


def meanings(limits: Limits) -> dict[Kind, tuple[str, str]]:
    """Return {kind: (name, criterion)} of all kinds but NOTE, the most severe first."""
    cubic = "mm\N{SUPERSCRIPT THREE}"
    return {
        Kind.FAULT: ("unusable files", "The subject was left out; each fault is listed with its remedy."),
        Kind.OFF_BRAIN: (
            "the mask does not fit the images",
            f"More than {percent(MOST_OFF_BRAIN)} of the tumour lie where every image is 0: skull stripping removed "
            "it, or the mask belongs to another image or is mirrored.",
        ),
        Kind.DUPLICATE: (
            "same images",
            "Another subject has an image with the same content, or nearly the same images. With the same content, "
            "both count as one patient, so that they lie in one split. Remove copies.",
        ),
        Kind.TUMOUR_CUT: (
            "the box cuts the tumour",
            f"Less than {percent(limits.tumour_kept)} of its voxels lie in the training box, and the targets describe "
            "only those. Enlarge data.roi_size or data.spacing_mm.",
        ),
        Kind.BRAIN_CUT: (
            "the box cuts the brain",
            f"Less than {percent(limits.brain_kept)} of the voxels with signal lie in the training box.",
        ),
        Kind.RESAMPLING: (
            "resampling changes the volume",
            f"At the training spacing, the tumour volume differs from the native one by more than "
            f"{percent(MOST_VOLUME_CHANGE)}: the voxels are too large for this tumour.",
        ),
        Kind.SMALL: (
            "small tumour",
            f"Less than {SMALL_TUMOUR_MM3:.0f} {cubic}, in the box or at native resolution: only a few voxels define "
            "its shape.",
        ),
        Kind.OUTLIER: (
            "outlier",
            f"A feature has a robust z-score, 0.6745 (x \N{MINUS SIGN} median) / MAD, beyond \N{PLUS-MINUS SIGN}"
            f"{MOST_ROBUST_Z:g}; computed if at least {FEWEST_FOR_OUTLIERS} subjects have the feature. The value may "
            "be correct: check the outline.",
        ),
        Kind.REGION: (
            "missing region",
            f"A region that at least {percent(1 - RARELY_MISSING)} of the subjects have is absent. Regions that are "
            "missing more often are only noted.",
        ),
        Kind.INTENSITY: (
            "unusual intensities",
            f"A channel has signal in less than {percent(LEAST_COVERAGE)} of the voxels where any channel does, or "
            f"more than {percent(LARGEST_PLATEAU)} of its non-zero voxels share one value: a non-zero background, or a "
            "nearly constant image.",
        ),
    }


@dataclass(frozen=True)
class Reason:
    """A reason to look at a subject, or a note about it.

    Attributes:
        kind: kind, which determines the order.
        amount: severity within the kind, in [0, 1).
        words: description, as a clause.
    """

    kind: Kind
    amount: float
    words: str

    @property
    def severity(self) -> float:
        """Kind plus amount; 0 for a note."""
        return self.kind + self.amount if self.kind else 0.0


@dataclass(frozen=True)
class SubjectQuality:
    """One row of the quality table.

    Attributes:
        subject_id: identifier, as in the source.
        split: split of the subject; None if it was left out or the cohort cannot be split.
        reasons: reasons, the worst first, then notes.
        prepared: cache entry; None if the subject was left out.
        channels: modality -> its intensity statistics, without missing modalities.
        farthest: largest absolute robust z-score over the features; 0 if the cohort is too small.
    """

    subject_id: str
    split: Split | None
    reasons: tuple[Reason, ...]
    prepared: PreparedSubject | None
    channels: Mapping[str, ChannelIntensities]
    farthest: float = 0.0

    @property
    def severity(self) -> float:
        """Severity of the worst reason; 0 if there is none."""
        return max((reason.severity for reason in self.reasons), default=0.0)

    @property
    def verdict(self) -> Verdict:
        """``left out``; ``look`` if there is a reason to look at the subject; otherwise ``ok``."""
        if self.prepared is None:
            return "left out"
        return "look" if self.severity else "ok"

    @property
    def words(self) -> str:
        """Descriptions of all reasons and notes."""
        return "; ".join(reason.words for reason in self.reasons)


def judge_cohort(
    cohort: Cohort,
    splits: Mapping[str, Split] | None,
    intensities: Mapping[str, Sequence[ChannelIntensities]],
    modalities: Sequence[str],
    limits: Limits,
) -> list[SubjectQuality]:
    """Return one row per subject, including subjects that were left out, the worst first.

    Args:
        cohort: all prepared subjects, and the findings about their files.
        splits: subject -> split; None if the cohort cannot be split.
        intensities: subject -> statistics of its channels.
        modalities: names of the channels.
        limits: minimum shares inside the box.
    """
    findings: dict[str, list[Finding]] = {}
    for finding in cohort.findings:
        findings.setdefault(finding.subject_id, []).append(finding)
    distances, rare = _distances(cohort.subjects), _rarely_missing(cohort.subjects)
    rows = []
    for subject in cohort.subjects:
        name = subject.subject_id
        measured = enumerate(zip(modalities, intensities[name], strict=True))
        channels = dict(pair for index, pair in measured if index not in subject.missing_channels)
        far = distances[name]
        reasons = [
            *_of_box(subject, limits),
            *_of_duplicates(subject),
            *_of_distances(subject, far),
            *_of_regions(subject, rare),
            *_of_intensities(channels),
        ]
        # findings about box and mask are skipped: `_of_box` judges their numbers
        of_files = [finding for finding in findings.get(name, ()) if finding.file.startswith(name)]
        reasons += [_of_finding(finding, Kind.NOTE) for finding in merged(of_files)]
        farthest = max(map(abs, far.values()), default=0.0)
        split = splits[name] if splits else None
        rows.append(SubjectQuality(name, split, _ordered(reasons), subject, channels, farthest))
    prepared = {subject.subject_id for subject in cohort.subjects}
    for name in sorted(findings.keys() - prepared):
        of_subject = merged(findings[name])
        reasons = [_of_finding(finding, Kind.FAULT if finding.is_fault else Kind.NOTE) for finding in of_subject]
        rows.append(SubjectQuality(name, None, _ordered(reasons), None, {}))
    return sorted(rows, key=lambda row: (-row.severity, -row.farthest, row.subject_id))


def _ordered(reasons: Sequence[Reason]) -> tuple[Reason, ...]:
    return tuple(sorted(reasons, key=lambda reason: -reason.severity))


def _of_finding(finding: Finding, kind: Kind) -> Reason:
    return Reason(kind, 0.0, f"{finding.file} {finding.problem}: {finding.remedy}")


def _of_box(subject: PreparedSubject, limits: Limits) -> list[Reason]:
    box = subject.box
    said: dict[Problem, tuple[Kind, str]] = {
        "off_brain": (Kind.OFF_BRAIN, f"{percent(box.tumour_off_brain)} of the tumour lie where every image is 0"),
        "tumour_cut": (Kind.TUMOUR_CUT, f"the box keeps {percent(box.tumour_kept)} of the tumour"),
        "brain_cut": (Kind.BRAIN_CUT, f"the box keeps {percent(box.brain_kept)} of the brain"),
        "resampling": (Kind.RESAMPLING, f"resampling changes the volume by {percent(box.volume_change or 0.0, '+')}"),
        "small": (Kind.SMALL, f"the tumour measures {box.least_volume_mm3:.0f} mm\N{SUPERSCRIPT THREE}"),
        "lesions": (Kind.NOTE, f"separate lesions, the second with {percent(box.second_lesion)} of the tumour"),
    }
    return [
        Reason(said[problem][0], amount, said[problem][1])
        for problem, amount in box.problems(limits.tumour_kept, limits.brain_kept).items()
    ]


def _of_duplicates(subject: PreparedSubject) -> list[Reason]:
    found = {"the same": subject.same_images, "nearly the same": subject.similar_images}
    return [
        Reason(Kind.DUPLICATE, 0.0, f"{how} images as {' and '.join(others)}")
        for how, others in found.items()
        if others
    ]


def _amount(value: float) -> float:
    return min(max(value, 0.0), 0.999)


def _distances(subjects: Sequence[PreparedSubject]) -> dict[str, dict[str, float]]:
    """Return subject -> {feature: robust z-score}, for features that enough subjects have."""
    scores: dict[str, dict[str, float]] = {subject.subject_id: {} for subject in subjects}
    for feature in subjects[0].features if subjects else ():
        known = [
            (subject.subject_id, value) for subject in subjects if (value := subject.features[feature]) is not None
        ]
        if len(known) >= FEWEST_FOR_OUTLIERS:
            for (name, _), score in zip(known, robust_z([value for _, value in known]), strict=True):
                scores[name][feature] = score
    return scores


def _of_distances(subject: PreparedSubject, scores: Mapping[str, float]) -> list[Reason]:
    reasons = []
    for feature, score in scores.items():
        if abs(score) > MOST_ROBUST_Z:
            side = "above" if score > 0 else "below"
            value = subject.features[feature]
            words = f"{feature} {value:.3g} lies {abs(score):.1f} robust SD {side} the median"
            reasons.append(Reason(Kind.OUTLIER, _amount(1 - MOST_ROBUST_Z / abs(score)), words))
    return reasons


def robust_z(values: Sequence[float]) -> list[float]:
    """Return 0.6745 (x - median) / MAD of each value; all 0 if the MAD is 0.

    Source: the modified z-score of Iglewicz & Hoaglin 1993.

    >>> robust_z([1.0, 2.0, 3.0, 4.0, 100.0])
    [-1.349, -0.6745, 0.0, 0.6745, 65.4265]
    """
    array = np.asarray(values, dtype=np.float64)
    apart = array - np.median(array)
    deviation = float(np.median(np.abs(apart)))
    scores = 0.6745 * apart / deviation if deviation > 0 else np.zeros(len(array))
    return [round(float(score), 6) for score in scores]


def missing_regions(subject: PreparedSubject) -> list[str]:
    """Return the regions without voxels in the box."""
    return [region for region in REGION_CODES if subject.features[f"vol_{region}"] is None]


def _rarely_missing(subjects: Sequence[PreparedSubject]) -> set[str]:
    missing = [region for subject in subjects for region in missing_regions(subject)]
    return {region for region in REGION_CODES if missing.count(region) <= RARELY_MISSING * len(subjects)}


def _of_regions(subject: PreparedSubject, rare: set[str]) -> list[Reason]:
    missing = missing_regions(subject)
    kind = Kind.REGION if rare & set(missing) else Kind.NOTE
    return [Reason(kind, 0.0, f"no voxels of {' or '.join(missing)}")] if missing else []


def _of_intensities(channels: Mapping[str, ChannelIntensities]) -> list[Reason]:
    reasons = []
    for name, channel in channels.items():
        if channel.coverage < LEAST_COVERAGE:
            words = f"{name} has no signal in {percent(1 - channel.coverage)} of the voxels where some channel does"
            reasons.append(Reason(Kind.INTENSITY, _amount(1 - channel.coverage), words))
        if channel.plateau > LARGEST_PLATEAU:
            what = "a negative background" if channel.plateau_value < 0 else "a single value"
            words = f"{name} has {what} in {percent(channel.plateau)} of its non-zero voxels"
            reasons.append(Reason(Kind.INTENSITY, _amount(channel.plateau), words))
    return reasons


def millilitres(volume_mm3: float) -> float:
    """Return a volume in mL.

    >>> millilitres(1500.0)
    1.5
    """
    return volume_mm3 / 1000.0
