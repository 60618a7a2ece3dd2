"""``menvae-evaluate``: judge finished runs by the code that judges them at the end of training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from menvae.configuration import check_present, plain_values, section_of
from menvae.console import logs
from menvae.data.batches.splits import Split
from menvae.errors import ExitCode, UserError, nearest
from menvae.evaluation.final import evaluate_model, judge, results
from menvae.files import discard_folder, new_folder, write_json
from menvae.pictures import draw_pictures
from menvae.references.find import Compute
from menvae.registry import validated
from menvae.runs.evaluation import describe_evaluation, write_evaluation
from menvae.runs.finished import CheckpointName, FinishedRun
from menvae.runs.gates_table import entries, gates_table
from menvae.runs.loading import load_named, usable_device
from menvae.runs.references import ceiling_reader, check_references, references_of
from menvae.runs.references_table import references_table
from menvae.tracking.local import LocalLog

_log = logging.getLogger(__name__)

EVALUATIONS = "evaluations"
"""Folder of later evaluations in a run directory."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Keys of ``menvae-evaluate`` beside ``tracking``.

    Attributes:
        run: run directory, name or MLflow id; or a list.
        split: splits to judge; None: validation and, unless it is empty, test, as at the end of the run.
        checkpoint: ``best`` or ``last``.
        references: whether to compute the references of R2 that the cache lacks (see `menvae.references`).
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
    check_present(keys, ("run", "tracking"))
    if keys.pop("data", None):
        raise UserError("data: menvae-evaluate judges a run on its own cohort; for another one, use menvae-encode")
    tracking = section_of(keys, "tracking")
    settings = validated(EvaluationSettings, {key: keys[key] for key in keys if key != "tracking"}, "")
    device = usable_device(settings.device)
    logs.configure(None)
    try:
        runs = load_named(settings.run, settings.checkpoint, device, settings.output_dir, tracking)
        planned = [(run, _splits(run, settings)) for run in runs]
        folders = [_folder(run, splits, settings) for run, splits in planned]
        if settings.references:
            for run in runs:
                check_references(run.experiment, run.name)
        for (run, splits), folder in zip(planned, folders, strict=True):
            _log.info("evaluating %s on %s", run.name, ", ".join(splits))
            folder.parent.mkdir(exist_ok=True)
            with new_folder(folder) as unfinished:
                table, described = evaluate_run(run, splits, unfinished, references=settings.references)
                discard_folder(folder)  # an earlier one is kept until this one is complete
            if len(runs) > 1:
                logs.show(run.name)
            logs.show(gates_table(table["gates"], table["note"], entries(table.get("test"))))
            if (beside := references_table(described, list(run.experiment.supervision))) is not None:
                logs.show(beside)
            logs.show(f"evaluation: {folder}")
    finally:
        logs.release()
    return ExitCode.DONE


def evaluate_run(
    run: FinishedRun, splits: Sequence[str], folder: Path, *, references: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Judge a run and write ``gates.json``, ``evaluation.json``, ``per_subject.csv``, pictures and report.

    Args:
        run: the run.
        splits: non-empty splits to judge; pictures are of validation, if it is among them.
        folder: an existing folder.
        references: whether to compute the references that the cache lacks.

    Returns:
        The content of ``gates.json`` and of ``evaluation.json``.
    """
    from menvae.runs.report import write_report

    experiment, data, metrics = run.experiment, run.data, run.experiment.build_metrics()
    judged = {name: partial(run.outputs, name) for name in splits}  # type: ignore[arg-type]
    compute: Compute = "all" if references else "cheap"
    reader = ceiling_reader(experiment, data, run.device, compute)
    with run.precision:
        evaluation = evaluate_model(run.model, run.training_inputs(), judged, metrics, reader)
    gates = judge(evaluation, experiment.settings["gates"].targets, metrics, experiment.supervision)
    table = gates.as_dict()
    write_json(folder / "gates.json", table)
    beside = references_of(experiment, data, evaluation, run.device, compute)
    described = describe_evaluation(
        evaluation, gates, data, experiment.supervision, run.name, run.checkpoint.stem, run.epoch, beside
    )
    write_evaluation(folder, described, evaluation, data, experiment.source, experiment.supervision)
    units = {name: target.unit for name, target in experiment.source.targets.items()}
    if "val" in splits:
        _log.info("drawing the pictures")
        context = replace(
            results(run.model, evaluation, data, units),
            metrics=LocalLog(run.path).metrics(),
            gates=gates.targets_by_metric,
        )
        draw_pictures(experiment.pictures, context, "after_training", folder / "pictures")
    write_report(run.path, folder)
    return table, described


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


def _folder(run: FinishedRun, splits: Sequence[str], settings: EvaluationSettings) -> Path:
    folder = run.path / EVALUATIONS / "_".join([settings.checkpoint, *splits])
    if folder.exists() and not settings.overwrite:
        raise UserError(
            f"run '{run.name}' was evaluated so before: '{folder}' exists; set overwrite=true to replace it"
        )
    return folder
