"""Groups of parts, and the configuration folders of menvae and its plugins; light, because completion reads them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

ENTRY_POINT_GROUP = "menvae.parts"

GROUPS: Mapping[str, str] = {
    "encoder": "menvae.encoders",
    "decoder": "menvae.decoders",
    "head": "menvae.heads",
    "model": "menvae.models",
    "term": "menvae.terms",
    "schedule": "menvae.schedules",
    "optimizer": "menvae.optimizers",
    "update": "menvae.updates",
    "metric": "menvae.metrics",
    "data": "menvae.data.sources",
    "growth": "menvae.growth",
    "runner": "menvae.sweeps.runners",
    "tracker": "menvae.tracking",
    "observer": "menvae.observers",
    "picture": "menvae.pictures",
}
"""Registry group -> package whose modules register its built-in parts."""


def configuration_folder(package: str) -> Path | None:
    """Return the ``conf`` folder of an installed package, or None if it has none.

    The folder lies inside the package; in a checkout of menvae it lies beside the package.
    """
    specification = find_spec(package)
    folders = (
        [Path(place) / "conf" for place in (specification.submodule_search_locations or [])] if specification else []
    )
    if package == "menvae":
        folders.append(Path(__file__).resolve().parents[1] / "conf")
    return next((folder for folder in folders if folder.is_dir()), None)


def places_of(package: str) -> list[Path]:
    """Return the folders of a package, or the file of a single module; empty if it cannot be found."""
    spec = find_spec(package)
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(place) for place in spec.submodule_search_locations]
    return [Path(spec.origin)] if spec.origin is not None else []


def folder_of(group: str) -> str:
    """Return the folder of ``conf/`` with the files of a group; Hydra calls that of runners ``hydra/launcher``."""
    return "hydra/launcher" if group == "runner" else group
