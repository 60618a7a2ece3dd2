"""Checks of all subject files, run before the first subject is prepared.

`inspect_file` reads a whole file and describes it; `check_subject` judges the descriptions of a subject's files without
reading anything. Descriptions can therefore be cached by the file's digest, independent of ``data.label_map`` and the
modalities in use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from menvae.data.files.findings import Finding
from menvae.data.files.readers import Reader, UnreadableError, not_readable
from menvae.data.files.stored_volume import StoredVolume, ras_axes, whole_labels
from menvae.data.files.subjects import SUFFIXES, SubjectFiles

CHECKS_VERSION = 3
"""Increment when descriptions change; this invalidates every cached description."""

_MOST_SHEAR_DEG = 0.5
_ALIGNMENT_TOLERANCE_MM = 0.1  # sform and qform of one affine can differ by 0.07 mm at a corner
_MOST_LABELS = 8  # labels listed per mask; a volume with more is not a mask
_EXTENT_MM = (5.0, 1000.0)  # of a head; a coil is 500 mm long, and a mistaken unit is a factor of 10 or 1000
_OTHER_EXTENT = 4.0  # times as long as the median of the cohort, or as short
_RAYS = 16  # along both sides of a face
_RUN = 4  # voxels of one value that make a background; noise differs from voxel to voxel
_SAME_VALUE = 1e-4  # of the standard deviation; interpolation rounds a constant
_LARGEST = float(np.finfo(np.float32).max)  # images are prepared as float32


@dataclass(frozen=True)
class Unreadable:
    """A file without a usable volume.

    Attributes:
        problem: as in `Finding`.
        remedy: as in `Finding`.
    """

    problem: str
    remedy: str


@dataclass(frozen=True)
class Volume:
    """Description of a file with a volume.

    Attributes:
        shape: voxels along the axes of the file.
        affine: [4, 4], voxel -> mm in RAS.
        stored_as: data type of the voxels in the file.
        is_oriented: whether the header declares the orientation.
        num_not_finite: number of voxels that are NaN, infinite or too large for float32.
        low: smallest finite non-zero value; 0 if there is none.
        high: largest finite non-zero value; 0 if there is none.
        labels: {value: number of voxels} of the 8 smallest non-zero integer values; empty for images.
        num_labels: number of distinct non-zero integer values; 0 for images.
        num_fractional: number of finite voxels with a non-integer value; 0 for images.
        fraction: one of the non-integer values; 0 if there is none.
        background: value of a constant background; 0 if background is 0 as it must be, and for masks.
        unit: as in `StoredVolume`.
        second_affine: as in `StoredVolume`.
    """

    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    stored_as: str
    is_oriented: bool
    num_not_finite: int
    low: float
    high: float
    labels: dict[int, int]
    num_labels: int
    num_fractional: int
    fraction: float
    background: float = 0.0
    unit: str = ""
    second_affine: tuple[tuple[float, ...], ...] | None = None


def inspect_file(reader: Reader, path: Path, name: str, *, is_mask: bool) -> Volume | Unreadable:
    """Read and describe a volume.

    Args:
        reader: reader of the format.
        path: file or folder of the volume.
        name: modality, or ``seg``.
        is_mask: whether to count labels.

    Returns:
        The description, or why the volume cannot be used.
    """
    try:
        volume = reader.read(path, name)
    except UnreadableError as error:
        return Unreadable(error.problem, error.remedy)
    except OSError as error:
        reason = not_readable(path, error)
        return Unreadable(reason.problem, reason.remedy)
    return describe(volume, is_mask=is_mask)


def describe(volume: StoredVolume, *, is_mask: bool) -> Volume | Unreadable:
    """Describe a volume that was read, as `inspect_file` does."""
    if volume.voxels.dtype.kind not in "iuf":
        return Unreadable(f"has voxels of type {volume.voxels.dtype}", "save it with one real number per voxel")
    voxels = whole_labels(volume.values) if is_mask else volume.values
    shape = voxels.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or 0 in shape:
        return Unreadable(f"has shape {list(voxels.shape)}", "save a single volume with three axes")
    affine = volume.affine
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        return Unreadable("has a singular or non-finite affine", "correct its header")
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    sheared_deg = 90.0 - np.degrees(np.arccos(np.abs(axes.T @ axes - np.eye(3)).max()))
    if sheared_deg > _MOST_SHEAR_DEG:
        return Unreadable(
            f"has axes that are {sheared_deg:.3g} degrees away from orthogonal", "resample it to an orthogonal grid"
        )
    if (problem := _implausible(shape, affine, volume.unit)) is not None:
        return Unreadable(*problem)
    usable = np.abs(voxels) <= _LARGEST if voxels.dtype.kind == "f" else None
    finite = voxels if usable is None or usable.all() else voxels[usable]
    low, high = nonzero_extremes(finite)
    labels, num_labels, fractional = _labels(finite[finite != 0] if is_mask else np.zeros(0, np.uint8))
    return Volume(
        shape=shape,
        affine=tuple(map(tuple, affine.tolist())),
        stored_as=str(volume.voxels.dtype.newbyteorder("=")),
        is_oriented=volume.is_oriented,
        num_not_finite=voxels.size - finite.size,
        low=low,
        high=high,
        labels=labels,
        num_labels=num_labels,
        num_fractional=fractional.size,
        fraction=float(fractional[0]) if fractional.size else 0.0,
        background=0.0 if is_mask else background_of(voxels.reshape(shape)),
        unit=volume.unit,
        second_affine=None if volume.second_affine is None else tuple(map(tuple, volume.second_affine.tolist())),
    )


def _implausible(shape: tuple[int, ...], affine: NDArray[np.float64], unit: str) -> tuple[str, str] | None:
    """Return problem and remedy if no head has the extent of the volume."""
    extent_mm = _extent_mm(shape, affine)
    if (extent_mm >= _EXTENT_MM[0]).all() and (extent_mm <= _EXTENT_MM[1]).all():
        return None
    sides = " x ".join(f"{side:.3g}" for side in extent_mm)
    declared = f" (its header declares {unit} in xyzt_units)" if unit else ""
    least, most = _EXTENT_MM
    return (
        f"has an implausible extent of {sides} mm{declared}",
        f"correct the voxel size or its unit in the header; each side must measure {least:g} to {most:g} mm",
    )


def _extent_mm(shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0) * shape, np.float64)


def background_of(voxels: NDArray[Any]) -> float:
    """Return the value of a constant background that is not 0; 0 if there is none.

    Rays enter the image through its six faces on a regular grid. If more than half of them first meet `_RUN` voxels of
    one value, skipping zeros, that value is the background: also behind a margin of zeros, and where a head touches a
    face. A brain meets them with many values, and noise changes from voxel to voxel.

    Args:
        voxels: image [i, j, k].

    >>> image = np.pad(np.random.default_rng(0).normal(size=(8, 8, 8)), 6)
    >>> background_of(image), background_of(np.where(image == 0, -3.5, image))
    (0.0, -3.5)
    """
    runs, deviation = [], 0.0
    for axis in range(3):
        thin = tuple(
            slice(None) if other == axis else slice(None, None, max(1, side // _RAYS))
            for other, side in enumerate(voxels.shape)
        )
        rays = np.moveaxis(voxels[thin], axis, 0).reshape(voxels.shape[axis], -1)
        with np.errstate(all="ignore"):  # values that are not finite have a finding of their own
            deviation = max(deviation, float(rays.std(dtype=np.float64)))
        if len(rays) >= _RUN:
            runs += [_first_run(rays), _first_run(rays[::-1])]
    first = np.concatenate(runs, axis=1).astype(np.float64) if runs else np.empty((_RUN, 0))
    if not first.size:
        return 0.0
    value = float(np.median(first[0]))
    with np.errstate(all="ignore"):
        is_same = (np.abs(first - value) <= _SAME_VALUE * deviation).all(axis=0)
    return value if np.count_nonzero(is_same) > 0.5 * is_same.size else 0.0


def _first_run(rays: NDArray[Any]) -> NDArray[Any]:
    """Return the first `_RUN` values of each ray from its first non-zero one on, without rays that have none."""
    is_met = rays != 0
    columns = np.flatnonzero(is_met.any(axis=0))
    start = np.minimum(is_met.argmax(axis=0)[columns], len(rays) - _RUN)
    run: NDArray[Any] = rays[start + np.arange(_RUN)[:, None], columns]
    return run


def nonzero_extremes(values: NDArray[Any]) -> tuple[float, float]:
    """Return the smallest and the largest value that is not 0; (0, 0) if there is none.

    Args:
        values: finite values of any shape.

    >>> nonzero_extremes(np.array([[0, 3], [7, 0]], np.int16)), nonzero_extremes(np.array([-2.5, 0.0]))
    ((3.0, 7.0), (-2.5, -2.5))
    """
    if not values.size:
        return 0.0, 0.0
    low, high = values.min(), values.max()
    if low == 0 < high and values.dtype.kind in "iu" and values.dtype.isnative:
        unsigned = values.view(f"u{values.itemsize}")
        return float(int((unsigned - 1).min()) + 1), float(high)  # 0 - 1 wraps around to the largest number
    if low == 0 < high or low < 0 == high:
        content = values[values != 0]
        low, high = content.min(), content.max()
    return float(low), float(high)


def _labels(content: NDArray[Any]) -> tuple[dict[int, int], int, NDArray[Any]]:
    """Return the smallest integer values with their counts, the number of all, and the non-integer voxels."""
    is_whole = np.equal(content, np.rint(content)) if content.dtype.kind == "f" else np.ones(content.size, np.bool_)
    values, counts = np.unique(content[is_whole], return_counts=True)
    listed = zip(values[:_MOST_LABELS].tolist(), counts[:_MOST_LABELS].tolist(), strict=True)
    return {int(value): count for value, count in listed}, len(values), content[~is_whole]


def check_subject(
    subject: SubjectFiles,
    files: Mapping[str, Volume | Unreadable],
    regions: Mapping[int, str],
    *,
    is_mixed: bool = False,
) -> list[Finding]:
    """Judge the files of one subject.

    An empty mask is a fault, not a missing label. It states that there is no tumour, which neither the targets
    (location and shape) nor growth (ln of the volume) can express; and in a cohort of tumour patients it is far more
    often a failed export than a cured patient. Postoperative cohorts do contain such masks; ``data.on_error=skip``
    leaves those visits out. A float mask with integer values is only a note: some tools save masks that way, and no
    value is ambiguous. So is a header without orientation; the axes are then used as stored.

    Args:
        subject: the subject's files.
        files: {modality or "seg": result of `inspect_file`}, without files that do not exist.
        regions: value in the mask -> region.
        is_mixed: whether the files of other subjects are named as expected, so that other names would not fit them.

    Returns:
        Faults and notes, in the order of the files.
    """
    names = {name: path.name for name, path in subject.files.items()}
    volumes = {name: found for name, found in files.items() if isinstance(found, Volume)}

    def findings() -> Iterator[tuple[str, str, str, bool]]:
        yield from _existence(subject, files, is_mixed)
        for name, found in files.items():
            if isinstance(found, Unreadable):
                yield names[name], found.problem, found.remedy, True
        yield from _places({names[name]: volume for name, volume in volumes.items()})
        for name, volume in volumes.items():
            judged = _mask(volume, regions) if name == "seg" else _image(volume)
            yield from ((names[name], *rest) for rest in judged)

    return [Finding(subject.subject_id, *parts) for parts in findings()]


def check_cohort(files: Mapping[str, Mapping[str, Volume | Unreadable]], regions: Mapping[int, str]) -> Iterator[str]:
    """Yield warnings about what only shows in several subjects together.

    Args:
        files: subject -> files, as in `check_subject`.
        regions: value in the mask -> region.
    """
    masks = {name: mask for name, found in files.items() if isinstance(mask := found.get("seg"), Volume)}
    labels = [frozenset(mask.labels) for mask in masks.values() if mask.num_labels]
    if len(labels) > 1 and len(set(labels)) == len(labels[0]) == 1:
        (label,) = labels[0]
        region = regions.get(label)
        if region not in (None, "et"):
            yield (
                f"data.label_map: label {label}, the only one in all {len(labels)} masks, is mapped to {region}; if it "
                f"is the whole tumour, set '~data.label_map.{region}' data.label_map.et={label}"
            )
    extents_mm = {name: float(_extent_mm(mask.shape, np.array(mask.affine)).max()) for name, mask in masks.items()}
    usual_mm = float(np.median([*extents_mm.values()])) if len(masks) > 2 else 0.0
    for name, extent_mm in extents_mm.items():
        if usual_mm and not usual_mm / _OTHER_EXTENT < extent_mm < usual_mm * _OTHER_EXTENT:
            yield (
                f"subject '{name}': its longest side measures {extent_mm:.3g} mm, but {usual_mm:.3g} mm is the median "
                "of the cohort; check the unit and the voxel size in its header"
            )


def _existence(
    subject: SubjectFiles, files: Mapping[str, object], is_mixed: bool
) -> Iterator[tuple[str, str, str, bool]]:
    missing = [path.name for name, path in subject.files.items() if name not in files]
    if missing:
        verb, them = ("is missing", "it") if len(missing) == 1 else ("are missing", "them")
        named = "rename existing files"
        if is_mixed:
            named = "rename existing files as those of the other subjects; data.file_names holds for all subjects"
        elif missing[0].endswith(SUFFIXES):
            named = "set data.file_names (BraTS up to 2021: {t1c: _t1ce, t1n: _t1, t2f: _flair, t2w: _t2, seg: _seg})"
        yield ", ".join(missing), verb, f"add {them}, or {named}", True
    for same in subject.doubles:
        yield " and ".join(path.name for path in same), "both exist", "remove one of them", True


def _image(volume: Volume) -> Iterator[tuple[str, str, bool]]:
    if volume.num_not_finite:
        yield (
            f"contains {_not_finite(volume)}",
            "set such voxels to 0 if they are background, otherwise recreate the image",
            True,
        )
    if volume.low == volume.high:
        yield (
            f"is constant (every voxel is 0 or {volume.high:g})" if volume.high else "is constant (every voxel is 0)",
            "replace it; if the whole cohort lacks this modality, remove it from data.modalities",
            True,
        )
    elif volume.background:
        yield (
            f"has a constant background or rim of {volume.background:.6g}, but every non-zero voxel counts as brain",
            "set it to 0",
            True,
        )
    if not volume.is_oriented:
        yield _NOT_ORIENTED


_NOT_ORIENTED = (
    "does not declare its orientation (qform and sform codes are 0)",
    "check that left and right are not swapped (target loc_x)",
    False,
)


def _mask(volume: Volume, regions: Mapping[int, str]) -> Iterator[tuple[str, str, bool]]:
    if volume.num_not_finite:
        yield (
            f"contains {_not_finite(volume)}",
            "set such voxels to 0 if they are background, otherwise recreate the mask",
            True,
        )
    if volume.num_fractional:
        yield (
            f"contains {_count(volume.num_fractional)} with a non-integer label, such as {volume.fraction:g}",
            "resample the mask with nearest-neighbour interpolation, or save labels instead of probabilities",
            True,
        )
    elif not volume.num_labels and not volume.num_not_finite:
        yield "is empty (no voxel has a label)", "segment the tumour, or remove the subject", True
    elif volume.stored_as.startswith("float") and not volume.num_not_finite:
        yield f"stores integer labels as {volume.stored_as}", "no action is needed", False
    if (unmapped := _unmapped(volume, regions)) is not None:
        yield *unmapped, True
    if not volume.is_oriented:
        yield _NOT_ORIENTED


def _unmapped(volume: Volume, regions: Mapping[int, str]) -> tuple[str, str] | None:
    if volume.num_labels > _MOST_LABELS:
        return f"contains {volume.num_labels} labels", "a mask has only a few; this looks like an image"
    unmapped = [label for label in volume.labels if label not in regions]
    if not unmapped:
        return None
    counted = " and ".join(f"label {label} in {_count(volume.labels[label])}" for label in unmapped)
    remedy = label_remedy(unmapped[0], list(volume.labels), regions)
    return f"contains {counted}, which data.label_map does not map", remedy


def label_remedy(label: float, labels: Sequence[float], regions: Mapping[int, str]) -> str:
    """Return the remedy for a mask label that is not mapped to a region.

    Args:
        label: the unmapped value.
        labels: all values of the mask.
        regions: value in the mask -> region.

    >>> label_remedy(4, [1, 2, 4], {1: "ncr", 2: "ed", 3: "et"})
    'set data.label_map.et=4 if it is ET, as in BraTS up to 2021 (or =[3,4] if the cohort includes later releases)'
    >>> label_remedy(3, [1, 2, 3], {1: "ncr", 2: "ed", 4: "et"})
    'map it, for example with data.label_map.et=[4,3], or set it to 0 in the mask; mapped labels: 1 ncr, 2 ed, 4 et'
    """
    if label == 4 and regions.get(3) == "et" and 3 not in labels:
        mixed = "(or =[3,4] if the cohort includes later releases)"
        return f"set data.label_map.et=4 if it is ET, as in BraTS up to 2021 {mixed}"
    if label == 4 and regions.get(3) == "et":
        return (
            "next to 3, it is not ET as in BraTS up to 2021, but perhaps the resection cavity of BraTS 2024; "
            "set it to 0 in the mask, or assign it to a region, for example with data.label_map.ncr=[1,4]"
        )
    known = ", ".join(f"{value} {region}" for value, region in regions.items())
    if label != round(label) or label < 1:
        return f"set it to 0 in the mask; mapped labels: {known}"
    more = ",".join(f"{value:g}" for value in [*(value for value in regions if regions[value] == "et"), label])
    return f"map it, for example with data.label_map.et=[{more}], or set it to 0 in the mask; mapped labels: {known}"


def _places(volumes: Mapping[str, Volume]) -> Iterator[tuple[str, str, str, bool]]:
    """Compare shapes and affines in RAS with those on which most files agree."""
    if not volumes:
        return
    places = {name: _as_ras(volume) for name, volume in volumes.items()}

    def agreeing(name: str) -> int:
        return sum(_apart_mm(places[name], other) <= _ALIGNMENT_TOLERANCE_MM for other in places.values())

    reference = max(places, key=agreeing)
    shape = places[reference][0]
    for name, place in places.items():
        apart_mm = _apart_mm(place, places[reference])
        if place[0] != shape:
            differs = f"has {list(place[0])} voxels along R, A, S, but {reference} has {list(shape)}"
            yield name, differs, f"resample it to the grid of {reference}", True
        elif apart_mm > _ALIGNMENT_TOLERANCE_MM:
            lies = f"is not aligned with {reference} (corners are up to {apart_mm:.3g} mm apart)"
            remedy = f"resample it to the grid of {reference}, or correct its header"
            if _share_a_grid(volumes[name], volumes[reference]):
                remedy = (
                    f"copy the header of {reference}, and do not resample: qform and sform of one of them disagree, "
                    "but both are on one grid"
                )
            yield name, lies, remedy, True


def _share_a_grid(first: Volume, second: Volume) -> bool:
    """Whether any affine of one volume, qform or sform, is an affine of the other, voxel by voxel."""
    pairs = product(*([one.affine, one.second_affine] for one in (first, second)))
    return first.shape == second.shape and any(
        _apart_mm((first.shape, np.array(a)), (second.shape, np.array(b))) <= _ALIGNMENT_TOLERANCE_MM
        for a, b in pairs
        if a is not None and b is not None
    )


_Place = tuple[tuple[int, ...], NDArray[np.float64]]


def _as_ras(volume: Volume) -> _Place:
    """Return shape and affine of the volume with its axes in the order and direction of R, A, S."""
    from nibabel.orientations import inv_ornt_aff

    affine = np.array(volume.affine)
    axes = ras_axes(affine)
    shape = [0, 0, 0]
    for side, axis in zip(volume.shape, axes[:, 0].astype(int), strict=True):
        shape[axis] = side
    return tuple(shape), affine @ inv_ornt_aff(axes, volume.shape)  # type: ignore[no-untyped-call, unused-ignore]


def _apart_mm(first: _Place, second: _Place) -> float:
    """Return the largest distance between corresponding corners; infinite for different shapes."""
    if first[0] != second[0]:
        return float("inf")
    corners = np.array([[*corner, 1.0] for corner in product(*((0.0, side - 1.0) for side in first[0]))])
    return float(np.linalg.norm((corners @ (first[1] - second[1]).T)[:, :3], axis=1).max())


def _count(number: int) -> str:
    return f"{number} voxel{'' if number == 1 else 's'}"


def _not_finite(volume: Volume) -> str:
    verb = "is" if volume.num_not_finite == 1 else "are"
    return f"{_count(volume.num_not_finite)} that {verb} NaN, infinite or too large for float32"
