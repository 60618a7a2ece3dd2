"""Conformance suite of pictures of a run."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from menvae.conformance.suite import Case, PartConformance
from menvae.data.targets.correlation import TargetCorrelation
from menvae.latent import LatentLayout
from menvae.metrics import Floats, SplitRecord
from menvae.metrics.interventions import InterventionTable
from menvae.models import Model
from menvae.pictures import (
    KNOWN_WHEN,
    Animation,
    PhysicalTargets,
    Picture,
    PictureContext,
    Schedules,
    Swaps,
    Traversals,
    VolumeFacts,
    registered_pictures,
)
from menvae.presentation.figures import DPI
from menvae.registry import Part


class PictureConformance(PartConformance):
    """PictureContext -> one figure.

    Attributes:
        num_subjects: number of validation subjects in the example.
    """

    group = "picture"
    num_subjects: ClassVar[int] = 24

    def context(self, case: Case) -> PictureContext:
        """Return an example with everything available when the picture is drawn."""
        picture: Picture = case.bound()()
        return known_at(picture, example(self.num_subjects))

    def test_declares_where_it_goes_and_what_it_needs(self, part: Part) -> None:
        kind = cast("type[Picture]", part.factory)
        assert issubclass(kind, Picture)
        assert registered_pictures()[part.name] is kind, "declarations must be valid"
        assert kind.needs, "a picture must declare what it needs"
        assert kind.alt, "a picture must have an alt text"

    def test_draws_data_and_says_what_it_shows(self, case: Case) -> None:
        figure = self._drawn(case, self.context(case))
        assert any(axes.lines or axes.collections or axes.images or axes.patches for axes in figure.axes)
        written = [text.get_text() for text in figure.texts] + [axes.get_title(loc="left") for axes in figure.axes]
        assert any(written), "a picture must have a title"
        with Image.open(io.BytesIO(png(figure))) as picture:
            assert np.asarray(picture.convert("L")).std() > 5, "the picture is blank"
            assert max(picture.size) < 5000

    def test_same_context_same_bytes_and_no_global_state(self, case: Case) -> None:
        before, context = dict(matplotlib.rcParams), self.context(case)
        first, second = (self._drawn(case, context) for _ in range(2))
        assert png(first) == png(second)
        assert first.canvas.manager is None, "figures must not be made with pyplot, which keeps them in memory"
        assert dict(matplotlib.rcParams) == before

    def test_frames_of_an_animation_have_one_size_and_differ(self, case: Case) -> None:
        picture: Picture = case.bound()()
        if not isinstance(picture, Animation):
            return
        frames = [png(figure) for figure in picture.frames(self.context(case))]
        assert len(frames) > 1
        assert len(set(frames)) == len(frames), "a frame that repeats the one before shows nothing"
        sizes = set()
        for frame in frames:
            with Image.open(io.BytesIO(frame)) as image:
                sizes.add(image.size)
        assert len(sizes) == 1
        assert picture.seconds_per_frame > 0.0

    def test_leaves_the_context_as_it_is(self, case: Case) -> None:
        context = self.context(case)
        assert context.train is not None or context.schedules is not None
        before = {name: array.copy() for name, array in _arrays(context).items()}
        self._drawn(case, context)
        for name, array in _arrays(context).items():
            np.testing.assert_array_equal(array, before[name], err_msg=name)

    def test_needs_no_more_than_it_declares(self, case: Case) -> None:
        picture: Picture = case.bound()()
        context = self.context(case)
        self._drawn(case, without(context, KNOWN_WHEN[picture.when] - picture.needs))

    def test_draws_a_run_of_one_subject_in_which_nothing_was_observed(self, case: Case) -> None:
        png(self._drawn(case, known_at(case.bound()(), example(1, empty=True))))

    def _drawn(self, case: Case, context: PictureContext) -> Figure:
        picture: Picture = case.bound()()
        figure = picture.draw(context)
        assert isinstance(figure, Figure)
        return figure


def png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI, metadata={"Software": None})
    return content.getvalue()


def known_at(picture: Picture, context: PictureContext) -> PictureContext:
    """Return a context without the fields that are unavailable when a picture is drawn."""
    return without(context, frozenset().union(*KNOWN_WHEN.values()) - KNOWN_WHEN[picture.when])


def without(context: PictureContext, fields: frozenset[str]) -> PictureContext:
    """Return a context in which some fields are None."""
    unknown: dict[str, Any] = dict.fromkeys(fields)
    return replace(context, **unknown)


class LinearModel(Model):
    """A model that decodes an image linear in z."""

    def __init__(self, layout: LatentLayout, supervision: Mapping[str, Sequence[str]], size: tuple[int, ...]) -> None:
        """Args: layout: partitions of z. supervision: targets. size: (C, D, H, W) of an image."""
        super().__init__()
        self.layout, self.supervision = layout, supervision
        self.size = size
        self.linear = nn.Linear(layout.z_dim, int(np.prod(size)))

    def decode(self, z: Tensor) -> Tensor:
        """Z [B, Z] -> [B, C, D, H, W]."""
        drawn: Tensor = self.linear(z).reshape(-1, *self.size)
        return drawn


def example(num_subjects: int, empty: bool = False) -> PictureContext:
    """Return a complete context of a synthetic run; ``empty``: no target is observed and no metric has a value."""
    random = np.random.default_rng(0)
    layout = LatentLayout({"vol": 4, "loc": 2, "residual": 6})
    supervision = {"vol": ["vol_total", "vol_ncr"], "loc": ["loc_x"]}
    features = [name for names in supervision.values() for name in names]
    epochs = np.linspace(0.0, 5.0, 21)
    correlation: Floats = np.full((3, 3), np.nan) if empty else np.asarray(np.corrcoef(random.normal(size=(3, 20))))
    rows = [
        {"epoch": float(epoch), **dict.fromkeys(("val_epoch/loss", "sem/vol_r2"), None if empty else 1.0 / epoch)}
        for epoch in range(1, 6)
    ]
    true = {name: random.normal(size=0 if empty else num_subjects) for name in features}
    steps = (-1.0, 0.0, 1.0)
    return PictureContext(
        layout=layout,
        supervision=supervision,
        volumes=VolumeFacts(("t1c", "t1n"), (1.0, 1.0, 2.0)),
        schedules=Schedules(
            {"lambda_vol": (epochs, 0.5 * epochs), "lambda_off": (epochs, 0 * epochs)}, (epochs, 1e-3 + 0 * epochs)
        ),
        correlation=TargetCorrelation(supervision, correlation, correlation, np.full((3, 3), 20)),
        metrics=rows,
        gates={"sem/vol_r2": [0.85]},
        model=LinearModel(layout, supervision, (2, 8, 9, 10)).eval(),
        train=_split(random, layout, supervision, 2 * num_subjects, empty),
        val=_split(random, layout, supervision, num_subjects, empty),
        leaks=np.full((3, 3), np.nan) if empty else random.uniform(size=(3, 3)),
        leaking=np.zeros((3, 3), dtype=np.bool_) if empty else random.uniform(size=(3, 3)) < 0.3,
        targets=PhysicalTargets(
            true, {name: values + 0.1 for name, values in true.items()}, {}, dict.fromkeys(features)
        ),
        calibration={name: np.stack([true[one] for one in names], axis=1) for name, names in supervision.items()},
        profile={
            "steps": 5,
            "seconds_per_step": 0.5,
            "seconds": {
                "forward": 0.2,
                "loss": 0.01,
                "backward": 0.25,
                "optimizer": 0.02,
                "data": 0.01,
                "overhead": 0.01,
            },
            "operators": {} if empty else {"aten::convolution_backward": 0.2, "aten::copy_": 0.05},
            "device": "cpu",
        },
        traversals=Traversals(steps, random.normal(size=(3, 3, 8, 9, 10)).astype(np.float32)),
        walks=Traversals(steps, random.normal(size=(3, 3, 8, 9, 10)).astype(np.float32)),
        swaps=Swaps([("subject_000", "subject_001")], random.normal(size=(1, 5, 8, 9, 10)).astype(np.float32)),
        interventions=InterventionTable(
            tuple(layout),
            tuple(features),
            np.full((3, 3), np.nan) if empty else random.uniform(size=(3, 3)),
            np.full(3, np.nan if empty else 0.2),
            np.full(3, np.nan if empty else 0.95),
        ),
    )


def _split(
    random: np.random.Generator,
    layout: LatentLayout,
    supervision: Mapping[str, Sequence[str]],
    num_subjects: int,
    empty: bool,
) -> SplitRecord:
    mean = random.normal(size=(num_subjects, layout.z_dim))
    arrays: dict[str, Floats] = {"mean": mean, "logvar": 0 * mean - 1.0}
    for partition, names in supervision.items():
        shape = (num_subjects, len(names))
        arrays[f"targets.{partition}"] = random.normal(size=shape)
        arrays[f"predictions.{partition}"] = random.normal(size=shape)
        arrays[f"observed.{partition}"] = np.full(shape, 0.0 if empty else 1.0)
    return SplitRecord(tuple(f"subject_{index:03d}" for index in range(num_subjects)), arrays)


def _arrays(context: PictureContext) -> dict[str, Floats]:
    """Return the arrays of a context that a picture could modify."""
    found: dict[str, Floats] = {}
    for name, split in (("train", context.train), ("val", context.val)):
        found |= {f"{name}.{key}": array for key, array in (split.arrays.items() if split is not None else ())}
    if context.schedules is not None:
        found |= {key: values for key, (_, values) in context.schedules.weights.items()}
    for name, drawn in (("traversals", context.traversals), ("walks", context.walks), ("swaps", context.swaps)):
        found |= {name: drawn.volumes.astype(np.float64)} if drawn is not None else {}
    if context.leaks is not None:
        found["leaks"] = context.leaks
    if context.correlation is not None:
        found |= {"before": context.correlation.before, "after": context.correlation.after}
    return found
