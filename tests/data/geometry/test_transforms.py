"""A whole subject: menvae makes of it what MONAI makes, and z-scores are those of numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from late import Late
from numpy.typing import NDArray

from menvae.data.cache.storage import stored
from menvae.data.files.subjects import MODALITIES, SubjectFiles, subject_files
from menvae.data.geometry.box import BoxStrategy
from menvae.data.geometry.transforms import Geometry, load_and_resample
from menvae.data.phantom.head import phantom_subject, write_subject
from menvae.types import Batch, Intensities

transforms = Late("monai.transforms")

Triple = tuple[float, float, float]
Change = Callable[[Any, str], Any]

NATIVE: Triple = (6.25, 8.0, 10.0)  # 32 x 25 x 20 voxels
FINER: Triple = (4.7, 5.3, 7.1)
ON_VOXELS: Triple = (5.0, 10.0, 12.5)  # many new centres lie on old ones or halfway between
BOX = (24, 32, 20)
REGIONS = {1: "ncr", 2: "ed", 3: "et"}


def subject(root: Path, change: Change | None = None) -> SubjectFiles:
    """A phantom whose files were changed by ``change(image, name)``."""
    folder = write_subject(phantom_subject(0, 3, NATIVE), root)
    files = subject_files(folder, MODALITIES)
    for name, path in files.files.items() if change else ():
        assert change is not None
        nibabel.save(change(nibabel.load(path), name), path)
    return files


def with_voxels(image: Any, voxels: NDArray[Any]) -> Any:
    return nibabel.Nifti1Image(voxels, image.affine, dtype=voxels.dtype)


def whole_numbers(image: Any) -> NDArray[np.int16]:
    return np.asarray(image.dataobj).astype(np.int16)


def negative(image: Any, name: str) -> Any:
    """Noise of both signs outside the head, and an offset that makes a part of the head negative."""
    if name == "seg":
        return image
    voxels = whole_numbers(image)
    noise = np.random.default_rng(len(name)).integers(-20, 20, voxels.shape).astype(np.int16)
    offset = np.int16(np.median(voxels[voxels != 0]))
    return with_voxels(image, np.where(voxels == 0, noise, voxels - offset).astype(np.int16))


def of_floats(image: Any, name: str) -> Any:
    return image if name == "seg" else with_voxels(image, whole_numbers(image).astype(np.float32) * np.float32(0.37))


def turned(image: Any, name: str) -> Any:
    """Every file of a subject in an orientation of its own."""
    codes = dict(zip((*MODALITIES, "seg"), ("LPS", "SAR", "PIR", "RAS", "ILA"), strict=True))[name]
    wanted = nibabel.orientations.axcodes2ornt(codes)
    return image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), wanted))


def as_they_are(image: Any, name: str) -> Any:
    return image


CHANGES = [as_they_are, negative, of_floats, turned]


def without_rounding(volume: torch.Tensor) -> torch.Tensor:
    """Make 0 again of what the rounding of MONAI's coordinates, or of a sum that cancels, made of it."""
    return torch.where(volume.abs() < 1e-8, 0, volume)


def monai(files: SubjectFiles, spacing_mm: Triple | None) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """z-scores [C, D, H, W] and mask [D, H, W]."""
    everything = [*MODALITIES, "seg"]
    modes = ["bilinear"] * len(MODALITIES) + ["nearest"]
    pipeline = transforms.Compose(
        [
            transforms.LoadImaged(everything, image_only=True, ensure_channel_first=True),
            transforms.Orientationd(everything, axcodes="RAS", labels=None),
            *(
                [transforms.Spacingd(everything, pixdim=spacing_mm, mode=modes, dtype=torch.float64)]
                if spacing_mm
                else []
            ),
            transforms.Lambdad(list(MODALITIES), without_rounding),
            transforms.ResizeWithPadOrCropd(everything, spatial_size=BOX),
            transforms.NormalizeIntensityd(list(MODALITIES), nonzero=True, channel_wise=True),
            transforms.ConcatItemsd(list(MODALITIES), name="image"),
        ]
    )
    found = pipeline(files.files)
    return found["image"].numpy().astype(np.float64), found["seg"].numpy()[0]


def menvae(
    files: SubjectFiles, spacing_mm: Triple | None, box: BoxStrategy = "center", cache_format: Any = "arrays"
) -> tuple[NDArray[np.float64], NDArray[Any], tuple[float, ...]]:
    """The same, and the stated loss of each channel."""
    arrays = load_and_resample(files, Geometry(BOX, spacing_mm or NATIVE, REGIONS, box))  # type: ignore[arg-type]
    found = stored(arrays.channels, arrays.mask, cache_format)
    intensities = Intensities(torch.tensor([found.mean]), torch.tensor([found.sd]))
    z_scores = intensities.z_scores(torch.from_numpy(found.image)[None])[0]
    assert z_scores.dtype == torch.float32
    return z_scores.numpy().astype(np.float64), found.mask, found.loss


def difference(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """The greatest, over the larger of 1 and the z-score."""
    return float((np.abs(found - expected) / np.maximum(1.0, np.abs(expected))).max())


@pytest.mark.parametrize("spacing_mm", [None, FINER, ON_VOXELS], ids=["native", "resampled", "on voxels"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_subject_is_that_of_monai(change: Change, spacing_mm: Triple | None, tmp_path: Path) -> None:
    files = subject(tmp_path, change)
    found, mask, loss = menvae(files, spacing_mm)
    expected, expected_mask = monai(files, spacing_mm)
    assert found.shape == expected.shape == (4, *BOX)
    assert np.count_nonzero(found) > 0.1 * found.size
    np.testing.assert_array_equal(found == 0, expected == 0)
    assert difference(found, expected) <= 1e-6
    np.testing.assert_array_equal(mask, expected_mask)
    assert mask.any()
    assert loss == (0.0,) * 4


@pytest.mark.parametrize("change", [as_they_are, of_floats, negative])
def test_compressed_subjects_differ_by_no_more_than_their_loss(change: Change, tmp_path: Path) -> None:
    files = subject(tmp_path, change)
    exact, mask, _ = menvae(files, FINER)
    found, same_mask, loss = menvae(files, FINER, cache_format="compressed")
    np.testing.assert_array_equal(mask, same_mask)
    np.testing.assert_array_equal(found == 0, exact == 0)
    for channel, wanted, most in zip(found, exact, loss, strict=True):
        assert 0 < np.abs(channel - wanted).max() <= most + 1e-6
        assert most < 1e-3


def test_files_that_are_whole_numbers_lose_nothing(tmp_path: Path) -> None:
    files = subject(tmp_path)
    exact, _, _ = menvae(files, None)
    found, _, loss = menvae(files, None, cache_format="compressed")
    np.testing.assert_array_equal(found, exact)
    assert loss == (0.0,) * 4


def test_the_order_of_bytes_and_the_packing_of_files_do_not_matter(tmp_path: Path) -> None:
    def other_order(image: Any, name: str) -> Any:
        header = nibabel.Nifti1Header(endianness=">")
        header.set_data_dtype(image.get_data_dtype())
        return nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine, header)

    expected = menvae(subject(tmp_path / "a"), FINER)
    found = menvae(subject(tmp_path / "b", other_order), FINER)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int32", "uint64", "int64", "float64"])
def test_files_of_any_type_give_the_same_subject(kind: str, tmp_path: Path) -> None:
    """One file is of another type than the others."""

    def of_kind(image: Any, name: str) -> Any:
        voxels = whole_numbers(image) // (8 if name == "t1n" else 1)
        return with_voxels(image, voxels.astype(kind if name == "t1n" else np.int16))

    def whole(image: Any, name: str) -> Any:
        return with_voxels(image, whole_numbers(image) // np.int16(8 if name == "t1n" else 1))

    np.testing.assert_array_equal(
        menvae(subject(tmp_path / "a", of_kind), None, "brain")[0],
        menvae(subject(tmp_path / "b", whole), None, "brain")[0],
    )


def test_what_the_box_keeps_is_counted_by_hand(tmp_path: Path) -> None:
    """Six voxels of tumour of which the box on the middle holds four; 32 voxels of brain of which it holds 20."""
    for name in (*MODALITIES, "seg"):
        voxels = np.zeros((12, 4, 4), np.int16)
        if name == "seg":
            voxels[6:12, 1, 1] = 3
        else:
            voxels[2:10, 0:2, 0:2] = -7  # 32 voxels; any modality counts
            voxels[2:10, 2:4, 0:2] = 0
        (tmp_path / "a").mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([2.0, 1, 1, 1])), tmp_path / "a" / f"a-{name}.nii.gz")
    files = subject_files(tmp_path / "a", MODALITIES)

    def report(box: BoxStrategy, size: tuple[int, int, int], spacing_mm: Triple | None = (2.0, 1.0, 1.0)) -> Any:
        return load_and_resample(files, Geometry(size, spacing_mm, REGIONS, box)).box  # type: ignore[arg-type]

    middle = report("center", (8, 4, 4))  # voxels 2 to 9
    assert (middle.tumour_kept, middle.brain_kept) == (4 / 6, 1.0)
    assert (middle.native_volume_mm3, middle.resampled_volume_mm3, middle.volume_mm3) == (12.0, 12.0, 8.0)
    smaller = report("center", (5, 4, 4))  # 4 to 8
    assert (smaller.tumour_kept, smaller.brain_kept) == (3 / 6, 5 / 8)
    on_brain = report("brain", (8, 2, 2))
    assert (on_brain.tumour_kept, on_brain.brain_kept) == (4 / 6, 1.0)
    whole = report("resize", (24, 8, 4), None)  # twice as many voxels along the first two axes
    assert (whole.tumour_kept, whole.brain_kept) == (1.0, 1.0)
    assert (whole.native_volume_mm3, whole.volume_mm3) == (12.0, 12.0)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d], ids=str)
@pytest.mark.parametrize("kind", ["int16", "float32", "int32"])
def test_z_scores_on_the_device_are_those_of_numpy(kind: str, memory_format: torch.memory_format) -> None:
    random = np.random.default_rng(0)
    volumes = random.integers(-300, 900, (2, 3, 5, 6, 7)) * (random.random((2, 3, 5, 6, 7)) > 0.3)
    values = volumes.astype(kind)
    expected, means, sds = np.zeros(values.shape), np.zeros((2, 3)), np.zeros((2, 3))
    for at in np.ndindex(2, 3):
        content = values[at][values[at] != 0].astype(np.float64)
        means[at], sds[at] = content.mean(), content.std()
        expected[at] = np.where(values[at] != 0, (values[at] - means[at]) / sds[at], 0)
    inputs = torch.from_numpy(values.copy())
    batch = Batch(inputs, ("a", "b"), intensities=Intensities(torch.tensor(means), torch.tensor(sds)))
    moved = batch.to(torch.device("cpu"), memory_format)
    assert (moved.inputs.dtype, moved.intensities) == (torch.float32, None)
    assert moved.inputs.is_contiguous(memory_format=memory_format)
    assert difference(moved.inputs.numpy().astype(np.float64), expected) <= 1e-6
    np.testing.assert_array_equal(inputs.numpy(), values, err_msg="what was stored is left as it was")
    assert torch.equal(moved.to(torch.device("cpu")).inputs, moved.inputs), "once only"
