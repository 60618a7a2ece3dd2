"""The steps of ``menvae-grow``: from a configuration to forecasts, their scores and a page."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from omegaconf import DictConfig, OmegaConf

from menvae.configuration import check_folder_name, check_present, check_writable, path_of, plain_values, section_of
from menvae.console import logs
from menvae.console.progress import progress_bar
from menvae.data.digests import digest_of
from menvae.errors import ExitCode, UserError, about
from menvae.files import discard_folder, new_folder, write_text
from menvae.forecasting.decoded import NextVisit, decode_next_visits
from menvae.forecasting.judging import Intervals, Judged, judge, pooled
from menvae.forecasting.patients import SameDay
from menvae.forecasting.protocols import Protocol, patient_folds
from menvae.forecasting.results import (
    ORACLE,
    PAGE,
    TABLE,
    Results,
    of_curves,
    read_metrics,
    write_results,
)
from menvae.forecasting.sources import (
    Part,
    TableSource,
    VisitRules,
    Volumes,
    volumes_of_masks,
    volumes_of_runs,
    volumes_of_table,
)
from menvae.growth import GrowthModel, Visits
from menvae.growth.volume_latent import VolumeLatent
from menvae.masking import masked
from menvae.registry import Field, bind, parts_of, validated
from menvae.runs.finished import CheckpointName
from menvae.runs.loading import load_named, usable_device
from menvae.runs.reading import flat
from menvae.tracking.local import LocalLog
from menvae.tracking.tracker import TrackerContext, TrackingSettings
from menvae.tracking.trackers import Trackers

_log = logging.getLogger(__name__)

FORECASTS = "forecasts"
"""Folder of all forecasts in the output directory."""
BASELINE = "last_value"
"""Model that the others are compared with."""
PROTOCOLS: Mapping[Protocol, str] = {
    "last_from_rest": "the last visit from all before it",
    "all_from_first": "all visits from the first one",
}
_OF_MACHINE = ("output_dir", "tracking", "num_workers", "device", "overwrite")
"""Keys that change no result."""
_NOT_OF_TABLES = ("volume", "run", "data", "decode", "volume_latent", "checkpoint", "hold_out")
"""Keys that change nothing with a table."""
_SECTIONS = ("growth", "source", "data", "tracking")


@dataclass(frozen=True, kw_only=True)
class ForecastSettings:
    """Keys of ``menvae-grow`` beside ``growth``, ``source``, ``data`` and ``tracking``.

    Attributes:
        name: forecasts are called ``<name>_<hash>``.
        run: runs whose encoders read the volumes; only with ``source=run``.
        beside: further growth models, with their defaults; ``all``: every one.
        volume: targets whose volumes are added up.
        smallest_mm3: volumes below count as this one.
        same_day: what to do with two visits of a patient on one day.
        protocol: which visits are known, and which are forecast.
        hold_out: who is forecast: the test patients of each ``encoder``, or every ``patient``, one at a time.
        num_folds: so many groups of patients instead of one patient at a time.
        seed: of the groups.
        intervals: kinds of intervals.
        level: how often they should hold.
        decode: number of next visits that are decoded, with ``source=run``.
        volume_latent: how the latents of the volume follow from the volume that is forecast.
        num_workers: processes that prepare masks; None: one per core.
        device: of encoders; None: the first GPU, or the CPU if there is none.
        checkpoint: of encoders.
        overwrite: whether to compute forecasts that exist.
        output_dir: contains ``forecasts/``.
    """

    name: str
    run: str | tuple[str, ...] | None = None
    beside: tuple[str, ...] | str = ("last_value",)
    volume: Annotated[tuple[str, ...], Field(min_length=1)] = ("vol_et", "vol_ncr")
    smallest_mm3: Annotated[float, Field(gt=0.0)] = 30.0
    same_day: SameDay = "fail"
    protocol: Protocol = "last_from_rest"
    hold_out: Literal["auto", "encoder", "patient"] = "auto"
    num_folds: Annotated[int, Field(ge=2)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    intervals: Annotated[tuple[Intervals, ...], Field(min_length=1)] = ("normal", "jackknife_plus")
    level: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    decode: Annotated[int, Field(ge=0)] = 6
    volume_latent: VolumeLatent = "minimum_norm"
    num_workers: Annotated[int, Field(ge=1)] | None = None
    device: str | None = None
    checkpoint: CheckpointName = "best"
    overwrite: bool = False
    output_dir: str = "./outputs"


def forecast(composed: DictConfig) -> ExitCode:
    """Forecast the visits of a cohort by growth models that have not seen the patient, and judge the forecasts.

    Args:
        composed: composed configuration of ``conf/grow.yaml``.

    Raises:
        UserError: the configuration, the volumes, a run or a model are invalid.
    """
    keys = plain_values(composed, {*_SECTIONS, *ForecastSettings.__dataclass_fields__})
    check_present(keys, ("growth", "source", "tracking"))
    settings = validated(ForecastSettings, {key: keys[key] for key in keys if key not in _SECTIONS}, "")
    check_folder_name("name", settings.name)
    if len(set(settings.volume)) < len(settings.volume):
        raise UserError(f"volume: {list(settings.volume)} names a volume twice, which would be added twice")
    tracking = validated(TrackingSettings, section_of(keys, "tracking"), "tracking")
    models = _models(keys["growth"], settings.beside)
    output_dir = path_of(settings.output_dir, "output_dir").resolve()
    check_writable(output_dir)
    logs.configure(None)
    try:
        found = _volumes(keys, settings, output_dir)
        unused = _OF_MACHINE if name_of_source(keys) != "table" else (*_OF_MACHINE, *_NOT_OF_TABLES)
        decisive = {key: value for key, value in keys.items() if key not in unused}
        digest = digest_of([decisive, [volumes.digest for volumes in found]])
        folder = output_dir / FORECASTS / f"{settings.name}_{digest[:10]}"
        if settings.overwrite or not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            results = judged_results(models, found, settings)
            with new_folder(folder) as unfinished:
                write_text(unfinished / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(masked(keys))))
                write_results(results, settings.name, unfinished)
                discard_folder(folder)
            _send(keys, tracking, output_dir, folder)
        else:
            _log.info("these forecasts exist; overwrite=true computes them again")
        logs.show((folder / TABLE).read_text(encoding="utf-8"))
        _log.info("page: %s", folder / PAGE)
    finally:
        logs.release()
    return ExitCode.DONE


def judged_results(models: Mapping[str, GrowthModel], found: Sequence[Volumes], settings: ForecastSettings) -> Results:
    """Judge every model on every source of volumes, and decode some next visits by the first model."""
    work = [(volumes, name) for volumes in found for name in models]
    judged: dict[str, Judged] = {}
    left_out: list[str] = []
    for volumes, name in progress_bar(iter(work), "forecasting", len(work)):
        try:
            judged[_label(name, volumes, found)] = pooled(
                [
                    judge(
                        models[name],
                        part.patients,
                        part.folds,
                        protocol=settings.protocol,
                        level=settings.level,
                        intervals=settings.intervals,
                    )
                    for part in volumes.parts
                ]
            )
        except UserError as error:
            if name == next(iter(models)):
                raise
            left_out.append(f"{_label(name, volumes, found)}: left out, {error}")
    known = {
        _label(ORACLE, volumes, found): of_curves(
            judged[_label(next(iter(models)), volumes, found)], volumes.parts[0].patients, volumes.curves
        )
        for volumes in found
        if volumes.curves
    }
    first = found[0]
    shown = _label(next(iter(models)), first, found)
    return Results(
        patients=_held_out(first),
        judged=judged,
        shown=shown,
        intervals=settings.intervals,
        baselines=[name for name in (_label(BASELINE, volumes, found) for volumes in found) if name in judged],
        oracles=known,
        warnings=[sentence for volumes in found for sentence in volumes.warnings],
        notes=left_out,
        facts=[("Volumes", "; ".join(volumes.name for volumes in found)), ("Protocol", PROTOCOLS[settings.protocol])],
        next_visits=_decoded(first, judged[shown], settings),
    )


def _label(model: str, volumes: Volumes, found: Sequence[Volumes]) -> str:
    """Return the name of a model in the table, such as ``lme (masks)`` beside ``lme`` of predicted volumes."""
    return model if volumes is found[0] else f"{model} ({volumes.name})"


def _held_out(volumes: Volumes) -> list[Visits]:
    """Return all patients, each as in the part in which he is held out."""
    patients = list(volumes.parts[0].patients)
    for part in volumes.parts[1:]:
        for number in (number for fold in part.folds or () for number in fold):
            patients[number] = part.patients[number]
    return patients


def _decoded(volumes: Volumes, judged: Judged, settings: ForecastSettings) -> list[NextVisit]:
    """Decode the next visits that differ most from the last one."""
    found: list[NextVisit] = []
    change = np.abs(judged.truth - judged.last)
    chosen = {judged.tasks[number] for number in np.argsort(-change, kind="stable")[: settings.decode]}
    for part in volumes.parts:
        own = range(len(part.patients)) if part.folds is None else [number for fold in part.folds for number in fold]
        wanted = [task for task in judged.tasks if task in chosen and task.patient in own]
        if part.encoded is not None and wanted:
            found += decode_next_visits(part.encoded, judged.fits, part.patients, wanted, settings.volume_latent)
    return found


def _models(config: Mapping[str, Any], beside: Sequence[str] | str) -> dict[str, GrowthModel]:
    """Return the models by name, the one of ``growth`` first; the others have their defaults."""
    first = bind("growth", config, "growth")
    others = [beside] if isinstance(beside, str) else beside
    names = [part.name for part in parts_of("growth")] if others == ["all"] else others
    models: dict[str, GrowthModel] = {first.part.name: first()}
    for number, name in enumerate(names):
        if name not in models:
            models[name] = bind("growth", {"name": name}, f"beside.{number}")()
    return models


def _volumes(keys: Mapping[str, Any], settings: ForecastSettings, output_dir: Path) -> list[Volumes]:
    """Return the volumes of the source; with runs, those that they predict, then those of the masks."""
    rules = VisitRules(settings.volume, settings.smallest_mm3, settings.same_day)
    source, name = section_of(keys, "source"), name_of_source(keys)
    if name != "run" and settings.hold_out == "encoder":
        raise UserError("hold_out: 'encoder' needs source=run; volumes of masks and tables have no encoder")
    if name == "table":
        found = [volumes_of_table(validated(TableSource, source, "source"), rules)]
    elif name == "measured":
        masks = bind("data", section_of(keys, "data"), "data")
        found = [volumes_of_masks(masks, rules, output_dir / "cache", settings.num_workers)]
    elif name != "run":
        raise UserError(f"source.name: '{name}' is not allowed; choose measured, run or table")
    else:
        if settings.run is None:
            raise UserError("run: a value is required with source=run")
        device = usable_device(settings.device)
        runs = load_named(settings.run, settings.checkpoint, device, str(output_dir), section_of(keys, "tracking"))
        data = dict(keys.get("data") or {})
        by_encoder = settings.hold_out == "encoder" or (settings.hold_out == "auto" and not data)
        found = volumes_of_runs(runs, rules, data, "encoder" if by_encoder else "patient", settings.num_workers)
    if settings.num_folds is not None:
        found = [
            replace(one, parts=[_grouped(part, settings.num_folds, settings.seed) for part in one.parts])
            for one in found
        ]
    return found


def name_of_source(keys: Mapping[str, Any]) -> object:
    """Return ``measured``, ``run`` or ``table``, if it is spelt correctly."""
    return section_of(keys, "source").get("name")


def _grouped(part: Part, num_folds: int, seed: int) -> Part:
    """Return a part whose patients are held out in groups."""
    if part.folds is not None:
        raise UserError(
            "num_folds: not allowed with hold_out=encoder, where the test patients of each run are held out"
        )
    with about("num_folds"):
        return replace(part, folds=patient_folds(part.patients, num_folds, seed))


def _send(keys: Mapping[str, Any], settings: TrackingSettings, output_dir: Path, folder: Path) -> None:
    """Send scores and files to the trackers."""
    context = TrackerContext(settings=settings, output_dir=output_dir, run_dir=folder, run_name=folder.name)
    trackers, log = Trackers.of(context), LocalLog(folder)
    metrics = read_metrics(folder)
    log.append(1, metrics, {})
    params = {key: value for key, value in flat(masked(dict(keys))) if not key.startswith("tracking.")}
    trackers.start(params, {"menvae.run": folder.name, "menvae.kind": "forecast"}, log)
    trackers.log(1, metrics, {})
    trackers.log_artifacts(
        sorted(path for path in folder.iterdir() if path.suffix in (".html", ".csv", ".yaml", ".png"))
    )
    trackers.finish("FINISHED")
