"""Volumes of patients from tables, masks and runs, and whose images an encoder has seen."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from runs import train
from shrunk import composed

import menvae
from menvae.errors import ExitCode, UserError
from menvae.forecasting.decoded import decode_next_visits
from menvae.forecasting.forecast import forecast
from menvae.forecasting.judging import judge
from menvae.forecasting.sources import (
    TableSource,
    VisitRules,
    _check_same_cohort,
    volumes_of_masks,
    volumes_of_runs,
    volumes_of_table,
)
from menvae.growth.last_value import LastValue
from menvae.registry import bind
from menvae.runs.finished import FinishedRun

RULES = VisitRules(("vol_et", "vol_ncr"), 30.0, "fail")
GROWING = ("data=phantom_growth", "data.num_patients=8", "data.visits=[2,3]", "trainer.max_epochs=1")


def of_table(tmp_path: Path, text: str, **keys: str) -> TableSource:
    path = tmp_path / "volumes.csv"
    path.write_text(text)
    return TableSource(name="table", path=str(path), **keys)  # type: ignore[arg-type]


def test_a_table_in_any_order_becomes_patients_in_the_order_of_time(tmp_path: Path) -> None:
    source = of_table(tmp_path, "patient_id,days,volume_mm3\nb,400,900\na,100,2000\nb,10,1000\na,0,1000\n")
    first, second = volumes_of_table(source, RULES).parts[0].patients
    assert (first.patient, second.patient) == ("a", "b")
    np.testing.assert_array_equal(first.days, [0.0, 100.0])
    np.testing.assert_allclose(np.exp(second.log_volume), [1000.0, 900.0])


def test_columns_and_unit_are_keys(tmp_path: Path) -> None:
    source = of_table(tmp_path, "who;when;ml\nx;0;1,5\nx;30;2\n", patient="who", days="when", volume="ml", unit="ml")
    (only,) = volumes_of_table(source, RULES).parts[0].patients
    np.testing.assert_allclose(np.exp(only.log_volume), [1500.0, 2000.0])


def test_a_tumour_that_has_vanished_counts_as_the_smallest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = of_table(tmp_path, "patient_id,days,volume_mm3\na,0,500\na,90,0\n")
    with caplog.at_level(logging.WARNING):
        (only,) = volumes_of_table(source, RULES).parts[0].patients
    assert only.log_volume[1] == pytest.approx(np.log(30.0))
    assert "1 volume below 30 mm^3: count as that (smallest_mm3)" in caplog.text


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("a,0,50\nb,1,50\na,0,60\n", "line 2 and line 4: patient 'a' has two visits on day 0; correct one, or set"),
        ("a,0,5\na,x,5\n", "line 3: column 'days' has 'x', which is not a finite number"),
        ("a,0,5\na,1,\n", "line 3: column 'volume_mm3' is empty"),
        ("a,0,1e9\n", "line 2: patient 'a' has a volume of 1e+09 mm^3, more than a head holds"),
        ("a,20200103,900\na,20990101,900\n", "line 2 and line 3: visits of patient 'a' on days 2.02001e+07 and"),
        ("a,0,3\na,9,4\n", "all 2 volumes are below 30 mm^3"),
        (",0,5\n", "line 2: no patient in column 'patient_id'"),
        ("a,0,-5\n", "line 2: patient 'a' has days 0 and a volume of -5 mm^3"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, rows: str, sentence: str) -> None:
    source = of_table(tmp_path, f"patient_id,days,volume_mm3\n{rows}")
    with pytest.raises(UserError) as caught:
        volumes_of_table(source, RULES)
    assert str(caught.value).startswith(f"source.path: '{source.path}': {sentence}")


def test_two_visits_of_one_day_may_be_averaged(tmp_path: Path) -> None:
    source = of_table(tmp_path, "patient_id,days,volume_mm3\na,0,100\na,0,400\na,9,100\n")
    (only,) = volumes_of_table(source, VisitRules(RULES.volume, 30.0, "mean")).parts[0].patients
    np.testing.assert_allclose(np.exp(only.log_volume), [200.0, 100.0])


@pytest.fixture(scope="module")
def output_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds of phantoms over time."""
    output_dir = tmp_path_factory.mktemp("growing")
    for fold in (0, 1):
        train(output_dir, "~data.num_subjects", *GROWING, f"data.fold={fold}", "data.num_folds=2", f"name=fold{fold}")
    return output_dir


def told_of_seen(warnings: Sequence[str]) -> list[str]:
    return [warning for warning in warnings if "has seen images of" in warning]


def run_of(output_dir: Path, name: str) -> FinishedRun:
    (path,) = (output_dir / "runs").glob(f"{name}_*")
    return menvae.load_run(path)


def test_masks_have_the_volumes_of_the_truth(output_dir: Path) -> None:
    (truth,) = (output_dir / "cache" / "phantom_growth").glob("*/growth.csv")
    with truth.open(newline="") as file:
        expected = {
            (row["patient_id"], float(row["days"])): float(row["tumour_voxels_mm3"]) for row in csv.DictReader(file)
        }
    data = bind("data", dict(run_of(output_dir, "fold0").config["data"]), "data")
    found = volumes_of_masks(data, RULES, output_dir / "cache", 1)
    assert found.curves.keys() == {patient for patient, _ in expected}
    rows = {
        (one.patient, day): volume
        for one in found.parts[0].patients
        for day, volume in zip(one.days, np.exp(one.log_volume), strict=True)
    }
    assert rows == pytest.approx(expected, rel=1e-6)


def test_each_patient_is_read_by_the_encoder_that_has_not_seen_him(output_dir: Path) -> None:
    folds = [run_of(output_dir, f"fold{fold}") for fold in (0, 1)]
    predicted, masks = volumes_of_runs(folds, RULES, {}, "encoder")
    assert not told_of_seen(predicted.warnings)
    everyone = [one.patient for one in predicted.parts[0].patients]
    held_out = [
        part.patients[number].patient for part in predicted.parts for fold in part.folds or [] for number in fold
    ]
    assert sorted(held_out) == sorted(everyone), "once each"
    for run, part in zip(folds, predicted.parts, strict=True):
        assert part.folds is not None
        trained = {one.split("-")[1] for one in run.visits_seen}
        assert not trained & {part.patients[number].patient.split("-")[1] for number in part.folds[0]}
    for part, of_masks in zip(predicted.parts, masks.parts, strict=True):
        for one, other in zip(part.patients, of_masks.patients, strict=True):
            np.testing.assert_array_equal(one.truth, other.log_volume)
            assert one.latents is not None
            assert (one.variance > 0.0).all()


def test_images_of_held_out_patients_that_were_seen_are_told(output_dir: Path) -> None:
    run = run_of(output_dir, "fold0")
    predicted, _ = volumes_of_runs([run], RULES, {}, "patient")
    (warning,) = told_of_seen(predicted.warnings)
    num_seen = len({subject.rpartition("-")[0] for subject in run.visits_seen})
    assert warning.startswith(f"The encoder has seen images of {num_seen} of the 8 patients that are forecast")


def test_a_run_that_started_from_one_that_saw_the_patient_has_seen_him(output_dir: Path) -> None:
    run, first = run_of(output_dir, "fold0"), run_of(output_dir, "fold1")
    trainer = {**run.config["trainer"], "init_from": str(first.path)}
    started = replace(run, experiment=replace(run.experiment, config={**run.config, "trainer": trainer}))
    predicted, _ = volumes_of_runs([started], RULES, {}, "encoder")
    (warning,) = told_of_seen(predicted.warnings)
    assert "has seen images of 4 of the 4 patients" in warning


def test_a_volume_that_is_not_predicted_is_refused(output_dir: Path) -> None:
    with pytest.raises(UserError, match=r"volume: run 'fold0_.*' predicts no 'vol_x'; did you mean"):
        volumes_of_runs([run_of(output_dir, "fold0")], VisitRules(("vol_x",), 30.0, "fail"), {}, "patient")


def test_folds_of_other_cohorts_are_refused(output_dir: Path) -> None:
    first, second = run_of(output_dir, "fold0"), run_of(output_dir, "fold1")
    parts = volumes_of_runs([first], RULES, {}, "encoder")[0].parts
    with pytest.raises(UserError, match="have other visits; folds must be of one cohort"):
        _check_same_cohort(first, second, parts, parts[0].patients[1:])


def test_forecasts_from_folds_say_what_the_encoder_costs_and_decode_the_next_visit(output_dir: Path) -> None:
    runs = ",".join(str(run_of(output_dir, f"fold{fold}").path) for fold in (0, 1))
    keys = ("source=run", f"run=[{runs}]", f"output_dir={output_dir}", "growth=lme", "growth.average=false", "decode=2")
    assert forecast(composed(*keys, "beside=[latent_ode]", "intervals=[normal]", config="grow")) == ExitCode.DONE
    (folder,) = (output_dir / "forecasts").iterdir()
    with (folder / "scores.csv").open(newline="") as file:
        assert {row["model"] for row in csv.DictReader(file)} == {
            "lme",
            "lme (masks)",
            "latent_ode",
            "latent_ode (masks)",
        }
    assert (folder / "scores.txt").read_text().startswith("Growth models are fitted, and intervals set, on patients")
    with (folder / "forecasts.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] in ("lme", "lme (masks)")]
    true = {model: [row["true_mm3"] for row in rows if row["model"] == model] for model in ("lme", "lme (masks)")}
    assert true["lme"] == true["lme (masks)"], "both are judged by the masks"
    assert "Next visits" in (folder / "index.html").read_text() or (folder / "next_visits.png").is_file()


def test_a_volume_that_is_set_is_read_back_from_the_decoded_state(output_dir: Path) -> None:
    part = volumes_of_runs([run_of(output_dir, "fold0")], RULES, {}, "encoder")[0].parts[0]
    judged = judge(LastValue(), part.patients, part.folds, protocol="last_from_rest", level=0.9, intervals=["normal"])
    assert part.encoded is not None
    (visit, *_) = decode_next_visits(part.encoded, judged.fits, part.patients, judged.tasks[:1], "minimum_norm")
    assert visit.round_trip < 0.01
    assert visit.drawn.shape == visit.true.shape == (16, 16, 16)
    with pytest.raises(UserError, match="volume_latent: 'identity' moves the first coordinate"):
        decode_next_visits(part.encoded, judged.fits, part.patients, judged.tasks[:1], "identity")
