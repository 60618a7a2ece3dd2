"""The steps of ``menvae-prepare``: from a configuration to the cache, and a folder that describes the cohort."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from omegaconf import DictConfig

from menvae.configuration import check_present, check_writable, path_of, plain_values
from menvae.console import logs
from menvae.console.progress import progress_bar
from menvae.data.batches.cohort_splits import split_cohort, subjects_of
from menvae.data.batches.splits import Split, warn_of_small_splits
from menvae.data.cache.cohort import Cohort
from menvae.data.cache.prepare import prepare
from menvae.data.cache.trajectories import trajectories
from menvae.data.source import CohortSource, DataSource
from menvae.data.targets.correlation import TargetCorrelation, target_correlation
from menvae.data.targets.declaration import applicable, by_group
from menvae.data.targets.fit import fit_targets
from menvae.data.targets.normalizer import TargetNormalizer, TargetSettings
from menvae.errors import ExitCode, UserError
from menvae.files import write_json
from menvae.layers import STRIDE
from menvae.preparation.intensities import cohort_intensities
from menvae.preparation.quality import Limits, judge_cohort
from menvae.preparation.summary import Findings
from menvae.preparation.table import answers, write_tables
from menvae.registry import Bound, Field, bind, validated

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PreparationSettings:
    """Keys of ``menvae-prepare`` beside ``data`` and ``targets``.

    Attributes:
        output_dir: folder for all output.
        num_workers: worker processes; None uses one per core.
        thumbnails: maximum number of subjects with pictures on the page, the worst first.
    """

    output_dir: str = "./outputs"
    num_workers: Annotated[int, Field(ge=1)] | None = None
    thumbnails: Annotated[int, Field(ge=0)] = 60


def prepare_cohort(composed: DictConfig) -> ExitCode:
    """Check, prepare and describe a cohort.

    Args:
        composed: composed configuration of ``conf/prepare.yaml``.

    Raises:
        UserError: if the configuration or the data are invalid.
    """
    keys = plain_values(composed, {"data", "targets", *PreparationSettings.__dataclass_fields__})
    check_present(keys, ("data", "targets"))
    data = bind("data", keys.pop("data"), "data")
    targets = validated(TargetSettings, keys.pop("targets"), "targets")
    settings = validated(PreparationSettings, keys, "")
    output_dir = path_of(settings.output_dir, "output_dir").resolve()
    check_writable(output_dir)
    logs.configure(None)
    try:
        found = examine(data, targets, output_dir / "cache", settings.num_workers)
        folder = output_dir / "cohorts" / f"{data.part.name}_{found.cohort.data_hash[:10]}"
        page = write_folder(found, folder, settings)
        for answer in answers(found):
            logs.show(answer)
        _log.info("page: %s", page)
    finally:
        logs.release()
    return ExitCode.DONE


def examine(data: Bound, targets: TargetSettings, cache: Path, num_workers: int | None = None) -> Findings:
    """Prepare a cohort and judge every subject.

    Args:
        data: the source, ready to be built.
        targets: target settings.
        cache: cache folder.
        num_workers: worker processes; None uses one per core.

    Raises:
        UserError: if the source, its subjects or the targets are invalid, or the source needs no preparation.
    """
    built: DataSource = data()
    source = built.cohort
    if source is None:
        raise UserError(f"data: '{data.part.name}' needs no preparation; use it with menvae-train directly")
    targets = applicable(targets, source.targets, f"data={data.part.name}")
    if any(side % STRIDE for side in source.roi_size):
        _log.warning(
            "data.roi_size: %s can be prepared but not trained on; encoders and decoders halve the box four times, so "
            "every side must be a multiple of %d",
            *(list(source.roi_size), STRIDE),
        )
    limits = Limits(source.warn_below.get("tumour", 0.0), source.warn_below.get("brain", 0.0))
    cohort = prepare(source, cache, num_workers, progress_bar, all_notes=True)
    splits, no_splits = _splits(cohort, source)
    normalizer, correlation = _targets(cohort, splits, source, targets)
    intensities = cohort_intensities(cohort.subjects, cache, num_workers, progress_bar)
    return Findings(
        name=data.part.name,
        cohort=cohort,
        roi_size=source.roi_size,
        modalities=source.channels,
        targets=tuple(source.targets),
        rows=judge_cohort(cohort, splits, intensities, source.channels, limits),
        splits=splits,
        no_splits=no_splits,
        normalizer=normalizer,
        correlation=correlation,
        limits=limits,
        curves=source.curves,
    )


def _splits(cohort: Cohort, source: CohortSource) -> tuple[dict[str, Split] | None, str]:
    """Return the splits, or None and the reason; a cohort too small to train on can still be described."""
    try:
        splits = split_cohort(cohort, source.val_fraction, source.test_fraction, source.split_seed, source.folds)
    except UserError as error:
        return None, str(error).removeprefix("data: ")
    warn_of_small_splits(splits.values(), source.test_fraction, folds=source.folds)
    return splits, ""


def _targets(
    cohort: Cohort, splits: Mapping[str, Split] | None, source: CohortSource, settings: TargetSettings
) -> tuple[TargetNormalizer | None, TargetCorrelation | None]:
    if splits is None:
        return None, None
    training = [subject.features for subject in subjects_of(cohort, splits, "train")]
    groups = by_group(source.targets)
    normalizer = fit_targets(training, settings, groups, source.targets)
    return normalizer, target_correlation(training, normalizer, groups)


def write_folder(found: Findings, folder: Path, settings: PreparationSettings) -> Path:
    """Write tables, pictures, normaliser and page; return the path of the page.

    Without splits, files that need them are removed, because they would come from other keys.
    """
    from menvae.pictures.drawing.matrices import draw_target_correlation
    from menvae.preparation.page import write_page
    from menvae.preparation.pictures import draw_cohort, draw_patients
    from menvae.presentation.figures import save_figure

    folder.mkdir(parents=True, exist_ok=True)
    write_tables(found, folder)
    boxes = [subject.box for subject in found.cohort.subjects]
    save_figure(draw_cohort(boxes, found.limits), folder / "cohort.png")
    patients = trajectories(found.cohort.subjects)
    if any(len(patient.years) > 1 for patient in patients):
        save_figure(draw_patients(patients, found.curves), folder / "trajectories.png")
    picture, targets = folder / "target_correlation.png", folder / "targets.json"
    if found.correlation is not None and found.normalizer is not None:
        correlation = found.correlation
        drawn = draw_target_correlation(correlation.before, correlation.after, correlation.partitions)
        save_figure(drawn, picture)
        description: dict[str, Any] = {"data_hash": found.cohort.data_hash, **found.normalizer.as_dict()}
        write_json(targets, description)
    else:
        picture.unlink(missing_ok=True)
        targets.unlink(missing_ok=True)
    return write_page(found, folder, settings.thumbnails, settings.num_workers)
