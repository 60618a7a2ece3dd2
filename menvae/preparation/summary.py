"""Results of examining a cohort, with the sentences that terminal and page share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from menvae.data.batches.splits import Split
from menvae.data.cache.cohort import Cohort
from menvae.data.files.subjects import REGION_CODES
from menvae.data.targets.correlation import ENTANGLED, FEWEST_TO_JUDGE, TargetCorrelation, TargetPair, entangled_words
from menvae.data.targets.normalizer import TargetNormalizer
from menvae.preparation.quality import Limits, SubjectQuality, missing_regions
from menvae.presentation.text import counted
from menvae.statistics.gompertz import Gompertz

STRONG: Final = 0.8
"""Pairs of targets beyond this |r| are named."""
_MOST_PAIRS: Final = 5


@dataclass(frozen=True)
class Findings:
    """Everything that ``menvae-prepare`` reports.

    Attributes:
        name: name of the data source.
        cohort: the prepared cohort.
        roi_size: (D, H, W) of the training box in voxels.
        modalities: names of the channels.
        targets: names of the targets that the source declares.
        rows: one row per subject, the worst first.
        splits: subject -> split; None if the cohort cannot be split.
        no_splits: why the cohort cannot be split, or empty.
        normalizer: fitted on the training subjects; None without splits.
        correlation: correlations between the targets of the training subjects; None without splits.
        limits: minimum shares inside the box.
        curves: patient -> ground-truth growth curve of its tumour; empty if unknown.
    """

    name: str
    cohort: Cohort
    roi_size: tuple[int, int, int]
    modalities: Sequence[str]
    targets: Sequence[str]
    rows: Sequence[SubjectQuality]
    splits: Mapping[str, Split] | None
    no_splits: str
    normalizer: TargetNormalizer | None
    correlation: TargetCorrelation | None
    limits: Limits
    curves: Mapping[str, Gompertz] = field(default_factory=dict)

    @property
    def verdicts(self) -> dict[str, int]:
        """Verdict -> number of subjects, the worst first, without verdicts that do not occur."""
        counts = Counter(row.verdict for row in self.rows)
        return {verdict: counts[verdict] for verdict in ("left out", "look", "ok") if counts[verdict]}

    @property
    def has_visits(self) -> bool:
        """Whether any patient has more than one visit, or any visit a known day."""
        subjects = self.cohort.subjects
        patients = {subject.patient_id for subject in subjects}
        return len(patients) < len(subjects) or any(subject.days is not None for subject in subjects)


def verdict_words(found: Findings) -> str:
    """Return the number of subjects by verdict: ``40 subjects: 3 to look at, 37 ok.``."""
    names = {"left out": "left out", "look": "to look at", "ok": "ok"}
    counts = ", ".join(f"{count} {names[verdict]}" for verdict, count in found.verdicts.items())
    return f"{counted(len(found.rows), 'subject')}: {counts}."


def split_words(found: Findings) -> str:
    """Return the sizes of the splits, or why there are none."""
    if found.splits is None:
        return f"No splits and no targets to learn: {found.no_splits}."
    counts = Counter(found.splits.values())
    told = ", ".join(f"{counts[split]} {split}" for split in ("train", "val", "test") if counts[split])
    patients = len({subject.patient_id for subject in found.cohort.subjects})
    return f"Splits: {told}, from {counted(patients, 'patient')}."


def region_words(found: Findings) -> str:
    """Return how often each region is absent; empty if none is."""
    missing = Counter(region for subject in found.cohort.subjects for region in missing_regions(subject))
    told = [f"{region} in {missing[region]}" for region in REGION_CODES if missing[region]]
    if not told:
        return ""
    return f"Missing regions: {', '.join(told)} of {counted(len(found.cohort.subjects), 'subject')}."


def correlation_words(found: Findings) -> list[str]:
    """Return sentences on strongly correlated targets of different partitions, and the effect of residualisation."""
    if found.correlation is None:
        return []
    if not found.correlation.judged:
        return [f"Target correlations are not assessed: no pair shares {FEWEST_TO_JUDGE} training subjects."]
    pairs = [pair for pair in found.correlation.judged if abs(pair.before or 0.0) > STRONG]
    sentences = [_pair_words(pair) for pair in pairs[:_MOST_PAIRS]]
    if len(pairs) > _MOST_PAIRS:
        sentences.append(f"{counted(len(pairs) - _MOST_PAIRS, 'more pair')} above {STRONG}.")
    if not pairs:
        sentences.append(f"No targets of different partitions correlate above {STRONG}.")
    entangled = entangled_words(found.correlation)
    if entangled:
        sentences.append(f"{entangled[0].upper()}{entangled[1:]}.")
    elif pairs:
        sentences.append(f"After residualisation, no pair of different partitions is above {ENTANGLED}.")
    return sentences


def _pair_words(pair: TargetPair) -> str:
    first, second = pair.names
    told = f"{first} and {second} correlate at {_r(pair.before)} ({counted(pair.num_subjects, 'subject')})"
    if pair.after is None:
        return f"{told}; after residualisation, one of them is constant or unknown."
    if pair.before is not None and abs(pair.after) < abs(pair.before) - 0.005:
        return f"{told}; after residualisation, at {_r(pair.after)}."
    return f"{told}; residualisation does not reduce this: still at {_r(pair.after)}."


def _r(value: float | None) -> str:
    """Format a correlation with two decimals, or three if two would round it to 1."""
    if value is None:
        return "n/a"
    places = 3 if 0.985 <= abs(value) < 0.9995 else 2
    return f"{round(value, places) + 0.0:.{places}f}".replace("-", "\N{MINUS SIGN}")
