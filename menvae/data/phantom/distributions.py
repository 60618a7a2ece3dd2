"""The distributions that phantoms are drawn from, with their sources."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np

FIELD_OF_VIEW_MM: Final = 200.0
GENERATOR_VERSION: Final = 4  # increment when the same table would give different voxels

SITES: Final = (
    "convexity",
    "parasagittal",
    "falx",
    "sphenoid_wing",
    "olfactory_groove",
    "suprasellar",
    "posterior_fossa",
)


@dataclass(frozen=True)
class Distribution:
    """One row of `DISTRIBUTIONS`.

    Attributes:
        parameter: name of the drawn quantity.
        kind: `normal` (mean, sd), `lognormal` (median, sd of the logarithm, lowest, highest), `uniform` (lowest,
            highest), `bernoulli` (probability), `categorical` (weights), `constant` (value) or `logistic` (value of
            the covariate with probability 1/2, slope per unit of its logarithm).
        values: the parameters of `kind`, in the order above.
        unit: unit of the values.
        source: origin of the values.
    """

    parameter: str
    kind: str
    values: tuple[float, ...]
    unit: str
    source: str


_DESIGN: Final = "design choice"

DISTRIBUTIONS: Final[tuple[Distribution, ...]] = (
    Distribution(
        "intracranial_volume",
        "normal",
        (1384.6, 135.3),
        "mL",
        "CT of 58 healthy adults, mean and sd (Surg Radiol Anat 2011, doi 10.1007/s00276-010-0650-4)",
    ),
    Distribution("head_axis_ratio", "lognormal", (1.0, 0.035, 0.9, 1.1), "1", _DESIGN),
    Distribution("head_shift", "normal", (0.0, 2.0), "mm", f"{_DESIGN}: what registration to an atlas leaves"),
    Distribution("surface_relief", "uniform", (0.3, 0.8), "mm", _DESIGN),
    Distribution("ventricle_scale", "lognormal", (1.0, 0.18, 0.7, 1.5), "1", _DESIGN),
    Distribution(
        "sulcus_shift",
        "normal",
        (0.0, 3.5),
        "mm from the average place of each wave of the cortex",
        f"{_DESIGN}: main sulci are common to all and vary in place (Thompson et al. 1996, J Neurosci 16:4261)",
    ),
    Distribution("cortex_thickness", "normal", (3.2, 0.25), "mm", _DESIGN),
    Distribution(
        "site",
        "categorical",
        (20.0, 16.0, 9.0, 20.0, 10.0, 10.0, 10.0),
        "% of " + ", ".join(SITES),
        "Brain Science Foundation, Meningioma locations (falx and parasagittal 25, convexity 20, sphenoid wing 20, "
        "olfactory groove 10, suprasellar 10, posterior fossa 10); falcine share 8.5 to 9 % of all meningiomas",
    ),
    Distribution(
        "tumour_volume",
        "lognormal",
        (21.0, 0.9, 2.0, 160.0),
        "mL",
        f"{_DESIGN} between anchors: largest diameters of 1.1 to 9.1 cm in 100 patients (doi 10.1016/j.jmir."
        "2020.04.004); symptoms from 21.1 mL on in 333 (doi 10.3389/fneur.2021.769656)",
    ),
    Distribution("tumour_height_ratio", "lognormal", (0.9, 0.32, 0.4, 1.8), "1", f"{_DESIGN}: en plaque to globose"),
    Distribution("tumour_elongation", "lognormal", (1.0, 0.4, 0.4, 2.5), "1", _DESIGN),
    Distribution("tumour_seat", "uniform", (0.25, 0.85), "half heights from dura to middle", _DESIGN),
    Distribution(
        "tumour_lobe_size",
        "uniform",
        (0.1, 1.1),
        "radii",
        f"{_DESIGN}: irregular shape is common and varies (Popadic et al. 2022, doi 10.3171/2021.5.jns204223)",
    ),
    Distribution("tumour_lobe_sharpness", "uniform", (3.0, 9.0), "1", _DESIGN),
    Distribution(
        "dural_overshoot",
        "uniform",
        (0.5, 3.0),
        "mm",
        f"{_DESIGN}; 90.3 % of 1424 cases touch the edge of the stripped image (LaBella et al. 2024, arXiv 2405.09787)",
    ),
    Distribution(
        "oedema_present",
        "logistic",
        (13.953, 0.9),
        "mL of tumour, slope per unit of ln mL",
        "best cut-off for oedema at 13.953 mL in 205 patients (doi 10.1371/journal.pone.0252945); the slope is a "
        "design choice that gives the reported share of 37 % (doi 10.1016/j.jmir.2020.04.004), 48 % (J Neurooncol "
        "2013, 111:49) to 69 % (doi 10.21315/mjms2017.24.3.5) of patients",
    ),
    Distribution(
        "oedema_index",
        "lognormal",
        (1.3, 1.0, 0.15, 8.0),
        "oedema volume / tumour volume",
        f"{_DESIGN} below the reports: 13 % of patients with oedema had an index of 10 or more (J Neurooncol 2013, "
        "111:49)",
    ),
    Distribution("oedema_reach", "constant", (35.0,), "mm from the tumour at most", _DESIGN),
    Distribution("oedema_irregularity", "uniform", (0.0, 0.9), "share of the reach", _DESIGN),
    Distribution("necrosis_present", "bernoulli", (0.5,), "probability", f"{_DESIGN}: no published share was at hand"),
    Distribution("necrosis_fraction", "lognormal", (0.15, 0.7, 0.03, 0.5), "share of the tumour volume", _DESIGN),
    Distribution("necrosis_elongation", "lognormal", (1.0, 0.45, 0.35, 2.8), "1", _DESIGN),
    Distribution("necrosis_lobe_size", "uniform", (0.1, 1.0), "radii", _DESIGN),
    Distribution("tissue_contrast", "lognormal", (1.0, 0.05, 0.8, 1.25), "1", _DESIGN),
    Distribution("tumour_contrast", "lognormal", (1.0, 0.1, 0.7, 1.4), "1", _DESIGN),
    Distribution("tumour_texture", "uniform", (0.02, 0.12), "share of the intensity", _DESIGN),
    Distribution("scanner_gain", "lognormal", (900.0, 0.35, 350.0, 2200.0), "intensity of white matter", _DESIGN),
    Distribution("bias_field", "uniform", (0.02, 0.12), "logarithm of the gain", _DESIGN),
    Distribution(
        "noise",
        "uniform",
        (0.02, 0.06),
        "share of white matter in a voxel of 1 mm^3",
        f"{_DESIGN}; it falls with the square root of the voxel's volume, as in averages of independent measurements",
    ),
)

GROWTH_DISTRIBUTIONS: Final[tuple[Distribution, ...]] = (
    Distribution(
        "growth_rate",
        "lognormal",
        (0.2, 0.5, 0.06, 0.7),
        "1/year, a of dV/dt = a V ln(K/V)",
        f"{_DESIGN} at the fast end of reports, so that curves bend within a few years: V grows by a ln(K/V), in the "
        "median 38 % a year at first, where 41 patients had 0.48 to 72.8 % and doubling times from 1.27 years on "
        "(Nakamura et al. 2003, The natural history of incidental meningiomas). That the curve is Gompertz's: 235 "
        "patients with 1394 scans (Strand et al. 2023, Growth dynamics of untreated meningiomas), 52 patients (doi "
        "10.1007/s11060-010-0319-1)",
    ),
    Distribution(
        "growth_capacity",
        "lognormal",
        (80.0, 0.35, 35.0, 160.0),
        "mL, K",
        f"{_DESIGN} within the volumes of the row tumour_volume",
    ),
    Distribution(
        "growth_first_share",
        "lognormal",
        (0.15, 0.5, 0.05, 0.5),
        "volume at the first visit / K",
        f"{_DESIGN}: 12 mL in the median, between the 4.74 mL of incidental and the 37.33 mL of symptomatic tumours in "
        "193 patients (doi 10.1007/s00701-021-04815-1). 23 of 31 had passed the inflection at 0.37 K (doi "
        "10.1007/s11060-010-0319-1); fewer do here, so that there is growth to be seen",
    ),
)

FOLLOW_UP_DISTRIBUTIONS: Final[tuple[Distribution, ...]] = (
    Distribution(
        "shrink_capacity_share",
        "lognormal",
        (0.5, 0.25, 0.3, 0.75),
        "K / volume at the first visit, of a tumour that shrinks",
        f"{_DESIGN}, so that it is seen: V falls by a ln(V/K), in the median 14 % a year at first, and keeps 30 %",
    ),
    Distribution(
        "reader_boundary",
        "normal",
        (0.0, 0.4),
        "mm by which another reader draws the boundary of a tumour farther out",
        f"{_DESIGN}: on a ball an sd of 19 % at 1 mL, 9 % at 10 mL and 5 % at 50 mL, which holds other slices and "
        "scanners; within a reader the sd was 4.1 % of 20 meningiomas (doi 10.3171/2010.12.JNS101623), and maximal "
        "diameters of 12 tumours differed by 0.33 mm between readers (2017, Observer variability of cerebellopontine "
        "angle tumours)",
    ),
)

# Intensity of white matter, grey matter, CSF, NCR, ED, ET relative to white matter in t1n (design choice: the usual
# order of contrasts; enhancement is the brightest tissue of t1c, oedema the brightest of t2f, CSF of t2w)
INTENSITIES: Final[dict[str, tuple[float, ...]]] = {
    "t1c": (1.00, 0.80, 0.32, 0.62, 0.70, 1.80),
    "t1n": (1.00, 0.77, 0.30, 0.52, 0.68, 0.76),
    "t2f": (0.72, 0.92, 0.22, 0.85, 1.50, 1.12),
    "t2w": (0.58, 0.78, 1.65, 1.35, 1.20, 0.95),
}

DISTRIBUTIONS_VERSION: Final = hashlib.sha256(
    json.dumps([GENERATOR_VERSION, INTENSITIES, [asdict(row) for row in DISTRIBUTIONS]], sort_keys=True).encode()
).hexdigest()[:12]

GROWTH_VERSION: Final = hashlib.sha256(
    json.dumps([DISTRIBUTIONS_VERSION, [asdict(row) for row in GROWTH_DISTRIBUTIONS]], sort_keys=True).encode()
).hexdigest()[:12]

FOLLOW_UP_VERSION: Final = hashlib.sha256(
    json.dumps([asdict(row) for row in FOLLOW_UP_DISTRIBUTIONS], sort_keys=True).encode()
).hexdigest()[:12]

ROW: Final = {row.parameter: row for row in (*DISTRIBUTIONS, *GROWTH_DISTRIBUTIONS, *FOLLOW_UP_DISTRIBUTIONS)}


# --- drawing -------------------------------------------------------------------------------------------------------


# streams 0 to 3 of a patient are those of `phantom_subject`
CURVE_STREAM, SCHEDULE_STREAM, VISIT_STREAM, KIND_STREAM, READER_STREAM = 4, 5, 6, 7, 8


def random_streams(seed: int, index: int, *key: int, count: int = 2) -> list[np.random.Generator]:
    """Return independent random generators for one patient and purpose (``key``)."""
    children = np.random.SeedSequence([seed, index], spawn_key=key).spawn(count)
    return [np.random.default_rng(child) for child in children]


def draw_value(rng: np.random.Generator, parameter: str, covariate: float = 1.0) -> float:
    """Draw a value of a `Distribution`; `categorical` gives the index, `bernoulli` and `logistic` 0 or 1."""
    row = ROW[parameter]
    match row.kind, row.values:
        case "constant", (value,):
            return value
        case "normal", (mean, sd):  # cut at 3 sd
            return mean + sd * float(np.clip(rng.standard_normal(), -3.0, 3.0))
        case "lognormal", (median, sd, low, high):
            return float(np.clip(median * math.exp(sd * rng.standard_normal()), low, high))
        case "uniform", (low, high):
            return float(rng.uniform(low, high))
        case "bernoulli", (probability,):
            return float(rng.random() < probability)
        case "logistic", (middle, slope):
            return float(rng.random() < 1.0 / (1.0 + (middle / covariate) ** slope))
        case "categorical", weights:
            return float(np.searchsorted(np.cumsum(weights) / math.fsum(weights), rng.random(), side="right"))
    raise AssertionError(row)
