"""Contract of every source of volumes; a store gives the same result as NIfTI files of the same subjects."""

import json
import tempfile
from pathlib import Path
from typing import ClassVar

import nibabel
import numpy as np
import pytest
import zarr
from menvae_example.zarr_store import ZarrSource

from menvae.conformance import DataConformance
from menvae.data.cache.prepare import prepare
from menvae.data.files.subjects import MODALITIES
from menvae.data.sources.brats import BratsSource
from menvae.errors import UserError

AFFINE = np.array([[0, -2.0, 0, 8], [0, 0, 3.0, -8], [-2.0, 0, 0, 4], [0, 0, 0, 1]])
"""Axes in a different order than R, A, S."""
AGES = {"a": 61.0, "b": None, "c": 43.5, "d": 70.0}


def arrays(subject):
    random = np.random.default_rng(list(subject.encode()))
    mask = np.zeros((16, 12, 18), np.uint8)
    mask[3:9, 4:10, 5:10] = 2
    mask[4:8, 5:8, 6:9] = 3
    mask[5:6, 6:8, 7:8] = 1
    return {name: random.integers(1, 900, mask.shape).astype(np.int16) for name in MODALITIES} | {"seg": mask}


def written(folder: Path) -> Path:
    """Write a store of four subjects."""
    store = folder / "heads.zarr"
    root = zarr.create_group(store)
    for subject, age in AGES.items():
        group = root.create_group(subject, attributes={"age_years": age})
        for name, values in arrays(subject).items():
            array = group.create_array(name, data=values, chunks=(8, 8, 8))
            array.attrs["affine"] = AFFINE.tolist()
    return store


KEYS = {"roi_size": (16, 16, 16), "spacing_mm": (2.0, 3.0, 2.5)}
STORE = written(Path(tempfile.mkdtemp(prefix="menvae-zarr-")))


class TestZarrStore(DataConformance):
    names = ("zarr_store",)
    variants: ClassVar = {"zarr_store": [{"store": "/nowhere", "roi_size": [16, 16, 16]}]}
    loadable: ClassVar = {
        "zarr_store": {
            "store": str(STORE),
            "roi_size": [16, 16, 16],
            "spacing_mm": [2.0, 3.0, 2.5],
            "val_fraction": 0.3,
        }
    }


def test_arrays_and_targets_are_those_of_nifti_files(tmp_path):
    for subject in AGES:
        folder = tmp_path / "nifti" / subject
        folder.mkdir(parents=True)
        for name, values in arrays(subject).items():
            nibabel.save(nibabel.Nifti1Image(values, AFFINE), folder / f"{subject}-{name}.nii.gz")
    theirs = prepare(BratsSource(root=str(tmp_path / "nifti"), box="center", **KEYS), tmp_path / "cache", num_workers=1)
    ours = prepare(ZarrSource(store=str(STORE), **KEYS), tmp_path / "cache", num_workers=1)
    for own, other in zip(ours.subjects, theirs.subjects, strict=True):
        assert own.features == {**other.features, "age": AGES[own.subject_id]}
        assert own.native_features == other.native_features
        np.testing.assert_array_equal(own.load().image, other.load().image)
        np.testing.assert_array_equal(own.load().mask, other.load().mask)


def test_weights_depend_on_modalities_and_voxel_size():
    one, other = (ZarrSource(store=str(STORE), **{**KEYS, "spacing_mm": (side, 3.0, 2.5)}) for side in (2.0, 4.0))
    differs = {key for key in one.input_identity if one.identity[key] != other.identity[key]}
    assert differs == {"data.spacing_mm"}
    assert one.input_identity == {"data.modalities", "data.spacing_mm"}


def test_what_is_wrong_is_named(tmp_path):
    store = written(tmp_path)
    (store / "a" / "t1c" / "zarr.json").write_text("{")
    affine = json.loads((store / "b" / "seg" / "zarr.json").read_text())
    del affine["attributes"]["affine"]
    (store / "b" / "seg" / "zarr.json").write_text(json.dumps(affine))
    zarr.open_group(store)["c"].create_array("t2w", data=np.zeros((4, 4, 4)), overwrite=True).attrs["affine"] = np.eye(
        4
    ).tolist()
    with pytest.raises(UserError, match=r"^data: 3 of 4 subjects cannot be used") as caught:
        prepare(ZarrSource(store=str(store), **KEYS), tmp_path / "cache", num_workers=1)
    assert "subject 'a': t1c cannot be read as a Zarr array" in str(caught.value)
    assert "subject 'b': seg cannot be read as a Zarr array ('affine'): copy or download it again" in str(caught.value)
    with pytest.raises(UserError, match=r"data\.store: '.*' is not a Zarr group"):
        prepare(ZarrSource(store=str(tmp_path / "nowhere"), **KEYS), tmp_path / "cache", num_workers=1)


def test_another_affine_or_age_is_another_cohort(tmp_path):
    store = written(tmp_path)
    source, cache = ZarrSource(store=str(store), **KEYS), tmp_path / "cache"
    before = prepare(source, cache, num_workers=1)
    zarr.open_group(store)["a"].attrs["age_years"] = 62.0
    older = prepare(source, cache, num_workers=1)
    assert [subject.key for subject in older.subjects] == [subject.key for subject in before.subjects]
    assert older.data_hash != before.data_hash
    for name in (*MODALITIES, "seg"):
        zarr.open_group(store)[f"b/{name}"].attrs["affine"] = np.diag([2.0, 3.0, 2.0, 1.0]).tolist()
    turned = prepare(source, cache, num_workers=1)
    assert [a.key == b.key for a, b in zip(turned.subjects, before.subjects, strict=True)] == [True, False, True, True]
