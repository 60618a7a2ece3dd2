"""One subject of the procedural cohort: head and tumour on a grid, a simulated scan, and its NIfTI files."""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from menvae.data.phantom.anatomy import Anatomy, Tissues
from menvae.data.phantom.distributions import FIELD_OF_VIEW_MM, INTENSITIES, VISIT_STREAM, draw_value, random_streams
from menvae.data.phantom.shapes import Float, Point, Waves, occupancy
from menvae.data.phantom.tumour import PhantomVisit, Tumour
from menvae.files import new_folder

MODALITIES: Final = ("t1c", "t1n", "t2f", "t2w")
NCR, ED, ET = 1, 2, 3

Factors = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class PhantomSubject:
    """One generated patient.

    Attributes:
        subject_id: `phantom-` and the five-digit index; for patients with several visits also the three-digit visit.
        images: one int16 volume [D, H, W] = (R, A, S) per modality t1c, t1n, t2f, t2w; 0 outside the head.
        mask: uint8 labels [D, H, W]: 0 background, 1 NCR, 2 ED, 3 ET.
        affine: [4, 4] voxel index to RAS in mm.
        factors: group -> {factor: value}, see `phantom_factors`.
    """

    subject_id: str
    images: dict[str, NDArray[np.int16]]
    mask: NDArray[np.uint8]
    affine: NDArray[np.float64]
    factors: Factors


def phantom_factors(seed: int, index: int, visit: PhantomVisit | None = None) -> Factors:
    """Return what generated a patient, without its images.

    Args:
        seed: seed of the cohort, 0 or more.
        index: index of the patient, 0 or more.
        visit: one of several visits; None for a single visit.

    Returns:
        ``volume``, ``place`` and ``shape`` of the tumour (see `menvae.data.phantom.tumour.Tumour`) and ``head``
        (see `menvae.data.phantom.anatomy.Anatomy`). Intensities, noise and the folds of the cortex are left out.

    >>> {group: list(factors) for group, factors in phantom_factors(seed=0, index=3).items() if group != "head"}
    {'volume': ['tumour', 'oedema', 'core'], 'place': ['x', 'y', 'z'], 'shape': ['height', 'elongation', 'lobes']}
    """
    anatomy, tumour = _patient(_streams(seed, index), visit)
    return _factors(anatomy, tumour)


def phantom_subject(
    seed: int, index: int, spacing_mm: tuple[float, float, float], visit: PhantomVisit | None = None
) -> PhantomSubject:
    """Generate one patient of a cohort.

    The patient depends only on (seed, index): not on the size of the cohort nor, except for sampling, on the spacing.
    The box spans 200 mm: ceil(200 / spacing) voxels along each axis.

    All visits of a patient share the head and the tumour's seat, axes, lobes, texture, contrast, share of necrosis and
    ratio of oedema to tumour. The tumour grows away from the dura it is attached to.

    Args:
        seed: seed of the cohort, 0 or more.
        index: index of the patient, 0 or more.
        spacing_mm: voxel size along R, A, S in mm, each between 0.5 and 10.
        visit: one of several visits; None for a single visit.

    Returns:
        Images, mask and affine.

    Raises:
        ValueError: if an argument is out of range.

    >>> subject = phantom_subject(seed=0, index=3, spacing_mm=(6.25, 6.25, 6.25))
    >>> subject.subject_id, subject.mask.shape, sorted(subject.images)
    ('phantom-00003', (32, 32, 32), ['t1c', 't1n', 't2f', 't2w'])
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must be 0 or more, got seed={seed} and index={index}")
    if len(spacing_mm) != 3 or not all(0.5 <= step <= 10.0 for step in spacing_mm):
        raise ValueError(f"spacing_mm must be 3 numbers between 0.5 and 10, got {spacing_mm}")
    streams = _streams(seed, index)
    anatomy, tumour = _patient(streams, visit)
    scanner, errors_of = (
        (streams[2], streams[3]) if visit is None else random_streams(seed, index, VISIT_STREAM, visit.number)
    )
    grid = _Grid.around(anatomy, spacing_mm, (1, 1, 1))
    _, labels, _ = _fill(grid, anatomy, tumour)
    # a coarse voxel measures the mean of its content, so tissue is sampled at several points, about 3 mm apart
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
        # skull stripping follows the scan and keeps or drops whole voxels, so no rim is partially filled;
        # voxels of the head are never 0, voxels outside always are
        images[name] = np.where(share >= 0.5, np.maximum(np.rint(measured), 1), 0).astype(np.int16)
    mask = np.zeros(grid.shape, dtype=np.uint8)
    mask.ravel()[grid.inside] = labels
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * step for n, step in zip(grid.shape, spacing_mm, strict=True)]
    subject_id = f"phantom-{index:05d}" + ("" if visit is None else f"-{visit.number:03d}")
    return PhantomSubject(subject_id, images, mask, affine, _factors(anatomy, tumour))


def write_subject(subject: PhantomSubject, folder: Path) -> Path:
    """Write a subject in the BraTS-MEN layout: `<id>/<id>-{t1c,t1n,t2f,t2w,seg}.nii.gz`.

    The subject folder appears atomically, so a killed process leaves no partial subject and several processes may write
    the same one. An existing folder is kept unchanged.

    Args:
        subject: result of `phantom_subject`.
        folder: cohort folder, created if missing.

    Returns:
        The subject's folder.
    """
    import nibabel

    final = folder / subject.subject_id
    if final.exists():
        return final
    folder.mkdir(parents=True, exist_ok=True)
    with new_folder(final) as partial:
        for name, volume in (*subject.images.items(), ("seg", subject.mask)):
            image = nibabel.nifti1.Nifti1Image(volume, subject.affine)  # type: ignore[no-untyped-call, unused-ignore]
            image.header.set_xyzt_units("mm")  # type: ignore[no-untyped-call, unused-ignore]
            packed = gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)  # mtime: same subject, same bytes
            (partial / f"{subject.subject_id}-{name}.nii.gz").write_bytes(packed)
    return final


def make_subject(task: tuple[int, int, tuple[float, float, float], Path]) -> str:
    """Generate a subject and write its files; a task of a worker process, which thus imports no torch.

    Args:
        task: seed of the cohort, index of the subject, voxel size in mm, cohort folder.

    Returns:
        The subject's identifier.
    """
    seed, index, spacing_mm, folder = task
    return write_subject(phantom_subject(seed, index, spacing_mm), folder).name


def _streams(seed: int, index: int) -> list[np.random.Generator]:
    return [np.random.default_rng(child) for child in np.random.SeedSequence([seed, index]).spawn(4)]


def _patient(streams: Sequence[np.random.Generator], visit: PhantomVisit | None) -> tuple[Anatomy, Tumour]:
    anatomy = Anatomy(streams[0])
    return anatomy, Tumour(streams[1], anatomy, visit)


def _factors(anatomy: Anatomy, tumour: Tumour) -> Factors:
    return {**tumour.factors, "head": anatomy.factors}


def _num_voxels(step_mm: float) -> int:
    return math.ceil(round(FIELD_OF_VIEW_MM / step_mm, 6))


@dataclass(frozen=True)
class _Grid:
    """Sample points in the 200 mm box, one or more per voxel and axis; only points in or near the head are used.

    Attributes:
        shape: voxels along D, H, W.
        samples: points per voxel along each axis.
        spacing_mm: distance of points along each axis.
        inside: flat indices of the points in use [N].
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
    def around(cls, anatomy: Anatomy, voxel_mm: Point, samples: tuple[int, int, int]) -> _Grid:
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
        """Mean of values [N] over all points of each voxel, counting unused points as 0: [D, H, W]."""
        blocks = [size for pair in zip(self.shape, self.samples, strict=True) for size in pair]
        volume = np.zeros(math.prod(blocks), dtype=np.float32)
        volume[self.inside] = values
        mean: Float = volume.reshape(blocks).mean(axis=(1, 3, 5))
        return mean


def _fill(grid: _Grid, anatomy: Anatomy, tumour: Tumour) -> tuple[Float, NDArray[np.uint8], Tissues]:
    """Return, per point, the share that skull stripping keeps, the label, and the tissues including the tumour."""
    x, y, z = grid.points
    surface_mm = grid.rough_mm + anatomy.relief_mm(x, y, z)
    tissues = anatomy.tissues(x, y, z, surface_mm, math.prod(grid.spacing_mm) ** (1 / 3))
    head, labels = _add_tumour(tissues, tumour, grid.points, surface_mm, grid.spacing_mm)
    return head, labels, tissues


def _add_tumour(
    tissues: Tissues, tumour: Tumour, points: tuple[Float, Float, Float], surface_mm: Float, spacing_mm: Point
) -> tuple[Float, NDArray[np.uint8]]:
    """Add the tumour to the tissues in place.

    Returns:
        The share of each voxel that skull stripping keeps (brain or tumour) and the labels, both [N]. A voxel gets the
        label of its largest part if tumour and oedema fill at least half of it.
    """
    step_mm = math.prod(spacing_mm) ** (1 / 3)
    head = occupancy(surface_mm, step_mm)
    near = tumour.near(*points)
    # coarse voxels are sampled at several points, about 3 mm apart
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
    # shares of the kept part: tumour replaces all tissue, oedema all but CSF (sulci stay visible)
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
    patient: np.random.Generator, scanner: np.random.Generator, tissues: Tissues, points: tuple[Float, Float, Float]
) -> dict[str, tuple[Float, float, float]]:
    """Noise-free signal [N] (contrast, texture, bias field), gain, and noise at 1 mm^3, for each modality.

    Both generators are the same object for a patient with a single visit.
    """
    tumour_texture = 1 + draw_value(patient, "tumour_texture") * Waves.draw(patient, 4, 9.0, 22.0)(*points)
    tissue_texture = 1 + 0.02 * Waves.draw(patient, 3, 12.0, 40.0)(*points)
    bias = Waves.draw(scanner, 3, 180.0, 400.0)(*points)  # the coil profile is common to the modalities of a visit
    rendered = {}
    for name in MODALITIES:
        normal = [level * draw_value(scanner, "tissue_contrast") for level in INTENSITIES[name][:3]]
        lesion = [level * draw_value(patient, "tumour_contrast") for level in INTENSITIES[name][3:]]
        gain, bias_size, noise = (draw_value(scanner, row) for row in ("scanner_gain", "bias_field", "noise"))
        signal = normal[0] * tissues.white
        signal += normal[1] * tissues.grey + normal[2] * tissues.csf
        signal *= tissue_texture
        tumour = lesion[0] * tissues.ncr + lesion[2] * tissues.enhancing
        signal += tumour * tumour_texture + lesion[1] * tissues.oedema
        signal *= np.exp(bias_size * bias)
        rendered[name] = (signal, gain, noise)
    return rendered
