"""Correlations between targets of different partitions: no loss can make targets with r = 0.99 independent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from menvae.data.targets.normalizer import RawTargets, TargetNormalizer

ENTANGLED: Final = 0.9
"""Above this |r| after residualisation, two partitions encode the same information."""
FEWEST_SUBJECTS: Final = 3
"""With two subjects every correlation is 1 or -1."""
FEWEST_TO_JUDGE: Final = 10
"""With fewer, some of the 54 pairs of the default targets correlate strongly by chance."""


@dataclass(frozen=True)
class TargetPair:
    """Two targets of different partitions.

    Attributes:
        names: names of both targets.
        partitions: their partitions.
        num_subjects: number of training subjects with both targets.
        before: Pearson's r of the raw features; None if undefined.
        after: Pearson's r of the residualised features, which the model learns; None if undefined.
    """

    names: tuple[str, str]
    partitions: tuple[str, str]
    num_subjects: int
    before: float | None
    after: float | None


@dataclass(frozen=True)
class TargetCorrelation:
    """Correlations between all targets over the training subjects.

    Attributes:
        partitions: partition -> its targets, F in total.
        before: Pearson's r of the raw features, float64 [F, F]; NaN where undefined.
        after: Pearson's r of the residualised features, which the model learns, [F, F].
        counts: number of training subjects with both targets, int64 [F, F].
    """

    partitions: Mapping[str, Sequence[str]]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def pairs(self) -> list[TargetPair]:
        """All pairs of targets of different partitions, sorted by descending |r| of the raw features."""
        targets = [(name, partition) for partition, names in self.partitions.items() for name in names]
        pairs = [
            TargetPair(
                (targets[a][0], targets[b][0]),
                (targets[a][1], targets[b][1]),
                int(self.counts[a, b]),
                _known(self.before[a, b]),
                _known(self.after[a, b]),
            )
            for a, b in combinations(range(len(targets)), 2)
            if targets[a][1] != targets[b][1]
        ]
        return sorted(pairs, key=lambda pair: -abs(pair.before or 0.0))

    @property
    def judged(self) -> list[TargetPair]:
        """The `pairs` with at least `FEWEST_TO_JUDGE` subjects."""
        return [pair for pair in self.pairs if pair.num_subjects >= FEWEST_TO_JUDGE]

    @property
    def entangled(self) -> list[TargetPair]:
        """The `judged` pairs with |r| above `ENTANGLED` after residualisation, the strongest first."""
        beyond = [pair for pair in self.judged if abs(pair.after or 0.0) > ENTANGLED]
        return sorted(beyond, key=lambda pair: -abs(pair.after or 0.0))


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def entangled_words(found: TargetCorrelation, most: int = 5) -> str:
    """Return a sentence that names the entangled targets; empty if there are none.

    Args:
        found: the correlations.
        most: maximum number of pairs to name.
    """
    pairs = found.entangled
    if not pairs:
        return ""
    named = [f"{pair.names[0]} ({pair.partitions[0]}) and {pair.names[1]} ({pair.partitions[1]})" for pair in pairs]
    told = "; ".join(f"{words} r = {pair.after:.2f}" for words, pair in zip(named[:most], pairs, strict=False))
    more = f"; and {len(pairs) - most} more" if len(pairs) > most else ""
    return (
        f"targets of different partitions correlate above {ENTANGLED} after residualisation: {told}{more}; no loss "
        "can make these partitions independent: residualise one target of each pair (targets.residualise) or remove it "
        "from model.supervision"
    )


def target_correlation(
    training: Sequence[RawTargets], normalizer: TargetNormalizer, supervision: Mapping[str, Sequence[str]]
) -> TargetCorrelation:
    """Correlate the targets of the training subjects, before and after residualisation.

    Args:
        training: raw features of the training subjects.
        normalizer: normalizer fitted on them.
        supervision: partition -> names of its targets.
    """
    names = [name for targets in supervision.values() for name in targets]
    measured = _table([[raw[name] for name in names] for raw in training], len(names))
    learnt = _table([[normalizer.normalise(raw, name) for name in names] for raw in training], len(names))
    return TargetCorrelation(supervision, pearson(measured), pearson(learnt), _counts(measured))


def _table(rows: Sequence[Sequence[float | None]], num_columns: int) -> NDArray[np.float64]:
    return np.array(rows, dtype=np.float64).reshape(len(rows), num_columns)  # None becomes NaN


def _counts(table: NDArray[np.float64]) -> NDArray[np.int64]:
    there = np.isfinite(table).astype(np.int64)
    return there.T @ there


def pearson(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Pearson's r [F, F] of every pair of columns over the rows with both values.

    NaN where fewer than `FEWEST_SUBJECTS` rows have both, or one column is constant there.

    Args:
        table: one row per subject [N, F]; NaN where not observed.
    """
    size = table.shape[1]
    matrix = np.full((size, size), np.nan)
    for a in range(size):
        for b in range(a, size):
            both = table[np.isfinite(table[:, a]) & np.isfinite(table[:, b])][:, [a, b]]
            if len(both) < FEWEST_SUBJECTS:
                continue
            centred = both - both.mean(axis=0)
            lengths = np.sqrt((centred**2).sum(axis=0))
            if (lengths > 1e-9 * np.maximum(1.0, np.abs(both).max(axis=0))).all():
                r = float(centred[:, 0] @ centred[:, 1] / lengths.prod())
                matrix[a, b] = matrix[b, a] = min(1.0, max(-1.0, r))
    return matrix
