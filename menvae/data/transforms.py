"""The MONAI pipeline that brings one subject to the geometry of training.

MONAI takes seconds to import, so this waits until a subject is prepared: a run with a complete cache never needs it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from menvae.data.subjects import REGION_CODES, Geometry, SubjectFiles
from menvae.errors import UserError

Spacing = tuple[float, float, float]


def load_and_resample(
    subject: SubjectFiles, geometry: Geometry
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.uint8], Spacing]:
    """Read a subject, bring it to RAS, to the spacing (images linearly, masks by nearest neighbour) and into the box.

    The box is centred on the image; what lies outside the image is 0. Intensities are z-scored per channel over the
    voxels of the box that are not 0; those stay 0.

    Returns:
        Image float32 [C, D, H, W]; mask uint8 [D, H, W] with the codes of `REGION_CODES`; the mask at native
        resolution in RAS; its spacing in mm.

    Raises:
        UserError: a file that is no readable NIfTI volume, files of different shapes, or a label that is not mapped.
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
        native = load({**subject.images, "seg": subject.mask})
    except Exception as error:  # MONAI wraps whatever the reader raised
        cause = error.__cause__ or error
        raise UserError(f"subject '{subject.subject_id}' cannot be read as NIfTI volumes: {cause}") from error
    shapes = {name: tuple(native[name].shape) for name in everything}
    if len(set(shapes.values())) > 1:
        listing = ", ".join(f"{name} {list(shape[1:])}" for name, shape in shapes.items())
        raise UserError(f"subject '{subject.subject_id}': its files differ in shape: {listing}")
    native["seg"] = _recode(native["seg"], geometry, subject.subject_id)
    native_spacing = tuple(float(side) for side in native["seg"].pixdim)
    resample = Compose(
        [
            Spacingd(everything, pixdim=geometry.spacing_mm, mode=["bilinear"] * len(channels) + ["nearest"]),
            ResizeWithPadOrCropd(everything, spatial_size=geometry.roi_size),
            NormalizeIntensityd(channels, nonzero=True, channel_wise=True),
            ConcatItemsd(channels, name="image"),
        ]
    )
    prepared = resample(dict(native))
    return (
        prepared["image"].numpy().astype(np.float32),
        prepared["seg"].numpy()[0].astype(np.uint8),
        native["seg"].numpy()[0].astype(np.uint8),
        (native_spacing[0], native_spacing[1], native_spacing[2]),
    )


def _recode(mask: torch.Tensor, geometry: Geometry, subject_id: str) -> torch.Tensor:
    recoded = torch.zeros_like(mask)
    for value in torch.unique(mask).tolist():
        if value == 0:
            continue
        if value not in geometry.regions:
            known = ", ".join(f"{label} -> {region}" for label, region in geometry.regions.items())
            raise UserError(
                f"subject '{subject_id}': its mask holds the label {value:g}, which data.label_map does not map "
                f"({known})"
            )
        recoded[mask == value] = REGION_CODES[geometry.regions[int(value)]]
    return recoded
