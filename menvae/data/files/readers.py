"""How the volumes of a subject are read: NIfTI, and what a source of another format brings.

A reader is all that preparation needs of a format; checks, cache, targets and pictures are then those of NIfTI files. A
subject's volumes may be a file each, a folder each (Zarr, DICOM) or parts of one file (HDF5).
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


class UnreadableError(ValueError):
    """A file that gives no volume.

    Attributes:
        problem: what follows its name: ``is cut short``.
        remedy: what to do.
    """

    def __init__(self, problem: str, remedy: str = COPY_AGAIN) -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy


class Reader(ABC):
    """Reads the volumes of one format. A frozen dataclass at module level: worker processes get a copy.

    Attributes:
        versions: of what reads the format, such as ``{"zarr": "3.1"}``; another version prepares and checks anew.
    """

    versions: ClassVar[Mapping[str, str]]

    def exists(self, path: Path, name: str) -> bool:
        """Whether a volume is there.

        Args:
            path: its file or folder.
            name: modality, or ``seg``; for formats that hold several volumes in a file.
        """
        return path.exists()

    @abstractmethod
    def read(self, path: Path, name: str) -> StoredVolume:
        """Read a volume.

        Args:
            path: its file or folder; the content of all of it is what the cache goes by.
            name: modality, or ``seg``.

        Raises:
            UnreadableError: it is damaged, or not of the format.
            OSError: the operating system does not hand it out.
        """


@dataclass(frozen=True)
class NiftiReader(Reader):
    """NIfTI-1 and NIfTI-2, compressed with gzip or not."""

    versions: ClassVar[Mapping[str, str]] = MappingProxyType({})  # nibabel's counts for every format

    def exists(self, path: Path, name: str) -> bool:
        """Whether there is a file."""
        return path.is_file()

    def read(self, path: Path, name: str) -> StoredVolume:
        """Read a file whose name ends in ``.nii`` or ``.nii.gz``."""
        return _parsed(path.read_bytes(), path.name)


NIFTI: Final = NiftiReader()


def _parsed(content: bytes, file_name: str) -> StoredVolume:
    is_packed = file_name.endswith(".gz")
    if not content:
        raise UnreadableError("is empty (0 bytes)")
    if is_packed != content.startswith(_GZIP_MAGIC):
        is_named, ending = ("is", ".nii") if is_packed else ("is not", ".nii.gz")
        other = "not compressed with gzip" if is_packed else "compressed with gzip"
        raise UnreadableError(
            f"{is_named} named .nii.gz but is {other}", f"name it {ending} if it is a whole NIfTI file, else replace it"
        )
    try:
        return read_volume(content, is_packed=is_packed)
    except EOFError as error:
        raise UnreadableError(f"is cut short, its compressed stream breaks off after {len(content)} bytes") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UnreadableError(f"is damaged ({error})") from error
    except CutShortError as error:
        raise UnreadableError(f"is cut short, {error}") from error
    except (HeaderDataError, WrapStructError, OSError, ValueError, ArithmeticError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UnreadableError(f"cannot be read as a NIfTI volume ({reason})") from error
