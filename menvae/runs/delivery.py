"""Delivery of the results of a run that has ended to its trackers; nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from menvae.files import DamagedFileError
from menvae.gates import gate_values
from menvae.masking import masked
from menvae.runs.directory import ENDED, RUNS, RunDirectory, read_status, trackers_of
from menvae.runs.reading import EVALUATION, PER_SUBJECT, final_values, read_mapping
from menvae.tracking.facts import Facts
from menvae.tracking.mlflow.store import configured_uri
from menvae.tracking.tracker import TrackingSettings
from menvae.tracking.trackers import Trackers

_ARTIFACTS = {
    "train.log",
    "config.yaml",
    "environment.json",
    "metrics.jsonl",
    "metrics.csv",
    "gates.json",
    EVALUATION,
    PER_SUBJECT,
    "targets.json",
    "splits.csv",
    "summary.json",
    "pictures",
    "report.html",
    "embeddings.npz",
    "error.txt",
    "profile.json",
    "profile_trace.json",
}
"""Files of a run directory that trackers receive, besides the best weights."""


def hand_over(
    trackers: Trackers, settings: TrackingSettings, directory: RunDirectory, status: dict[str, Any]
) -> frozenset[str]:
    """Send trackers the results of the run, add to its status those that have it complete, and return those of now."""
    final = final_values(read_mapping(directory.path / EVALUATION))
    trackers.log(status["epochs"], {**gate_values(directory.gates()), **final}, {})
    trackers.log_artifacts([path for path in sorted(directory.path.iterdir()) if path.name in _ARTIFACTS])
    trackers.log_artifacts([directory.checkpoints / "best.ckpt"])
    tags = {"menvae.state": status["state"], "menvae.gates_passed": str(status["gates_passed"])}
    finished = trackers.finish("FINISHED", tags)
    have_all = trackers_of(status) | finished
    status["trackers"] = sorted(have_all)
    status["tracked"] = bool(settings.active) and settings.active <= have_all
    return finished


def not_sent(output_dir: Path, settings: TrackingSettings, sent: Collection[str], sweep: str | None) -> list[str]:
    """Return the names of runs that have ended and that the tracking store of some settings lacks.

    Args:
        output_dir: absolute path of the output directory.
        settings: tracking URI and experiment; runs with others do not count.
        sent: names of the runs that the store has.
        sweep: only the points of this sweep; None for all runs.
    """
    runs = output_dir / RUNS
    folders = sorted(path for path in runs.iterdir() if path.name not in sent) if runs.is_dir() else []
    return [folder.name for folder in folders if _is_lacked(folder, settings, sweep)]


def _is_lacked(folder: Path, settings: TrackingSettings, sweep: str | None) -> bool:
    try:
        facts, status = Facts.read(folder), read_status(folder)
    except DamagedFileError:
        return False
    if facts is None or status.get("state") not in ENDED or sweep not in (None, facts.sweep):
        return False
    here = (masked(configured_uri(settings)), settings.experiment)
    return (facts.uri, facts.experiment) == here and not facts.trackers.keys() <= trackers_of(status)
