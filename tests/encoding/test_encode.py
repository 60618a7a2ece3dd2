"""Latents of a cohort as a table: those of the run's own outputs, of new cohorts, and of several runs."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from golden.artefacts import FOLDER
from runs import _run, environment, only_run, train

import menvae
from menvae.apps import encode as application
from menvae.data.cache.prepare import prepare
from menvae.data.phantom.head import phantom_subject, write_subject
from menvae.data.sources.brats import BratsSource
from menvae.encoding.posterior import posteriors_of
from menvae.errors import UserError
from menvae.runs.cohort import CohortRequest, open_cohort
from menvae.runs.finished import FinishedRun

SPACING = (10.0, 10.0, 10.0)
SPLITS = ("data.val_fraction=0.25", "data.test_fraction=0.25", "trainer.max_epochs=1")
WITHOUT = tuple(f"~{key.partition('=')[0]}" for key in SPLITS)


def cohort(root: Path, seed: int, *indices: int) -> Path:
    for index in indices:
        write_subject(phantom_subject(seed, index, SPACING), root)
    return root


@pytest.fixture(scope="module")
def output_dir(tmp_path_factory: pytest.TempPathFactory, prepared_cache: Path) -> Path:
    """Two seeds on phantoms, and a run on one modality of a folder of patients."""
    output_dir = tmp_path_factory.mktemp("encoding")
    (output_dir / "cache").symlink_to(prepared_cache)
    for seed in (1, 2):
        train(output_dir, *WITHOUT, *SPLITS, f"seed={seed}", f"name=seed{seed}")
    root = cohort(output_dir / "patients", 5, *range(8))
    keys = ("data=brats", f"data.root={root}", "data.modalities=[t1c]", "data.box=center", "name=t1c")
    train(output_dir, "~data.num_subjects", *WITHOUT[2:], SPLITS[2], *keys)
    return output_dir


def run_of(output_dir: Path, name: str) -> FinishedRun:
    (path,) = (output_dir / "runs").glob(f"{name}_*")
    return menvae.load_run(path)


@pytest.fixture(scope="module")
def run(output_dir: Path) -> FinishedRun:
    return run_of(output_dir, "seed1")


@pytest.fixture(scope="module")
def table(run: FinishedRun) -> pd.DataFrame:
    return menvae.encode(run)


def latents(table: pd.DataFrame) -> pd.DataFrame:
    return table.set_index("subject").filter(regex=r"^(mean|logvar)\.")


def test_latents_and_predictions_are_the_outputs_of_the_run(run: FinishedRun, table: pd.DataFrame) -> None:
    test = table[table["split"] == "test"]
    ((batch, output),) = list(run.outputs("test"))
    assert list(test["subject"]) == list(batch.subject_id)
    np.testing.assert_array_equal(test.filter(regex=r"^mean\."), output.posterior.mean.numpy())
    np.testing.assert_array_equal(test.filter(regex=r"^logvar\."), output.posterior.logvar.numpy())
    assert run.targets is not None
    assert run.data.targets is not None
    for row, subject in enumerate(batch.subject_id):
        scores = {
            name: float(output.predictions[partition][row, column])
            for partition, names in run.model.supervision.items()
            for column, name in enumerate(names)
        }
        raw = run.data.targets.raw[subject]
        for name, value in run.targets.to_physical(scores).items():
            is_log = name.startswith(("vol_", "surface_area_"))
            assert value is not None
            assert test[f"predicted.{name}"].iloc[row] == pytest.approx(np.expm1(value) if is_log else value, rel=1e-9)
            measured, known = test[f"measured.{name}"].iloc[row], raw[name]
            if known is None:
                assert np.isnan(measured)
            else:
                assert measured == pytest.approx(np.expm1(known) if is_log else known, rel=1e-12)


def test_rows_say_who_they_are(run: FinishedRun, table: pd.DataFrame) -> None:
    assert dict(zip(table["subject"], table["split"], strict=True)) == dict(run.splits)
    assert (table["patient"] == table["subject"]).all()
    assert (table["visit"] == 1).all()
    assert table["days"].isna().all()
    assert table.filter(like="available.").all(axis=None)
    sizes = {f"{what}.{name}": size for what in ("mean", "logvar") for name, size in run.model.layout.sizes.items()}
    assert sizes == {key: table.filter(regex=rf"^{key}\.\d+$").shape[1] for key in sizes}


def test_spread_is_that_of_the_posterior(run: FinishedRun, table: pd.DataFrame) -> None:
    """Draws of another generator: moments agree within the error of 256 of them."""
    posterior = run.posterior(next(iter(run.data.val.epoch(0))))
    z = posterior.mean[0] + torch.exp(0.5 * posterior.logvar[0]) * torch.randn(20_000, posterior.mean.shape[1])
    assert run.targets is not None
    of_vol = run.targets.statistics["vol_total"]
    assert of_vol.mean is not None
    values = np.expm1(run.predict(z)["vol"][:, 0].double().numpy() * of_vol.sd + of_vol.mean)
    row = table[table["split"] == "val"].iloc[0]
    assert row["predicted.vol_total.sd"] == pytest.approx(values.std(), rel=0.2)
    low, high = np.quantile(values, [0.05, 0.95])
    assert row["predicted.vol_total.low"] == pytest.approx(low, abs=values.std() / 2)
    assert row["predicted.vol_total.high"] == pytest.approx(high, abs=values.std())


def test_draws_in_half_precision_are_not_rounded(run: FinishedRun) -> None:
    settings = run.experiment.settings
    halved = {**settings, "trainer": replace(settings["trainer"], precision="bf16")}
    in_half = replace(run, experiment=replace(run.experiment, settings=halved))
    rows = open_cohort(in_half, CohortRequest(split="val", data={})).rows
    draws = posteriors_of(in_half, rows, num_draws=256, seed=0).draws["loc_x"]
    assert min(len(set(of_visit.tolist())) for of_visit in draws) > 250, "bfloat16 has 128 values between 1 and 2"


def test_draws_of_a_visit_depend_on_nothing_else(run: FinishedRun, table: pd.DataFrame) -> None:
    alone = menvae.encode(run, split="val").set_index("subject")
    pd.testing.assert_frame_equal(alone, table.set_index("subject").loc[alone.index], check_exact=True)
    other = menvae.encode(run, split="val", seed=1).set_index("subject")
    assert (other["predicted.loc_x"] == alone["predicted.loc_x"]).all()
    assert (other["predicted.loc_x.sd"] != alone["predicted.loc_x.sd"]).all()


def command(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> int:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the command sets it; this puts it back
    monkeypatch.setattr(sys, "argv", ["menvae-encode", *overrides])
    with pytest.raises(SystemExit) as ended:
        application.main()
    return int(ended.value.code or 0)


def test_the_command_writes_the_same_bytes_in_another_process(
    run: FinishedRun, table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    said = _run("encode", [f"run={run.path}"], environment(), 0).stdout
    path = run.path / "latents.parquet"
    assert said.splitlines()[-1] == f"latents: {path} (12 rows, {len(table.columns)} columns)"
    again = tmp_path / "again.parquet"
    assert command(monkeypatch, f"run={run.path}", f"output={again}", "device=cpu") == 0
    assert again.read_bytes() == path.read_bytes()
    written = pd.read_parquet(path)
    pd.testing.assert_frame_equal(written, table, check_exact=True, check_dtype=False)
    about = json.loads(pq.read_schema(path).metadata[b"menvae"])
    targets = json.loads((run.path / "targets.json").read_text())
    assert about["runs"][0]["data_hash"] == targets["data_hash"]
    assert (about["runs"][0]["name"], about["runs"][0]["checkpoint"]) == (run.name, "best")
    assert about["units"]["predicted.vol_total.sd"] == about["units"]["measured.vol_et"] == "mm³"
    capfd.readouterr()
    assert command(monkeypatch, f"run={run.path}") == 2
    assert "exists; set overwrite=true" in capfd.readouterr().err
    before = path.stat().st_ino
    assert command(monkeypatch, f"run={run.path}", "overwrite=true") == 0
    assert path.stat().st_ino != before


def test_a_new_cohort_needs_no_masks_and_leaves_no_trace(
    run: FinishedRun, output_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = cohort(tmp_path / "new", 9, 20, 21, 22)
    keys = {"name": "brats", "root": str(root)}
    before = sorted((output_dir / "cache").rglob("*"))
    masked = menvae.encode(run, data=keys)
    assert sorted((output_dir / "cache").rglob("*")) == before
    assert list(masked["split"]) == ["new"] * 3
    (root / "phantom-00021" / "phantom-00021-seg.nii.gz").unlink()
    with caplog.at_level(logging.INFO, logger="menvae"):
        lacking = menvae.encode(run, data=keys)
    assert "1 of 3 visits have no mask" in caplog.text
    pd.testing.assert_frame_equal(latents(lacking), latents(masked), check_exact=True)
    measured = lacking.set_index("subject").filter(like="measured.")
    assert measured.loc["phantom-00021"].isna().all()
    assert measured.loc["phantom-00020", "measured.vol_total"] > 0


@pytest.mark.parametrize(
    "keys", [{}, {"normalisation": "zscore", "cache_format": "compressed"}], ids=["arrays", "packed"]
)
def test_what_is_in_the_cache_gives_the_same_latents(
    run: FinishedRun, output_dir: Path, tmp_path: Path, keys: dict[str, Any]
) -> None:
    root = cohort(tmp_path / "cohort", 11, 30, 31, 32)
    data = {"name": "brats", "root": str(root), **keys}
    cold = menvae.encode(run, data=data)
    settings = {key: value for key, value in keys.items() if key != "normalisation"}
    source = BratsSource(root=str(root), roi_size=(16, 16, 16), spacing_mm=SPACING, box="center", **settings)
    (tmp_path / "outputs").mkdir()
    prepare(source, tmp_path / "outputs" / "cache")
    warm = menvae.encode(menvae.load_run(run.path, output_dir=tmp_path / "outputs"), data=data)
    pd.testing.assert_frame_equal(warm, cold, check_exact=True)


def test_other_phantoms_are_a_new_cohort(run: FinishedRun) -> None:
    table = menvae.encode(run, data={"seed": 101, "num_subjects": 2})
    assert list(table["split"]) == ["new", "new"]
    own = menvae.encode(run).set_index("subject")
    assert table["measured.vol_total"].iloc[0] != own.loc["phantom-00000", "measured.vol_total"]


def test_a_cohort_that_has_moved_keeps_its_splits(output_dir: Path, tmp_path: Path) -> None:
    run = run_of(output_dir, "t1c")
    there = menvae.encode(run)
    moved = shutil.copytree(output_dir / "patients", tmp_path / "moved")
    pd.testing.assert_frame_equal(menvae.encode(run, data={"root": str(moved)}), there, check_exact=True)


def test_faults_stop_or_are_left_out(run: FinishedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = cohort(tmp_path / "cohort", 9, 20, 21)
    (root / "phantom-00020" / "phantom-00020-t2w.nii.gz").unlink()
    keys = {"name": "brats", "root": str(root)}
    with pytest.raises(UserError, match=r"subject 'phantom-00020': phantom-00020-t2w.nii.gz is missing"):
        menvae.encode(run, data=keys)
    assert list(menvae.encode(run, data={**keys, "on_error": "skip"})["subject"]) == ["phantom-00021"]
    assert "left out: subject 'phantom-00020'" in caplog.text
    allowed = menvae.encode(run, data={**keys, "missing_modalities": "allow"}).set_index("subject")
    assert allowed["available.t2w"].tolist() == [False, True]
    shutil.rmtree(root / "phantom-00021")
    with pytest.raises(UserError, match="all 1 subjects were left out"):
        menvae.encode(run, data={**keys, "on_error": "skip"})


def test_runs_side_by_side(run: FinishedRun, output_dir: Path, tmp_path: Path) -> None:
    single = run_of(output_dir, "t1c")
    keys = {"name": "brats", "root": str(cohort(tmp_path / "new", 9, 20, 21))}
    both = menvae.encode([run, single], data=keys, fusion="concatenate")
    for prefix, one in (("t1c+t1n+t2f+t2w", run), ("t1c", single)):
        alone = menvae.encode(one, data=keys)
        for column in alone.filter(regex=r"^(mean|logvar|predicted)\."):
            np.testing.assert_array_equal(both[f"{prefix}.{column}"], alone[column])
        np.testing.assert_array_equal(both["measured.vol_total"], alone["measured.vol_total"])
    assert both.columns.is_unique
    assert both.attrs["menvae"]["units"]["t1c.predicted.vol_total"] == "mm³"


def test_an_ensemble_adds_the_variances_within_and_between(run: FinishedRun, output_dir: Path) -> None:
    runs = [run, run_of(output_dir, "seed2")]
    joint = menvae.encode(runs, fusion="ensemble", split="val")
    tables = [menvae.encode(one, split="val") for one in runs]
    assert not [column for column in joint if column.startswith(("mean.", "logvar."))]
    for name in ("vol_total", "loc_x", "solidity_total"):
        predicted = np.stack([one[f"predicted.{name}"] for one in tables])
        within = np.mean([one[f"predicted.{name}.sd"] ** 2 for one in tables], axis=0)
        between = (predicted[0] - predicted[1]) ** 2 / 4
        np.testing.assert_allclose(joint[f"predicted.{name}"], predicted.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(joint[f"predicted.{name}.sd_within"] ** 2, within, rtol=1e-4)
        np.testing.assert_allclose(joint[f"predicted.{name}.sd_between"] ** 2, between, rtol=1e-6, atol=1e-15)
        np.testing.assert_allclose(joint[f"predicted.{name}.sd"] ** 2, within + between, rtol=1e-4)
        for end, best in (("low", np.minimum), ("high", np.maximum)):
            ends = [one[f"predicted.{name}.{end}"].to_numpy() for one in tables]
            assert (best(joint[f"predicted.{name}.{end}"], best(*ends)) == best(*ends)).all(), "of a mixture"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], "run: a value is required"),
        (["run=nothing"], "run: 'nothing' is neither a run directory, nor a run in"),
        (["run=seed1", "split=tst"], "split: 'tst' is not allowed"),
        (
            ["run=seed1", "data.roi_size=[32,32,32]"],
            "data.roi_size: [32, 32, 32] is not allowed; the model of run 'seed1_",
        ),
        (["run=seed1", "data.modalities=[t1c]"], "data.modalities: t1c is not allowed; the model of run 'seed1_"),
        (["run=seed1", "data.modalites=[t1c]"], "data.modalites: no such key of 'phantom'; did you mean 'modalities'?"),
        (["run=seed1", "data=bratz"], "data: 'bratz' is not registered; did you mean 'brats'?"),
        (["run=seed1", "data=brats", "data.root=/nowhere"], "data.root: folder '/nowhere' does not exist"),
        (["run=seed1", "data.seed=2", "split=val"], "split: 'val' is not allowed with data.*"),
        (["run=seed1", "draws=1"], "draws: 1 is not allowed"),
        (["run=seed1", "output=/proc/latents.parquet"], "output: cannot write to '/proc/latents.parquet'"),
        (["run=seed1", "device=abacus"], "device: 'abacus' cannot be used"),
        (["run=[seed1,seed2]"], "fusion: 2 runs need fusion=concatenate or fusion=ensemble"),
        (["run=[seed1,seed1]", "fusion=ensemble"], "run: 'seed1_"),
        (["run=[seed1,t1c]", "fusion=concatenate"], "run: 'seed1_"),
        (["run=seed1", "nonsense=1"], "nonsense: no such key"),
    ],
    ids=str,
)
def test_wrong_input_is_one_sentence(
    output_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    overrides: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("seed1", "seed2", "t1c"):
        path = str(run_of(output_dir, name).path)
        overrides = [text.replace(name, path) if text.startswith("run=") else text for text in overrides]
    if not any(text.startswith("output=") for text in overrides):
        overrides = [*overrides, f"output={tmp_path / 'latents.parquet'}"]
    assert command(monkeypatch, *overrides) == 2
    error = [line for line in capfd.readouterr().err.splitlines() if line.startswith("menvae-encode: ")]
    assert len(error) == 1
    assert error[0].startswith(f"menvae-encode: {words}"), error
    assert not (tmp_path / "latents.parquet").exists()


def test_an_unfinished_run_and_an_empty_split_are_refused(output_dir: Path, run: FinishedRun, tmp_path: Path) -> None:
    copy = shutil.copytree(run.path, tmp_path / run.name)
    status = json.loads((copy / "status.json").read_text())
    (copy / "status.json").write_text(json.dumps({**status, "state": "running"}))
    with pytest.raises(UserError, match=r"is running, not finished"):
        menvae.encode(copy)
    with pytest.raises(UserError, match="no visit can be encoded"):
        posteriors_of(run, [], num_draws=2, seed=0)
    with pytest.raises(UserError, match=r"split: run 't1c_\w+' has no visit in 'test'; .*known: all, train, val"):
        menvae.encode(run_of(output_dir, "t1c"), split="test")


def test_rows_of_a_table(tmp_path: Path) -> None:
    """Another table is scaled as the run scaled its own, so that equal rows have equal latents."""
    output_dir = shutil.copytree(FOLDER / "0.1.0" / "table", tmp_path / "table")
    path = output_dir / "table.csv"
    run = menvae.load_run(only_run(output_dir), overrides=[f"data.path={path}"])
    own = menvae.encode(run)
    assert set(own["split"]) == {"train", "val"}
    lines = path.read_text().splitlines()
    place = lines[0].split(",").index("hole")
    holes = [line.split(",")[place] for line in lines[1:]]
    assert own.sort_values("subject")["patient"].tolist() == holes
    assert own.sort_values("subject")["visit"].tolist() == [
        1 + holes[:row].count(hole) for row, hole in enumerate(holes)
    ]
    other = tmp_path / "other.csv"
    other.write_text("\n".join([lines[0], *lines[5:8]]) + "\n")
    new = menvae.encode(run, data={"path": str(other)})
    assert list(new["split"]) == ["new"] * 3
    rows = own.sort_values("subject").iloc[4:7]
    assert (latents(rows).std() > 0).any()
    np.testing.assert_allclose(latents(new), latents(rows), rtol=1e-5, atol=1e-6)
    pd.testing.assert_frame_equal(menvae.encode(run, data={"path": str(path)}), own)
