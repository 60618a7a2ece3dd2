"""The procedural cohort: determinism, geometry, realism within its table, and the files it writes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from menvae.data.masks.features import FEATURES, mask_features
from menvae.data.phantom import head as scanner
from menvae.data.phantom.anatomy import Anatomy
from menvae.data.phantom.distributions import DISTRIBUTIONS, DISTRIBUTIONS_VERSION, FIELD_OF_VIEW_MM, draw_value
from menvae.data.phantom.head import MODALITIES, PhantomSubject, phantom_subject, write_subject

COARSE = (6.25, 6.25, 6.25)
NCR, ED, ET = 1, 2, 3


def digest(subject: PhantomSubject) -> str:
    parts = [subject.images[name].tobytes() for name in MODALITIES] + [subject.mask.tobytes()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


@cache
def cohort(num_subjects: int = 80) -> list[PhantomSubject]:
    return [phantom_subject(5, index, COARSE) for index in range(num_subjects)]


@cache
def cohort_features() -> NDArray[np.float64]:
    """Features [N, 13] of the cohort, nan where missing."""
    rows = [mask_features(subject.mask, COARSE) for subject in cohort()]
    return np.array([[np.nan if row[name] is None else row[name] for name in FEATURES] for row in rows], dtype=float)


def column(name: str) -> NDArray[np.float64]:
    return cohort_features()[:, FEATURES.index(name)]


# --- determinism ----------------------------------------------------------------------------------------------------


def test_same_bytes_in_another_process_and_in_any_order() -> None:
    here = digest(phantom_subject(3, 11, COARSE))
    phantom_subject(3, 0, COARSE)
    assert digest(phantom_subject(3, 11, COARSE)) == here
    script = (
        "import hashlib; from menvae.data.phantom.head import *; s = phantom_subject(3, 11, (6.25, 6.25, 6.25));"
        "print(hashlib.sha256(b''.join([s.images[n].tobytes() for n in MODALITIES] + [s.mask.tobytes()])).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_seed_and_index_give_different_patients() -> None:
    digests = {digest(phantom_subject(seed, index, COARSE)) for seed in (0, 1) for index in (0, 1, 2)}
    assert len(digests) == 6


# --- geometry -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spacing_mm", "shape"),
    [((6.25, 6.25, 6.25), (32, 32, 32)), ((3.125, 6.25, 8.0), (64, 32, 25)), ((3.0, 7.0, 9.9), (67, 29, 21))],
)
def test_grid(spacing_mm: tuple[float, float, float], shape: tuple[int, int, int]) -> None:
    subject = phantom_subject(0, 12, spacing_mm)
    assert subject.subject_id == "phantom-00012"
    assert tuple(subject.images) == MODALITIES
    for volume in subject.images.values():
        assert volume.shape == shape
        assert volume.dtype == np.int16
    assert subject.mask.shape == shape
    assert subject.mask.dtype == np.uint8
    np.testing.assert_allclose(np.diag(subject.affine), [*spacing_mm, 1.0])
    middle = subject.affine @ [*((np.array(shape) - 1) / 2), 1.0]
    np.testing.assert_allclose(middle, [0.0, 0.0, 0.0, 1.0], atol=1e-9)
    assert all(n * step >= FIELD_OF_VIEW_MM for n, step in zip(shape, spacing_mm, strict=True))


@pytest.mark.parametrize("index", [2, 5, 13])
def test_same_patient_at_every_spacing(index: int) -> None:
    fine = phantom_subject(0, index, (2.0, 2.0, 2.0))
    reference = mask_features(fine.mask, (2.0, 2.0, 2.0))
    for spacing_mm, tolerance in (((3.125, 3.125, 3.125), 0.08), ((4.0, 2.5, 5.0), 0.12), (COARSE, 0.3)):
        found = mask_features(phantom_subject(0, index, spacing_mm).mask, spacing_mm)
        for name in ("vol_total", "vol_et", "vol_ed"):
            if reference[name] is not None:
                assert found[name] == pytest.approx(reference[name], abs=tolerance), (name, spacing_mm)
        for name in ("loc_x", "loc_y", "loc_z"):
            assert found[name] == pytest.approx(reference[name], abs=0.01), (name, spacing_mm)


def test_images_agree_between_spacings() -> None:
    """The mean of 2 x 2 x 2 fine voxels is the coarse voxel, up to noise and thin sulci."""
    fine, coarse = phantom_subject(0, 4, (3.125, 3.125, 3.125)), phantom_subject(0, 4, COARSE)
    for name in MODALITIES:
        # skull stripping drops whole voxels: a coarse voxel is the mean of what is kept of it
        blocks = fine.images[name].reshape(32, 2, 32, 2, 32, 2)
        num_kept = (blocks > 0).sum(axis=(1, 3, 5))
        pooled = np.where(num_kept >= 4, blocks.sum(axis=(1, 3, 5)) / np.maximum(num_kept, 1), 0)
        image = coarse.images[name]
        kept = (pooled > 0) & (image > 0)
        # at the rim each size decides for itself what is kept: a shell of voxels, of which few may differ
        assert ((pooled > 0) != (image > 0)).sum() < 0.04 * kept.sum()
        assert image[kept].mean() == pytest.approx(pooled[kept].mean(), rel=0.01)
        assert np.corrcoef(pooled.ravel(), image.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("spacing_mm", [(2.0, 2.0, 2.0), (1.5, 4.0, 6.0), COARSE])
def test_noise_falls_with_the_root_of_the_voxel_volume(
    monkeypatch: pytest.MonkeyPatch, spacing_mm: tuple[float, float, float]
) -> None:
    subject = phantom_subject(0, 1, spacing_mm)
    levels, render = {}, scanner._render

    def without_noise(*args: Any) -> dict[str, Any]:
        rendered = render(*args)
        levels.update({name: gain * noise for name, (_, gain, noise) in rendered.items()})
        return {name: (signal, gain, 0.0) for name, (signal, gain, _) in rendered.items()}

    monkeypatch.setattr(scanner, "_render", without_noise)
    clean = phantom_subject(0, 1, spacing_mm)
    for name, level in levels.items():
        head = clean.images[name] > 0.3 * clean.images[name].max()  # away from 0, where magnitudes are not Gaussian
        error = subject.images[name].astype(float) - clean.images[name]
        assert error[head].std() == pytest.approx(level / np.sqrt(np.prod(spacing_mm)), rel=0.06, abs=0.3)


def test_sulci_are_common_and_shifted() -> None:
    """Waves of 18 to 27 mm that are shifted by 3.5 mm each agree between two people as exp(-(2 pi 3.5 / length)^2)."""
    places = np.random.default_rng(0).uniform(-60, 60, (3, 4000)).astype(np.float32)
    folds = np.stack([Anatomy(np.random.default_rng(i))._folds(*places) for i in range(60)])
    correlation = np.corrcoef(folds)
    lengths = np.linspace(18, 27, 50)
    expected = np.exp(-((2 * np.pi * 3.5 / lengths) ** 2)).mean()
    assert correlation[np.triu_indices(60, 1)].mean() == pytest.approx(expected, abs=0.08)


def test_head_fits_the_box_and_background_is_zero() -> None:
    for subject in cohort():
        shell = np.ones(subject.mask.shape, dtype=bool)
        shell[1:-1, 1:-1, 1:-1] = False
        head = subject.images["t1n"] > 0
        assert not head[shell].any()
        assert 0.1 < head.mean() < 0.3
        assert (head[subject.mask > 0]).all()
        assert all(np.array_equal(volume > 0, head) for volume in subject.images.values())
        assert all(volume.min() >= 0 and volume.max() < 15000 for volume in subject.images.values())


# --- patients -------------------------------------------------------------------------------------------------------


def test_every_patient_has_an_enhancing_tumour() -> None:
    for subject in cohort():
        assert set(np.unique(subject.mask)) <= {0, NCR, ED, ET}
        assert (subject.mask == ET).sum() >= 3


def test_contrasts_of_a_meningioma() -> None:
    enhanced, bright_oedema = [], []
    for subject in cohort():
        healthy = (subject.mask == 0) & (subject.images["t1n"] > 0)
        means = {name: np.median(volume[healthy]) for name, volume in subject.images.items()}
        enhanced.append(subject.images["t1c"][subject.mask == ET].mean() / means["t1c"])
        if (subject.mask == ED).sum() > 5:
            bright_oedema.append(subject.images["t2f"][subject.mask == ED].mean() / means["t2f"])
    assert np.median(enhanced) > 1.5
    assert np.median(bright_oedema) > 1.3


def test_volumes_and_prevalences_follow_the_table() -> None:
    core_ml = [((s.mask == NCR) | (s.mask == ET)).sum() * 6.25**3 / 1000 for s in cohort()]
    assert 14.0 < np.median(core_ml) < 31.0  # the table says 21 mL, n = 80
    total_ml = np.expm1(column("vol_total")) / 1000
    assert 15.0 < np.median(total_ml) < 50.0
    assert np.quantile(total_ml, 0.9) / np.quantile(total_ml, 0.1) > 8.0
    assert 0.37 < np.isfinite(column("vol_ed")).mean() < 0.75
    assert 0.3 < np.isfinite(column("vol_ncr")).mean() < 0.65  # some of the drawn half vanish in coarse voxels


def test_shape_and_location_vary_and_volume_does_not_explain_them() -> None:
    for name in ("loc_x", "loc_y", "loc_z"):
        assert column(name).std() > 0.08
        assert abs(np.corrcoef(column(name), column("vol_total"))[0, 1]) < 0.4
    for name, spread in (("sphericity_total", 0.04), ("solidity_total", 0.03), ("aspect_xy_total", 0.15)):
        assert column(name).std() > spread, name
        assert abs(np.corrcoef(column(name), column("vol_total"))[0, 1]) < 0.75, name


def test_most_tumours_touch_the_edge_of_the_stripped_head() -> None:
    from scipy import ndimage

    touching = 0
    for subject in cohort():
        outside = ndimage.binary_dilation(subject.images["t1n"] == 0, iterations=1)
        touching += bool((outside & (subject.mask > 0)).any())
    assert touching / len(cohort()) > 0.75  # falx tumours do not; LaBella et al. 2024 report 90.3 %


def test_average_head_has_the_volume_that_scales_it() -> None:
    line = ((np.arange(64) + 0.5) * 3.125 - 100).astype(np.float32)
    volumes_ml = []
    for seed in range(12):
        anatomy = Anatomy(np.random.default_rng(seed))
        surface_mm = anatomy.surface_mm(line[:, None, None], line[None, :, None], line[None, None, :])
        assert surface_mm.dtype == np.float32
        volumes_ml.append((surface_mm < 0).sum() * 3.125**3 / 1000 / np.prod(anatomy.scale))
    assert np.mean(volumes_ml) == pytest.approx(Anatomy._AVERAGE_VOLUME_ML, rel=0.005)


# --- the table ------------------------------------------------------------------------------------------------------


def test_every_row_is_drawable_and_names_its_source() -> None:
    rng = np.random.default_rng(0)
    assert len({row.parameter for row in DISTRIBUTIONS}) == len(DISTRIBUTIONS)
    for row in DISTRIBUTIONS:
        drawn = [draw_value(rng, row.parameter, covariate=20.0) for _ in range(200)]
        assert np.isfinite(drawn).all()
        assert row.source
        assert row.unit
        if row.kind == "lognormal":
            assert row.values[2] <= min(drawn) <= max(drawn) <= row.values[3]
            assert np.median(drawn) == pytest.approx(row.values[0], rel=0.3)
        elif row.kind == "uniform":
            assert row.values[0] <= min(drawn) <= max(drawn) <= row.values[1]
        elif row.kind == "categorical":
            assert set(drawn) == set(range(len(row.values)))


def test_version_is_short_and_of_the_table() -> None:
    assert len(DISTRIBUTIONS_VERSION) == 12
    assert int(DISTRIBUTIONS_VERSION, 16) >= 0


@pytest.mark.parametrize(
    ("seed", "index", "spacing_mm", "message"),
    [
        (-1, 0, COARSE, "seed"),
        (0, -1, COARSE, "index"),
        (0, 0, (0.0, 1.0, 1.0), "spacing_mm"),
        (0, 0, (1.0, 1.0, 50.0), "spacing_mm"),
    ],
)
def test_refuses_wrong_arguments(seed: int, index: int, spacing_mm: tuple[float, float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        phantom_subject(seed, index, spacing_mm)


# --- files ----------------------------------------------------------------------------------------------------------


def test_written_subject_reads_back(tmp_path: Path) -> None:
    subject = phantom_subject(0, 7, COARSE)
    folder = write_subject(subject, tmp_path / "cohort")
    assert folder == tmp_path / "cohort" / "phantom-00007"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"phantom-00007-{name}.nii.gz" for name in (*MODALITIES, "seg")
    )
    for name, expected in (*subject.images.items(), ("seg", subject.mask)):
        image = nibabel.load(folder / f"phantom-00007-{name}.nii.gz")
        assert image.get_data_dtype() == expected.dtype
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), expected)
        np.testing.assert_allclose(image.affine, subject.affine)
        assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
        assert image.header.get_xyzt_units()[0] == "mm"


def test_writing_again_keeps_what_is_there_and_leaves_nothing_behind(tmp_path: Path) -> None:
    subject = phantom_subject(0, 1, COARSE)
    folder = write_subject(subject, tmp_path)
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    assert write_subject(phantom_subject(9, 1, COARSE), tmp_path) == folder
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    again = write_subject(subject, tmp_path / "other")
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        name: data for name, (_, data) in before.items()
    }


def test_a_lost_race_keeps_the_winner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = phantom_subject(0, 1, COARSE)
    compress = scanner.gzip.compress

    def compress_slowly(*arguments: object, **options: object) -> bytes:
        winner = tmp_path / subject.subject_id
        winner.mkdir(exist_ok=True)
        (winner / "winner").touch()
        return compress(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(scanner.gzip, "compress", compress_slowly)
    assert [path.name for path in write_subject(subject, tmp_path).iterdir()] == ["winner"]
    assert [path.name for path in tmp_path.iterdir()] == [subject.subject_id]
