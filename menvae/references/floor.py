"""The floor: ridge regression of the targets on block means of the images, or on the columns of a table."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_avg_pool3d

from menvae.encoders import only_available
from menvae.references.cohort import ReferenceCohort
from menvae.references.readings import Readings, by_subject
from menvae.statistics.probes import RidgeProbe
from menvae.types import Batch

Floats = NDArray[np.float64]

BLOCKS = 8
"""Blocks along each side of a channel; fewer where a side has fewer voxels."""
FEWEST_ROWS = 3
"""A target that fewer training subjects have is read as its mean."""


def read_floor(cohort: ReferenceCohort) -> Readings:
    """Fit a ridge regression to the training subjects, and read the judged subjects.

    The penalty of each target minimises generalised cross-validation (`menvae.statistics.probes.RidgeProbe`). Whether a
    subject has a channel is a regressor of its own. Regressors of judged subjects are clipped to the range of the
    training subjects: a block that is empty in nearly all of these has a deviation so small that one tumour there would
    be read as a volume many times too large.
    """
    columns, values, observed, _ = _columns(cohort, "train")
    found = {split: _columns(cohort, split) for split in cohort.judged}
    held = np.concatenate([found[split][0] for split in cohort.judged])
    predicted = np.zeros((len(held), len(cohort.targets)))
    # targets that were observed in the same subjects share a decomposition
    patterns, pattern_of = np.unique(observed, axis=1, return_inverse=True)
    for index, rows in enumerate(patterns.T):
        if rows.sum() >= FEWEST_ROWS:
            own = np.flatnonzero(pattern_of == index)
            fitted = columns[rows]
            within = np.clip(held, fitted.min(axis=0), fitted.max(axis=0))
            predicted[:, own] = RidgeProbe(fitted, within).predict(values[np.ix_(rows, own)])
    ends = np.cumsum([len(found[split][0]) for split in cohort.judged])[:-1]
    parts = dict(zip(cohort.judged, np.split(predicted, ends), strict=True))
    facts = {"columns": columns.shape[1], "training_subjects": len(columns)}
    return Readings(
        cohort.targets, {split: by_subject(found[split][3], parts[split]) for split in cohort.judged}, facts
    )


def decomposition_cost(cohort: ReferenceCohort) -> int:
    """Return about how many products the ridge regressions take: N P min(N, P) for each decomposition of [N, P]."""
    num_columns = cohort.num_channels * math.prod(min(side, BLOCKS) for side in cohort.size)
    return sum(num * num_columns * min(num, num_columns) for num in cohort.num_observed if num >= FEWEST_ROWS)


def _columns(cohort: ReferenceCohort, split: str) -> tuple[Floats, Floats, NDArray[np.bool_], list[str]]:
    """Return the regressors [N, P], targets [N, F], whether each was observed [N, F], and the subjects of a split."""
    columns, values, observed = [], [], []
    subjects: list[str] = []
    for batch in cohort.batches(split):
        columns.append(block_means(batch).double().cpu().numpy())
        truth, seen = cohort.truth(batch)
        values.append(truth.double().cpu().numpy())
        observed.append(seen.cpu().numpy())
        subjects += batch.subject_id
    return np.concatenate(columns), np.concatenate(values), np.concatenate(observed), subjects


def block_means(batch: Batch) -> torch.Tensor:
    """Return block means of each channel, or the columns of a table, and which channels there are [B, P]."""
    inputs = only_available(batch.inputs, batch.available)
    if inputs.ndim == 5:
        depth, height, width = (min(side, BLOCKS) for side in inputs.shape[2:])
        inputs = adaptive_avg_pool3d(inputs, (depth, height, width)).flatten(1)
    return inputs if batch.available is None else torch.cat([inputs, batch.available.to(inputs)], dim=1)
