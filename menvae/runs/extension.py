"""Training a finished run on (``trainer.extend``): what makes that exact, and the start of the new run.

The new run begins with copies of checkpoints and metrics of its parent and goes on as a resumed run does. Its result is
therefore that of a run that was as long from the start, if nothing in the parent depended on its own length: that is
checked here.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from menvae.composition.canonical import canonical
from menvae.composition.experiment import Experiment
from menvae.configuration import path_of
from menvae.data.source import Data
from menvae.errors import UserError
from menvae.files import replacing, write_json
from menvae.runs.directory import RunDirectory, read_status
from menvae.runs.environment import code_hash
from menvae.runs.identity import is_outside, outside_keys
from menvae.runs.parent import EXTEND, MAY_CHANGE, Parent, refuse_difference
from menvae.runs.reading import flat, read_mapping, value_at
from menvae.runs.tuning import TUNING
from menvae.terms import Term
from menvae.training import checkpoint
from menvae.training.curriculum import Curriculum
from menvae.training.settings import TrainerSettings
from menvae.types import Progress
from menvae.updates.joint import Joint

_log = logging.getLogger(__name__)

_LAST, _BEST = "checkpoints/last.ckpt", "checkpoints/best.ckpt"
_LOGS = ("metrics.jsonl", "timings.jsonl")
_STEPS_BEFORE_DATA = 64  # positions an epoch at which schedules are compared before the length of an epoch is known
_MOST_POSITIONS = 20_000  # of them in all: a second; what depends on the length of a run differs for more than a step


def parent_of(experiment: Experiment) -> Parent | None:
    """Return the run that ``trainer.extend`` names, or None; raises `UserError` if it has no configuration."""
    trainer: TrainerSettings = experiment.settings["trainer"]
    return None if trainer.extend is None else Parent.read(path_of(trainer.extend, EXTEND))


def start_of_extension(experiment: Experiment) -> str:
    """Return what a run hash says of the parent, whose name stands for its result; empty for other runs."""
    parent = parent_of(experiment)
    return "" if parent is None else f"extends {parent.name}"


def check_extension(experiment: Experiment) -> None:
    """Check what an extension needs besides its data; other runs pass.

    Raises:
        UserError: the parent is not finished, has lost what training goes on from, differs in more than an extension
            may change, or depended on its own length.
    """
    parent = parent_of(experiment)
    if parent is None:
        return
    epochs, max_epochs = parent.epochs, experiment.settings["trainer"].max_epochs
    _check_configuration(parent, experiment)
    if max_epochs <= epochs:
        raise UserError(
            f"trainer.max_epochs: {max_epochs} is not allowed; run '{parent.name}' has {epochs} epochs, and this is "
            "the number in all"
        )
    _last_of(parent, epochs)
    _check_length(parent, experiment, _STEPS_BEFORE_DATA)


def check_extended_data(experiment: Experiment, data: Data, identity: Mapping[str, str]) -> None:
    """Check that an extension has the data of its parent, and the schedules at each of its steps.

    Args:
        experiment: the experiment.
        data: its data.
        identity: what its checkpoints have in common (`menvae.runs.start.checkpoint_identity`).

    Raises:
        UserError: it differs.
    """
    parent = parent_of(experiment)
    if parent is None:
        return
    known = read_mapping(parent.path / "targets.json").get("data_hash")
    if known != data.data_hash:
        raise UserError(
            f"{EXTEND}: run '{parent.name}' was trained on other data, with the hash {known} instead of "
            f"{data.data_hash}; restore its cohort"
        )
    checkpoint.check_identity({"identity": _last_of(parent, parent.epochs)}, identity, f"{EXTEND}: '{parent.path}'")
    _check_length(parent, experiment, data.train.steps_per_epoch)


def begin_extension(experiment: Experiment, directory: RunDirectory) -> None:
    """Give a new run the checkpoints, metrics and pictures of its parent, from which it goes on as if resumed.

    A run that has a checkpoint of its own, and one without a parent, are left as they are.

    Args:
        experiment: the experiment.
        directory: its run directory; ``last.ckpt`` is written last, so that a killed process leaves a new run.
    """
    parent = parent_of(experiment)
    if parent is None or (directory.path / _LAST).is_file():
        return
    directory.checkpoints.mkdir(exist_ok=True)
    for folder in sorted((parent.path / "pictures").glob("epoch_*")):
        if int(folder.name.removeprefix("epoch_")) % experiment.settings["pictures"].every_epochs == 0:
            shutil.copytree(folder, directory.pictures / folder.name, dirs_exist_ok=True)
    _take_over_tuning(parent, experiment, directory)
    for name in (*_LOGS, _BEST, _LAST):
        with (parent.path / name).open("rb") as content, replacing(directory.path / name) as file:
            shutil.copyfileobj(content, file)
    _log.info("training run %s on after its epoch %d", parent.path, parent.epochs)
    if read_status(parent.path).get("code") != code_hash():
        _log.warning("another version of the code has trained run '%s'; results may differ in more epochs", parent.name)


def describe_parent(experiment: Experiment) -> dict[str, Any]:
    """Return the entry of ``environment.json`` about the parent; empty for other runs."""
    parent = parent_of(experiment)
    return {} if parent is None else {"extends": {"run": parent.name, "path": str(parent.path)}}


def _take_over_tuning(parent: Parent, experiment: Experiment, directory: RunDirectory) -> None:
    """Let the extension compute as its parent did, unless it asks for another precision."""
    tuning = read_mapping(parent.path / "environment.json").get(TUNING)
    if tuning is not None and experiment.settings["trainer"].precision == value_at(parent.config, "trainer.precision"):
        write_json(directory.path / "environment.json", {TUNING: tuning})


def _last_of(parent: Parent, epochs: int) -> Mapping[str, str]:
    """Return the identity in the last checkpoint of a run; raises `UserError` if training cannot go on from it."""
    for name in (_LAST, _BEST, *_LOGS):
        if not (parent.path / name).is_file():
            raise UserError(f"{EXTEND}: run '{parent.name}' has lost its {name}, from which training would go on")
    path = parent.path / _LAST
    status = path.stat()
    found = _content(path, (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    if not found.has_optimizer:
        raise UserError(
            f"{EXTEND}: run '{parent.name}' was finished without trainer.keep_optimizer=true, so its last.ckpt lacks "
            "the optimiser state; train it anew with trainer.max_epochs of the longer run"
        )
    if found.epoch != epochs:
        raise UserError(f"{EXTEND}: '{path}' is of epoch {found.epoch}, but run '{parent.name}' has {epochs}")
    return found.identity


@dataclass(frozen=True)
class _Content:
    identity: Mapping[str, str]
    epoch: int
    has_optimizer: bool


@lru_cache(maxsize=8)
def _content(path: Path, state: tuple[int, ...]) -> _Content:
    """Read a checkpoint once for all points of a sweep, as long as the file has this state."""
    found = checkpoint.load(path, torch.device("cpu"))
    return _Content(found["identity"], found["state"]["epoch"], "optimizer" in found)


def _check_configuration(parent: Parent, experiment: Experiment) -> None:
    """Check that an extension differs from its parent only in what it may change; raises `UserError`."""
    outside = (*outside_keys(str(parent.config["data"]["name"])), *MAY_CHANGE)
    theirs, mine = (
        {key: value for key, value in flat(config) if not is_outside(key, outside)}
        for config in (canonical(parent.config), experiment.config)
    )
    refuse_difference(parent, theirs, mine)


def _check_length(parent: Parent, experiment: Experiment, steps_per_epoch: int) -> None:
    """Check that nothing in the epochs of the parent would have been different in a longer run.

    Args:
        parent: the parent.
        experiment: the extension.
        steps_per_epoch: number of steps of an epoch, at each of which schedules are compared.

    Raises:
        UserError: a schedule, a term, the update or the epochs with validation depended on its length.
    """
    epochs, trainer = parent.epochs, experiment.settings["trainer"]
    every, longer = trainer.validate_every_epochs, trainer.max_epochs
    if epochs % every:
        raise UserError(
            f"{EXTEND}: with trainer.validate_every_epochs={every}, run '{parent.name}' validated its last epoch, "
            f"{epochs}, out of turn, and a run of {longer} epochs would not have; {_otherwise(parent)}"
        )
    curriculum: Curriculum = experiment.settings["curriculum"]
    update = experiment.parts["update"]
    if curriculum.scale and not isinstance(update(), Joint):
        raise UserError(
            f"{EXTEND}: update={update.part.name} may follow the clock of the schedules, which curriculum.scale=true "
            f"stretches to {longer} epochs; a run to be trained on needs curriculum.scale=false; {_otherwise(parent)}"
        )
    why = _Lengths(curriculum, epochs, longer, steps_per_epoch).first_difference(dict(_followers(experiment)))
    if why is not None:
        raise UserError(f"{EXTEND}: {why}; {_otherwise(parent)}")


def _otherwise(parent: Parent) -> str:
    return f"trainer.init_from={parent.path} starts anew from its weights"


def _followers(experiment: Experiment) -> Iterator[tuple[str, Callable[[Progress], Any]]]:
    """Yield what follows the progress of a run: its name, and a function of progress whose values can be compared."""
    rate = experiment.parts["learning_rate"]
    yield f"learning_rate ({rate.part.name})", rate()
    objective = experiment.build_objective(num_training_subjects=1)
    for scalar in objective.scalars:
        if scalar in objective.schedules:
            name = experiment.loss.schedules[scalar].part.name
            yield f"loss.schedules.{scalar} ({name})", objective.schedules[scalar]
    for key, term in objective.active_terms.items():
        if type(term).at is not Term.at:
            yield f"loss.terms.{key}", partial(_definition, term)


def _definition(term: Term, progress: Progress) -> dict[str, Any]:
    """Return what a term consists of at a position, as far as it is plain values."""
    term.at(progress)
    return {key: value for key, value in vars(term).items() if isinstance(value, int | float | str | Progress | None)}


@dataclass(frozen=True)
class _Lengths:
    """A run of ``epochs`` beside one of ``longer`` epochs."""

    curriculum: Curriculum
    epochs: int
    longer: int
    steps_per_epoch: int

    def first_difference(self, followers: Mapping[str, Callable[[Progress], Any]]) -> str | None:
        """Return which function of progress differs between the runs, how, and what prevents that; None without one."""
        for epoch in self._positions():
            at, would_be_at = (self.curriculum.progress(epoch, length) for length in (self.epochs, self.longer))
            for key, follow in followers.items():
                if (known := follow(at)) != (other := follow(would_be_at)):
                    what = _instead(known, other)
                    return f"{key} {what} at epoch {epoch:g} of {self.longer}; {self._remedy(follow)}"
        end, longer_end = (self.curriculum.progress(length, length).finished for length in (self.epochs, self.longer))
        for key, follow in followers.items():
            if (known := follow(end)) != (other := follow(longer_end)):
                return (
                    f"{key} {_instead(known, other)} at the end of {self.longer} epochs, whose weights choose the best "
                    "epoch; a run to be trained on has to be as long as its schedules"
                )
        return None

    def _positions(self) -> Iterator[float]:
        """Yield positions of steps, as `menvae.training.trainer.Trainer` computes them, and the end."""
        stride = -(-self.epochs * self.steps_per_epoch // _MOST_POSITIONS)
        for epoch in range(self.epochs):
            for step in range(0, self.steps_per_epoch, stride):
                yield epoch + step / self.steps_per_epoch
        yield float(self.epochs)

    def _remedy(self, follow: Callable[[Progress], Any]) -> str:
        needs = ["curriculum.scale=false"] if self.curriculum.scale else []
        if any(
            follow(Progress(epoch, self.epochs)) != follow(Progress(epoch, self.longer))
            for epoch in range(self.longer + 1)
        ):
            needs.append("a schedule that does not end with the run, such as constant or linear")
        return f"a run to be trained on needs {' and '.join(needs)}"


def _instead(known: Any, other: Any) -> str:
    if isinstance(known, float) and isinstance(other, float):
        return f"would have been {other:.6g} instead of {known:.6g}"
    return "would have been another"
