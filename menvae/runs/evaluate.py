"""``menvae-evaluate``: judge finished runs by the code that judges them at the end of training."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from menvae.configuration import check_present, plain_values, section_of
from menvae.console import logs
from menvae.console.progress import progress_bar
from menvae.data.batches.splits import Split
from menvae.errors import ExitCode, UserError, nearest
from menvae.evaluation.final import Outputs, evaluate_model, judge, results
from menvae.files import discard_folder, new_folder, write_json
from menvae.pictures import draw_pictures, needs_of
from menvae.references.find import Compute
from menvae.registry import validated
from menvae.runs.cohort import CohortRequest, open_cohort
from menvae.runs.evaluation import describe_evaluation, write_evaluation
from menvae.runs.finished import CheckpointName, FinishedRun
from menvae.runs.gates_table import gates_table, judged_gates
from menvae.runs.loading import load_named, usable_device
from menvae.runs.other_cohort import COHORT, OtherCohort
from menvae.runs.references import ceiling_reader, check_references, reference_cohort, references_of
from menvae.runs.references_table import references_table
from menvae.tracking.local import LocalLog
from menvae.training.settings import TrainerSettings

_log = logging.getLogger(__name__)

EVALUATIONS = "evaluations"
"""Folder of later evaluations in a run directory."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Keys of ``menvae-evaluate`` beside ``tracking``.

    Attributes:
        run: run directory, name or MLflow id; or a list.
        split: splits to judge; None: validation and, unless it is empty, test, as at the end of the run. Another cohort
            has no splits: it is judged as a whole.
        checkpoint: ``best`` or ``last``.
        references: whether to compute the references of R2 that the cache lacks (see `menvae.references`); of another
            cohort only the ceiling, which reads the interventions.
        overwrite: whether to replace an earlier evaluation of the same checkpoint and splits.
        device: device of the model, such as ``cuda:1``; None: the first GPU, or the CPU if there is none.
        output_dir: contains ``runs/``, for names of runs, and ``mlflow.db``, for ids.
    """

    run: str | tuple[str, ...]
    split: Split | tuple[Split, ...] | None = None
    checkpoint: CheckpointName = "best"
    references: bool = False
    overwrite: bool = False
    device: str | None = None
    output_dir: str = "./outputs"


def evaluate(composed: DictConfig) -> ExitCode:
    """Judge runs, write the files of each evaluation, and show its gates.

    Args:
        composed: composed configuration of ``conf/evaluate.yaml``.

    Raises:
        UserError: the configuration, a run or its data are invalid, a split is empty, or an evaluation exists.
    """
    keys = plain_values(composed, {"data", "tracking", *EvaluationSettings.__dataclass_fields__})
    check_present(keys, ("run", "data", "tracking"))
    data, tracking = dict(section_of(keys, "data")), section_of(keys, "tracking")
    settings = validated(EvaluationSettings, {key: keys[key] for key in keys if key not in ("data", "tracking")}, "")
    device = usable_device(settings.device)
    logs.configure(None)
    try:
        runs = load_named(settings.run, settings.checkpoint, device, settings.output_dir, tracking)
        planned = [_plan(run, settings, data) for run in runs]
        if settings.references:
            for plan in planned:
                check_references(plan.run.experiment, plan.run.name)
        for plan in planned:
            _log.info("evaluating %s on %s", plan.run.name, plan.other.name if plan.other else ", ".join(plan.splits))
            plan.folder.parent.mkdir(exist_ok=True)
            with new_folder(plan.folder) as unfinished:
                table, described = evaluate_run(
                    plan.run, plan.splits, unfinished, plan.other, references=settings.references
                )
                discard_folder(plan.folder)  # an earlier one is kept until this one is complete
            if len(runs) > 1:
                logs.show(plan.run.name)
            logs.show(gates_table(judged_gates(table, plan.splits), table["note"]))
            if (beside := references_table(described, list(plan.run.experiment.supervision))) is not None:
                logs.show(beside)
            logs.show(f"evaluation: {plan.folder}")
    finally:
        logs.release()
    return ExitCode.DONE


@dataclass(frozen=True)
class _Plan:
    """One evaluation.

    Attributes:
        run: the run.
        splits: splits to judge.
        other: the cohort to judge, if it is not that of the run.
        folder: folder of its files.
    """

    run: FinishedRun
    splits: Sequence[str]
    other: OtherCohort | None
    folder: Path


def evaluate_run(
    run: FinishedRun, splits: Sequence[str], folder: Path, other: OtherCohort | None = None, *, references: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Judge a run and write ``gates.json``, ``evaluation.json``, ``per_subject.csv``, pictures and report.

    Mean latent, mean image and the probes of leaks are always those of the training subjects of the run.

    Args:
        run: the run.
        splits: non-empty splits to judge; pictures are of the first.
        folder: an existing folder.
        other: the cohort to judge instead of that of the run, as the only split.
        references: whether to compute the references that the cache lacks.

    Returns:
        The content of ``gates.json`` and of ``evaluation.json``.

    Raises:
        UserError: the data of the run or the other cohort are invalid.
    """
    from menvae.runs.report import write_report

    experiment, metrics = run.experiment, run.experiment.build_metrics()
    read: list[Outputs] = [partial(run.outputs, name) for name in splits] if other is None else [other.outputs]  # type: ignore[arg-type]
    judged, source = dict(zip(splits, read, strict=True)), experiment.source if other is None else other.source
    compute: Compute = "all" if references else "cheap"
    referred = reference_cohort(experiment, run.data, run.device)
    reader = ceiling_reader(referred, experiment, compute)
    trainer: TrainerSettings = experiment.settings["trainer"]
    evaluation = evaluate_model(run.model, run.training_inputs(), judged, metrics, reader, source, trainer)
    gates = judge(evaluation, experiment.settings["gates"].targets, metrics, experiment.supervision)
    table = gates.as_dict()
    write_json(folder / "gates.json", table)
    beside = references_of(referred, experiment, evaluation, compute) if other is None else None
    data, cohort = (run.data, None) if other is None else (other.as_data, other.describe())
    described = describe_evaluation(
        evaluation, gates, data, experiment.supervision, run.name, run.checkpoint.stem, run.epoch, beside, cohort
    )
    write_evaluation(folder, described, evaluation, data, experiment.source, experiment.supervision)
    units = {name: target.unit for name, target in experiment.source.targets.items()}
    _log.info("drawing the pictures")
    context = replace(
        results(run.model, evaluation, data, units, needs_of(experiment.pictures, "after_training"), trainer),
        metrics=LocalLog(run.path).metrics(),
        gates=gates.targets_by_metric,
    )
    draw_pictures(experiment.pictures, context, "after_training", folder / "pictures")
    write_report(run.path, folder)
    return table, described


def _plan(run: FinishedRun, settings: EvaluationSettings, data: Mapping[str, Any]) -> _Plan:
    """Open the cohort, and check that its splits exist and its evaluation does not."""
    cohort = open_cohort(run, CohortRequest(data=data, show=progress_bar)) if data else None
    if cohort is None or cohort.own is not None:
        judged = run if cohort is None or cohort.own is None else cohort.own
        splits = _splits(judged, settings)
        return _Plan(judged, splits, None, _folder(run, splits, settings))
    if settings.split is not None:
        raise UserError("split: another cohort has no splits and is judged as a whole; leave out split")
    other = OtherCohort(run, data, cohort)
    return _Plan(run, [COHORT], other, _folder(run, [other.name], settings))


def _splits(run: FinishedRun, settings: EvaluationSettings) -> list[str]:
    there = set(run.splits.values())
    if settings.split is None:
        return ["val"] + ["test"] * ("test" in there)
    wanted = [settings.split] if isinstance(settings.split, str) else list(dict.fromkeys(settings.split))
    for name in wanted:
        if name not in there:
            raise UserError(f"split: run '{run.name}' has no subject in '{name}'; {nearest(name, sorted(there))}")
    if not wanted:
        raise UserError("split: [] is not allowed; give train, val, test or a list of them, or leave it out")
    return sorted(wanted, key=("val", "test", "train").index)


def _folder(run: FinishedRun, words: Sequence[str], settings: EvaluationSettings) -> Path:
    """Return the folder of an evaluation; ``words`` are its splits, or the name of another cohort."""
    folder = run.path / EVALUATIONS / "_".join([settings.checkpoint, *words])
    if folder.exists() and not settings.overwrite:
        raise UserError(
            f"run '{run.name}' was evaluated so before: '{folder}' exists; set overwrite=true to replace it"
        )
    return folder
