"""Pictures of a run: registered parts, each of which draws one figure from the results of a run.

A run draws every registered picture whose needs it meets, including those of installed plugins; the report and
comparisons show it in its declared section and order. `menvae.pictures.drawing` contains pure functions from arrays to
figures. matplotlib is imported only for drawing.
"""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, cast, get_args

from menvae.errors import UserError
from menvae.registry import Field, build, lookup, parts_of

if TYPE_CHECKING:  # only for annotations: a comparison lists pictures without torch
    from pathlib import Path

    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from menvae.data.targets.correlation import TargetCorrelation
    from menvae.latent import LatentLayout
    from menvae.metrics import SplitRecord
    from menvae.metrics.interventions import InterventionTable
    from menvae.models import Model

    Floats = NDArray[np.float64]
    Curve = tuple[Floats, Floats]

_log = logging.getLogger(__name__)

When = Literal["before_training", "after_training"]
Section = Literal["trained", "training", "sees", "latent"]
SECTIONS: Final[tuple[Section, ...]] = get_args(Section)
"""Sections of the report: what was trained, how training went, what the model sees, what the latent space encodes."""

KNOWN_WHEN: Final[Mapping[When, frozenset[str]]] = {
    "before_training": frozenset({"volumes", "schedules", "correlation"}),
    "after_training": frozenset(
        {"volumes", "metrics", "gates", "model", "train", "val", "leaks", "leaking", "targets", "traversals", "walks"}
        | {"swaps", "interventions", "calibration", "profile"}
    ),
}
"""Fields of a `PictureContext` that can be known at each time, besides layout and supervision."""


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """Keys of ``pictures.*``.

    Attributes:
        every_epochs: draw reconstructions every so many epochs, and in the last one.
        num_subjects: number of validation subjects to draw; 0: no reconstructions.
        parts: name of a registered picture -> its configuration, or None to disable it.
    """

    every_epochs: Annotated[int, Field(ge=1)] = 10
    num_subjects: Annotated[int, Field(ge=0)] = 2
    parts: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)


@dataclass(frozen=True)
class VolumeFacts:
    """Properties of the volumes.

    Attributes:
        modalities: names of the C channels.
        spacing_mm: voxel size along D, H, W.
    """

    modalities: Sequence[str]
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Schedules:
    """The planned curriculum, in real epochs.

    Attributes:
        weights: ``lambda_<scalar>`` -> (epochs [E], weight times schedule [E]).
        learning_rate: (epochs [E], learning rate [E]).
    """

    weights: Mapping[str, Curve]
    learning_rate: Curve


@dataclass(frozen=True)
class PhysicalTargets:
    """Targets of the judged split in physical units, by feature.

    Attributes:
        true: ground truth [n] of the subjects for which it is observed.
        predicted: predictions [n] for the same subjects.
        units: unit of each feature.
        r2: R2 of these predictions; None if it cannot be computed.
    """

    true: Mapping[str, Floats]
    predicted: Mapping[str, Floats]
    units: Mapping[str, str]
    r2: Mapping[str, float | None]


@dataclass(frozen=True)
class Traversals:
    """Volumes decoded along the leading direction of each partition.

    Attributes:
        steps: S distances from the mean, in standard deviations.
        volumes: decoded first channel [partitions, S, D, H, W].
    """

    steps: Sequence[float]
    volumes: NDArray[np.float32]

    def at(self, steps: Sequence[float]) -> Traversals:
        """Return some of the steps."""
        return Traversals(steps, self.volumes[:, [list(self.steps).index(step) for step in steps]])


@dataclass(frozen=True)
class Swaps:
    """Volumes of pairs of patients, in which one partition of z is that of the second.

    Attributes:
        subjects: first and second subject of each of the R pairs.
        volumes: decoded first channel [R, 1 + partitions + 1, D, H, W]: of the first subject, of the first with each
            partition of the second, and of the second.
    """

    subjects: Sequence[tuple[str, str]]
    volumes: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class PictureContext:
    """Input of pictures; fields that a run does not have, or not yet (see `KNOWN_WHEN`), are None.

    Attributes:
        layout: the partitions of z.
        supervision: partition -> names of its targets.
        classes: names of the classes, by label; empty without labels.
        volumes: properties of the volumes; None for rows of a table.
        schedules: the curriculum.
        correlation: correlation of the targets over the training subjects.
        metrics: lines of ``metrics.jsonl``.
        gates: key of a metric -> targets of its gates.
        model: the model with the best weights, in evaluation mode.
        train, val: latents and targets of the training subjects, and everything of the judged subjects.
        split: name of the split of the judged subjects: ``val``, except in a later evaluation of other splits.
        leaks: R2 with which each partition predicts each target [partitions, features]; None without supervision.
        leaking: whether a foreign partition predicts a target better than by chance [partitions, features].
        targets: targets and predictions in physical units; None without units or supervision.
        traversals: latent traversals; None for rows of a table.
        walks: the same in finer steps.
        swaps: pairs of patients whose partitions are swapped; None for rows of a table or a single patient.
        interventions: what a reader sees change when a partition is moved; None without a reader.
        calibration: partition -> standardised errors of its targets on the judged split [N, F], NaN where unknown (see
            `menvae.metrics.predictive`); None without predictions.
        profile: where the time of a step goes (`menvae.training.phases.StepProfile`); None without ``trainer.profile``.
    """

    layout: LatentLayout
    supervision: Mapping[str, Sequence[str]]
    classes: Sequence[str] = ()
    volumes: VolumeFacts | None = None
    schedules: Schedules | None = None
    correlation: TargetCorrelation | None = None
    metrics: Sequence[Mapping[str, float | None]] | None = None
    gates: Mapping[str, Sequence[float]] | None = None
    model: Model | None = None
    train: SplitRecord | None = None
    val: SplitRecord | None = None
    split: str = "val"
    leaks: Floats | None = None
    leaking: NDArray[np.bool_] | None = None
    targets: PhysicalTargets | None = None
    traversals: Traversals | None = None
    walks: Traversals | None = None
    swaps: Swaps | None = None
    interventions: InterventionTable | None = None
    calibration: Mapping[str, Floats] | None = None
    profile: Mapping[str, Any] | None = None

    def has(self, needs: frozenset[str]) -> bool:
        """Return whether all of these fields are known."""
        return all(getattr(self, need) is not None for need in needs)


class Picture(ABC):
    """A registered part of group ``picture``; its constructor takes tunables only.

    Attributes:
        file: name of the PNG file in ``pictures/`` of a run directory.
        when: whether it is drawn before or after training.
        needs: required fields of the context; it is not drawn for a run that lacks one.
        section: section of the report.
        order: position among the pictures of its section; smaller comes first.
        alt: text for readers who cannot see it.
        caption: how to read it; often empty, because a figure has its own title.
    """

    file: ClassVar[str] = ""
    when: ClassVar[When] = "after_training"
    needs: ClassVar[frozenset[str]] = frozenset()
    section: ClassVar[Section] = "latent"
    order: ClassVar[int] = 100
    alt: ClassVar[str] = ""
    caption: ClassVar[str] = ""

    @abstractmethod
    def draw(self, context: PictureContext) -> Figure:
        """Return the figure, made without pyplot; the caller saves it. The fields in ``needs`` are not None."""


class Animation(Picture):
    """A picture of several frames, saved as a GIF file.

    Attributes:
        file: name of the GIF file in ``pictures/`` of a run directory.
        seconds_per_frame: time for which a frame is shown.
    """

    seconds_per_frame: ClassVar[float] = 0.15

    @abstractmethod
    def frames(self, context: PictureContext) -> Iterable[Figure]:
        """Return figures of one size, made one by one."""

    def draw(self, context: PictureContext) -> Figure:
        """Return the first frame."""
        return next(iter(self.frames(context)))


def registered_pictures() -> dict[str, type[Picture]]:
    """Return every registered picture by name, in the order of the report.

    Raises:
        UserError: a picture of a plugin has an invalid declaration, or the same file as another picture.
    """
    found: dict[str, type[Picture]] = {}
    of_file: dict[str, str] = {}
    for part in parts_of("picture"):
        kind = cast("type[Picture]", part.factory)
        fault = _fault(kind)
        if not fault and of_file.setdefault(kind.file, part.name) != part.name:
            fault = f"picture '{of_file[kind.file]}' has the same file '{kind.file}'"
        if fault:
            raise UserError(f"picture '{part.name}': {fault}; fix or uninstall package '{part.origin}'")
        found[part.name] = kind
    return dict(sorted(found.items(), key=lambda item: (SECTIONS.index(item[1].section), item[1].order, item[0])))


def _fault(kind: type[Picture]) -> str:
    """Return what is wrong with the declarations of a picture, or an empty string."""
    if not (isinstance(kind, type) and issubclass(kind, Picture)):
        return "it is not a subclass of menvae.pictures.Picture"
    ending = "gif" if issubclass(kind, Animation) else "png"
    if not re.fullmatch(rf"[\w-]+\.{ending}", kind.file):
        return f"file: {kind.file!r} is not the name of a {ending.upper()} file"
    if kind.when not in KNOWN_WHEN:
        return f"when: {kind.when!r} is not allowed; choose from {', '.join(KNOWN_WHEN)}"
    if kind.section not in SECTIONS:
        return f"section: {kind.section!r} is not allowed; choose from {', '.join(SECTIONS)}"
    if unknown := sorted(kind.needs - KNOWN_WHEN[kind.when]):
        known = ", ".join(sorted(KNOWN_WHEN[kind.when]))
        return f"needs: {', '.join(unknown)} is not known {kind.when.replace('_', ' ')}; choose from {known}"
    return ""


def build_pictures(settings: Mapping[str, Mapping[str, Any] | None]) -> list[Picture]:
    """Build the pictures of a run, in the order of the report.

    Args:
        settings: name of a picture -> its configuration, or None to remove it; others have their defaults.

    Raises:
        UserError: a name is not registered, or a configuration or declaration is invalid.
    """
    for name, config in settings.items():
        path = f"pictures.parts.{name}"
        lookup("picture", name, path)
        if config is not None and config.get("name") != name:
            raise UserError(f"{path}.name: {config.get('name')!r} is not allowed; it must be '{name}', like the key")
    configs = {name: settings.get(name, {"name": name}) for name in registered_pictures()}
    return [
        build("picture", config, path=f"pictures.parts.{name}")
        for name, config in configs.items()
        if config is not None
    ]


def needs_of(pictures: Sequence[Picture], when: When) -> frozenset[str]:
    """Return the fields of a `PictureContext` that any of the pictures due at a time needs."""
    return frozenset().union(*(picture.needs for picture in pictures if picture.when == when))


def draw_pictures(pictures: Sequence[Picture], context: PictureContext, when: When, folder: Path) -> None:
    """Draw and save the pictures that are due and whose needs are met.

    A picture that fails is skipped with a warning, so that a trained run keeps its results.

    Args:
        pictures: see `build_pictures`.
        context: input of the pictures.
        when: which pictures are due.
        folder: folder of the files.
    """
    due = [picture for picture in pictures if picture.when == when and context.has(picture.needs)]
    if not due:  # a run without pictures imports no matplotlib
        return
    from menvae.presentation.figures import save_animation, save_figure

    for picture in due:
        try:
            if isinstance(picture, Animation):
                save_animation(picture.frames(context), folder / picture.file, picture.seconds_per_frame)
            else:
                save_figure(picture.draw(context), folder / picture.file)
        except Exception:  # noqa: BLE001 - third-party code
            _log.warning("cannot draw %s of %s", picture.file, type(picture).__module__, exc_info=True)
