"""Sending of runs and sweeps that trackers lack: trained on nodes without a network, or while a store was away.

Everything comes from the folders of the output directory: ``tracking.json``, logs and results. Nothing is trained or
evaluated, and no data are read. The lock of a run excludes its own process and any other that sends it; a process that
is killed leaves a run that is sent again, of which trackers take only what they lack.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from menvae.errors import UserError
from menvae.files import DamagedFileError, FolderIsLockedError, FolderLock
from menvae.masking import MASK, masked
from menvae.runs.delivery import hand_over
from menvae.runs.directory import ENDED, RUNS, RunDirectory, trackers_of
from menvae.sweeps.campaign import end_of_sweep
from menvae.sweeps.status import sweep_status
from menvae.sweeps.sweep import SWEEPS, Sweep
from menvae.tracking.facts import Facts
from menvae.tracking.local import LocalLog
from menvae.tracking.mlflow.store import configured_uri, tracking_uri
from menvae.tracking.tracker import ParentRun, Status, TrackerContext, TrackingSettings
from menvae.tracking.trackers import Trackers

_log = logging.getLogger(__name__)

_ENDS: Mapping[str, Status] = {"failed": "FAILED", "paused": "FINISHED"}
_MOST_UNANSWERED = 2  # in a row; each costs seconds, and there may be thousands


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Keys of ``tracking.*`` of ``menvae-sweep sync``.

    Attributes:
        uri: tracking URI; None: that which each run was configured with.
        experiment: name of the MLflow experiment; None: that which each run was configured with.
    """

    uri: str | None = None
    experiment: str | None = None


class Outcome(StrEnum):
    """What became of a run or a sweep."""

    SENT = "sent"
    COMPLETE = "complete already"
    ACTIVE = "still running or being sent"
    UNANSWERED = "not sent"
    IMPOSSIBLE = "cannot be sent"


@dataclass(frozen=True)
class Parcel:
    """A run or a sweep to be sent.

    Attributes:
        folder: its folder.
        facts: what its trackers are told at the start.
        settings: the trackers, and where they send it.
        output_dir: its output directory.
    """

    folder: Path
    facts: Facts
    settings: TrackingSettings
    output_dir: Path

    @property
    def is_elsewhere(self) -> bool:
        """Whether it is sent to another place than it was configured with."""
        here = (self.facts.uri, self.facts.experiment)
        return (masked(self.settings.uri), self.settings.experiment) != here

    def trackers(self, only: frozenset[str]) -> Trackers:
        """Return some of its trackers; raises `UserError`."""
        sweep = self.facts.sweep
        context = TrackerContext(
            settings=self.settings,
            output_dir=self.output_dir,
            run_dir=self.folder,
            run_name=self.folder.name,
            parent=None if sweep is None else ParentRun(self.output_dir / SWEEPS / sweep, sweep),
        )
        return Trackers.of(context, only, keeps_facts=False)


def sync(output_dir: Path, destination: Destination, sweep: Sweep | None = None) -> Counter[Outcome]:
    """Send what trackers lack, runs before sweeps; give up when they do not answer.

    Args:
        output_dir: absolute path of the output directory.
        destination: where to send it.
        sweep: only this sweep and its points; None: everything in the output directory.

    Returns:
        Number of runs and sweeps by outcome.

    Raises:
        UserError: there are no runs, the URI is not supported, or it needs a password that a run does not keep.
    """
    if not (output_dir / RUNS).is_dir():
        raise UserError(f"output_dir: '{output_dir}' has no folder '{RUNS}' and so nothing to send")
    if destination.uri is not None:
        tracking_uri(TrackingSettings(uri=destination.uri), output_dir)
    if sweep is None:
        runs, sweeps = _folders(output_dir / RUNS), _folders(output_dir / SWEEPS)
    else:
        runs, sweeps = [sweep.runs / point.run for point in sweep.points()], [sweep.path]
    counts: Counter[Outcome] = Counter()
    parcels = _parcels([*runs, *sweeps], output_dir, destination, counts)
    num_unanswered = 0
    for number, parcel in enumerate(parcels, start=1):
        outcome = _send(parcel)
        counts[outcome] += 1
        if outcome in (Outcome.SENT, Outcome.UNANSWERED):
            _log.info("%s: %s (%d of %d)", parcel.folder.name, outcome, number, len(parcels))
            num_unanswered = num_unanswered + 1 if outcome == Outcome.UNANSWERED else 0
        if num_unanswered == _MOST_UNANSWERED:
            counts[Outcome.UNANSWERED] += len(parcels) - number
            _log.error("trackers do not take what they are sent; the same command sends the rest")
            break
    return counts


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []


def _parcels(
    folders: Sequence[Path], output_dir: Path, destination: Destination, counts: Counter[Outcome]
) -> list[Parcel]:
    """Return what is to be sent of some folders; count and report those with damaged facts."""
    parcels, num_untracked = [], 0
    for folder in folders:
        try:
            facts = Facts.read(folder)
        except DamagedFileError as error:
            counts[Outcome.IMPOSSIBLE] += 1
            _log.error("%s: %s; the command of the run writes it again", folder.name, error)
            continue
        if facts is None:
            num_untracked += 1
        else:
            parcels.append(Parcel(folder, facts, _settings(facts, destination, folder.name), output_dir))
    if num_untracked:
        _log.info("%d without tracking: the commands that trained them send them, with tracking", num_untracked)
    return parcels


def _settings(facts: Facts, destination: Destination, name: str) -> TrackingSettings:
    """Return where a run is sent; raises `UserError` if that needs a password which is not known here."""
    uri = facts.uri if destination.uri is None else destination.uri
    if uri is not None and MASK in uri:
        here = configured_uri(TrackingSettings())
        if masked(here) != uri:
            raise UserError(f"tracking.uri: '{name}' keeps no passwords; give tracking.uri=... again")
        uri = here
    if MASK in json.dumps(facts.trackers):
        raise UserError(f"tracking.trackers: '{name}' keeps no passwords; the command that trained it sends it too")
    experiment = facts.experiment if destination.experiment is None else destination.experiment
    return TrackingSettings(uri=uri, experiment=experiment, trackers=facts.trackers)


def _send(parcel: Parcel) -> Outcome:
    is_sweep = parcel.folder.parent.name == SWEEPS
    try:
        return _send_sweep(parcel) if is_sweep else _send_run(parcel)
    except UserError as error:
        _log.error("%s: %s", parcel.folder.name, error)
        return Outcome.IMPOSSIBLE


def _send_run(parcel: Parcel) -> Outcome:
    """Send a run that no process holds, also one that has not ended, as it does itself when it fails or is stopped."""
    try:
        directory = RunDirectory(parcel.folder, patience_s=0.0)
    except UserError:  # held by the process that trains it, or by another that sends it
        return Outcome.ACTIVE
    try:
        status = directory.status()
        lacking = _lacking(parcel, status)
        if not lacking:
            return Outcome.COMPLETE
        has_ended = status["state"] in ENDED
        if has_ended:
            directory.gates()  # raises before anything is sent
        trackers, log = parcel.trackers(lacking), LocalLog(parcel.folder)
        trackers.start(parcel.facts.params, parcel.facts.tags, log, parcel.facts.datasets)
        if has_ended:
            finished = hand_over(trackers, parcel.settings, directory, status)
        else:
            state = status["state"] if status["state"] in _ENDS else "interrupted"
            end: Status = _ENDS.get(state, "KILLED")
            finished = trackers.finish(end, {"menvae.state": state})
            status["trackers"] = sorted(trackers_of(status) | finished)
        if status["state"] != "new":  # whose status is damaged
            directory.set_status(**status)
        if parcel.is_elsewhere:
            sent = {key: address for key, address in trackers.addresses.items() if key in finished}
            replace(parcel.facts, sent={**parcel.facts.sent, **sent}).write(parcel.folder)
        return Outcome.SENT if lacking <= finished else Outcome.UNANSWERED
    finally:
        directory.release()


def _lacking(parcel: Parcel, status: Mapping[str, Any]) -> frozenset[str]:
    """Return the keys of the trackers that lack a run; in another place, those that `sync` has not sent it to."""
    active = parcel.settings.active
    if not parcel.is_elsewhere:
        return active - trackers_of(status)
    addresses = parcel.trackers(active).addresses
    return frozenset(key for key in active if parcel.facts.sent.get(key) != addresses[key])


def _send_sweep(parcel: Parcel) -> Outcome:
    """Send a sweep's own run, unless one of its points is active or a process launches it."""
    sweep, facts = Sweep(parcel.folder), parcel.facts
    try:
        lock = FolderLock(sweep.path)
    except FolderIsLockedError:
        return Outcome.ACTIVE
    try:
        statuses = sweep_status(sweep)
        if any(status.fate.is_active for status in statuses):
            return Outcome.ACTIVE
        is_done = all(status.fate.rests for status in statuses) and not sweep.refused()
        trackers = parcel.trackers(parcel.settings.active)
        end = end_of_sweep(is_done=is_done, trackers=trackers, tags=_own(facts.tags, sweep))
        known = sweep.tracked()
        if end == known or (not parcel.is_elsewhere and _without_addresses(end) == _without_addresses(known)):
            return Outcome.COMPLETE
        trackers.start(facts.params, facts.tags, LocalLog(sweep.path), facts.datasets)
        has_all = parcel.settings.active <= trackers.finish(end["state"])
        if has_all:
            sweep.set_tracked(end)
        return Outcome.SENT if has_all else Outcome.UNANSWERED
    finally:
        lock.release()


def _without_addresses(end: Mapping[str, Any]) -> dict[str, Any]:
    return {**end, "trackers": sorted(end.get("trackers", ()))}


def _own(tags: Mapping[str, str], sweep: Sweep) -> dict[str, str]:
    """Return the tags of a sweep without those that every sweep has."""
    return {key: value for key, value in tags.items() if key not in ParentRun(sweep.path, sweep.name).tags}
