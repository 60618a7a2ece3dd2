"""What the box of training holds of a subject."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BoxReport:
    """How much of a subject is left in the box of training.

    Attributes:
        native_volume_mm3: volume of all labels at native resolution, voxel count times voxel volume.
        resampled_volume_mm3: the same after resampling, before the box is cut out.
        volume_mm3: the same in the box: what the targets describe.
        tumour_kept: share of the resampled tumour that lies in the box, in [0, 1].
        brain_kept: share of the resampled brain that lies in the box, in [0, 1].
    """

    native_volume_mm3: float
    resampled_volume_mm3: float
    volume_mm3: float
    tumour_kept: float
    brain_kept: float
