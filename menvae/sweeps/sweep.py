"""The folder of a sweep: its points and their submissions.

``<output_dir>/sweeps/<name>/`` contains ``sweep.json`` (the command) and ``points/<run>/``: ``point.json`` (overrides
and submissions), ``job.json`` (what the process trains), ``outcome.json`` (how that process ended). ``refused.json``
lists the points that cannot run, and ``tracked.json`` what trackers received of a finished sweep. Results are in the
run directory ``<output_dir>/runs/<run>/``. All of it may be moved together with the output directory.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from menvae.errors import UserError, nearest
from menvae.files import DamagedFileError, Types, read_json, write_json
from menvae.masking import masked
from menvae.runs.directory import RUNS
from menvae.runs.job import Job
from menvae.runs.reading import value_at
from menvae.studies import Trial
from menvae.sweeps.rereading import stamp_of

SWEEPS = "sweeps"
"""Folder of sweeps in an output directory."""
_TRACKED = "tracked.json"
_POINT: Types = {"number": int, "run": str, "overrides": list, "submissions": list}


@dataclass(frozen=True)
class Submission:
    """One submission of a point to a runner.

    Attributes:
        launcher: registered name of the runner.
        job: identifier by which the runner finds the job from any process: a SLURM job id such as ``812_3``, or a
            process id.
        log: path of its output.
        time: time of the submission, in UTC, ISO 8601.
    """

    launcher: str
    job: str
    log: str
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


@dataclass(frozen=True)
class Point:
    """One point of a sweep.

    Attributes:
        number: number from 0, in the order in which points were added to the sweep.
        run: name of its run directory, which identifies it.
        overrides: overrides that distinguish it, ``key=value``.
        submissions: all submissions, the latest last.
        damage: what is wrong with its ``point.json``, or empty; then neither overrides nor submissions are known.
        stands_for: runs of failed points of the sweep in whose place it runs, with other values of some keys.
    """

    number: int
    run: str
    overrides: tuple[str, ...]
    submissions: tuple[Submission, ...] = ()
    damage: str = ""
    stands_for: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The overrides on one line."""
        return self.run if self.damage else label_of(self.overrides)

    @property
    def values(self) -> dict[str, str]:
        """{key: value as text} of its overrides."""
        pairs = (text.lstrip("+~").partition("=") for text in self.overrides)
        return {key: value for key, _, value in pairs}


class Sweep:
    """A sweep on disk.

    Attributes:
        path: its folder.
    """

    def __init__(self, path: Path) -> None:
        """Args: path: absolute path of the folder, which may not exist yet."""
        self.path = path

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    @property
    def output_dir(self) -> Path:
        """The ``output_dir`` of the sweep."""
        return self.path.parents[1]

    @property
    def runs(self) -> Path:
        """The folder of run directories."""
        return self.output_dir / RUNS

    def folder(self, point: Point) -> Path:
        """Return the folder of a point."""
        return self.path / "points" / point.run

    def config(self, point: Point) -> dict[str, Any]:
        """Return the composed configuration of a point at its last submission, in the output directory of now."""
        config = dict(Job.read(self.job_file(point)).config)
        parent, before = value_at(config, "trainer.extend"), f"{config.get('output_dir')}/"
        if isinstance(parent, str) and parent.startswith(before):
            config["trainer"] = {**config["trainer"], "extend": str(self.output_dir / parent.removeprefix(before))}
        return {**config, "output_dir": str(self.output_dir)}

    def log(self, submission: Submission) -> Path:
        """Return the path of the log of a submission, which may have been made before the sweep was moved."""
        _, is_inside, log = submission.log.rpartition(f"/{self.path.parent.name}/{self.name}/")
        return self.path / log if is_inside else Path(submission.log)

    def job_file(self, point: Point) -> Path:
        """Return the path of ``job.json`` of a point."""
        return self.folder(point) / "job.json"

    def describe(self, overrides: Sequence[str], launcher: Sequence[str], resolved: Sequence[str] = ()) -> None:
        """Write ``sweep.json``, without passwords.

        Args:
            overrides: overrides of the last command.
            launcher: those of its launcher.
            resolved: what keys of the launcher were in the end, also those that a file sets.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        content = {"overrides": list(overrides), "launcher": list(launcher), "resolved": list(resolved)}
        write_json(self.path / "sweep.json", masked(content))

    def description(self) -> dict[str, Any]:
        """Return the content of ``sweep.json``."""
        path = self.path / "sweep.json"
        try:
            content = read_json(path, {"overrides": list, "launcher": list}, {"resolved": list})
            if not all(isinstance(text, str) for texts in content.values() for text in texts):
                raise DamagedFileError(f"'{path}' is damaged: it contains something else than text")
        except DamagedFileError as error:
            raise UserError(f"{error}; the command that launched the sweep writes it again") from None
        return {"overrides": [], "launcher": [], "resolved": [], **content}

    def refuse(self, problems: Mapping[tuple[str, ...], str]) -> None:
        """Write ``refused.json``, which replaces that of an earlier launch.

        Args:
            problems: overrides of each point that cannot run -> why; without passwords when written.
        """
        points = [{"overrides": list(overrides), "problem": problem} for overrides, problem in problems.items()]
        write_json(self.path / "refused.json", masked({"points": points, "refused_at": time.time()}))

    def refused(self) -> dict[tuple[str, ...], str]:
        """Return the overrides of each point that cannot run -> why; raises `DamagedFileError`."""
        path = self.path / "refused.json"
        points = read_json(path, {"points": list}).get("points", [])
        try:
            return {tuple(map(str, point["overrides"])): str(point["problem"]) for point in points}
        except (KeyError, TypeError) as error:
            raise DamagedFileError(f"'{path}' is damaged: {error}") from None

    def refused_at(self) -> float | None:
        """Return when points were refused, in seconds since 1970; None if nobody knows."""
        try:
            return read_json(self.path / "refused.json", {}, {"refused_at": float}).get("refused_at")
        except DamagedFileError:
            return None

    def tracked(self) -> dict[str, Any]:
        """Return what trackers have received of the sweep's own run; empty if that is nothing, or is not known."""
        try:
            return read_json(self.path / _TRACKED, {})
        except DamagedFileError:  # they receive it once more
            return {}

    def set_tracked(self, end: Mapping[str, Any]) -> None:
        """Write what trackers have received; empty: nothing, until the sweep ends."""
        if end:
            write_json(self.path / _TRACKED, end)
        else:
            (self.path / _TRACKED).unlink(missing_ok=True)

    def points(self, read: Callable[[Path], Point | None] | None = None) -> list[Point]:
        """Return all points, sorted by number; those with a damaged ``point.json`` have the last numbers.

        Args:
            read: reads a ``point.json`` as `read_point` does, which is the default.
        """
        found, damaged = [], []
        for name in self._names():
            try:
                point = (read or read_point)(self.path / "points" / name / "point.json")
            except DamagedFileError as error:
                damaged.append((name, str(error)))
                continue
            if point is not None:
                found.append(point)
        found.sort(key=lambda point: point.number)
        number = found[-1].number + 1 if found else 0
        return [*found, *(Point(number + index, run, (), damage=why) for index, (run, why) in enumerate(damaged))]

    def _names(self) -> list[str]:
        """Return the names of the folders of points, sorted."""
        try:
            with os.scandir(self.path / "points") as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except FileNotFoundError:
            return []

    def has(self, point: Point) -> bool:
        """Return whether its ``point.json`` says just this."""
        try:
            return read_point(self.folder(point) / "point.json") == point
        except DamagedFileError:
            return False

    def keep(self, point: Point) -> None:
        """Write ``point.json``."""
        self.folder(point).mkdir(parents=True, exist_ok=True)
        left_out = {"damage"} if point.stands_for else {"damage", "stands_for"}
        content = {key: value for key, value in asdict(point).items() if key not in left_out}
        write_json(self.folder(point) / "point.json", content)

    def prepare(self, point: Point, config: Mapping[str, Any], trial: Trial | None = None) -> Path:
        """Write the point and its job file; return the path of the latter.

        The job file fixes the run directory, so a repeated job resumes there, even with ``trainer.resume=never``.
        """
        self.keep(point)
        (self.folder(point) / "outcome.json").unlink(missing_ok=True)  # of its last process
        if config["trainer"].get("resume") == "never":
            config = {**config, "trainer": {**config["trainer"], "resume": "auto"}}
        Job(config, point.run, self.folder(point), trial, point.stands_for).write(self.job_file(point))
        return self.job_file(point)

    def submitted(self, point: Point, submission: Submission) -> Point:
        """Add a submission to the point, write it and return it."""
        point = replace(point, submissions=(*point.submissions, submission))
        self.keep(point)
        return point


def read_point(path: Path) -> Point | None:
    """Read ``point.json``; return None if it does not exist; raises `DamagedFileError`."""
    content = read_json(path, _POINT, {"stands_for": list})
    if not content:
        return None
    try:
        submissions = tuple(Submission(**submission) for submission in content["submissions"])
    except (KeyError, TypeError) as error:
        raise DamagedFileError(f"'{path}' is damaged: {error}") from None
    stands_for = content.get("stands_for", [])
    texts = [*content["overrides"], *(text for submission in submissions for text in vars(submission).values())]
    if content["run"] != path.parent.name or not all(isinstance(text, str) for text in [*texts, *stands_for]):
        raise DamagedFileError(f"'{path}' is damaged: it is not the point of this folder")
    overrides = tuple(content["overrides"])
    return Point(content["number"], content["run"], overrides, submissions, stands_for=tuple(stands_for))


def point_called(sweep: Sweep, called: str) -> Point:
    """Return the point of a sweep with a number or the name of a run; raises `UserError` if there is none."""
    points = sweep.points()
    for point in points:
        if called in (str(point.number), point.run):
            return point
    known = [name for point in points for name in (str(point.number), point.run)]
    raise UserError(f"'{called}' is no point of sweep '{sweep.name}'; {nearest(called, known, 'menvae-sweep status')}")


def key_of(override: str) -> str:
    """Return the key that an override sets.

    >>> key_of("++seed=1"), key_of("~loss")
    ('seed', 'loss')
    """
    return override.partition("=")[0].lstrip("+~")


def label_of(overrides: Sequence[str]) -> str:
    """Return the overrides of a point on one line."""
    return " ".join(overrides) or "(nothing swept)"


def sweep_name(run_name: str, keys: Sequence[str], fixed_overrides: Sequence[str]) -> str:
    """Return the name of a sweep, which does not depend on the values of the swept keys.

    >>> sweep_name("semivae", ["loss.lambda_dcor"], ["trainer.max_epochs=5"])
    'semivae_lambda_dcor_92a076'
    """
    swept = "-".join(key.rpartition(".")[2] for key in keys)[:60]
    canonical = json.dumps([run_name, sorted(keys), sorted(fixed_overrides)])
    return "_".join(filter(None, [run_name, swept, hashlib.sha256(canonical.encode()).hexdigest()[:6]]))


def find_sweep(output_dir: Path, name: object) -> Sweep:
    """Return the sweep called ``name``, or the one launched last.

    Raises:
        UserError: the name is not a text, or the sweep does not exist.
    """
    if not isinstance(name, str | None):
        raise UserError(f"sweep.name: {name!r} is not allowed; it should be a valid string")
    stamps = {path.parent.name: stamp_of(path) for path in (output_dir / SWEEPS).glob("*/sweep.json")}
    changed_at = {name: stamp[2] for name, stamp in stamps.items() if stamp is not None}  # others are gone meanwhile
    names = sorted(changed_at, key=lambda name: (changed_at[name], name))
    if not names:
        raise UserError(f"output_dir: '{output_dir}' has no sweep; launch one with menvae-train -m key=value,value")
    if name is not None and name not in names:
        raise UserError(f"sweep.name: '{name}' is not a sweep in '{output_dir}'; {nearest(name, names)}")
    return Sweep(output_dir / SWEEPS / (name or names[-1]))
