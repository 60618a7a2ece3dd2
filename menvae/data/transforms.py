"""The MONAI pipeline that brings one subject to the geometry of training.

MONAI takes seconds to import, so this waits until a subject is prepared: a run with a complete cache never needs it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from menvae.data.box import BoxReport
from menvae.data.checks import label_remedy
from menvae.data.subjects import REGION_CODES, Geometry, SubjectFiles
from menvae.errors import UserError


class PreparedArrays(NamedTuple):
    """One subject in the geometry of training, and its mask as it was.

    Attributes:
        image: float32 [C, D, H, W].
        mask: uint8 [D, H, W] with the codes of `REGION_CODES`.
        native_mask: the mask at native resolution in RAS.
        native_spacing_mm: its voxel size.
        box: what the box holds of the subject.
    """

    image: NDArray[np.float32]
    mask: NDArray[np.uint8]
    native_mask: NDArray[np.uint8]
    native_spacing_mm: tuple[float, float, float]
    box: BoxReport


def load_and_resample(subject: SubjectFiles, geometry: Geometry) -> PreparedArrays:
    """Read a subject, bring it to RAS, to the spacing (images linearly, masks by nearest neighbour) and into the box.

    The box is centred on the image; what lies outside the image is 0. Intensities are z-scored per channel over the
    voxels of the box that are not 0; those stay 0.

    Raises:
        UserError: a file that is no readable NIfTI volume, or a label that is not mapped. What else may be wrong with
            files is found by `menvae.data.checks`.
    """
    from monai.transforms import (
        Compose,
        ConcatItemsd,
        LoadImaged,
        NormalizeIntensityd,
        Orientationd,
        ResizeWithPadOrCropd,
        Spacingd,
    )

    channels = list(subject.images)
    everything = [*channels, "seg"]
    load = Compose(
        [
            LoadImaged(everything, image_only=True, ensure_channel_first=True),
            Orientationd(everything, axcodes="RAS", labels=None),
        ]
    )
    try:
        native = load(subject.files)
    except Exception as error:  # MONAI wraps whatever the reader raised
        cause = error.__cause__ or error
        raise UserError(f"subject '{subject.subject_id}' cannot be read as NIfTI volumes: {cause}") from error
    native["seg"] = _recode(native["seg"], geometry, subject.subject_id)
    native_spacing = tuple(float(side) for side in native["seg"].pixdim)
    resample = Spacingd(everything, pixdim=geometry.spacing_mm, mode=["bilinear"] * len(channels) + ["nearest"])
    finish = Compose(
        [
            ResizeWithPadOrCropd(everything, spatial_size=geometry.roi_size),
            NormalizeIntensityd(channels, nonzero=True, channel_wise=True),
            ConcatItemsd(channels, name="image"),
        ]
    )
    resampled = resample(dict(native))
    prepared = finish(dict(resampled))
    return PreparedArrays(
        image=prepared["image"].numpy().astype(np.float32),
        mask=prepared["seg"].numpy()[0].astype(np.uint8),
        native_mask=native["seg"].numpy()[0].astype(np.uint8),
        native_spacing_mm=(native_spacing[0], native_spacing[1], native_spacing[2]),
        box=_box_report(native, resampled, prepared, channels),
    )


def _box_report(native: Any, resampled: Any, prepared: Any, channels: list[str]) -> BoxReport:
    counts = [int((stage["seg"] > 0).sum()) for stage in (native, resampled, prepared)]
    voxels_mm3 = [float(np.prod(stage["seg"].pixdim.numpy())) for stage in (native, resampled, prepared)]
    whole, kept = (
        int(torch.stack([stage[name] != 0 for name in channels]).any(0).sum()) for stage in (resampled, prepared)
    )
    native_mm3, resampled_mm3, box_mm3 = (count * voxel for count, voxel in zip(counts, voxels_mm3, strict=True))
    return BoxReport(
        native_mm3,
        resampled_mm3,
        box_mm3,
        tumour_kept=counts[2] / counts[1] if counts[1] else 1.0,
        brain_kept=kept / whole if whole else 1.0,
    )


def _recode(mask: torch.Tensor, geometry: Geometry, subject_id: str) -> torch.Tensor:
    recoded = torch.zeros_like(mask)
    labels = [value for value in torch.unique(mask).tolist() if value != 0]
    for value in labels:
        if value not in geometry.regions:
            remedy = label_remedy(value, labels, geometry.regions)
            raise UserError(f"subject '{subject_id}': its mask holds the label {value:g}: {remedy}")
        recoded[mask == value] = REGION_CODES[geometry.regions[int(value)]]
    return recoded
