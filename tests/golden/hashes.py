"""Run hashes and cache keys: of five configurations with their data, and of every composed experiment without."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from golden.artefacts import CURRENT, overrides
from golden.internals import LIBRARIES_OF_KEYS, Experiment, Place, __version__, identify, run_hash
from omegaconf import OmegaConf
from shrunk import composed, names

FILE = Path(__file__).parent / "hashes.json"
DATASETS = ("data=phantom", "data=phantom with semivae_run6", "data=phantom_growth", "data=brats", "data=table")
LIBRARIES = {name: version(name) for name in LIBRARIES_OF_KEYS}
"""Versions that cache keys hold."""

_BRATS = ("data=brats", "data.roi_size=[16,16,16]", "data.spacing_mm=[10,10,10]", "data.val_fraction=0.34")


def with_data(name: str, folder: Path) -> dict[str, Any]:
    """Return the run's name, the hashes of its data and targets, and the cache keys of one of `DATASETS`.

    Subjects are those of ``artefacts/``, so that no other zlib or processor changes their files.

    Args:
        name: one of `DATASETS`.
        folder: empty; for copies.
    """
    output_dir = folder / "outputs"
    shutil.copytree(CURRENT / ("table" if name == "data=table" else "cohort"), output_dir)
    here = Place(torch.device("cpu"), 0, 1)
    experiment = Experiment.from_config(composed(*_overrides(name, folder), f"output_dir={output_dir}"))
    data = experiment.load_data(here)
    found: dict[str, Any] = {"run": identify(experiment, data, 1), "data": data.data_hash, "targets": data.targets_hash}
    if data.volumes is not None:
        found["cache_keys"] = {subject.subject_id: subject.key for subject in data.volumes.cohort.subjects}
    return found


def _overrides(name: str, folder: Path) -> list[str]:
    if name == "data=phantom_growth":
        return overrides(__version__, "growth", folder)
    if name == "data=table":
        return overrides(__version__, "table", folder / "outputs")
    if name == "data=brats":
        (phantoms,) = (CURRENT / "cohort" / "cache" / "phantom").iterdir()
        root = folder / "cohort"
        for number, subject in enumerate(sorted(phantoms.iterdir())):
            renamed = root / f"BraTS-MEN-{number // 2:05d}-{number % 2:03d}"  # two visits of a patient
            renamed.mkdir(parents=True)
            for file in subject.iterdir():
                shutil.copy(file, renamed / file.name.replace(subject.name, renamed.name))
        return [*_BRATS, f"data.root={root}"]
    of_cohort = overrides(__version__, "cohort", folder)
    if "run6" not in name:
        return of_cohort
    return ["experiment=semivae_run6", *(override for override in of_cohort if not override.startswith("model."))]


def of_configurations() -> dict[str, str]:
    """Return the hash that each whole configuration would have with data of the same hashes."""
    found = {}
    for name in ("default", *names("experiment")):
        whole = composed(*([] if name == "default" else [f"experiment={name}"]))
        content = OmegaConf.to_container(whole, resolve=True)
        assert isinstance(content, dict)
        found[name] = run_hash({str(key): value for key, value in content.items()}, "data", "targets")
    return found


def measured(folder: Path) -> dict[str, Any]:
    """Return all that is stored."""
    datasets = {}
    for number, name in enumerate(DATASETS):
        (folder / str(number)).mkdir()
        datasets[name] = with_data(name, folder / str(number))
    return {"libraries": LIBRARIES, "with_data": datasets, "of_configurations": of_configurations()}


def stored() -> dict[str, Any]:
    """Return what is committed."""
    content: dict[str, Any] = json.loads(FILE.read_text())
    return content
