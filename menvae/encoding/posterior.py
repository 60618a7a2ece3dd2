"""What one run says of each visit: the posterior, and predictions in physical units with their spread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from menvae.data.digests import checksum, digest_of
from menvae.data.source import Visit
from menvae.data.targets.physical import denormalised, physical
from menvae.errors import UserError
from menvae.runs.cohort import Rows
from menvae.runs.finished import FinishedRun
from menvae.statistics.gaussian import draws_by_name

Floats = NDArray[np.float64]

LEVELS = (0.05, 0.95)
"""Quantiles of the draws that a table holds."""

_VISITS_AT_ONCE = 64
"""Visits whose draws are predicted in one piece; tables have batches of thousands of rows."""


@dataclass
class Posteriors:
    """The visits of a cohort, as one run sees them.

    Attributes:
        visits: N visits.
        splits: their splits.
        available: which modalities each has, bool [N, C].
        mean: posterior mean [N, Z].
        logvar: log variance [N, Z].
        predicted: target -> prediction from the posterior mean, in its physical unit [N].
        draws: target -> predictions from draws of q(z|x), in its physical unit [N, K].
        inputs_hash: hash of the inputs, as they are stored.
    """

    visits: Sequence[Visit]
    splits: Sequence[str]
    available: NDArray[np.bool_]
    mean: NDArray[np.float32]
    logvar: NDArray[np.float32]
    predicted: dict[str, Floats]
    draws: dict[str, NDArray[np.float32]]
    inputs_hash: str


@dataclass
class _Parts:
    """Arrays of the batches so far."""

    visits: list[Visit] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    available: list[NDArray[np.bool_]] = field(default_factory=list)
    mean: list[NDArray[np.float32]] = field(default_factory=list)
    logvar: list[NDArray[np.float32]] = field(default_factory=list)
    predicted: dict[str, list[Floats]] = field(default_factory=dict)
    draws: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)
    checksums: list[tuple[str, int]] = field(default_factory=list)


@torch.inference_mode()
def posteriors_of(run: FinishedRun, rows: Iterable[Rows], *, num_draws: int, seed: int) -> Posteriors:
    """Encode a cohort.

    Args:
        run: the run whose model encodes.
        rows: batches of stored values.
        num_draws: number of draws of q(z|x) per visit, for the spread of the predictions.
        seed: seed of the draws, which depend on nothing else but the name of the visit.

    Raises:
        UserError: there is no visit.
    """
    parts = _Parts()
    for batch, visits, split in rows:
        posterior = run.posterior(batch)
        parts.visits += visits
        parts.splits += [split] * len(visits)
        there = torch.ones(batch.inputs.shape[:2], dtype=torch.bool) if batch.available is None else batch.available
        parts.available.append(there.cpu().numpy())
        parts.mean.append(posterior.mean.float().cpu().numpy())
        parts.logvar.append(posterior.logvar.float().cpu().numpy())
        parts.checksums += [
            (visit.subject_id, checksum(values.data))
            for visit, values in zip(visits, batch.inputs.cpu().contiguous().numpy(), strict=True)
        ]
        predicted = _in_units(run, run.predict(posterior.mean))
        for name, values in predicted.items():
            parts.predicted.setdefault(name, []).append(values)
        for first in range(0, len(visits) if predicted else 0, _VISITS_AT_ONCE):
            some = slice(first, first + _VISITS_AT_ONCE)
            names = [visit.subject_id for visit in visits[some]]
            z = draws_by_name(posterior.mean[some].float(), posterior.logvar[some].float(), names, num_draws, seed)
            # in float32 in runs of any precision: rounding to bfloat16 would be larger than small spreads
            for name, values in _in_units(run, run.model.predict(z.flatten(0, 1))).items():
                parts.draws.setdefault(name, []).append(values.reshape(-1, num_draws).astype(np.float32))
    if not parts.visits:
        raise UserError("data: no visit can be encoded")
    return Posteriors(
        visits=parts.visits,
        splits=parts.splits,
        available=np.concatenate(parts.available),
        mean=np.concatenate(parts.mean),
        logvar=np.concatenate(parts.logvar),
        predicted={name: np.concatenate(values) for name, values in parts.predicted.items()},
        draws={name: np.concatenate(values) for name, values in parts.draws.items()},
        inputs_hash=digest_of(parts.checksums),
    )


def _in_units(run: FinishedRun, predicted: Mapping[str, Tensor]) -> dict[str, Floats]:
    """Partition -> z-scores [B, F] to target -> predictions in its physical unit [B]; empty without a normalizer."""
    normalizer, targets = run.targets, run.experiment.source.targets
    z_scores = {
        name: values[:, column].double().cpu().numpy()
        for partition, values in predicted.items()
        for column, name in enumerate(run.model.supervision[partition])
    }
    if normalizer is None or not z_scores:
        return {}
    return {name: physical(targets[name], values) for name, values in denormalised(normalizer, z_scores).items()}


def spread(draws: NDArray[np.float32]) -> dict[str, Floats]:
    """Return standard deviation and `LEVELS` of draws [N, K], as columns ``sd``, ``low`` and ``high`` [N]."""
    values = draws.astype(np.float64)
    low, high = np.quantile(values, LEVELS, axis=1)
    return {"sd": values.std(axis=1), "low": low, "high": high}
