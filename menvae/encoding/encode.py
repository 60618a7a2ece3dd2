"""The latents and predictions of a cohort, by one finished run or several, as a data frame."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from menvae import __version__
from menvae.data.source import DataSource, Visit
from menvae.data.workers import ShowProgress, unseen
from menvae.encoding.fusion import Fusion, check_same_visits, concatenated, ensemble
from menvae.encoding.posterior import LEVELS, Posteriors, posteriors_of
from menvae.encoding.table import table_of, units
from menvae.errors import UserError
from menvae.runs.cohort import Cohort, CohortRequest, Rows, SplitChoice, cores_for_workers, open_cohort
from menvae.runs.finished import CheckpointName, FinishedRun
from menvae.runs.loading import Run, load_all
from menvae.runs.reading import read_mapping

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)


def encode(
    run: Run | Sequence[Run],
    *,
    split: SplitChoice = "all",
    data: Mapping[str, Any] | None = None,
    fusion: Fusion | None = None,
    draws: int = 256,
    seed: int = 0,
    checkpoint: CheckpointName = "best",
    device: str | torch.device = "cpu",
    batch_size: int | None = None,
    num_workers: int | None = None,
    output_dir: str | Path | None = None,
    tracking_uri: str | None = None,
    show: ShowProgress = unseen,
) -> pd.DataFrame:
    """Encode a cohort with a finished run: one row per visit.

    Args:
        run: run directory, name or MLflow id of a run, as for `menvae.load_run`, or what it returned; or several.
        split: split of the run's own cohort to encode.
        data: keys ``data.*`` of another cohort, where they differ from those of the run, such as
            ``{"root": "/new/cohort"}``; its visits may lack masks. None: the cohort of the run.
        fusion: for several runs: ``concatenate`` puts their columns side by side, such as models of one modality each;
            ``ensemble`` averages the predictions of runs that differ in their seed. Latents of such runs have no common
            axes, so an ensemble has none.
        draws: draws of q(z|x) per visit, for the spread of the predictions.
        seed: seed of the draws.
        checkpoint: ``best`` or ``last``.
        device: device of the model.
        batch_size: visits per batch of another cohort; None: as in training.
        num_workers: processes that prepare visits of another cohort; None: one per core.
        output_dir: as for `menvae.load_run`.
        tracking_uri: as for `menvae.load_run`.
        show: progress display, such as `menvae.console.progress.progress_bar`.

    Returns:
        A data frame with these columns; ``attrs["menvae"]`` has runs, checkpoints, hashes, and the unit of each.

        - ``subject``, ``patient``, ``visit`` (number among the visits of the patient), ``days``, ``split`` (``new`` for
          another cohort).
        - ``available.<modality>``: whether the visit has the modality.
        - ``measured.<target>``: measured on the mask in the box of the model; missing without a mask.
        - ``predicted.<target>``: prediction from the posterior mean, in the same unit; ``.sd``, ``.low`` and ``.high``:
          standard deviation, 5 % and 95 % quantile over draws of q(z|x), and so not the error of the prediction. An
          ensemble adds ``.sd_within`` and ``.sd_between`` runs.
        - ``mean.<partition>.<number>``, ``logvar.<partition>.<number>``: q(z|x).

    Raises:
        UserError: a run is not finished, the split is empty, the data do not fit the model, or the runs do not fit each
            other.
    """
    runs = load_all(run, checkpoint, device, output_dir, tracking_uri)
    if len(runs) > 1 and fusion is None:
        raise UserError(f"fusion: {len(runs)} runs need fusion=concatenate or fusion=ensemble")
    request = CohortRequest(split=split, data=data or {}, batch_size=batch_size, num_workers=num_workers, show=show)
    cohorts = {one.name: open_cohort(one, request) for one in runs}
    for one in runs:
        _warn_of_known_names(one, cohorts[one.name])
    found: dict[str, Posteriors] = {}
    for one in runs:
        cohort = cohorts[one.name]
        description = "encoding" if len(runs) == 1 else f"encoding with {one.name}"
        rows = _shown(cohort.rows, show, description, len(cohort.subject_ids))
        with cores_for_workers(cohort, one.device):
            found[one.name] = posteriors_of(one, rows, num_draws=draws, seed=seed)
    sources = {name: cohort.source for name, cohort in cohorts.items()}
    table = _fused(runs, found, sources, fusion)
    targets = {name: target for source in sources.values() for name, target in source.targets.items()}
    table.attrs["menvae"] = {
        "version": __version__,
        "runs": [_description(one, found[one.name]) for one in runs],
        "data": dict(data or {}),
        "split": split,
        "fusion": fusion,
        "draws": draws,
        "seed": seed,
        "quantiles": list(LEVELS),
        "units": units(list(table.columns), targets),
    }
    return table


def _warn_of_known_names(run: FinishedRun, cohort: Cohort) -> None:
    """Warn about visits of another cohort that have the names of visits of the run's own."""
    known = [name for name in cohort.subject_ids if name in run.splits]
    if cohort.own is None and known and cohort.source.cohort is not None and cohort.source.cohort.checks_files:
        _log.warning(
            "%d of %d visits have the names of visits of run '%s', such as '%s'; if they are the same, the model may "
            "have been trained on them",
            *(len(known), len(cohort.subject_ids), run.name, known[0]),
        )


def _fused(
    runs: Sequence[FinishedRun],
    found: Mapping[str, Posteriors],
    sources: Mapping[str, DataSource],
    fusion: Fusion | None,
) -> pd.DataFrame:
    check_same_visits(found)
    if fusion == "ensemble":
        if len(runs) > 1:
            _log.info("latents of several runs have no common axes: an ensemble has predictions only")
        return ensemble(found, next(iter(sources.values())))
    tables = {one.name: table_of(found[one.name], sources[one.name], one.experiment.layout) for one in runs}
    if len(runs) == 1:
        return tables[runs[0].name]
    modalities = {one.name: "+".join(sources[one.name].channels) for one in runs}
    are_distinct = len(set(modalities.values())) == len(runs)
    return concatenated({modalities[name] if are_distinct else name: table for name, table in tables.items()})


def _shown(rows: Iterator[Rows], show: ShowProgress, description: str, total: int) -> Iterator[Rows]:
    """Yield the batches, and show the progress of their visits."""
    ready: list[Rows] = []

    def visits() -> Iterator[Visit]:
        for row in rows:
            ready.append(row)
            yield from row[1]

    for _ in show(visits(), description, total):
        while ready:
            yield ready.pop()


def _description(run: FinishedRun, found: Posteriors) -> dict[str, Any]:
    with run.checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    described = read_mapping(run.path / "targets.json")
    return {
        "name": run.name,
        "status": run.status,
        "checkpoint": run.checkpoint.stem,
        "checkpoint_sha256": digest,
        "epoch": run.epoch,
        "data_hash": described.get("data_hash"),
        "targets_hash": described.get("hash"),
        "inputs_hash": found.inputs_hash,
    }
