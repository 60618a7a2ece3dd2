"""Coverage and plateaus of channels, and what is remembered of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from menvae.data.cache.prepare import prepare
from menvae.data.sources.phantom import PhantomSource
from menvae.preparation.intensities import cohort_intensities, measure_intensities


def head(seed: int = 0) -> np.ndarray:
    """Two channels of noise in the inner half of a box of 20^3, 0 around it."""
    image = np.zeros((2, 20, 20, 20), np.float32)
    image[:, 5:15, 5:15, 5:15] = np.random.default_rng(seed).normal(100.0, 10.0, (2, 10, 10, 10))
    return image


def test_two_sound_channels() -> None:
    for channel in measure_intensities(head()):
        assert channel.coverage == 1.0
        assert channel.plateau < 0.01


def test_a_channel_that_ends_too_early() -> None:
    image = head()
    image[1, :, :, 11:] = 0
    whole, cut = measure_intensities(image)
    assert (whole.coverage, cut.coverage) == (1.0, 0.6)


def test_a_negative_background_is_a_plateau_and_no_signal() -> None:
    image = head()
    image[1][image[1] == 0] = -1000
    sound, odd = measure_intensities(image)
    assert (odd.plateau_value, odd.plateau) == (-1000.0, pytest.approx(7 / 8))
    assert sound.coverage == odd.coverage == 1.0


def test_an_image_that_is_nearly_constant() -> None:
    image = head()
    image[0][image[0] > 0] = 7
    image[0, 5, 5, 5] = 8
    assert measure_intensities(image)[0].plateau == pytest.approx(0.999)
    assert measure_intensities(image)[0].plateau_value == 7.0


def test_nothing_but_background() -> None:
    assert [(one.coverage, one.plateau) for one in measure_intensities(np.zeros((1, 4, 4, 4)))] == [(0.0, 0.0)]


def test_a_subject_is_read_once(prepared_cache: Path, tmp_path: Path) -> None:
    source = PhantomSource(num_subjects=3, roi_size=(16, 16, 16), spacing_mm=(10.0, 10.0, 10.0))
    subjects = prepare(source, prepared_cache).subjects
    first = cohort_intensities(subjects, tmp_path)
    gone = [replace(subject, folder=tmp_path / "nowhere") for subject in subjects]
    assert cohort_intensities(gone, tmp_path) == first
    assert {name: len(channels) for name, channels in first.items()} == {one.subject_id: 4 for one in subjects}
