"""Delivery of the results of a run that has ended to its trackers; nothing heavy is imported here."""

from __future__ import annotations

from typing import Any

from menvae.gates import gate_values
from menvae.runs.directory import RunDirectory, trackers_of
from menvae.runs.reading import EVALUATION, PER_SUBJECT, final_values, read_mapping
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
