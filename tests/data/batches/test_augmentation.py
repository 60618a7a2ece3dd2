"""Augmented subjects have the targets that their masks have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]

from menvae.data.batches.augmentation import AugmentationSettings, Augmented, augment
from menvae.data.cache.storage import StoredSubject, stored
from menvae.data.masks.features import LOCATION_FEATURES, mask_features
from menvae.types import Intensities

SPACING_MM = (2.0, 1.5, 3.0)
SHAPE = (24, 32, 28)


def _subject(seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """An image with a brain of noise, and a lumpy tumour of three labels that may touch a face of the box."""
    random = np.random.default_rng(seed)
    lumps = gaussian_filter(random.standard_normal(SHAPE), 3.0)
    centre = random.integers(4, np.array(SHAPE) - 4)
    distance = np.linalg.norm(np.indices(SHAPE) - centre[:, None, None, None], axis=0)
    depth = 7.0 + 20.0 * lumps - distance
    mask = ((depth > 0).astype(np.uint8) * 2).astype(np.uint8)
    mask[depth > 2] = 3
    mask[depth > 4] = 1
    image = random.standard_normal((2, *SHAPE)).astype(np.float32)
    image[:, :3], image[:, -3:] = 0, 0
    return image, mask


def _augmented(seed: int, **settings: object) -> tuple[NDArray[np.float32], NDArray[np.uint8], Augmented]:
    image, mask = _subject(seed)
    wanted = AugmentationSettings(**settings)  # type: ignore[arg-type]
    features = mask_features(mask, SPACING_MM)
    return image, mask, augment(stored(list(image), mask, "arrays"), features, wanted, np.random.default_rng(seed))


def _z_scores(subject: StoredSubject) -> NDArray[np.float32]:
    scale = Intensities(torch.tensor([subject.mean]), torch.tensor([subject.sd]))
    return scale.z_scores(torch.from_numpy(subject.image)[None])[0].numpy()


@pytest.mark.parametrize("seed", range(12))
def test_features_measured_again_are_those_that_were_moved(seed: int) -> None:
    _, mask, found = _augmented(seed, flip=0.5, max_shift=(6, 6, 6), contrast=0.2, brightness=0.2)
    measured = mask_features(found.subject.mask, SPACING_MM)
    assert np.count_nonzero(found.subject.mask) == np.count_nonzero(mask), "the whole tumour stays in the box"
    for name, value in measured.items():
        assert found.features[name] == (None if value is None else pytest.approx(value, abs=1e-6)), name


def test_the_image_goes_with_the_mask() -> None:
    for seed in range(12):
        image, mask, found = _augmented(seed, flip=0.5, max_shift=(6, 6, 6))
        for channel in range(len(image)):
            np.testing.assert_array_equal(
                np.sort(image[channel][mask > 0]), np.sort(found.subject.image[channel][found.subject.mask > 0])
            )


def test_a_flip_is_a_mirror_image_from_left_to_right() -> None:
    image, mask, found = _augmented(1, flip=1.0)
    np.testing.assert_array_equal(found.subject.image, np.flip(image, 1))
    np.testing.assert_array_equal(found.subject.mask, np.flip(mask, 0))
    before = mask_features(mask, SPACING_MM)
    assert found.features["loc_x"] == pytest.approx(1.0 - float(before["loc_x"] or 0.0))
    assert [found.features[name] for name in ("loc_y", "loc_z")] == [before["loc_y"], before["loc_z"]]


def test_every_shift_that_keeps_the_tumour_is_drawn() -> None:
    image, mask = np.zeros((1, 8, 8, 8), np.float32), np.zeros((8, 8, 8), np.uint8)
    mask[1:3, 3:5, 5:8] = 3
    features = mask_features(mask, (1.0, 1.0, 1.0))
    settings, random = AugmentationSettings(max_shift=(2, 2, 2)), np.random.default_rng(0)
    found = [augment(stored(list(image), mask, "arrays"), features, settings, random).features for _ in range(300)]
    steps = {
        name: {round(8 * (float(one[name] or 0) - float(features[name] or 0))) for one in found}
        for name in LOCATION_FEATURES
    }
    assert steps == {"loc_x": {-1, 0, 1, 2}, "loc_y": {-2, -1, 0, 1, 2}, "loc_z": {-2, -1, 0}}


def test_intensities_move_no_target_and_no_background() -> None:
    image, mask, found = _augmented(2, contrast=0.3, brightness=0.3)
    np.testing.assert_array_equal(found.subject.mask, mask)
    assert found.features == mask_features(mask, SPACING_MM)
    np.testing.assert_array_equal(found.subject.image, image)
    z_scores = _z_scores(found.subject)
    np.testing.assert_array_equal(z_scores == 0, image == 0)
    for before, after in zip(_z_scores(stored(list(image), mask, "arrays")), z_scores, strict=True):
        slope, intercept = np.polyfit(before[before != 0], after[before != 0], 1)
        np.testing.assert_allclose(after[before != 0], slope * before[before != 0] + intercept, atol=1e-5)
        assert slope > 0


def test_a_subject_without_a_tumour_and_the_defaults() -> None:
    image, mask = _subject(0)
    empty = np.zeros_like(mask)
    found = augment(
        stored(list(image), empty, "arrays"),
        mask_features(empty, SPACING_MM),
        AugmentationSettings(flip=1.0, max_shift=(2, 0, 0)),
        np.random.default_rng(0),
    )
    assert all(value is None for value in found.features.values())
    assert not AugmentationSettings().does_something
