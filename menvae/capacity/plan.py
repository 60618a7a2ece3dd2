"""``menvae-plan-resources``: the box, batch, width and precision that fit into a memory and a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Annotated, Any, Literal

import torch
from omegaconf import DictConfig
from rich.table import Table

from menvae.capacity.calibration import Needs, calibrate, needs
from menvae.capacity.estimate import Estimator
from menvae.capacity.variants import box_changes, variant, without_own_keys
from menvae.composition.experiment import Experiment
from menvae.configuration import check_writable, path_of
from menvae.console import logs
from menvae.console.progress import progress_bar
from menvae.errors import ExitCode, OutOfMemoryError, UserError
from menvae.files import write_json
from menvae.layers import NUM_GROUPS, STRIDE
from menvae.registry import Field, validated
from menvae.resources.shortage import available_bytes

_log = logging.getLogger(__name__)

GIB = 2**30
_CALIBRATED_SIDE = 48
_CALIBRATED_BATCH = 4
_SECONDS_PER_VARIANT = 2.0
_SHARE_OF_AVAILABLE = 0.9  # estimates are right within a tenth
_RECOMPUTES = "trainer.activation_checkpointing"
_WIDTHS = ("encoder.base_filters", "decoder.base_filters")


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """Keys of ``menvae-plan-resources`` beside those of training.

    Attributes:
        memory_gb: memory of one process in GiB, on a GPU that of the GPU; None: what is available now.
        hours: time for training and validation; None: any.
        sizes: sides of the box to choose from, in voxels.
        batch_sizes: subjects per step to choose from.
        base_filters: widths of encoder and decoder to choose from; None: those of the configuration.
        precisions: precisions to choose from; None: that of the configuration.
        num_subjects: subjects of the cohort; None: ``data.num_subjects``.
        result: path of the JSON file.
    """

    memory_gb: Annotated[float, Field(gt=0.0)] | None = None
    hours: Annotated[float, Field(gt=0.0)] | None = None
    sizes: Sequence[Annotated[int, Field(ge=STRIDE, multiple_of=STRIDE)]] = (32, 48, 64, 96, 128, 160)
    batch_sizes: Sequence[Annotated[int, Field(ge=1)]] = (2, 4, 8)
    base_filters: Sequence[Annotated[int, Field(ge=NUM_GROUPS, multiple_of=NUM_GROUPS)]] | None = None
    precisions: Sequence[Literal["fp32", "bf16", "fp16"]] | None = None
    num_subjects: Annotated[int, Field(ge=1)] | None = None
    result: str = "./outputs/resources.json"


@dataclass(frozen=True)
class Option:
    """One way to train.

    Attributes:
        size: side of the box in voxels.
        base_filters: width of encoder and decoder; None: that of the configuration.
        precision: precision of the forward pass.
        batch_size: subjects per step.
        activation_checkpointing: whether activations are recomputed.
        peak_gib: peak memory of the training process.
        seconds_per_step: duration of a training step.
        hours: duration of training and validation; None if the size of the cohort is not known.
        fits: whether memory and time suffice.
        measured: whether memory and time were measured, not estimated.
        overrides: what ``menvae-train`` needs for it.
    """

    size: int
    base_filters: int | None
    precision: str
    batch_size: int
    activation_checkpointing: bool
    peak_gib: float
    seconds_per_step: float
    hours: float | None
    fits: bool
    measured: bool = False
    overrides: Sequence[str] = field(default_factory=tuple)


def plan_resources(composed: DictConfig) -> ExitCode:
    """Calibrate, estimate, and show what fits.

    Args:
        composed: composed configuration of ``conf/plan_resources.yaml``.

    Raises:
        UserError: the configuration is invalid, or the data have no box.
    """
    training, own = without_own_keys(composed, PlanSettings.__dataclass_fields__)
    settings = validated(PlanSettings, own, "")
    path = path_of(settings.result, "result").resolve()
    experiment = variant(training, {})  # an invalid configuration is refused before anything is measured
    box_changes(training, STRIDE)
    check_writable(path.parent)
    logs.configure(None)
    try:
        _log.info("calibrating: a few training steps")
        planner = Planner(training, settings, experiment)
        groups = planner.groups()
        options = [planner.best(*group) for group in progress_bar(groups, "estimating", len(groups))]
        options, chosen = planner.confirmed(options)
        write_json(
            path,
            {
                "memory_gib": planner.memory_bytes / GIB,
                "hours": settings.hours,
                "chosen": None if chosen is None else asdict(chosen),
                "options": [asdict(option) for option in options],
            },
        )
        logs.show(_table(options, planner.memory_bytes))
        logs.show(_answer(chosen))
        _log.info("result: %s", path)
    finally:
        logs.release()
    return ExitCode.DONE


class Planner:
    """Searches the options of one configuration."""

    def __init__(self, training: Mapping[str, Any], settings: PlanSettings, experiment: Experiment) -> None:
        """Calibrate. Args: training: plain values. settings: the request. experiment: the checked configuration."""
        self.training, self.settings = training, settings
        self.widths: list[int | None] = [None] if settings.base_filters is None else [*settings.base_filters]
        configured = str(training["trainer"]["precision"])
        self.precisions: list[str] = ["fp32" if configured == "auto" else configured]
        if settings.precisions is not None:
            self.precisions = [*settings.precisions]
        self.epochs = int(training["trainer"]["max_epochs"])
        self.split = self._split(experiment)
        side, batch_size = min(settings.sizes), min(settings.batch_sizes)
        largest = (
            max(side, min(_CALIBRATED_SIDE, max(settings.sizes))),
            max(batch_size, min(_CALIBRATED_BATCH, max(settings.batch_sizes))),
        )
        combinations = product(sorted({(side, batch_size), largest}), self.widths, self.precisions)
        variants = [self._changes(side, width, precision, batch) for (side, batch), width, precision in combinations]
        self.estimator = Estimator(training, calibrate(training, variants, _SECONDS_PER_VARIANT))
        self.room_here = _available(self.estimator.calibration.device)
        self.memory_bytes = self._memory()

    def groups(self) -> list[tuple[int, int | None, str]]:
        """Return the boxes, widths and precisions to choose from."""
        return list(product(self.settings.sizes, self.widths, self.precisions))

    def best(self, size: int, width: int | None, precision: str) -> Option:
        """Return the option with the largest batch that fits, recomputing activations only if nothing else does."""
        found: list[Option] = []
        for recomputes in (False, True):
            for option in self._by_batch(size, width, precision, recomputes):
                found.append(option)
                if option.fits:
                    return option
        return min(found, key=lambda option: option.peak_gib)

    def confirmed(self, options: Sequence[Option]) -> tuple[list[Option], Option | None]:
        """Measure the option to choose; if it does not fit after all, the next one, and so on.

        Args:
            options: estimated ones.

        Returns:
            The options, and the chosen one; it is measured unless this machine lacks the memory for it.
        """
        known = list(options)
        while (chosen := choose(known)) is not None:
            if chosen.measured or chosen.peak_gib * GIB > _SHARE_OF_AVAILABLE * self.room_here:
                break
            _log.info("measuring a box of %d^3 in batches of %d", chosen.size, chosen.batch_size)
            width, recomputes = chosen.base_filters, chosen.activation_checkpointing
            changes = self._changes(chosen.size, width, chosen.precision, chosen.batch_size, recomputes=recomputes)
            try:
                found = needs(self.training, changes, _SECONDS_PER_VARIANT, self.split)
                better = self._option(chosen.size, width, changes, found, measured=True)
            except OutOfMemoryError:
                better = replace(chosen, fits=False)
            known[known.index(chosen)] = better
        return known, chosen

    def _by_batch(self, size: int, width: int | None, precision: str, recomputes: bool) -> Iterator[Option]:
        """Yield options, the largest batch first; none if the model has no activations to recompute."""
        for batch_size in sorted(self.settings.batch_sizes, reverse=True):
            changes = self._changes(size, width, precision, batch_size, recomputes=recomputes)
            try:
                yield self._option(size, width, changes, self.estimator.of(changes))
            except UserError:
                if not recomputes:
                    raise
                return

    def _option(
        self, size: int, width: int | None, changes: Mapping[str, Any], found: Needs, *, measured: bool = False
    ) -> Option:
        batch_size = changes["trainer.batch_size"]
        hours = None
        if self.split is not None:
            hours = found.seconds(*self.split, batch_size, self.epochs) / 3600.0
        in_time = self.settings.hours is None or (hours is not None and hours <= self.settings.hours)
        return Option(
            size=size,
            base_filters=width,
            precision=changes["trainer.precision"],
            batch_size=batch_size,
            activation_checkpointing=bool(changes.get(_RECOMPUTES, False)),
            peak_gib=found.peak_bytes / GIB,
            seconds_per_step=found.seconds_per_step,
            hours=hours,
            fits=found.peak_bytes <= self.memory_bytes and in_time,
            measured=measured,
            overrides=tuple(f"{key}={_text(value)}" for key, value in changes.items() if self._is_key(key)),
        )

    def _changes(
        self, side: int, width: int | None, precision: str, batch_size: int, *, recomputes: bool = False
    ) -> dict[str, Any]:
        changes = {**box_changes(self.training, side), "trainer.precision": precision, "trainer.batch_size": batch_size}
        if recomputes:
            changes[_RECOMPUTES] = True
        return changes if width is None else {**changes, **dict.fromkeys(_WIDTHS, width)}

    def _is_key(self, key: str) -> bool:
        section, _, name = key.partition(".")
        return name in self.training[section]

    def _split(self, experiment: Experiment) -> tuple[int, int] | None:
        """Return the sizes of the training and the validation split; None if they are not known before preparation."""
        data = self.training["data"]
        total = self.settings.num_subjects or data.get("num_subjects")
        if total is None:
            if self.settings.hours is not None:
                name = experiment.parts["data"].part.name
                raise UserError(f"num_subjects: a value is required with hours, because data={name} does not tell it")
            return None
        return sizes_of_split(data, total)

    def _memory(self) -> float:
        if self.settings.memory_gb is not None:
            return self.settings.memory_gb * GIB
        return self.room_here


def sizes_of_split(data: Mapping[str, Any], total: int) -> tuple[int, int]:
    """Return how many of ``total`` subjects are for training and validation; about, where patients have several."""
    validation = round(total * data.get("val_fraction", 0.0))
    test = round(total * data.get("test_fraction", 0.0))
    if data.get("fold") is not None:
        test = total // data["num_folds"] if isinstance(data["num_folds"], int) else 1
    return total - validation - test, validation


def _available(device: str) -> float:
    return float(torch.cuda.mem_get_info()[0] if device == "cuda" else available_bytes())


def choose(options: Sequence[Option]) -> Option | None:
    """Return the option with the largest box, then width, then batch, of those that fit; None without one."""
    fitting = [option for option in options if option.fits]
    return max(fitting, key=lambda one: (one.size, one.base_filters or 0, one.batch_size), default=None)


def _table(options: Sequence[Option], memory_bytes: float) -> Table:
    table = Table(title=f"What fits into {memory_bytes / GIB:.3g} GiB", title_justify="left")
    for column in (
        "box",
        "width",
        "precision",
        "batch",
        "recomputes",
        "peak GiB",
        "s/step",
        "hours",
        "fits",
        "measured",
    ):
        table.add_column(column, justify="right")
    for one in options:
        table.add_row(
            f"{one.size}^3",
            str(one.base_filters or "as set"),
            one.precision,
            str(one.batch_size),
            "yes" if one.activation_checkpointing else "no",
            f"{one.peak_gib:.2f}",
            f"{one.seconds_per_step:.3g}",
            "" if one.hours is None else f"{one.hours:.2g}",
            "yes" if one.fits else "no",
            "yes" if one.measured else "no",
        )
    return table


def _answer(chosen: Option | None) -> str:
    if chosen is None:
        return "Nothing fits: give more memory_gb or hours, or smaller sizes, batch_sizes or base_filters."
    hours = "" if chosen.hours is None else f" and {chosen.hours:.2g} hours"
    how = "measured" if chosen.measured else "estimated, as this machine lacks the memory to measure it"
    return f"Largest: menvae-train {' '.join(chosen.overrides)}   ({chosen.peak_gib:.2f} GiB{hours}, {how})"


def _text(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")
