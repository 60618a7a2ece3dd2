"""``menvae-compare`` as a user starts it."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from stores import TARGETS, MadeRun, fill

from menvae.apps import compare
from menvae.comparison.compare import ComparisonSettings
from menvae.registry import configuration_folder
from menvae.tracking.tracker import TrackingSettings


def run(monkeypatch: pytest.MonkeyPatch, cwd: Path, *overrides: str) -> int:
    cwd.mkdir(exist_ok=True)
    monkeypatch.chdir(cwd)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the command sets it; this puts it back
    monkeypatch.setattr(sys, "argv", ["menvae-compare", *overrides])
    with pytest.raises(SystemExit) as ended:
        compare.main()
    return int(ended.value.code or 0)


def test_keys_are_those_of_the_settings_with_the_same_defaults() -> None:
    with initialize_config_dir(str(configuration_folder("menvae")), version_base="1.3"):
        config = OmegaConf.to_container(compose("compare"), resolve=True)
    assert isinstance(config, dict)
    defaults = {field.name: field.default for field in fields(ComparisonSettings)}
    defaults["sweep"] = {"name": defaults["sweep"]}
    tracking = {field.name: field.default for field in fields(TrackingSettings) if field.name in ("uri", "experiment")}
    assert {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()} == {
        "output_dir": "./outputs",
        "html": "./outputs/comparison/index.html",
        "tracking": tracking,
        **defaults,
    }


def test_the_real_command_prints_a_table_and_writes_page_and_csv(sweep_dir: Path, tmp_path: Path) -> None:
    program = "from menvae.apps.compare import main; main()"
    page = tmp_path / "results" / "sweep.html"
    done = subprocess.run(
        [sys.executable, "-c", program, f"output_dir={sweep_dir}", f"html={page}", "sweep.name=a1b2c3"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    lines = [line.split() for line in done.stdout.splitlines()]
    (first,) = (words for words in lines if words[:7] == ["1", "32", "5", "3", "7/7", "yes", "6.9"])
    assert first[7:9] == ["0.923", "\N{PLUS-MINUS SIGN}0.004"]
    assert "Pareto front of the means over 7 gates" in done.stdout
    assert "Effect of loss.lambda_dcor" in done.stdout
    assert "Differences from #1" in done.stdout
    configurations = page.with_name("sweep_configurations.csv")
    assert [line[9:] for line in done.stderr.splitlines()] == [
        f"runs: {page.with_suffix('.csv')}",
        f"configurations: {configurations}",
        f"tables: {configurations.with_suffix('.md')}, {configurations.with_suffix('.tex')}",
        f"page: {page}",
    ]
    with page.with_suffix(".csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 36
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]


def test_numeric_sweep_id_baseline_sort_and_front(
    monkeypatch: pytest.MonkeyPatch, output_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    values = dict.fromkeys(TARGETS, 0.5)
    runs = [
        MadeRun({"loss.lambda_dcor": w, "seed": s}, {**values, "vol_r2": 0.1 * w}, tags={"menvae.sweep": "17"})
        for w in (1, 2, 3)
        for s in (0, 1)
    ]
    fill(output_dir, runs)
    overrides = ["sweep.name=17", "baseline={loss.lambda_dcor: 1}", "sort=lambda_dcor", "front=[vol_r2,max_dcor]"]
    assert run(monkeypatch, tmp_path / "cwd", f"output_dir={output_dir}", *overrides) == 0
    printed = capfd.readouterr().out
    rows = [line.split() for line in printed.splitlines() if line.strip()[:1].isdigit()]
    assert [row[1] for row in rows[:3]] == ["1", "2", "3"]
    assert [row[0] for row in rows[:3]] == ["3", "2", "1"]
    assert "Pareto front of the means over 2 gates: 1 of 3 configurations (#1)." in printed
    assert "Differences from #3" in printed
    assert (output_dir / "comparison" / "index.html").is_file()
    assert (output_dir / "comparison" / "index.csv").is_file()
    assert list((tmp_path / "cwd").iterdir()) == []


def test_a_narrow_terminal_gets_two_tables(
    monkeypatch: pytest.MonkeyPatch, sweep_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert run(monkeypatch, tmp_path, f"output_dir={sweep_dir}", f"html={tmp_path / 'a.html'}") == 0
    printed = capfd.readouterr().out
    assert "Their gates" in printed
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed
    assert "\x1b[1;32m" in printed


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["output_dir=/nowhere"], "output_dir: tracking store '/nowhere/mlflow.db' does not exist"),
        (["tracking.uri=outputs"], "tracking.uri=outputs is not a tracking store"),
        (["tracking.experiment=nobody"], "tracking.experiment: 'nobody' does not exist in "),
        (["tracking.experiment=Default"], "experiment 'Default' in "),
        (["tracking.experiment=3"], "tracking.experiment: 3 is not allowed; it should be a valid string"),
        (["sweep.name=nothing"], "sweep.name: 'nothing' has no run in "),
        (["sort=vol"], "sort: 'vol' is not a column; did you mean 'vol_r2'"),
        (["sort=[1]"], "sort: [1] is not allowed"),
        (["front=[vol]"], "front: 'vol' is not a gate; did you mean 'vol_r2'"),
        (["baseline=nobody"], "baseline: no configuration matches 'nobody'"),
        (["baseline={loss.lambda_dcor: 0}"], "baseline: 3 configurations match loss.lambda_dcor=0; specify more of"),
        (["ignore=[nothing]"], "ignore: no run has a key 'nothing'"),
        (["html=null"], "html: None is not allowed; it should be a path"),
        (["html=/proc/nowhere/index.html"], "html: cannot write to '/proc/nowhere/index.html'"),
        (["sorted=vol_r2"], "sorted: no such key; did you mean 'sort'?"),
        (["+more=1"], "more: no such key of the configuration; "),
    ],
    ids=str,
)
def test_wrong_input_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    sweep_dir: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    overrides: list[str],
    words: str,
) -> None:
    defaults = [] if overrides[0].startswith("output_dir") else [f"output_dir={sweep_dir}"]
    html = [] if overrides[0].startswith("html") else [f"html={tmp_path / 'a.html'}"]
    assert run(monkeypatch, tmp_path, *defaults, *html, *overrides) == 2
    error = capfd.readouterr().err
    assert error.startswith(f"menvae-compare: {words}"), error
    assert error.count("\n") == 1, error
    assert not (sweep_dir / "comparison").exists()
