"""The controls: models to be refused, each with the gates that must fail, and healthy ones that must pass all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from drawn_cohort import FACTORS, SUPERVISION, DrawnCohort, Subjects
from exact_models import Codes, ExactModel, Turned, as_they_are, factors_of, noise_of, rows_nearest
from torch import Tensor

R2 = frozenset({"vol_r2", "loc_r2", "shape_r2"})
READS = frozenset(f"decoder_reads_{part}" for part in FACTORS)
FOREIGN = frozenset({"mean_z_ratio", "shuffled_ratio"})
INPUT_CHECK = "input check"
"""What must refuse a cohort that no gate can."""

FREE_BITS_LOG_VARIANCE = -0.55
FREE_BITS_SD = 0.9
"""Noise of the means with which the KL is 0.5 nats per dimension on average."""

NUM_NOISE = 60

Sizes = tuple[int, int, int]
Judged = tuple[ExactModel, Mapping[str, Subjects]]


@dataclass(frozen=True)
class Control:
    """A model of which it is known which gates must refuse it.

    Attributes:
        name: short name.
        what: what is wrong, or not, in a few words.
        build: number of patients of train, val and test -> the model and the subjects of these splits.
        must_fail: gates that must fail on both splits; none for a healthy model.
    """

    name: str
    what: str
    build: Callable[[Sizes], Judged]
    must_fail: frozenset[str] = frozenset()


def _healthy(seed: int, visits: int = 1) -> Callable[[Sizes], Judged]:
    def build(sizes: Sizes) -> Judged:
        cohort = DrawnCohort(seed, sizes, visits)
        return ExactModel(cohort, factors_of), cohort.splits

    return build


def _turned(seed: int) -> Callable[[Sizes], Judged]:
    def build(sizes: Sizes) -> Judged:
        cohort, code = DrawnCohort(seed, sizes), Turned(seed)
        return ExactModel(cohort, code, decoded=code.read, predicted=code.read), cohort.splits

    return build


def _with(
    encoding: Callable[[Subjects], Codes],
    decoded: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = as_they_are,
    log_variance: float | None = None,
) -> Callable[[Sizes], Judged]:
    """Build a model of a linear code that differs from the factors."""

    def build(sizes: Sizes) -> Judged:
        cohort = DrawnCohort(0, sizes)
        further = {} if log_variance is None else {"log_variance": log_variance}
        return ExactModel(cohort, encoding, decoded=decoded, **further), cohort.splits

    return build


# --- leaks ----------------------------------------------------------------------------------------------------------


def _all_in_residual(subjects: Subjects) -> Codes:
    own = subjects.factors
    return {**own, "residual": np.concatenate([own["residual"], *(own[part] for part in SUPERVISION)], axis=1)}


def _read_from_residual(codes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    sizes = [FACTORS["residual"], *(FACTORS[part] for part in SUPERVISION)]
    return dict(zip(("residual", *SUPERVISION), codes["residual"].split(sizes, dim=1), strict=True))


def _keys_in_residual(sizes: Sizes) -> Judged:
    """The residual is a random key of each subject; the decoder looks everything up by it."""
    cohort = DrawnCohort(0, sizes)
    splits = cohort.splits.values()
    keys = torch.from_numpy(np.concatenate([noise_of(each, FACTORS["residual"]) for each in splits])).float()
    stored = {
        part: torch.from_numpy(np.concatenate([each.factors[part] for each in splits])).float() for part in FACTORS
    }

    def looked_up(codes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        row = rows_nearest(codes["residual"], keys)[:, 0]
        return {part: values[row] for part, values in stored.items()}

    def encoding(subjects: Subjects) -> Codes:
        return {**subjects.factors, "residual": noise_of(subjects, FACTORS["residual"])}

    return ExactModel(cohort, encoding, decoded=looked_up), cohort.splits


def _volume_in_residual(subjects: Subjects) -> Codes:
    own = subjects.factors
    return {**own, "residual": np.concatenate([own["residual"], own["vol"]], axis=1)}


def _product_in_residual(subjects: Subjects) -> Codes:
    own = subjects.factors
    sign = np.sign(noise_of(subjects, 1))
    return {**own, "residual": np.concatenate([own["residual"], sign * own["vol"], sign], axis=1)}


def _location_in_volume(subjects: Subjects) -> Codes:
    own = subjects.factors
    return {**own, "vol": np.concatenate([own["vol"], own["loc"]], axis=1)}


# --- decoders -------------------------------------------------------------------------------------------------------


def _blind(sizes: Sizes) -> Judged:
    cohort = DrawnCohort(0, sizes)
    mean_image = cohort.train.images.mean(dim=0)
    return ExactModel(cohort, factors_of, decoder=lambda z: mean_image.expand(len(z), -1, -1, -1, -1)), cohort.splits


def _nearest_neighbours(sizes: Sizes) -> Judged:
    """Residual has dimensions of noise, so that neighbours in z are hardly alike."""
    cohort = DrawnCohort(0, sizes)

    def encoding(subjects: Subjects) -> Codes:
        noise = noise_of(subjects, NUM_NOISE)
        return {**subjects.factors, "residual": np.concatenate([subjects.factors["residual"], noise], axis=1)}

    codes = encoding(cohort.train)
    known = torch.from_numpy(np.concatenate([codes[part] for part in FACTORS], axis=1)).float()
    images = cohort.train.images

    def averaged(z: Tensor) -> Tensor:
        return images[rows_nearest(z, known, 2)].mean(dim=1)

    return ExactModel(cohort, encoding, decoder=averaged), cohort.splits


# --- encoders and targets -------------------------------------------------------------------------------------------


def _constant(subjects: Subjects) -> Codes:
    return {part: np.zeros_like(values) for part, values in subjects.factors.items()}


def _at_the_floor(subjects: Subjects) -> Codes:
    noise = noise_of(subjects, sum(FACTORS.values()), FREE_BITS_SD)
    parts = np.split(noise, np.cumsum(list(FACTORS.values()))[:-1], axis=1)
    return dict(zip(FACTORS, parts, strict=True))


def _collapsed(sizes: Sizes) -> Judged:
    cohort = DrawnCohort(0, sizes)
    mean_image = cohort.train.images.mean(dim=0)
    nothing = {part: torch.zeros(1, num) for part, num in FACTORS.items()}

    def predicted(codes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {part: values.expand(len(codes[part]), -1) for part, values in nothing.items()}

    model = ExactModel(
        cohort,
        _at_the_floor,
        predicted=predicted,
        decoder=lambda z: mean_image.expand(len(z), -1, -1, -1, -1),
        log_variance=FREE_BITS_LOG_VARIANCE,
    )
    return model, cohort.splits


def _residual_at_the_floor(subjects: Subjects) -> Codes:
    return {**subjects.factors, "residual": noise_of(subjects, FACTORS["residual"], FREE_BITS_SD)}


def _without_texture(codes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {**as_they_are(codes), "residual": torch.zeros(len(codes["residual"]), FACTORS["residual"])}


def _shuffled(sizes: Sizes) -> Judged:
    cohort = DrawnCohort(0, sizes)
    model = ExactModel(cohort, factors_of)
    return model, {name: subjects.with_shuffled_targets(seed=1) for name, subjects in cohort.splits.items()}


# --- twins ----------------------------------------------------------------------------------------------------------


def _memorised(cohort: DrawnCohort) -> Judged:
    """Take the factors of the training subject with the most similar image for those of every subject."""
    known = cohort.train.images.flatten(1)

    def encoding(subjects: Subjects) -> Codes:
        row = rows_nearest(subjects.images.flatten(1), known)[:, 0].numpy()
        return {part: values[row] for part, values in cohort.train.factors.items()}

    return ExactModel(cohort, encoding), cohort.splits


CONTROLS: tuple[Control, ...] = (
    Control("healthy 1", "each partition holds its factors", _healthy(1)),
    Control("healthy 2", "the same, another cohort", _healthy(2)),
    Control("healthy turned", "asinh of the factors, rotated, with spare dimensions", _turned(3)),
    Control("healthy turned 2", "the same, another cohort and rotation", _turned(4)),
    Control("healthy visits", "three visits of each patient", _healthy(5, visits=3)),
    Control(
        "A'",
        "the decoder reads everything from residual",
        _with(_all_in_residual, _read_from_residual),
        frozenset({"decoder_reads_vol", "decoder_reads_loc", "decoder_reads_shape", "leak_max"}),
    ),
    Control(
        "A' by keys",
        "the same, residual is a random key of each subject: nothing leaks",
        _keys_in_residual,
        frozenset({"decoder_reads_vol", "decoder_reads_loc", "decoder_reads_shape"}),
    ),
    Control("B'", "a dimension of residual is ln volume", _with(_volume_in_residual), frozenset({"leak_max"})),
    Control(
        "C'",
        "two dimensions of residual are w v and w = +-1",
        _with(_product_in_residual),
        frozenset({"leak_max"}),
    ),
    Control("D'", "vol also holds the location", _with(_location_in_volume), frozenset({"leak_max"})),
    Control("blind decoder", "draws the mean image whatever z", _blind, READS | FOREIGN | {"mean_image_ratio"}),
    Control(
        "constant encoder",
        "z is the same for all subjects",
        _with(_constant),
        R2 | READS | FOREIGN | {"max_dcor", "residual_active_units", "mean_image_ratio"},
    ),
    Control("shuffled targets", "every subject has the targets of another", _shuffled, R2),
    Control(
        "nearest neighbours",
        "the decoder averages the two nearest training images",
        _nearest_neighbours,
        frozenset({"mean_image_ratio"}),
    ),
    Control(
        "free bits",
        "KL at its floor of 0.5 nats per dimension, codes are noise",
        _collapsed,
        R2 | READS | FOREIGN | {"mean_image_ratio"},
    ),
    Control(
        "free bits, residual",
        "the same in residual only",
        _with(_residual_at_the_floor, _without_texture, FREE_BITS_LOG_VARIANCE),
        frozenset({"decoder_reads_residual"}),
    ),
    Control(
        "memory",
        "every subject is taken for the most similar training subject",
        lambda sizes: _memorised(DrawnCohort(0, sizes)),
        R2 | {"mean_image_ratio"},
    ),
    Control(
        "twins",
        "the same, but all subjects have copies in training",
        lambda sizes: _memorised(DrawnCohort(0, sizes, noise_sd=0.05, twins=True)),
        frozenset({INPUT_CHECK}),
    ),
)
