"""``menvae-prepare`` as a user starts it."""

from __future__ import annotations

import csv
import json
import re
import signal
import sys
from dataclasses import fields
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from runs import DRAWN, Started, environment, only_run, train

from menvae.apps import prepare
from menvae.data.phantom.head import phantom_subject, write_subject
from menvae.data.targets.declaration import MASK_TARGETS, by_group
from menvae.preparation.report import PreparationSettings
from menvae.registry import configuration_folder

SPACING = (10.0, 10.0, 10.0)
COHORT = ("data.num_subjects=20", "data.roi_size=[16,16,16]", "data.spacing_mm=[10,10,10]")
SPLIT = ("data.val_fraction=0.4", "data.test_fraction=0.0")


def run(monkeypatch: pytest.MonkeyPatch, cwd: Path, *overrides: str) -> int:
    cwd.mkdir(exist_ok=True)
    monkeypatch.chdir(cwd)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the command sets it; this puts it back
    monkeypatch.setattr(sys, "argv", ["menvae-prepare", *overrides])
    with pytest.raises(SystemExit) as ended:
        prepare.main()
    return int(ended.value.code or 0)


def folder(root: Path, *indices: int) -> Path:
    for index in indices:
        write_subject(phantom_subject(0, index, SPACING), root)
    return root


def real(root: Path, output_dir: Path) -> list[str]:
    keys = ["data.roi_size=[16,16,16]", "data.spacing_mm=[10,10,10]", f"output_dir={output_dir}"]
    return ["data=brats", f"data.root={root}", *keys]


def test_keys_are_those_of_train_and_of_the_settings() -> None:
    with initialize_config_dir(str(configuration_folder("menvae")), version_base="1.3"):
        for overrides in ([], ["targets.missing=zero"], ["data=brats", "data.root=/data"]):
            own, train_ = (OmegaConf.to_container(compose(name, overrides)) for name in ("prepare", "train"))
            assert isinstance(own, dict)
            assert isinstance(train_, dict)
            assert (own["data"], own["targets"]) == (train_["data"], train_["targets"])
        supervision = OmegaConf.to_container(compose("train").model.supervision)
    settings = {field.name: field.default for field in fields(PreparationSettings)}
    assert {key: value for key, value in own.items() if key not in ("data", "targets")} == settings
    assert supervision == {partition: list(names) for partition, names in by_group(MASK_TARGETS).items()}


def test_train_prepares_nothing_afterwards_and_has_the_same_targets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output_dir = tmp_path / "outputs"
    assert run(monkeypatch, tmp_path / "cwd", *COHORT, *SPLIT, f"output_dir={output_dir}") == 0
    printed = capfd.readouterr().out
    assert "20 subjects:" in printed
    assert "Splits: 12 train, 8 val, from 20 patients." in printed
    assert "vol_total and surface_area_total correlate at 0.99" in printed
    assert list((tmp_path / "cwd").iterdir()) == []
    (made,) = (output_dir / "cohorts").iterdir()
    targets = json.loads((made / "targets.json").read_text())
    assert made.name == f"phantom_{targets['data_hash'][:10]}"
    for name in ("quality.csv", "quality.html", "targets.csv", "target_correlation.csv", "target_correlation.png"):
        assert (made / name).stat().st_size > 0, name

    before = {path: path.stat().st_mtime_ns for path in (output_dir / "cache").rglob("*")}
    told = train(output_dir, *COHORT, *DRAWN, "trainer.max_epochs=1").stderr
    assert "preparing" not in told
    assert {path: path.stat().st_mtime_ns for path in (output_dir / "cache").rglob("*")} == before
    trained = only_run(output_dir)
    assert json.loads((trained / "targets.json").read_text()) == targets
    assert (trained / "splits.csv").read_text() == (made / "splits.csv").read_text()
    assert (trained / "pictures" / "target_correlation.png").is_file()
    assert re.search(r'<img[^>]+alt="Correlation of the targets', (trained / "report.html").read_text())


def test_train_warns_of_targets_that_cannot_be_separated(tmp_path: Path, prepared_cache: Path) -> None:
    output_dir = tmp_path / "outputs"
    output_dir.mkdir()
    (output_dir / "cache").symlink_to(prepared_cache)
    larger = ("data.num_subjects=13", "data.val_fraction=0.1")
    train(output_dir, *larger, "trainer.max_epochs=1", "targets.residualise.surface_area_total=[]")
    log = (only_run(output_dir) / "train.log").read_text()
    (warning,) = (line for line in log.splitlines() if "correlate above 0.9 after residualisation" in line)
    assert "WARNING" in warning
    named = re.search(r"vol_total \(vol\) and surface_area_total \(shape\) r = ([\d.]+)", warning)
    assert named is not None
    assert float(named.group(1)) > 0.95


def test_one_subject_is_reported_without_splits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = folder(tmp_path / "cohort", 3)
    assert run(monkeypatch, tmp_path, *real(root, tmp_path / "outputs")) == 0
    printed = capfd.readouterr().out
    assert "1 subject: " in printed
    assert "No splits and no targets to learn: 1 subject is too few for 1 in validation" in printed
    (made,) = (tmp_path / "outputs" / "cohorts").iterdir()
    assert not (made / "splits.csv").exists()
    assert not (made / "targets.json").exists()


def test_what_was_left_out_comes_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = folder(tmp_path / "cohort", 1, 2, 3)
    (root / "phantom-00002" / "phantom-00002-t2w.nii.gz").write_bytes(b"")
    assert run(monkeypatch, tmp_path, *real(root, tmp_path / "outputs"), "data.on_error=skip") == 0
    assert "3 subjects: 1 left out" in capfd.readouterr().out
    (made,) = (tmp_path / "outputs" / "cohorts").iterdir()
    with (made / "quality.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["subject_id"] == "phantom-00002"
    assert rows[0]["reasons"].startswith("phantom-00002-t2w.nii.gz is empty (0 bytes): copy or download it again")
    assert [row["verdict"] for row in rows].count("left out") == 1
    assert run(monkeypatch, tmp_path, *real(root, tmp_path / "outputs")) == 2
    assert "set data.on_error=skip to leave such subjects out" in capfd.readouterr().err.splitlines()[-1]


def test_volumes_are_those_of_the_mask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = folder(tmp_path / "cohort", 1, 3)
    assert run(monkeypatch, tmp_path, *real(root, tmp_path / "outputs"), "data.spacing_mm=[12,12,12]") == 0
    (made,) = (tmp_path / "outputs" / "cohorts").iterdir()
    with (made / "quality.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            mask = nibabel.load(root / row["subject_id"] / f"{row['subject_id']}-seg.nii.gz")  # type: ignore[attr-defined]
            voxels = int((np.asarray(mask.dataobj) > 0).sum())  # type: ignore[attr-defined]
            assert float(row["native_volume_ml"]) == pytest.approx(voxels * 10.0**3 / 1000)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data=brats"], "data.root: a value is required; give it as data.root=..."),
        (["data=brats", "data.root=/nowhere"], "data.root: folder '/nowhere' does not exist"),
        (["data=bratz"], "data: 'bratz' is not an option; did you mean 'brats'?"),
        (["data.num_subject=3"], "data.num_subject: no such key; did you mean 'num_subjects'?"),
        (["thumbnails=-1"], "thumbnails: -1 is not allowed"),
        (["thumbnails=many"], "thumbnails: 'many' is not allowed"),
        (["num_workers=0"], "num_workers: 0 is not allowed"),
        (["+more=1"], "more: no such key; known: data, num_workers, output_dir, targets, thumbnails"),
        (["targets.missing=none"], "targets.missing: 'none' is not allowed"),
        (["+targets.residualise.vol=[vol_total]"], "targets.residualise: data=phantom has no target 'vol'"),
        (["targets.residualise.solidity_total=[volume]"], "targets.residualise: data=phantom has no target 'volume'"),
        (["output_dir=/proc/nowhere"], "output_dir: cannot write to '/proc/nowhere'"),
        (["output_dir=null"], "output_dir: None is not allowed"),
        (["trainer.max_epochs=3"], "trainer"),
    ],
    ids=str,
)
def test_wrong_input_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    overrides: list[str],
    words: str,
) -> None:
    assert run(monkeypatch, tmp_path, *overrides) == 2
    error = capfd.readouterr().err
    assert error.startswith(f"menvae-prepare: {words}"), error
    assert error.count("\n") == 1, error
    assert not (tmp_path / "outputs" / "cohorts").exists()


def test_a_stopped_preparation_says_so(tmp_path: Path) -> None:
    overrides = [*COHORT, "data.num_subjects=2000", f"output_dir={tmp_path}"]
    process = Started("prepare", overrides, environment())
    process.read_until("making phantoms")
    process.send_signal(signal.SIGTERM)
    lines = [line for line in process.output if "making phantoms" not in line]
    assert process.wait(timeout=60) == 75
    assert lines == ["menvae-prepare: stopped by SIGTERM; run the same command again to resume\n"]
