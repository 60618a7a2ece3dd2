"""Finished runs of a tracking store, as plain data; the store is only read.

MLflow is imported inside functions only. Results come from ``gates.json`` and ``evaluation.json`` of each run; a note
reports a run whose ``gate/<name>`` metrics differ from its ``gates.json``.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from menvae.comparison.judged import GateValue, Judged, JudgedSplit, LeakValue, read_evaluation, read_gates
from menvae.errors import UserError, nearest
from menvae.gates import METRIC_PREFIX
from menvae.presentation.text import counted
from menvae.runs.delivery import not_sent
from menvae.runs.directory import RUNS
from menvae.runs.job import STANDS_FOR
from menvae.runs.reading import EVALUATION
from menvae.tracking.mlflow.reading import NoStoreError, experiment_id, local_path, name_of, open_store, runs_of
from menvae.tracking.mlflow.run import valid_key
from menvae.tracking.tracker import TrackingSettings

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


_COMPARED_STATES = ("finished", "collapsed")
"""Values of ``menvae.state`` of runs that are compared; runs in other states, such as pruned, were cut short."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """One finished run.

    Attributes:
        run_id: MLflow id.
        name: name of its run directory.
        state: ``finished``, or ``collapsed`` if the collapse watch ended it.
        started_ms: start time in milliseconds since 1970.
        params: dotted configuration key -> value as text, in the order of the configuration.
        gates: gates of the validation split by name, in the order of ``gates.json``.
        test_gates: gates of the test split; empty if it was not judged.
        figures: numbers of ``evaluation.json`` as ``final/<split>/<key>``, with ``/low`` and ``/high``.
        leaks: split -> its leaks, the largest first; empty for runs of earlier versions.
        data_hash: hash of the prepared cohort.
        targets_hash: hash of normaliser and residualiser.
        git_commit: commit of the code.
        artifact_uri: MLflow's location of its files.
        outside_identity: keys of ``data.*`` that its source declares irrelevant to the result; None for runs of older
            versions, which did not record them.
        stands_for: runs that failed in the same sweep, in whose place it ran with other values of some keys.
    """

    run_id: str
    name: str
    params: Mapping[str, str]
    gates: Mapping[str, GateValue]
    test_gates: Mapping[str, GateValue] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    leaks: Mapping[str, Sequence[LeakValue]] = field(default_factory=dict)
    state: str = "finished"
    started_ms: int = 0
    data_hash: str = ""
    targets_hash: str = ""
    git_commit: str = ""
    artifact_uri: str = ""
    outside_identity: tuple[str, ...] | None = None
    stands_for: tuple[str, ...] = ()

    @property
    def seed(self) -> str:
        """The seed as text; empty if the configuration has none."""
        return self.params.get("seed", "")

    @property
    def passed(self) -> bool:
        """Whether it passed every gate of the validation split and, if that was judged, of the test split."""
        return all(gate.passed for gate in (*self.gates.values(), *self.test_gates.values()))

    def gates_on(self, split: JudgedSplit) -> Mapping[str, GateValue]:
        """Return the gates of a split; empty if it was not judged."""
        return self.gates if split == "val" else self.test_gates


@dataclass
class RunStore:
    """One experiment of a tracking store.

    Attributes:
        client: MLflow client of the store.
        place: address of the store without passwords, for messages.
        tracking: its settings.
        experiment_id: MLflow id of the experiment.
        output_dir: contains ``runs/``, which may still have the original artifacts.
    """

    client: MlflowClient
    place: str
    tracking: TrackingSettings
    experiment_id: str
    output_dir: Path

    @property
    def experiment(self) -> str:
        """Name of the experiment."""
        return self.tracking.experiment

    @classmethod
    def open(cls, tracking: TrackingSettings, output_dir: Path) -> RunStore:
        """Open a store for reading, without creating anything.

        Raises:
            UserError: the store or the experiment does not exist or cannot be read.
        """
        output_dir = output_dir.resolve()
        try:
            client, place = open_store(tracking, output_dir)
            found = experiment_id(client, tracking.experiment, place)
        except UserError as error:
            words = _not_sent_words(not_sent(output_dir, tracking, (), None), output_dir)
            if not words:
                raise
            raise UserError(words if isinstance(error, NoStoreError) else f"{error}; {words}") from None
        return cls(client, place, tracking, found, output_dir)

    def runs(self, sweep: str | None = None) -> tuple[list[TrackedRun], list[str]]:
        """Return the finished runs, the oldest first, and notes on skipped runs and on disagreements.

        Args:
            sweep: only the points of this sweep; None for all runs.

        Raises:
            UserError: the sweep does not exist, or no run has finished.
        """
        runs: list[TrackedRun] = []
        left_out: dict[str, list[str]] = {}
        disagreements: list[str] = []
        sweeps, sent = set[str](), set[str]()
        for run in runs_of(self.client, self.experiment_id, self.place):  # MLflow's own objects are large
            sweeps.add(run.data.tags.get("menvae.sweep", ""))
            sent.add(name_of(run))
            if sweep is not None and run.data.tags.get("menvae.sweep") != sweep:
                continue
            why, judged = self._judged(run)
            if why:
                left_out.setdefault(why, []).append(name_of(run))
                continue
            runs.append(_tracked(run, judged))
            disagreements += _disagreements(run, judged.gates)
        words = _not_sent_words(not_sent(self.output_dir, self.tracking, sent, sweep), self.output_dir)
        if sweep is not None and sweep not in sweeps:
            hint = words or nearest(sweep, sweeps - {""})
            raise UserError(f"sweep.name: '{sweep}' has no run in {self.place}; {hint}")
        notes = [f"Not compared: {_listing(left_out)}."] if left_out else []
        if not runs:
            there = f"it has {_listing(left_out)}" if left_out else "it is empty"
            none = f"experiment '{self.experiment}' in {self.place} has no finished run to compare: {there}"
            raise UserError(f"{none}; {words}" if words else none)
        notes += [f"Not compared: {words}."] * bool(words)
        return runs, notes + disagreements

    def artifact(self, run: TrackedRun, name: str) -> Path | None:
        """Return a file or folder of a run, downloaded if it is not on this machine; None if it does not exist.

        Args:
            run: the run.
            name: relative path, such as ``gates.json``.
        """
        return self._fetch(run.run_id, run.name, run.artifact_uri, name)

    def local_artifact(self, run: TrackedRun, name: str) -> Path | None:
        """Return a file or folder of a run; None if it is not on this machine."""
        return self._local(run.name, run.artifact_uri, name)

    def _judged(self, run: Run) -> tuple[str, Judged]:
        """Return why a run is not compared (empty if it is), and how it was judged."""
        status, state = str(run.info.status).lower(), run.data.tags.get("menvae.state", "finished")
        if status != "finished":
            return status, Judged()
        if state not in _COMPARED_STATES:
            return state, Judged()
        gates, evaluation = (
            self._fetch(run.info.run_id, name_of(run), run.info.artifact_uri, name)
            for name in ("gates.json", EVALUATION)
        )
        judged = Judged() if gates is None else read_gates(gates)
        if not judged.gates:
            return "without a readable gates.json", judged
        return "", judged if evaluation is None else read_evaluation(evaluation, judged)

    def _local(self, run_name: str, artifact_uri: str, name: str) -> Path | None:
        """Look for MLflow's copy, then for the original in ``output_dir``: the store may be remote or moved."""
        artifacts = local_path(artifact_uri)
        folders = [*([] if artifacts is None else [artifacts]), self.output_dir / RUNS / run_name]
        return next((folder / name for folder in folders if (folder / name).exists()), None)

    def _fetch(self, run_id: str, run_name: str, artifact_uri: str, name: str) -> Path | None:
        found = self._local(run_name, artifact_uri, name)
        if found is not None or local_path(artifact_uri) is not None:
            return found
        from mlflow.exceptions import MlflowException

        try:
            return Path(self.client.download_artifacts(run_id, name, str(self._folder(run_id))))
        except (MlflowException, OSError):
            return None

    def _folder(self, run_id: str) -> Path:
        folder = Path(self._temporary.name) / run_id
        folder.mkdir(exist_ok=True)
        return folder

    @cached_property
    def _temporary(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="menvae-compare-")


def listed(names: Sequence[str], most: int = 6) -> str:
    """List the first ``most`` names and count the rest.

    >>> listed(["a", "b"]), listed(list("abcdefgh"))
    ('a, b', 'a, b, c, d, e, f and 2 more')
    """
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _not_sent_words(names: Sequence[str], output_dir: Path) -> str:
    """Say that the tracking store lacks runs of the output directory; empty if it has all."""
    if not names:
        return ""
    verb = "is" if len(names) == 1 else "are"
    return (
        f"{counted(len(names), 'run')} in '{output_dir}' ({listed(names)}) {verb} not sent yet: "
        f"menvae-sweep sync output_dir={output_dir}"
    )


def _listing(left_out: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{len(names)} {why} ({listed(names)})" for why, names in sorted(left_out.items()))


def _tracked(run: Run, judged: Judged) -> TrackedRun:
    tags = run.data.tags
    return TrackedRun(
        run_id=run.info.run_id,
        name=name_of(run),
        params={sys.intern(key): sys.intern(value) for key, value in run.data.params.items()},  # many runs share them
        gates=judged.gates,
        test_gates=judged.test_gates,
        figures=judged.figures,
        leaks=judged.leaks,
        state=tags.get("menvae.state", "finished"),
        started_ms=int(run.info.start_time or 0),
        data_hash=tags.get("menvae.data_hash", ""),
        targets_hash=tags.get("menvae.targets_hash", ""),
        git_commit=tags.get("menvae.git_commit", ""),
        artifact_uri=run.info.artifact_uri or "",
        outside_identity=tuple(outside.split()) if (outside := tags.get("menvae.outside_identity")) else None,
        stands_for=tuple(tags.get(STANDS_FOR, "").split()),
    )


def _disagreements(run: Run, gates: Mapping[str, GateValue]) -> list[str]:
    """Report gates whose MLflow metric and ``gates.json`` differ, because one of them was changed later."""
    metrics = {
        key.removeprefix(METRIC_PREFIX): value
        for key, value in run.data.metrics.items()
        if key.startswith(METRIC_PREFIX)
    }
    different = [name for name, gate in gates.items() if metrics.get(valid_key(name)) != gate.value]
    if not different:
        return []
    return [f"{name_of(run)}: MLflow metrics and gates.json differ in {listed(different)}; gates.json is shown."]
