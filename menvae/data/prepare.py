"""NIfTI -> cache: orientation, spacing, box and z-score with MONAI transforms, and the targets of the mask.

One entry a subject: ``<cache>/prepared/<key>/`` with ``image.npy`` (float32 [C, D, H, W]), ``mask.npy`` (uint8
[D, H, W]) and ``subject.json``. The key is a hash of the source files, the geometry and the versions that made it, so a
changed file, box or library never meets a stale entry. An entry appears by one rename, so it is whole or absent.

Before the first subject is prepared, the files of all that have no entry are checked.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache as cached
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from menvae.data.box import BoxReport
from menvae.data.checks import Finding
from menvae.data.digests import digest_of, file_digest, remembered_digest
from menvae.data.features import mask_features
from menvae.data.screening import check_files, without_faulty
from menvae.data.subjects import REGION_CODES, Geometry, Source, SubjectFiles
from menvae.data.workers import ShowProgress, run_tasks, unseen
from menvae.errors import UserError

_log = logging.getLogger(__name__)

PREPARATION_VERSION = 4
"""Raise it when prepared arrays or features change: every cache entry is then made anew."""

_LIBRARIES = ("monai", "nibabel", "scikit-image", "scipy")
_LEAST_TUMOUR_KEPT = 0.95


@dataclass(frozen=True)
class StoredSubject:
    """The arrays of an entry: image [C, D, H, W], mask [D, H, W], and per channel what makes z-scores of an image."""

    image: NDArray[Any]
    mask: NDArray[np.uint8]
    mean: tuple[float, ...]
    sd: tuple[float, ...]


@dataclass(frozen=True)
class PreparedSubject:
    """One entry of the cache.

    Attributes:
        subject_id: as in the source.
        folder: where the arrays lie.
        key: content hash.
        features: raw targets in the geometry of training; None where not observed.
        native_features: the same at native resolution.
        box: what the box of training holds of the subject.
        spacing_mm: voxel size of training.
        patient_id: whose visit it is.
        days: of the visit; None if it is not known.
    """

    subject_id: str
    folder: Path
    key: str
    features: Mapping[str, float | None]
    native_features: Mapping[str, float | None]
    box: BoxReport
    spacing_mm: tuple[float, float, float]
    patient_id: str
    days: float | None

    def load(self) -> StoredSubject:
        """Read the arrays."""
        image, mask = np.load(self.folder / "image.npy"), np.load(self.folder / "mask.npy")
        return StoredSubject(image, mask, (0.0,) * len(image), (1.0,) * len(image))


@dataclass(frozen=True)
class Cohort:
    """All prepared subjects of a source, sorted by identifier.

    Attributes:
        subjects: the entries.
        data_hash: hash of all entries' keys and identifiers.
        findings: what is to be said about subjects, those that were left out included.
    """

    subjects: tuple[PreparedSubject, ...]
    data_hash: str
    findings: tuple[Finding, ...] = ()


def prepare(source: Source, cache: Path, num_workers: int | None = None, show: ShowProgress = unseen) -> Cohort:
    """Return the cohort of ``source``, preparing what the cache does not hold.

    Args:
        source: where subjects come from, and the geometry to bring them to.
        cache: folder for entries; made if missing. Two processes may prepare into it at once.
        num_workers: processes; None is one a core.
        show: how to show progress.

    Raises:
        UserError: what is wrong with the source or with its subjects.
    """
    cache.mkdir(parents=True, exist_ok=True)
    subjects = source.subjects(cache, show)
    findings: list[Finding] = []
    there = {subject.subject_id: _key_of_entry(subject, source.geometry, cache) for subject in subjects}
    if source.checks_files:
        new = [subject for subject in subjects if there[subject.subject_id] is None]
        findings = check_files(new, source.regions, cache, num_workers, show)
        subjects = without_faulty(subjects, findings, leave_out=source.on_error == "skip")
    keys = {
        subject.subject_id: there[subject.subject_id] or _entry_key(subject, source.geometry, cache)
        for subject in subjects
    }
    tasks = [
        _Task(subject, source.geometry, cache, keys[subject.subject_id])
        for subject in subjects
        if there[subject.subject_id] is None and not (cache / "prepared" / keys[subject.subject_id]).is_dir()
    ]
    if tasks:
        _log.info("preparing %d of %d subjects into %s", len(tasks), len(subjects), cache)
        (cache / "prepared").mkdir(exist_ok=True)
        for _ in show(run_tasks(_prepare_entry, tasks, num_workers=num_workers), "preparing", len(tasks)):
            pass
    spacing_mm = source.geometry.spacing_mm
    entries = tuple(
        _read_entry(cache / "prepared" / keys[subject.subject_id], subject, spacing_mm) for subject in subjects
    )
    _warn_of_cut_tumours(entries)
    return Cohort(entries, digest_of([[entry.subject_id, entry.key] for entry in entries]), tuple(findings))


def _warn_of_cut_tumours(entries: Sequence[PreparedSubject]) -> None:
    cut = [entry for entry in entries if entry.box.tumour_kept < _LEAST_TUMOUR_KEPT]
    if cut:
        worst = min(cut, key=lambda entry: entry.box.tumour_kept)
        _log.warning(
            "the box cuts the tumour of %d of %d subjects, most of all that of '%s', of which %.0f %% is left; its "
            "targets are those of the rest: enlarge data.roi_size or data.spacing_mm",
            *(len(cut), len(entries), worst.subject_id, 100 * worst.box.tumour_kept),
        )


@dataclass(frozen=True)
class _Task:
    subject: SubjectFiles
    geometry: Geometry
    cache: Path
    key: str


def _prepare_entry(task: _Task) -> str:
    from menvae.data.transforms import load_and_resample

    try:
        prepared = load_and_resample(task.subject, task.geometry)
    finally:  # whatever else went wrong then comes from that
        if _entry_key(task.subject, task.geometry, task.cache) != task.key:
            raise UserError(
                f"subject '{task.subject.subject_id}': its files changed while they were prepared; start again when "
                "nothing writes to them"
            )
    description = {
        "subject_id": task.subject.subject_id,
        "features": mask_features(prepared.mask, task.geometry.spacing_mm),
        "native_features": mask_features(prepared.native_mask, prepared.native_spacing_mm),
        "box": asdict(prepared.box),
    }
    _publish(task.cache / "prepared" / task.key, prepared.image, prepared.mask, description)
    return task.subject.subject_id


def _publish(entry: Path, image: NDArray[np.float32], mask: NDArray[np.uint8], description: Mapping[str, Any]) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=".", dir=entry.parent))
    try:
        np.save(temporary / "image.npy", image)
        np.save(temporary / "mask.npy", mask)
        (temporary / "subject.json").write_text(json.dumps(description))
        temporary.chmod(0o755)
        temporary.rename(entry)
    except OSError:
        if not entry.is_dir():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read_entry(entry: Path, subject: SubjectFiles, spacing_mm: tuple[float, float, float]) -> PreparedSubject:
    description = json.loads((entry / "subject.json").read_text())
    return PreparedSubject(
        subject.subject_id,
        entry,
        entry.name,
        description["features"],
        description["native_features"],
        BoxReport(**description["box"]),
        spacing_mm,
        subject.subject_id,
        None,
    )


def _entry_key(subject: SubjectFiles, geometry: Geometry, cache: Path) -> str:
    try:
        digests = {name: file_digest(path, cache) for name, path in subject.files.items()}
    except OSError as error:
        raise UserError(f"subject '{subject.subject_id}': {error.filename} cannot be read: {error.strerror}") from error
    return _key_of(digests, geometry)


def _key_of_entry(subject: SubjectFiles, geometry: Geometry, cache: Path) -> str | None:
    """Return the key of the subject's entry if there is one, without reading the subject's files."""
    if subject.doubles or not all(path.is_file() for path in subject.files.values()):
        return None
    digests = {name: remembered_digest(path, cache) for name, path in subject.files.items()}
    known = {name: digest for name, digest in digests.items() if digest is not None}
    key = _key_of(known, geometry)
    return key if len(known) == len(digests) and (cache / "prepared" / key).is_dir() else None


def _key_of(digests: Mapping[str, str], geometry: Geometry) -> str:
    made_by = {"menvae": PREPARATION_VERSION, "codes": dict(REGION_CODES)} | _library_versions()
    return digest_of([list(digests.items()), asdict(geometry), made_by])  # a list keeps the order of the channels


@cached
def _library_versions() -> dict[str, Any]:
    return {package: version(package) for package in _LIBRARIES}
