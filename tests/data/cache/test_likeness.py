"""Subjects with nearly the same images: copies that were processed differently are found, other heads are not."""

from __future__ import annotations

import base64
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cohorts import subject
from numpy.typing import NDArray
from scipy import ndimage

from menvae.data.cache.duplicates import as_one_patient
from menvae.data.cache.likeness import pairs_alike, sketch
from menvae.data.cache.storage import stored

SHAPE = (20, 24, 16)
Channels = list[NDArray[np.float32]]


def head(seed: int, channels: int = 2) -> Channels:
    """Heads of one shape and brightness, each with a smooth texture of its own."""
    random = np.random.default_rng(seed)
    inside = np.zeros(SHAPE, np.bool_)
    inside[2:-2, 2:-2, 2:-2] = True
    textures = [ndimage.gaussian_filter(random.normal(size=SHAPE), 2.0) for _ in range(channels)]
    return [np.where(inside, 500.0 + 100.0 * each / each.std(), 0.0).astype(np.float32) for each in textures]


def changed(image: Channels) -> Channels:
    """Other intensities, with noise of a tenth of the standard deviation."""
    random = np.random.default_rng(9)
    return [np.where(each > 0, 0.5 * each + 5.0 * random.normal(size=SHAPE), 0.0).astype(np.float32) for each in image]


def entry(name: str, image: Channels, missing: tuple[int, ...] = (), patient: str = "") -> Any:
    whole = [np.zeros_like(each) if place in missing else each for place, each in enumerate(image)]
    kept = stored(whole, np.zeros(SHAPE, np.uint8), "arrays")
    arrays = {"mean": kept.mean, "sd": kept.sd, "low": kept.low, "high": kept.high}
    made = replace(subject(name, vol_total=None), arrays=arrays, sketch=sketch(kept), missing_channels=missing)
    return replace(made, patient_id=patient or name)


def cohort(num: int = 24) -> list[Any]:
    return [entry(f"s{seed:02d}", head(seed)) for seed in range(num)]


def test_a_sketch_holds_the_means_of_blocks() -> None:
    shape = (16, 24, 8)
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32) + 10.0
    z = (image - image.mean()) / image.std()
    expected = z.reshape(8, 2, 8, 3, 8, 1).mean(axis=(1, 3, 5)).ravel()
    text = sketch(stored([image], np.zeros(shape, np.uint8), "arrays"))
    found = np.frombuffer(base64.b64decode(text), np.int8) / 40.0
    np.testing.assert_allclose(found, expected, atol=0.5 / 40.0 + 1e-5)


def test_a_copy_under_another_identifier_is_reported_and_keeps_its_patient(caplog: pytest.LogCaptureFixture) -> None:
    found = as_one_patient([*cohort(), entry("t", changed(head(3)))])
    assert {one.subject_id: one.similar_images for one in found if one.similar_images} == {"s03": ("t",), "t": ("s03",)}
    assert all(one.patient_id == one.subject_id for one in found), "likeness is no proof"
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line.startswith("data: 2 subjects have nearly the same images as another: 's03' and 't'; remove copies, or")


def test_subjects_of_another_preparation_are_no_copies(caplog: pytest.LogCaptureFixture) -> None:
    """Noise in the air of twelve of forty heads is all that sets them apart from the others, and they share it."""

    def unstripped(seed: int) -> Channels:
        air = np.random.default_rng(100 + seed).uniform(400.0, 600.0, SHAPE)
        return [np.where(each > 0, each, air).astype(np.float32) for each in head(seed)]

    found = as_one_patient([*cohort(28), *(entry(f"u{seed}", unstripped(50 + seed)) for seed in range(12))])
    assert all(not one.similar_images for one in found)
    assert not caplog.records


def test_a_modality_that_few_have_hides_no_copy() -> None:
    several = [entry(f"s{seed:02d}", head(seed), missing=(1,) if seed > 8 else ()) for seed in range(30)]
    found = pairs_alike([*several, entry("t", changed(head(3)))])
    assert [(one.subject_id, other.subject_id) for one, other in found] == [("s03", "t")]


def test_modalities_that_both_have_are_compared() -> None:
    twin = entry("t", changed(head(3)), missing=(0,))
    assert [(a.subject_id, b.subject_id) for a, b in pairs_alike([*cohort(), twin])] == [("s03", "t")]
    other = entry("t", head(99), missing=(0,))
    first_only = entry("u", head(98), missing=(1,))
    assert list(pairs_alike([*cohort(), other, first_only])) == []


def test_visits_of_a_patient_may_be_alike(caplog: pytest.LogCaptureFixture) -> None:
    visit = entry("t", changed(head(3)), patient="s03")
    assert all(not one.similar_images for one in as_one_patient([*cohort(), visit]))
    assert not caplog.records


def test_few_or_constant_subjects_and_old_entries_are_not_compared() -> None:
    twin = entry("t", changed(head(3)))
    assert list(pairs_alike([*cohort(18), twin])) == []
    assert list(pairs_alike([replace(one, sketch="") for one in [*cohort(), twin]])) == []
    flat: Channels = [np.full(SHAPE, 7.0, np.float32)] * 2
    assert list(pairs_alike([entry(f"f{index}", flat) for index in range(30)])) == []
