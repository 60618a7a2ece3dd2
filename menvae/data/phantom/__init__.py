"""A procedural cohort: skull-stripped heads with one meningioma each, in four modalities, from a seed.

Closed-form distances in millimetres define everything, so a subject is the same patient at every spacing.
`DISTRIBUTIONS` and, for patients with several visits, `GROWTH_DISTRIBUTIONS` and `FOLLOW_UP_DISTRIBUTIONS` hold all
numbers about patients; each row cites its source, or "design choice" if none was available. Coordinates are (x, y, z) =
(R, A, S) in mm from the centre of the box, which is array order (D, H, W).

Unlike real cohorts, phantoms deliberately lack multiple lesions, intraventricular tumours, dural tails, brain shift by
the tumour, and scanner-specific artefacts.
"""

from menvae.data.phantom.distributions import (
    DISTRIBUTIONS,
    DISTRIBUTIONS_VERSION,
    FIELD_OF_VIEW_MM,
    FOLLOW_UP_DISTRIBUTIONS,
    GENERATOR_VERSION,
    GROWTH_DISTRIBUTIONS,
    GROWTH_VERSION,
)
from menvae.data.phantom.growth import KINDS, Kind, phantom_growth, phantom_kind, phantom_schedule, read_volume_mm3
from menvae.data.phantom.head import (
    ED,
    ET,
    MODALITIES,
    NCR,
    PhantomSubject,
    phantom_factors,
    phantom_subject,
    write_subject,
)
from menvae.data.phantom.tumour import PhantomVisit

__all__ = [
    "DISTRIBUTIONS",
    "DISTRIBUTIONS_VERSION",
    "ED",
    "ET",
    "FIELD_OF_VIEW_MM",
    "FOLLOW_UP_DISTRIBUTIONS",
    "GENERATOR_VERSION",
    "GROWTH_DISTRIBUTIONS",
    "GROWTH_VERSION",
    "KINDS",
    "MODALITIES",
    "NCR",
    "Kind",
    "PhantomSubject",
    "PhantomVisit",
    "phantom_factors",
    "phantom_growth",
    "phantom_kind",
    "phantom_schedule",
    "phantom_subject",
    "read_volume_mm3",
    "write_subject",
]
