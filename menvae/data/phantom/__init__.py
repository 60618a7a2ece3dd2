"""A procedural cohort: skull-stripped heads with one meningioma each, in four modalities, from a seed.

Everything is defined in millimetres by closed-form distances, so one subject is the same patient at every spacing.
`DISTRIBUTIONS` and, for patients that are seen several times, `GROWTH_DISTRIBUTIONS` are the only places that hold
numbers about patients; each row says where its values come from, and "design choice" where no source was at hand.
Coordinates are (x, y, z) = (R, A, S) in mm from the middle of the box, which is array order (D, H, W).

Left out on purpose, and so unlike real cohorts: several lesions in one head, intraventricular tumours, dural tails,
brain shift by the tumour, scanner-specific artefacts.
"""

from menvae.data.phantom.distributions import (
    DISTRIBUTIONS,
    DISTRIBUTIONS_VERSION,
    FIELD_OF_VIEW_MM,
    GENERATOR_VERSION,
    GROWTH_DISTRIBUTIONS,
    GROWTH_VERSION,
)
from menvae.data.phantom.growth import phantom_growth, phantom_schedule
from menvae.data.phantom.head import ED, ET, MODALITIES, NCR, PhantomSubject, phantom_subject, write_subject
from menvae.data.phantom.tumour import PhantomVisit

__all__ = [
    "DISTRIBUTIONS",
    "DISTRIBUTIONS_VERSION",
    "ED",
    "ET",
    "FIELD_OF_VIEW_MM",
    "GENERATOR_VERSION",
    "GROWTH_DISTRIBUTIONS",
    "GROWTH_VERSION",
    "MODALITIES",
    "NCR",
    "PhantomSubject",
    "PhantomVisit",
    "phantom_growth",
    "phantom_schedule",
    "phantom_subject",
    "write_subject",
]
