"""``menvae-grow`` as a whole, on tables."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from growth.cohorts import straight_lines
from shrunk import composed

from menvae.errors import ExitCode, UserError
from menvae.forecasting.forecast import forecast
from menvae.forecasting.judging import judge
from menvae.forecasting.results import of_curves, read_metrics
from menvae.growth import Visits
from menvae.growth.last_value import LastValue
from menvae.statistics.gompertz import Gompertz

QUICK = ("growth=lme", "growth.average=false", "tracking.enabled=false")


def written(path: Path, patients: list[Visits]) -> Path:
    rows = ["patient_id,days,volume_mm3"]
    rows += [
        f"{one.patient},{day:g},{math.exp(value)!r}"
        for one in patients
        for day, value in zip(one.days, one.log_volume, strict=True)
    ]
    path.write_text("\n".join(rows) + "\n")
    return path


def grow(folder: Path, table: Path, *overrides: str) -> ExitCode:
    keys = ("source=table", f"source.path={table}", f"output_dir={folder}", *QUICK, *overrides)
    return forecast(composed(*keys, config="grow"))


OPTIONS = ("beside=[last_value]", "intervals=[normal,jackknife_plus,conformal,cqr]")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("grown")
    assert grow(root, written(root / "table.csv", straight_lines(22, 0)), *OPTIONS) == ExitCode.DONE
    (folder,) = (root / "forecasts").iterdir()
    return folder


def test_scores_follow_from_the_forecasts(folder: Path) -> None:
    found = rows_of(folder / "forecasts.csv")
    assert {row["model"] for row in found} == {"lme", "last_value"}
    scores = {(row["model"], row["score"]): float(row["value"]) for row in rows_of(folder / "scores.csv")}
    for model in ("lme", "last_value"):
        own = [row for row in found if row["model"] == model]
        true, forecast, low, high = (
            np.array([float(row[name]) for row in own])
            for name in ("true_mm3", "forecast_mm3", "normal_low_mm3", "normal_high_mm3")
        )
        assert scores[model, "median_error_percent"] == pytest.approx(
            np.median(np.abs(100.0 * (forecast / true - 1.0)))
        )
        assert scores[model, "coverage/normal"] == pytest.approx(np.mean((low <= true) & (true <= high)))


def test_last_values_are_forecast_as_they_are(folder: Path) -> None:
    table = {
        (row["patient_id"], float(row["days"])): float(row["volume_mm3"])
        for row in rows_of(folder.parents[1] / "table.csv")
    }
    for row in rows_of(folder / "forecasts.csv"):
        assert float(row["true_mm3"]) == pytest.approx(table[row["patient"], float(row["day"])])
        if row["model"] == "last_value" and row["known_visits"] == "1":
            assert float(row["forecast_mm3"]) == pytest.approx(table[row["patient"], float(row["last_known_day"])])


def test_the_folder_says_everything(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names >= {"index.html", "scores.csv", "differences.csv", "forecasts.csv", "calibration.csv", "config.yaml"}
    assert "22 forecasts of 22 patients by growth models fitted to others" in (folder / "scores.txt").read_text()
    assert {row["minus"] for row in rows_of(folder / "differences.csv")} == {"last_value"}


def test_no_heading_of_the_table_is_cut(folder: Path) -> None:
    text = (folder / "scores.txt").read_text()
    assert "…" not in text
    for heading in ("jackknife+", "normalised conformal", "conformalised quantile"):
        assert text.count(heading) == 2, "interval score and coverage"


def test_metrics_are_read_off_the_scores(folder: Path, tmp_path: Path) -> None:
    metrics = read_metrics(folder)
    assert metrics.keys() == {f"{row['model']}/{row['score']}" for row in rows_of(folder / "scores.csv")}
    (tmp_path / "scores.csv").write_text("model,score,value\n'=lme,crps,\nlme,crps,0.5\n")
    assert read_metrics(tmp_path) == {"=lme/crps": None, "lme/crps": 0.5}


def test_the_same_command_computes_nothing_twice(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = (folder / "index.html").stat().st_mtime_ns
    grow(folder.parents[1], folder.parents[1] / "table.csv", *OPTIONS)
    assert (folder / "index.html").stat().st_mtime_ns == before
    grow(folder.parents[1], folder.parents[1] / "table.csv", *OPTIONS, "overwrite=true")
    assert (folder / "index.html").stat().st_mtime_ns != before
    assert len(list((folder.parent).iterdir())) == 1


def test_a_model_that_cannot_be_fitted_is_left_out_and_said(tmp_path: Path) -> None:
    grow(tmp_path, written(tmp_path / "table.csv", straight_lines(5, 1)), "beside=[latent_ode]", "intervals=[normal]")
    (text,) = (path.read_text() for path in tmp_path.glob("forecasts/*/scores.txt"))
    assert "latent_ode: left out, growth=latent_ode needs latents" in " ".join(text.split())


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("beside=[lmee]",), r"beside\.0\.?(name)?: .*did you mean 'lme'"),
        (("hold_out=encoder",), "hold_out: 'encoder' needs source=run"),
        (("num_folds=9",), "num_folds: 9 folds need at least 9 patients, and there are 4"),
        (("volume=[]",), "^volume: "),
        (("volume=[vol_et,vol_et]",), "^volume: .* names a volume twice"),
        (("beside=lmee",), "did you mean 'lme'"),
        (("level=0.4",), "^level: "),
        (("source.unit=litre",), "source.unit: .*mm3"),
        (("source.path=nowhere.csv",), "source.path: file '.*nowhere.csv' does not exist"),
    ],
)
def test_wrong_keys_end_in_a_sentence(tmp_path: Path, overrides: tuple[str, ...], sentence: str) -> None:
    table = written(tmp_path / "table.csv", straight_lines(4, 0))
    with pytest.raises(UserError, match=sentence):
        grow(tmp_path, table, *overrides)
    assert not (tmp_path / "forecasts").exists()


@pytest.mark.parametrize("patients", [straight_lines(1, 0), [one[:1] for one in straight_lines(6, 0)]])
def test_one_patient_and_single_visits_are_refused(tmp_path: Path, patients: list[Visits]) -> None:
    with pytest.raises(
        UserError, match=r"patients?: (without those that are forecast|none who is forecast has two visits)"
    ):
        grow(tmp_path, written(tmp_path / "table.csv", patients))


def test_who_knows_the_curves_errs_by_the_measurements_alone() -> None:
    """Three patients measured at 0, 10 and 20 % above their curves: the spread of each is that of the others."""
    curve = Gompertz(1000.0, 50_000.0, 0.3)
    days = np.array([0.0, 365.25])
    true = np.log([curve.volume_mm3(0.0), curve.volume_mm3(1.0)])
    patients = [Visits(str(n), days, true + np.log(1.0 + 0.1 * n), np.zeros(2)) for n in range(3)]
    like = judge(LastValue(), patients, None, protocol="last_from_rest", level=0.5, intervals=["normal"])
    found = of_curves(like, patients, {one.patient: curve for one in patients})
    np.testing.assert_allclose(found.mean, true[1])
    errors = np.log([1.0, 1.1, 1.2])
    np.testing.assert_allclose(found.sd[0], np.sqrt((errors[1] ** 2 + errors[2] ** 2) / 2.0))
    np.testing.assert_allclose(found.intervals["normal"].high - found.mean, 0.674490 * found.sd, rtol=1e-6)
