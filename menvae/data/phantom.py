"""A procedural cohort: skull-stripped heads with one meningioma each, in four modalities, from a seed.

Everything is defined in millimetres by closed-form distances, so one subject is the same patient at every spacing.
`DISTRIBUTIONS` and, for patients that are seen several times, `GROWTH_DISTRIBUTIONS` are the only places that hold
numbers about patients; each row says where its values come from, and "design choice" where no source was at hand.
Coordinates are (x, y, z) = (R, A, S) in mm from the middle of the box, which is array order (D, H, W).

Left out on purpose, and so unlike real cohorts: several lesions in one head, intraventricular tumours, dural tails,
brain shift by the tumour, scanner-specific artefacts.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from menvae.data.gompertz import Gompertz

Float = NDArray[Any]  # float32 throughout; numpy's stubs would call it float64 after an operation with a Python float
Point = tuple[float, float, float]

FIELD_OF_VIEW_MM: Final = 200.0
MODALITIES: Final = ("t1c", "t1n", "t2f", "t2w")
NCR, ED, ET = 1, 2, 3
GENERATOR_VERSION: Final = 4  # raise it whenever the same table would give other voxels

_SITES: Final = (
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
        parameter: what is drawn.
        kind: `normal` (mean, sd), `lognormal` (median, sd of the logarithm, lowest, highest), `uniform` (lowest,
            highest), `bernoulli` (probability), `categorical` (weights), `constant` (value) or `logistic` (value of
            the covariate with probability 1/2, slope per unit of its logarithm).
        values: the numbers that `kind` asks for.
        unit: their unit.
        source: where they come from.
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
        "% of " + ", ".join(_SITES),
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

# Intensity of white matter, grey matter, CSF, NCR, ED, ET relative to white matter in t1n (design choice: the usual
# order of contrasts; enhancement is the brightest tissue of t1c, oedema the brightest of t2f, CSF of t2w)
_INTENSITIES: Final[dict[str, tuple[float, ...]]] = {
    "t1c": (1.00, 0.80, 0.32, 0.62, 0.70, 1.80),
    "t1n": (1.00, 0.77, 0.30, 0.52, 0.68, 0.76),
    "t2f": (0.72, 0.92, 0.22, 0.85, 1.50, 1.12),
    "t2w": (0.58, 0.78, 1.65, 1.35, 1.20, 0.95),
}

DISTRIBUTIONS_VERSION: Final = hashlib.sha256(
    json.dumps([GENERATOR_VERSION, _INTENSITIES, [asdict(row) for row in DISTRIBUTIONS]], sort_keys=True).encode()
).hexdigest()[:12]

GROWTH_VERSION: Final = hashlib.sha256(
    json.dumps([DISTRIBUTIONS_VERSION, [asdict(row) for row in GROWTH_DISTRIBUTIONS]], sort_keys=True).encode()
).hexdigest()[:12]

_ROW: Final = {row.parameter: row for row in (*DISTRIBUTIONS, *GROWTH_DISTRIBUTIONS)}
_OEDEMA_REACH_MM: Final = _ROW["oedema_reach"].values[0]


@dataclass(frozen=True)
class PhantomSubject:
    """One generated patient.

    Attributes:
        subject_id: `phantom-` and the index, five digits; of one visit of several also its number, three digits.
        images: one int16 volume [D, H, W] = (R, A, S) for each modality t1c, t1n, t2f, t2w; 0 outside the head.
        mask: uint8 labels [D, H, W]: 0 background, 1 NCR, 2 ED, 3 ET.
        affine: [4, 4] voxel index to RAS in mm.
    """

    subject_id: str
    images: dict[str, NDArray[np.int16]]
    mask: NDArray[np.uint8]
    affine: NDArray[np.float64]


@dataclass(frozen=True)
class PhantomVisit:
    """One visit of a patient that is seen several times.

    Attributes:
        number: 0 for the first; contrasts of healthy tissue, gain, bias field and noise are drawn for each visit.
        tumour_mm3: volume of enhancing tumour and necrotic core, instead of the drawn one.
        first_mm3: the same at the patient's first visit; whether there is oedema is drawn for it, once a patient.
    """

    number: int
    tumour_mm3: float
    first_mm3: float


def phantom_subject(
    seed: int, index: int, spacing_mm: tuple[float, float, float], visit: PhantomVisit | None = None
) -> PhantomSubject:
    """Generate one patient of a cohort.

    The patient depends on (seed, index) alone: neither on the size of the cohort nor, but for sampling, on the
    spacing. The box spans 200 mm: ceil(200 / spacing) voxels along each axis.

    All visits of a patient have the same head, and a tumour with the same seat, axes, lobes, texture and contrast, the
    same share of necrosis and the same ratio of oedema to tumour. It grows away from the dura that it sits on.

    Args:
        seed: the cohort, 0 or more.
        index: the patient, 0 or more.
        spacing_mm: voxel size along R, A, S in mm, each between 0.5 and 10.
        visit: one of several visits; None: the only one.

    Returns:
        Images, mask and affine.

    Raises:
        ValueError: an argument is out of its range.

    >>> subject = phantom_subject(seed=0, index=3, spacing_mm=(6.25, 6.25, 6.25))
    >>> subject.subject_id, subject.mask.shape, sorted(subject.images)
    ('phantom-00003', (32, 32, 32), ['t1c', 't1n', 't2f', 't2w'])
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must be 0 or more, got seed={seed} and index={index}")
    if len(spacing_mm) != 3 or not all(0.5 <= step <= 10.0 for step in spacing_mm):
        raise ValueError(f"spacing_mm must be 3 numbers between 0.5 and 10, got {spacing_mm}")
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence([seed, index]).spawn(4)]
    anatomy = _Anatomy(streams[0])
    tumour = _Tumour(streams[1], anatomy, visit)
    scanner, errors_of = (streams[2], streams[3]) if visit is None else _streams(seed, index, _VISIT, visit.number)
    grid = _Grid.around(anatomy, spacing_mm, (1, 1, 1))
    _, labels, _ = _fill(grid, anatomy, tumour)
    # a coarse voxel measures the mean of what is in it, so tissue is sampled at several places, about 3 mm apart
    first, second, third = (max(1, round(step / 3.2)) for step in spacing_mm)
    fine = _Grid.around(anatomy, spacing_mm, (first, second, third))
    head, _, tissues = _fill(fine, anatomy, tumour)
    share = fine.averaged(head)
    images = {}
    for name, (signal, gain, noise) in _render(streams[2], scanner, tissues, fine.points).items():
        mean = fine.averaged(signal * head) / np.maximum(share, 1e-6)
        sd = noise / math.sqrt(math.prod(spacing_mm))
        errors = errors_of.standard_normal((2, *grid.shape), dtype=np.float32) * sd
        measured = np.sqrt((mean + errors[0]) ** 2 + errors[1] ** 2) * gain
        # stripping comes after the scanner and keeps or drops whole voxels: there is no rim of partly filled ones;
        # voxels of the head are never 0, those outside always
        images[name] = np.where(share >= 0.5, np.maximum(np.rint(measured), 1), 0).astype(np.int16)
    mask = np.zeros(grid.shape, dtype=np.uint8)
    mask.ravel()[grid.inside] = labels
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * step for n, step in zip(grid.shape, spacing_mm, strict=True)]
    subject_id = f"phantom-{index:05d}" + ("" if visit is None else f"-{visit.number:03d}")
    return PhantomSubject(subject_id, images, mask, affine)


def write_subject(subject: PhantomSubject, folder: Path) -> Path:
    """Write a subject in the BraTS-MEN layout: `<id>/<id>-{t1c,t1n,t2f,t2w,seg}.nii.gz`.

    The subject folder appears in one step, so that a killed process leaves no half subject and several processes may
    write the same one. One that exists is kept as it is.

    Args:
        subject: what `phantom_subject` returned.
        folder: the cohort folder; created if need be.

    Returns:
        The subject's folder.
    """
    import nibabel

    final = folder / subject.subject_id
    if final.exists():
        return final
    folder.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{subject.subject_id}-", dir=folder))
    try:
        for name, volume in (*subject.images.items(), ("seg", subject.mask)):
            image = nibabel.nifti1.Nifti1Image(volume, subject.affine)  # type: ignore[no-untyped-call, unused-ignore]
            image.header.set_xyzt_units("mm")  # type: ignore[no-untyped-call, unused-ignore]
            packed = gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)  # mtime: same subject, same bytes
            (partial / f"{subject.subject_id}-{name}.nii.gz").write_bytes(packed)
        partial.chmod(0o755)
        try:
            partial.replace(final)
        except OSError:  # another process was faster
            if not final.exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def phantom_growth(seed: int, index: int) -> Gompertz:
    """How the tumour of a patient grows; depends on (seed, index) alone.

    Args:
        seed: the cohort, 0 or more.
        index: the patient, 0 or more.

    >>> curve = phantom_growth(seed=0, index=3)
    >>> 0 < curve.first_mm3 < curve.volume_mm3(2.0) < curve.capacity_mm3
    True
    """
    (rng,) = _streams(seed, index, _CURVE, count=1)
    rate, capacity_ml = _draw(rng, "growth_rate"), _draw(rng, "growth_capacity")
    capacity_mm3 = 1000.0 * capacity_ml
    return Gompertz(capacity_mm3 * _draw(rng, "growth_first_share"), capacity_mm3, rate)


def phantom_schedule(seed: int, index: int, num_visits: tuple[int, int], interval_days: tuple[int, int]) -> list[int]:
    """Days of a patient's visits, the first at 0; both bounds are inclusive.

    Intervals do not depend on the number of visits, so a longer follow-up begins like a shorter one.

    >>> phantom_schedule(seed=0, index=3, num_visits=(3, 3), interval_days=(100, 100))
    [0, 100, 200]
    """
    count, intervals = _streams(seed, index, _SCHEDULE)
    num = int(count.integers(num_visits[0], num_visits[1], endpoint=True))
    gaps = [int(intervals.integers(*interval_days, endpoint=True)) for _ in range(num - 1)]
    return [sum(gaps[:visit]) for visit in range(num)]


# --- drawing -------------------------------------------------------------------------------------------------------


# streams 0 to 3 of a patient are those of `phantom_subject`
_CURVE, _SCHEDULE, _VISIT = 4, 5, 6


def _streams(seed: int, index: int, *key: int, count: int = 2) -> list[np.random.Generator]:
    """Independent streams of a patient for a purpose."""
    children = np.random.SeedSequence([seed, index], spawn_key=key).spawn(count)
    return [np.random.default_rng(child) for child in children]


def _draw(rng: np.random.Generator, parameter: str, covariate: float = 1.0) -> float:
    """One value of a row of `DISTRIBUTIONS`; `categorical` gives the position, `bernoulli` and `logistic` 0 or 1."""
    row = _ROW[parameter]
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


def _num_voxels(step_mm: float) -> int:
    return math.ceil(round(FIELD_OF_VIEW_MM / step_mm, 6))


class _Waves(NamedTuple):
    """A smooth random field: a sum of plane waves with unit variance."""

    vectors: NDArray[np.float32]  # [K, 3], radians per mm
    phases: NDArray[np.float32]

    @classmethod
    def draw(cls, rng: np.random.Generator, num: int, shortest_mm: float, longest_mm: float) -> _Waves:
        directions = rng.standard_normal((num, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        vectors = directions * (2 * math.pi / rng.uniform(shortest_mm, longest_mm, (num, 1)))
        return cls(vectors.astype(np.float32), rng.uniform(0, 2 * math.pi, num).astype(np.float32))

    def shifted(self, distances_mm: list[float]) -> _Waves:
        """Each wave moved along its direction."""
        shift = np.linalg.norm(self.vectors, axis=1) * np.array(distances_mm)
        return self._replace(phases=(self.phases - shift).astype(np.float32))

    def __call__(self, x: Float, y: Float, z: Float) -> Float:
        total = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), dtype=np.float32)
        for (kx, ky, kz), phase in zip(self.vectors, self.phases, strict=True):
            total += np.sin(kx * x + ky * y + kz * z + phase)
        return total * math.sqrt(2.0 / len(self.phases))


def _ellipsoid(x: Float, y: Float, z: Float, centre: Point, radii: Point) -> Float:
    """Signed distance (first order, mm) to an ellipsoid with its axes along x, y, z."""
    unit = [(axis - c) / r for axis, c, r in zip((x, y, z), centre, radii, strict=True)]
    level = _length(*unit)
    slope = _length(unit[0] / radii[0], unit[1] / radii[1], unit[2] / radii[2])
    distance: Float = level * (level - 1.0) / np.maximum(slope, 1e-6)
    return distance


def _length(x: Float, y: Float, z: Float) -> Float:
    """Euclidean length of vectors."""
    length: Float = np.sqrt(x * x + y * y + z * z)
    return length


def _smooth_union(a: Float, b: Float, blend_mm: float) -> Float:
    """Smallest of two signed distances, with a rounded seam."""
    overlap = np.maximum(blend_mm - np.abs(a - b), 0.0) / blend_mm
    union: Float = np.minimum(a, b) - overlap * overlap * (blend_mm / 4)
    return union


def _occupancy(distance_mm: Float, step_mm: float) -> Float:
    """Share of a voxel that lies inside a surface at a signed distance from its centre."""
    return np.clip(0.5 - distance_mm / step_mm, 0.0, 1.0)


def _sheet_occupancy(distance_mm: Float, half_width_mm: Float | float, step_mm: float) -> Float:
    """Share of a voxel inside a sheet that may be thinner than the voxel."""
    half = step_mm / 2
    overlap = np.minimum(distance_mm + half, half_width_mm) - np.maximum(distance_mm - half, -half_width_mm)
    return np.clip(overlap / step_mm, 0.0, 1.0).astype(np.float32)


# --- anatomy -------------------------------------------------------------------------------------------------------


class _Tissues(NamedTuple):
    """Shares of each voxel, [N]; changed in place when the tumour is added."""

    white: Float
    grey: Float
    csf: Float
    ncr: Float
    oedema: Float
    enhancing: Float


class _Anatomy:
    """A head without tumour: an envelope (what skull stripping keeps) and the tissues in it."""

    # in mm in the average head; pairs are mirrored by working with |x|
    _CEREBRUM = ((0.0, 2.0, 12.0), (66.5, 84.0, 57.5))
    _TEMPORAL = ((39.0, 10.0, -22.0), (23.0, 41.0, 22.0))
    _CEREBELLUM = ((23.0, -49.0, -32.0), (30.0, 29.0, 24.0))
    _BRAINSTEM = ((0.0, -19.0, -42.0), (12.5, 13.5, 32.0))
    _BASE_Z = -22.0
    _AVERAGE_VOLUME_ML = 1460.0  # of this envelope at scale 1 (tested)
    _VENTRICLES = (
        ((9.0, 12.0, 15.0), (5.0, 24.0, 6.5)),
        ((20.0, -27.0, 9.0), (6.0, 18.0, 7.5)),
        ((0.0, -7.0, 3.0), (1.8, 13.0, 9.0)),
    )
    _DEEP_GREY = (
        ((10.5, -11.0, 5.0), (7.5, 13.0, 8.0)),
        ((26.0, 4.0, 3.0), (6.0, 17.0, 9.5)),
        ((15.5, 17.0, 13.0), (4.5, 13.0, 7.0)),
    )

    _FOLDS = _Waves.draw(np.random.default_rng(20), 6, 18.0, 27.0)  # of the average cortex; zeros are the sulci

    def __init__(self, rng: np.random.Generator) -> None:
        scale = (_draw(rng, "intracranial_volume") / self._AVERAGE_VOLUME_ML) ** (1 / 3)
        ratios = np.array([_draw(rng, "head_axis_ratio") for _ in range(3)])
        ratios /= np.prod(ratios) ** (1 / 3)  # shape without size
        self.scale = [float(scale * ratio) for ratio in ratios]
        self.shift_mm = [_draw(rng, "head_shift") for _ in range(3)]
        self.ventricle_scale = _draw(rng, "ventricle_scale")
        self.cortex_mm = _draw(rng, "cortex_thickness")
        self._relief_mm = _draw(rng, "surface_relief")
        self._relief = _Waves.draw(rng, 4, 35.0, 70.0)
        self._folds = self._FOLDS.shifted([_draw(rng, "sulcus_shift") for _ in self._FOLDS.phases])
        self._fissure = _Waves.draw(rng, 2, 60.0, 120.0)

    def to_average(self, x: Float, y: Float, z: Float) -> tuple[Float, Float, Float]:
        first, second, third = (
            (axis - shift) / scale for axis, shift, scale in zip((x, y, z), self.shift_mm, self.scale, strict=True)
        )
        return first, second, third

    def to_head(self, point: Point) -> NDArray[np.float64]:
        """A point of the average head in this head, mm."""
        return np.array(point) * self.scale + self.shift_mm

    def smooth_surface_mm(self, x: Float, y: Float, z: Float) -> Float:
        """Signed distance to the envelope without its relief: negative inside, mm of the average head."""
        x, y, z = self.to_average(x, y, z)
        side = np.abs(x)
        cerebrum = np.maximum(_ellipsoid(x, y, z, *self._CEREBRUM), self._BASE_Z - z)
        head = _smooth_union(cerebrum, _ellipsoid(side, y, z, *self._TEMPORAL), 10.0)
        head = _smooth_union(head, _ellipsoid(side, y, z, *self._CEREBELLUM), 6.0)
        return _smooth_union(head, _ellipsoid(x, y, z, *self._BRAINSTEM), 8.0)

    def relief_mm(self, x: Float, y: Float, z: Float) -> Float:
        """Mild unevenness of the envelope, mm."""
        return self._relief(x, y, z) * self._relief_mm

    def surface_mm(self, x: Float, y: Float, z: Float) -> Float:
        """Signed distance to the envelope, negative inside."""
        return self.smooth_surface_mm(x, y, z) + self.relief_mm(x, y, z)

    def ventricles_mm(self, x: Float, y: Float, z: Float) -> Float:
        """Signed distance to the ventricles; takes points of the average head."""
        side = np.abs(x)
        scale = self.ventricle_scale
        parts = [
            _ellipsoid(side, y, z, centre, (radii[0] * scale, radii[1] * scale, radii[2] * scale))
            for centre, radii in self._VENTRICLES
        ]
        return _smooth_union(_smooth_union(parts[0], parts[1], 6.0), parts[2], 1.0)

    def midline_x(self, y: Float, z: Float) -> Float:
        """Where the falx runs, x in mm of the average head."""
        return self._fissure(np.zeros_like(y), y, z) * 0.8

    def tissues(self, x: Float, y: Float, z: Float, surface_mm: Float, step_mm: float) -> _Tissues:
        """Shares of white matter, grey matter and CSF at points [N] of the head."""
        x, y, z = self.to_average(x, y, z)
        fold_field = self._folds(x, y, z)
        depth_mm = -surface_mm
        # zeros of the folding field are the sulci; its mean slope turns values into mm
        sulcus_mm = np.abs(fold_field) * (22.0 / (2 * math.pi))
        half_width_mm = np.clip(1.3 * (1 - depth_mm / 15), 0.0, 1.3)
        csf = _sheet_occupancy(sulcus_mm, half_width_mm, step_mm)
        csf = np.maximum(csf, _occupancy(depth_mm - 1.0, step_mm))
        callosum = ((y + 4) / 46) ** 2 + ((z - 4) / 25) ** 2  # the fissure stops at the corpus callosum
        between = np.abs(x - self.midline_x(y, z))
        open_fissure = _occupancy((1 - callosum) * 12, step_mm) * (z > -20)
        csf = np.maximum(csf, _sheet_occupancy(between, 1.1, step_mm) * open_fissure)
        csf = np.maximum(csf, _occupancy(self.ventricles_mm(x, y, z), step_mm))

        cortex = self.cortex_mm
        grey = _occupancy(depth_mm - cortex - 1.0, step_mm)
        banks = _sheet_occupancy(sulcus_mm, cortex * 0.85, step_mm)
        grey = np.maximum(grey, banks * _occupancy(depth_mm - 15.0, step_mm))
        medial = _sheet_occupancy(between, cortex + 1, step_mm) * open_fissure
        grey = np.maximum(grey, medial)
        for centre, radii in self._DEEP_GREY:
            grey = np.maximum(grey, 0.8 * _occupancy(_ellipsoid(np.abs(x), y, z, centre, radii), step_mm))
        grey = np.minimum(grey, 1 - csf)
        nothing = np.zeros((3, len(x)), dtype=np.float32)
        return _Tissues(1 - csf - grey, grey, csf, nothing[0], nothing[1], nothing[2])


# --- tumour --------------------------------------------------------------------------------------------------------


class _Lobes(NamedTuple):
    """A function on directions: 1 plus bumps and dents."""

    directions: NDArray[np.float32]
    sizes: NDArray[np.float32]
    sharpness: float

    @classmethod
    def draw(cls, rng: np.random.Generator, num: int, size: float, sharpness: float) -> _Lobes:
        directions = rng.standard_normal((num, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        sizes = size * rng.uniform(0.4, 1.0, num) * rng.choice((1.0, 1.0, -0.7), num)
        return cls(directions.astype(np.float32), sizes.astype(np.float32), sharpness)

    def __call__(self, unit: tuple[Float, Float, Float]) -> Float:
        radius = np.ones(np.broadcast_shapes(*(axis.shape for axis in unit)), dtype=np.float32)
        for direction, size in zip(self.directions, self.sizes, strict=True):
            along = unit[0] * direction[0] + unit[1] * direction[1] + unit[2] * direction[2]
            radius += size * np.exp(self.sharpness * (along - 1))
        return np.clip(radius, 0.35, 2.0)


class _Tumour:
    """A meningioma on the dura: enhancing body, perhaps a necrotic core, perhaps oedema in the brain around it.

    Each part is a level set of a field in mm. The levels are set on a small grid of their own, such that the drawn
    volumes are met whatever the spacing of the image.
    """

    _GRID = 25  # points along each axis of that grid

    def __init__(self, rng: np.random.Generator, anatomy: _Anatomy, visit: PhantomVisit | None = None) -> None:
        self._anatomy = anatomy
        attachment, inward = _site(rng, anatomy)
        self._falx_side = float(inward[0]) if attachment[1] else 0.0
        volume_mm3 = deciding_mm3 = 1000.0 * _draw(rng, "tumour_volume")
        if visit is not None:
            volume_mm3, deciding_mm3 = visit.tumour_mm3, visit.first_mm3
        height, elongation = _draw(rng, "tumour_height_ratio"), _draw(rng, "tumour_elongation")
        ratios = np.array([height, math.sqrt(elongation), 1 / math.sqrt(elongation)])
        ratios /= np.prod(ratios) ** (1 / 3)
        # 1.25: what lobes add and the dura cuts off nearly cancel; the level below does the rest
        self._radii = (ratios * (1.25 * volume_mm3 * 3 / (4 * math.pi)) ** (1 / 3)).tolist()
        self._frame = _frame(rng, inward).tolist()  # rows: inward, and two directions along the dura
        self._centre = (attachment[0] + inward * self._radii[0] * _draw(rng, "tumour_seat")).tolist()
        self._lobes = _Lobes.draw(rng, 7, _draw(rng, "tumour_lobe_size"), _draw(rng, "tumour_lobe_sharpness"))
        self._overshoot_mm = _draw(rng, "dural_overshoot")
        self._draw_core(rng)
        self._has_oedema = _draw(rng, "oedema_present", covariate=deciding_mm3 / 1000.0) > 0
        oedema_mm3 = volume_mm3 * _draw(rng, "oedema_index")
        self._irregularity = _draw(rng, "oedema_irregularity")
        self._fingers = _Lobes.draw(rng, 6, 2.0 * self._irregularity, 6.0)
        self._front = _Waves.draw(rng, 3, 14.0, 30.0)

        self._level, self._core_level, self._oedema_level_mm = 1.0, 0.0, 0.0
        self._set_levels(volume_mm3)
        self._reach_mm = max(self._radii) * self._level * 2.2
        if self._has_oedema:
            self._set_oedema_level(oedema_mm3)

    def _draw_core(self, rng: np.random.Generator) -> None:
        self._has_core = _draw(rng, "necrosis_present") > 0
        self._core_fraction = _draw(rng, "necrosis_fraction")
        ratios = np.array([_draw(rng, "necrosis_elongation") for _ in range(3)])
        self._core_ratios = (ratios / np.prod(ratios) ** (1 / 3)).tolist()
        self._core_offset = rng.uniform(-0.35, 0.35, 3).tolist()
        self._core_lobes = _Lobes.draw(rng, 5, _draw(rng, "necrosis_lobe_size"), 4.0)

    # the three fields

    def _offset(self, x: Float, y: Float, z: Float) -> list[Float]:
        """Coordinates from the middle of the tumour, mm."""
        return [axis - middle for axis, middle in zip((x, y, z), self._centre, strict=True)]

    def _local(self, x: Float, y: Float, z: Float) -> tuple[list[Float], Float]:
        """Coordinates along the tumour's axes in radii, and their length."""
        first, second, third = self._offset(x, y, z)
        local = [
            first * (along[0] / radius) + second * (along[1] / radius) + third * (along[2] / radius)
            for along, radius in zip(self._frame, self._radii, strict=True)
        ]
        return local, np.maximum(_length(*local), 1e-3)

    def _relative_radius(self, local: list[Float], length: Float) -> Float:
        """1 on the surface of the body as drawn, before its level is set and the dura cuts it."""
        radius = self._lobes((local[0] / length, local[1] / length, local[2] / length))
        relative: Float = length / radius
        return relative

    def _outside_dura_mm(self, x: Float, y: Float, surface_mm: Float) -> Float:
        """Positive where the dura (or the falx) keeps the tumour out."""
        beyond = surface_mm - self._overshoot_mm
        if self._falx_side:
            beyond = np.maximum(beyond, -self._falx_side * (x - self._anatomy.shift_mm[0]) - 1)
        return beyond

    def _core_field(self, local: list[Float]) -> Float:
        """Level sets are the candidates for the necrotic core; in tumour radii."""
        place = [
            (axis - offset) / ratio
            for axis, offset, ratio in zip(local, self._core_offset, self._core_ratios, strict=True)
        ]
        length = np.maximum(_length(*place), 1e-3)
        field: Float = length / self._core_lobes((place[0] / length, place[1] / length, place[2] / length))
        return field

    def _oedema_field_mm(self, x: Float, y: Float, z: Float, body_mm: Float, surface_mm: Float) -> Float:
        """Distance from the tumour as oedema travels: along white matter, hardly through cortex or midline."""
        offset = self._offset(x, y, z)
        length = np.maximum(_length(*offset), 1.0)
        speed = self._fingers((offset[0] / length, offset[1] / length, offset[2] / length))
        field = np.maximum(body_mm, 0.0) / speed
        field += (2.0 * self._irregularity) * self._front(x, y, z)
        field += np.clip(4 + surface_mm, 0.0, 4.0) * 1.5
        middle = self._anatomy.shift_mm[0]
        across = math.copysign(1.0, middle - self._centre[0]) * (x - middle)
        field += np.clip(across, 0.0, 6.0) * 3.0
        ventricles_mm = self._anatomy.ventricles_mm(*self._anatomy.to_average(x, y, z))
        field = np.maximum(field, 20 * (body_mm - _OEDEMA_REACH_MM))
        blocked: Float = np.maximum(np.maximum(field, 60 + 60 * surface_mm), 30 - 30 * ventricles_mm)
        return blocked

    # levels and voxels

    def _body_mm(self, local: list[Float], length: Float, x: Float, y: Float, z: Float) -> Float:
        """Signed distance along the ray from the middle, mm, before the dura cuts."""
        relative = self._relative_radius(local, length)
        return _length(*self._offset(x, y, z)) * (1 - self._level / np.maximum(relative, 1e-3))

    def _set_levels(self, volume_mm3: float) -> None:
        line = np.linspace(-1.9, 1.9, self._GRID)
        cell_mm3 = (line[1] - line[0]) ** 3 * math.prod(self._radii)
        local = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1).reshape(-1, 3)
        scaled = local * self._radii
        x, y, z = (
            (scaled * [along[axis] for along in self._frame]).sum(axis=1).astype(np.float32) + self._centre[axis]
            for axis in range(3)
        )
        columns = list(local.T.astype(np.float32))
        length = np.maximum(_length(*columns), 1e-3)
        relative = self._relative_radius(columns, length)
        beyond_mm = self._outside_dura_mm(x, y, self._anatomy.surface_mm(x, y, z))
        self._level = _level_at(relative[beyond_mm < 0], volume_mm3 / cell_mm3, highest=1.8)
        if self._has_core:
            rim = (relative < 0.85 * self._level) & (beyond_mm < -2.0)
            wanted = max(self._core_fraction * volume_mm3, 100.0) / cell_mm3
            self._core_level = _level_at(self._core_field(columns)[rim], wanted, highest=1.5)

    def _set_oedema_level(self, oedema_mm3: float) -> None:
        half_mm = self._reach_mm + 0.75 * _OEDEMA_REACH_MM
        lines = [np.linspace(middle - half_mm, middle + half_mm, self._GRID) for middle in self._centre]
        cell_mm3 = math.prod(float(line[1] - line[0]) for line in lines)
        grid = np.meshgrid(*(line.astype(np.float32) for line in lines), indexing="ij")
        x, y, z = (axis.ravel() for axis in grid)
        surface_mm = self._anatomy.surface_mm(x, y, z)
        local, length = self._local(x, y, z)
        body_mm = self._body_mm(local, length, x, y, z)
        field = self._oedema_field_mm(x, y, z, body_mm, surface_mm)
        self._oedema_level_mm = _level_at(field[body_mm > 0], oedema_mm3 / cell_mm3, highest=_OEDEMA_REACH_MM)

    def near(self, x: Float, y: Float, z: Float) -> NDArray[np.intp]:
        """Positions of the points that the tumour or its oedema may reach."""
        reach_mm = (
            self._reach_mm + (min(2 * self._oedema_level_mm, _OEDEMA_REACH_MM) if self._has_oedema else 0.0) + 6.0
        )
        inside = np.ones(x.shape, dtype=bool)
        for axis, centre in zip((x, y, z), self._centre, strict=True):
            inside &= np.abs(axis - centre) < reach_mm
        return np.flatnonzero(inside)

    def shares(self, x: Float, y: Float, z: Float, step_mm: float) -> tuple[Float, Float, Float]:
        """Occupancy by the necrotic core, the enhancing tumour and the oedema of voxels of a given size."""
        surface_mm = self._anatomy.surface_mm(x, y, z)
        local, length = self._local(x, y, z)
        body_mm = self._body_mm(local, length, x, y, z)
        body = _occupancy(np.maximum(body_mm, self._outside_dura_mm(x, y, surface_mm)), step_mm)
        core = np.zeros_like(body)
        if self._has_core:
            radius_mm = math.prod(self._radii) ** (1 / 3)
            core_mm = (self._core_field(local) - self._core_level) * radius_mm
            rim_mm = np.maximum(body_mm, self._outside_dura_mm(x, y, surface_mm)) + 2.0
            core = body * _occupancy(np.maximum(core_mm, rim_mm), step_mm)
        oedema = np.zeros_like(body)
        if self._has_oedema:
            field_mm = self._oedema_field_mm(x, y, z, body_mm, surface_mm)
            oedema = (1 - body) * _occupancy(field_mm - self._oedema_level_mm, step_mm)
        return core, body - core, oedema


def _level_at(field: Float, wanted: float, highest: float) -> float:
    """Level below which `wanted` cells of a sampled field lie, interpolated; never above `highest`."""
    if wanted >= len(field):
        return highest
    ordered = np.sort(field)
    return min(highest, float(np.interp(wanted, np.arange(len(ordered)) + 0.5, ordered)))


def _frame(rng: np.random.Generator, inward: NDArray[np.float64]) -> NDArray[np.float64]:
    """An orthonormal frame [3, 3], first row `inward`, turned about it at random."""
    along = np.cross(inward, rng.standard_normal(3))
    along /= np.linalg.norm(along)
    return np.stack([inward, along, np.cross(inward, along)])


def _site(rng: np.random.Generator, anatomy: _Anatomy) -> tuple[tuple[NDArray[np.float64], bool], NDArray[np.float64]]:
    """Where the tumour is attached (point in mm, is it the falx) and the direction into the brain."""
    name = _SITES[int(_draw(rng, "site"))]
    side = float(rng.choice((-1.0, 1.0)))
    spread = rng.uniform(-1.0, 1.0, 3)
    if name == "falx":
        angle = math.radians(70 + 65 * spread[0])  # from the front over the top to the back
        reach = 0.75 + 0.13 * spread[1]
        point = anatomy.to_head((0.0, 2 + 80 * reach * math.cos(angle), 8 + 60 * reach * math.sin(angle)))
        return (point, True), np.array([side, 0.0, 0.0])
    angle = math.radians(90 + 80 * spread[0])
    aims: dict[str, Point] = {  # mm in the average head; the ray from the middle towards it meets the dura
        "convexity": (side * (42 + 24 * spread[2]), 75 * math.cos(angle), 10 + 45 * (0.5 + 0.5 * spread[1])),
        "parasagittal": (side * (9 + 5 * spread[2]), 85 * math.cos(angle), 10 + 60 * math.sin(angle)),
        "sphenoid_wing": (side * (40 + 16 * spread[0]), 42 + 10 * spread[1], -28 + 8 * spread[2]),
        "olfactory_groove": (10 * spread[0], 48 + 12 * spread[1], -24 + 3 * spread[2]),
        "suprasellar": (8 * spread[0], 16 + 8 * spread[1], -24 + 2 * spread[2]),
        "posterior_fossa": (side * (30 + 18 * spread[0]), -48 + 22 * spread[1], -42 + 14 * spread[2]),
    }
    middle = anatomy.to_head((0.0, -40.0, -25.0) if name == "posterior_fossa" else (0.0, 5.0, 5.0))
    ray = anatomy.to_head(aims[name]) - middle
    ray /= np.linalg.norm(ray)
    distances = np.linspace(2.0, 120.0, 237)
    places = (middle + distances[:, None] * ray).astype(np.float32)
    surface_mm = anatomy.surface_mm(places[:, 0], places[:, 1], places[:, 2])
    point = middle + distances[int(np.argmax(surface_mm > 0))] * ray
    steps = np.concatenate([point + 2.0 * np.eye(3), point - 2.0 * np.eye(3)]).astype(np.float32)
    around = anatomy.surface_mm(steps[:, 0], steps[:, 1], steps[:, 2]).astype(np.float64)
    inward = around[3:] - around[:3]
    return (point, False), inward / np.linalg.norm(inward)


@dataclass(frozen=True)
class _Grid:
    """Places in the box of 200 mm: one or several a voxel and axis; only those in or near the head are worked on.

    Attributes:
        shape: voxels along D, H, W.
        samples: places a voxel along each axis.
        spacing_mm: distance of the places along each axis.
        inside: flat indices of the places that are worked on [N].
        points: their coordinates along each axis, in mm from the centre, each [N].
        rough_mm: their signed distance from the smooth surface of the brain [N].
    """

    shape: tuple[int, int, int]
    samples: tuple[int, int, int]
    spacing_mm: Point
    inside: NDArray[np.int64]
    points: tuple[Float, Float, Float]
    rough_mm: Float

    @classmethod
    def around(cls, anatomy: _Anatomy, voxel_mm: Point, samples: tuple[int, int, int]) -> _Grid:
        shape = (_num_voxels(voxel_mm[0]), _num_voxels(voxel_mm[1]), _num_voxels(voxel_mm[2]))
        steps = (voxel_mm[0] / samples[0], voxel_mm[1] / samples[1], voxel_mm[2] / samples[2])
        counts = [n * per_voxel for n, per_voxel in zip(shape, samples, strict=True)]
        axes = [((np.arange(n) - (n - 1) / 2) * step).astype(np.float32) for n, step in zip(counts, steps, strict=True)]
        rough_mm = anatomy.smooth_surface_mm(axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :])
        inside = np.flatnonzero(rough_mm < 6.0 + math.prod(steps) ** (1 / 3))
        first, second, third = np.unravel_index(inside, counts)
        points = (axes[0][first], axes[1][second], axes[2][third])
        return cls(shape, samples, steps, inside, points, rough_mm.ravel()[inside])

    def averaged(self, values: Float) -> Float:
        """Mean of values [N] over the places of each voxel, 0 where there is none: [D, H, W]."""
        blocks = [size for pair in zip(self.shape, self.samples, strict=True) for size in pair]
        volume = np.zeros(math.prod(blocks), dtype=np.float32)
        volume[self.inside] = values
        mean: Float = volume.reshape(blocks).mean(axis=(1, 3, 5))
        return mean


def _fill(grid: _Grid, anatomy: _Anatomy, tumour: _Tumour) -> tuple[Float, NDArray[np.uint8], _Tissues]:
    """Return the share of each place that skull stripping keeps, its label, and its tissues with the tumour in them."""
    x, y, z = grid.points
    surface_mm = grid.rough_mm + anatomy.relief_mm(x, y, z)
    tissues = anatomy.tissues(x, y, z, surface_mm, math.prod(grid.spacing_mm) ** (1 / 3))
    head, labels = _add_tumour(tissues, tumour, grid.points, surface_mm, grid.spacing_mm)
    return head, labels, tissues


def _add_tumour(
    tissues: _Tissues, tumour: _Tumour, points: tuple[Float, Float, Float], surface_mm: Float, spacing_mm: Point
) -> tuple[Float, NDArray[np.uint8]]:
    """Put the tumour into the tissues, in place.

    Returns:
        The share of each voxel that skull stripping keeps (brain or tumour) and the labels, both [N]. A voxel is
        labelled where tumour and oedema fill half of it, with the label that fills most.
    """
    step_mm = math.prod(spacing_mm) ** (1 / 3)
    head = _occupancy(surface_mm, step_mm)
    near = tumour.near(*points)
    # coarse voxels are sampled at several places, about 3 mm apart
    counts = [max(1, round(step / 3.0)) for step in spacing_mm]
    offsets = [((np.arange(n) + 0.5) / n - 0.5) * step for n, step in zip(counts, spacing_mm, strict=True)]
    grid = np.stack(np.meshgrid(*offsets, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.float32)
    x, y, z = (axis[near][None, :] + grid[:, [i]] for i, axis in enumerate(points))
    fine_mm = step_mm / math.prod(counts) ** (1 / 3)
    core, enhancing, oedema = (share.mean(axis=0) for share in tumour.shares(x, y, z, fine_mm))

    filled = core + enhancing + oedema
    labels = np.zeros(len(surface_mm), dtype=np.uint8)
    found = np.array([NCR, ED, ET], dtype=np.uint8)[np.argmax(np.stack([core, oedema, enhancing]), axis=0)]
    labels[near] = np.where(filled >= min(0.5, float(filled.max())), found, 0)

    body = core + enhancing
    head[near] = np.maximum(head[near], filled)
    # of what is kept: tumour replaces all tissue, oedema all but CSF (sulci stay visible in it)
    kept = np.maximum(head[near], 1e-6)
    body_share, filled_share, csf = body / kept, filled / kept, tissues.csf[near]
    tissues.white[near] *= 1 - filled_share
    tissues.grey[near] *= 1 - filled_share
    tissues.csf[near] *= 1 - body_share
    tissues.oedema[near] = oedema / kept * (1 - csf)
    tissues.ncr[near], tissues.enhancing[near] = core / kept, enhancing / kept
    return head, labels


# --- images --------------------------------------------------------------------------------------------------------


def _render(
    patient: np.random.Generator, scanner: np.random.Generator, tissues: _Tissues, points: tuple[Float, Float, Float]
) -> dict[str, tuple[Float, float, float]]:
    """Noise-free signal [N] (contrast, texture, bias field), gain, and noise at 1 mm^3, of each modality.

    The two streams are one where a patient has one visit.
    """
    tumour_texture = 1 + _draw(patient, "tumour_texture") * _Waves.draw(patient, 4, 9.0, 22.0)(*points)
    tissue_texture = 1 + 0.02 * _Waves.draw(patient, 3, 12.0, 40.0)(*points)
    bias = _Waves.draw(scanner, 3, 180.0, 400.0)(*points)  # the coil's profile, common to the modalities of a visit
    rendered = {}
    for name in MODALITIES:
        normal = [level * _draw(scanner, "tissue_contrast") for level in _INTENSITIES[name][:3]]
        lesion = [level * _draw(patient, "tumour_contrast") for level in _INTENSITIES[name][3:]]
        gain, bias_size, noise = (_draw(scanner, row) for row in ("scanner_gain", "bias_field", "noise"))
        signal = normal[0] * tissues.white
        signal += normal[1] * tissues.grey + normal[2] * tissues.csf
        signal *= tissue_texture
        tumour = lesion[0] * tissues.ncr + lesion[2] * tissues.enhancing
        signal += tumour * tumour_texture + lesion[1] * tissues.oedema
        signal *= np.exp(bias_size * bias)
        rendered[name] = (signal, gain, noise)
    return rendered
