"""Readers of volumes: NIfTI, and the interface for sources of other formats.

A reader is all that preparation needs to support a format; checks, cache, targets and pictures then work as for NIfTI
files. Each volume of a subject may be a file, a folder (Zarr, DICOM) or part of one file (HDF5).
"""

from __future__ import annotations

import gzip
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Final

from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from menvae.data.files.nifti import CutShortError, read_volume
from menvae.data.files.stored_volume import StoredVolume

COPY_AGAIN: Final = "copy or download it again"
_GZIP_MAGIC = b"\x1f\x8b"
_POINTERS: Final = {
    b"/annex/objects/": "fetch it (git annex get, datalad get)",
    b"version https://git-lfs.": "fetch it (git lfs pull)",
}
"""How the small files begin that stand for a file that was not fetched."""


class UnreadableError(ValueError):
    """A file cannot be read as a volume.

    Attributes:
        problem: predicate that follows the file name, such as ``is truncated``.
        remedy: what the user can do.
    """

    def __init__(self, problem: str, remedy: str = COPY_AGAIN) -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy


def not_readable(path: Path, error: OSError) -> UnreadableError:
    """Return why the operating system cannot read a volume, and the remedy."""
    if path.is_symlink() and not path.exists():
        return UnreadableError(
            "is a link to a file that does not exist", "fetch it (git annex get, datalad get), or correct the link"
        )
    return UnreadableError(f"cannot be read ({error.strerror})", "check its permissions and the disk")


class Reader(ABC):
    """Reads the volumes of one format. Subclasses are picklable frozen dataclasses: worker processes get a copy.

    Attributes:
        versions: versions of the libraries that read the format, such as ``{"zarr": "3.1"}``; a change invalidates
            cache entries and checks.
    """

    versions: ClassVar[Mapping[str, str]]

    def exists(self, path: Path, name: str) -> bool:
        """Whether a volume exists; a link that leads nowhere does, because its file may not be fetched yet.

        Args:
            path: file or folder of the volume.
            name: modality, or ``seg``; for formats with several volumes per file.
        """
        return path.exists() or path.is_symlink()

    @abstractmethod
    def read(self, path: Path, name: str) -> StoredVolume:
        """Read a volume.

        Args:
            path: file or folder of the volume; the cache key covers all of its content.
            name: modality, or ``seg``.

        Raises:
            UnreadableError: if the volume is damaged or has another format.
            OSError: if the operating system cannot read it.
        """


@dataclass(frozen=True)
class NiftiReader(Reader):
    """NIfTI-1 and NIfTI-2, compressed with gzip or not."""

    versions: ClassVar[Mapping[str, str]] = MappingProxyType({})  # nibabel's version is part of every key

    def exists(self, path: Path, name: str) -> bool:
        """Whether the file exists, or a link to it."""
        return path.is_file() or path.is_symlink()

    def read(self, path: Path, name: str) -> StoredVolume:
        """Read a file whose name ends in ``.nii`` or ``.nii.gz``."""
        return _parsed(path.read_bytes(), path.name)


NIFTI: Final = NiftiReader()


def _parsed(content: bytes, file_name: str) -> StoredVolume:
    is_packed = file_name.endswith(".gz")
    if not content:
        raise UnreadableError("is empty (0 bytes)")
    for beginning, remedy in _POINTERS.items():
        if content.startswith(beginning):
            raise UnreadableError("is a pointer to a file that was not fetched", remedy)
    if is_packed != content.startswith(_GZIP_MAGIC):
        is_named, ending = ("is", ".nii") if is_packed else ("is not", ".nii.gz")
        other = "not compressed with gzip" if is_packed else "compressed with gzip"
        raise UnreadableError(
            f"{is_named} named .nii.gz but is {other}",
            f"rename it to {ending} if it is an intact NIfTI file, otherwise replace it",
        )
    try:
        return read_volume(content, is_packed=is_packed)
    except EOFError as error:
        raise UnreadableError(f"is truncated (its gzip stream ends after {len(content)} bytes)") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UnreadableError(f"is damaged ({error})") from error
    except CutShortError as error:
        raise UnreadableError(f"is truncated ({error})") from error
    except (HeaderDataError, WrapStructError, OSError, ValueError, ArithmeticError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UnreadableError(f"cannot be read as a NIfTI volume ({reason})") from error
