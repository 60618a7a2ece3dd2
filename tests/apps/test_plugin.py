"""Packages of third parties: found by their entry points, used by name, held to the same suites.

``tests/plugin_example`` is one to copy from, and is installed by pip; beside it lies one that breaks the contract.
"""

import csv
import json
import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
import zarr
from plugins import install_example, write_package
from runs import DRAWN, TRACKED, environment, gates, only_run, train

from menvae.data.files.subjects import MODALITIES
from menvae.errors import UserError
from menvae.registry import NameTakenError, discover

WRONG = '''"""Encoders that break the contract."""

from menvae.registry import register
from menvae_example.projections import ProjectionEncoder
from torch import nn


@register("encoder", "leaky")
class Leaky(ProjectionEncoder):
    """Looks at other rows of the batch and at what is missing, and has a parameter that does nothing."""

    def __init__(self, in_channels, size, layout, *, base_filters: int = 8) -> None:
        super().__init__(in_channels, size, layout, base_filters=base_filters)
        self.unused = nn.Linear(1, 1)

    def features(self, inputs, available=None):
        return super().features(inputs - inputs.mean(dim=0))


@register("encoder", "misread")
class Misread(Leaky):
    """Its file says something else than its constructor."""
'''
COUNTS = '''"""An observer that counts the steps of every epoch."""

from menvae.registry import register
from menvae.types import Observation, Observer


@register("observer", "steps")
class Steps(Observer):
    """Counts the steps of every epoch."""

    order = 20

    def __init__(self, context, *, unit: float = 1.0) -> None:
        self.unit, self.steps = unit, 0

    def on_epoch_start(self, epoch) -> None:
        self.steps = 0

    def on_train_step(self, batch, output) -> None:
        self.steps += 1

    def on_validation_end(self, epoch, metrics) -> Observation:
        assert "diag/kl" in str(metrics)  # those of menvae come first
        return Observation({"example/steps": self.steps / self.unit})
'''
SUITE = """from menvae.conformance import EncoderConformance


class TestLeaky(EncoderConformance):
    names = ("leaky",)


class TestMisread(EncoderConformance):
    names = ("misread",)
"""
TRAIN = "from menvae.apps.train import main; main()"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both packages, as pip leaves it."""
    site = install_example(tmp_path_factory.mktemp("site"))
    files = {
        "encoders.py": WRONG,
        "conf/encoder/leaky.yaml": "name: leaky\nbase_filters: 8\n",
        "conf/encoder/misread.yaml": "name: misread\nbase_filters: 16\n",
    }
    write_package(site, "wrongplugin", "encoders", files)
    (site / "test_wrong.py").write_text(SUITE)
    watching = {"steps.py": COUNTS, "conf/observer/steps.yaml": "name: steps\nunit: 1.0\n"}
    write_package(site, "watchingplugin", "steps", watching)
    return site


def run(site: Path, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder or site,
        env=environment(site=site),
        capture_output=True,
        text=True,
        check=False,
    )


def pytest_outcomes(site: Path, *arguments: str, folder: Path | None = None) -> dict[str, str]:
    """Return {name of a test in its module: what became of it}."""
    done = run(site, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA", *arguments, folder=folder)
    outcome = re.compile(r"(PASSED|FAILED|ERROR) \S+::|SKIPPED \[")  # messages in the log begin with ERROR too
    lines = [line for line in done.stdout.splitlines() if outcome.match(line)]
    assert lines, done.stdout + done.stderr
    return {line.split(" - ")[0].split("::", 1)[-1]: line.split(" ", 1)[0] for line in lines}


def test_its_parts_are_configured_by_name_and_nothing_is_imported_for_that(site: Path) -> None:
    imported = "print('imported', sorted({'torch', 'menvae_example'} & set(sys.modules)))"
    program = f"import sys, atexit; atexit.register(lambda: {imported}); {TRAIN}"
    done = run(site, "-c", program, "--cfg", "job", "encoder=projections", "encoder.base_filters=16", "loss=sharp")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    place = lines.index("encoder:")
    assert lines[place + 1 : place + 4] == ["  name: projections", "  projection: mean", "  base_filters: 16"]
    assert "  lambda_gradient_difference: 1.0" in lines
    assert "  lambda_dcor: 5.0" in lines, "loss=sharp adds to an objective of menvae"
    assert lines[-1] == "imported []"


def test_help_offers_them(site: Path) -> None:
    lines = run(site, "-c", TRAIN, "--help").stdout.replace(",\n  ", ", ").splitlines()
    for group, names in (("encoder", {"projections", "resnet"}), ("loss", {"sharp", "dcor"})):
        (offered,) = [line for line in lines if line.strip().startswith(f"{group}: ")]
        assert names <= set(offered.strip().removeprefix(f"{group}: ").split(", "))


def test_parts_tells_their_origin(site: Path) -> None:
    text = run(site, "-c", "from menvae.apps.parts import main; main()").stdout
    for name in ("folder_queue", "webhook", "latent_spectrum"):
        assert f"\n  {name}  (menvae_example)  " in text
    for name in ("projections", "gradient_difference", "effective_dimensions"):
        entry = text.split(f"\n  {name}  (menvae_example)  ")[1]
        about = re.split(r"\n(?! {6})", entry)[0]  # until a line that is indented less
        assert "\n      reference: " in about


def test_a_typo_in_a_key_is_told_in_one_sentence(site: Path, tmp_path: Path) -> None:
    known = "base_filters, initial_logvar, name, num_halvings, projection"
    assert train(tmp_path, "encoder=projections", "encoder.projektion=mean", code=2, site=site).stderr == (
        f"menvae-train: encoder.projektion: no such key; did you mean 'projection'? known: {known}\n"
    )


def test_a_run_is_trained_with_them(site: Path, tmp_path: Path, prepared_cache: Path) -> None:
    (tmp_path / "cache").symlink_to(prepared_cache)
    added = ["+gates=spread", "+observer@observers.mine=steps", "observers.mine.unit=2"]
    added += ["+picture@pictures.parts.latent_spectrum=latent_spectrum", "+pictures.parts.regression=null"]
    train(tmp_path, "encoder=projections", "loss=sharp", *DRAWN, *added, site=site)
    history = [json.loads(line) for line in (only_run(tmp_path) / "metrics.jsonl").read_text().splitlines()]
    assert len(history) == 3
    assert all(row["train_epoch/gradient_difference"] > 0.0 for row in history)
    gate = gates(only_run(tmp_path))["effective_dimensions"]
    assert gate["target"] == 8.0
    assert gate["value"] == pytest.approx(history[-1]["diag/effective_dimensions"], rel=0.5)  # of the best epoch
    assert [row["example/steps"] for row in history] == [1.0, 1.0, 1.0]  # two steps of four subjects, in units of two
    assert (only_run(tmp_path) / "pictures" / "latent_spectrum.png").is_file()
    assert not (only_run(tmp_path) / "pictures" / "regression.png").exists()
    page = (only_run(tmp_path) / "report.html").read_text()
    captions = ("first two principal", "A partition that uses all its dimensions", "A partition should predict")
    places = [page.index(caption) for caption in captions]
    assert places == sorted(places)
    weights = torch.load(only_run(tmp_path) / "checkpoints" / "best.ckpt", weights_only=True)["model"]
    assert any(name.startswith("encoder.views.sagittal.") for name in weights)


def test_its_tracker_hears_of_a_run_and_one_that_nobody_answers_costs_nothing(
    site: Path, tmp_path: Path, prepared_cache: Path
) -> None:
    messages = []

    class Keep(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

    (tmp_path / "cache").symlink_to(prepared_cache)
    trackers = [TRACKED, "~tracker@tracking.trackers.mlflow"]
    for key in ("chat", "nobody"):
        trackers += [f"+tracker@tracking.trackers.{key}=webhook"]
    with ThreadingHTTPServer(("127.0.0.1", 0), Keep) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"tracking.trackers.chat.url=http://127.0.0.1:{server.server_port}"
        said = train(
            tmp_path,
            *trackers,
            url,
            "tracking.trackers.nobody.url=http://127.0.0.1:9/",
            "trainer.max_epochs=1",
            site=site,
        ).stderr
        server.shutdown()
    assert said.count("tracker 'nobody' failed: URLError: ") == 1
    run = only_run(tmp_path)
    assert [(message["run"], message["status"]) for message in messages] == [
        (run.name, "RUNNING"),
        (run.name, "FINISHED"),
    ]
    values = {f"gate/{name}": gate["value"] for name, gate in gates(run).items() if gate["value"] is not None}
    assert values.items() <= messages[-1]["metrics"].items()
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["trackers"], status["tracked"]) == ("finished", ["chat"], False)


def write_store(store: Path, num_subjects: int = 8) -> None:
    """Write a Zarr store of subjects whose tumour grows with their age, which is not known of the first."""
    root = zarr.create_group(store)
    for number in range(num_subjects):
        random = np.random.default_rng(number)
        mask = np.zeros((16, 16, 16), np.uint8)
        mask[3 : 6 + number // 2, 4:9, 4:9] = 2
        mask[4:6, 5:7, 5:7] = 3
        arrays = {name: random.integers(1, 900, mask.shape).astype(np.int16) for name in MODALITIES} | {"seg": mask}
        group = root.create_group(f"s{number}", attributes={"age_years": 40.0 + 5.0 * number if number else None})
        for name, values in arrays.items():
            array = group.create_array(name, data=values, chunks=(8, 8, 8))
            array.attrs["affine"] = np.diag([10.0, 10.0, 10.0, 1.0]).tolist()


def test_its_source_has_targets_of_its_own_and_its_store_may_move(site: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "heads.zarr")
    chosen = ["data=zarr_store", "~data.num_subjects", "model.supervision.shape=[sphericity_total,age]"]
    train(tmp_path, *chosen, f"data.store={tmp_path / 'heads.zarr'}", site=site)
    run = only_run(tmp_path)
    statistics = json.loads((run / "targets.json").read_text())["statistics"]
    assert 4 <= statistics["age"]["num_observed"] <= 5, "of 5 training subjects, one may be the first"
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert "sem/age_r2" in last
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "heads.zarr").rename(tmp_path / "elsewhere" / "moved.zarr")
    moved = f"data.store={tmp_path / 'elsewhere' / 'moved.zarr'}"
    train(tmp_path, *chosen, moved, site=site)
    assert only_run(tmp_path) == run
    wrong = train(tmp_path, *chosen, moved, "model.supervision.shape=[aged]", code=2, site=site).stderr
    assert "model.supervision.shape: data=zarr_store has no target 'aged'; did you mean 'age'? known: age, " in wrong

    coarse = ("data.spacing_mm=[12,12,12]", f"trainer.init_from={run}")
    wrong = train(tmp_path, *chosen, moved, *coarse, code=2, site=site).stderr
    assert "was trained with data.spacing_mm [10.0, 10.0, 10.0], but this configuration has [12.0, 12.0, 12.0]" in wrong

    box = ["data.roi_size=[16,16,16]", "data.spacing_mm=[10,10,10]"]
    done = run_prepare(site, "data=zarr_store", moved, *box, f"output_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    (cohort,) = (tmp_path / "cohorts").iterdir()
    with (cohort / "targets.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["age"] for row in rows] == ["", *(str(40.0 + 5.0 * number) for number in range(1, 8))]
    assert "native_age" not in rows[0]
    assert "native_vol_total" in rows[0]


def run_prepare(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(site, "-c", "from menvae.apps.prepare import main; main()", *arguments)


def test_its_own_tests_pass(site: Path) -> None:
    outcomes = pytest_outcomes(site, folder=Path(__file__).parents[1] / "plugin_example")
    assert set(outcomes.values()) == {"PASSED"}, outcomes
    assert (
        "TestProjections::test_rows_do_not_depend_on_each_other[projections-projection=maximum-num_halvings=1]"
        in outcomes
    )
    assert "TestGradientDifference::test_gradient_is_the_derivative[gradient_difference-exponent=2.0]" in outcomes
    assert "test_two_ranks_are_one" in outcomes
    assert "TestEffectiveDimensions::test_ranks_do_not_matter[effective_dimensions]" in outcomes
    assert "TestLatentSpectrum::test_needs_no_more_than_it_declares[latent_spectrum]" in outcomes
    assert "TestFolderQueue::test_every_job_runs_once_and_is_never_lost[folder_queue]" in outcomes
    assert any(name.startswith("TestZarrStore::test_data_that_moved_are_the_same[zarr_store-") for name in outcomes)
    assert any(name.startswith("TestWebhook::test_the_next_process_sends_the_rest[") for name in outcomes)


def test_suites_find_what_is_wrong(site: Path) -> None:
    outcomes = pytest_outcomes(site, "test_wrong.py", "-k", "leaky or misread and yaml")
    failed = {name.split("::")[1].split("[")[0] for name, outcome in outcomes.items() if outcome != "PASSED"}
    assert failed == {
        "test_yaml_says_the_same_as_the_constructor",
        "test_every_parameter_gets_a_gradient",
        "test_half_precision_is_finite_and_near_float32",
        "test_rows_do_not_depend_on_each_other",
        "test_what_is_missing_does_not_matter",
    }
    assert outcomes["TestLeaky::test_yaml_says_the_same_as_the_constructor[leaky]"] == "PASSED"
    assert outcomes["TestMisread::test_yaml_says_the_same_as_the_constructor[misread]"] == "FAILED"


SAD_PART = """from menvae.registry import register


@register("term", "sad")
class Sad:
    pass


"""


@pytest.mark.parametrize(
    ("name", "parts", "cause", "words"),
    [
        ("sad_missing", None, ModuleNotFoundError, "No module named 'sad_missing.parts'"),
        ("sad_key", f"{SAD_PART}{{}}['wanted']", KeyError, "KeyError: 'wanted'"),
        ("sad_lines", f"{SAD_PART}raise RuntimeError('no GPU\\nat all')", RuntimeError, "RuntimeError: no GPU"),
        ("sad_assert", f"{SAD_PART}assert False", AssertionError, "AssertionError"),
        ("sad_syntax", "def f(:", SyntaxError, "SyntaxError: invalid syntax (parts.py, line 1)"),
        (
            "sad_clash",
            f"{SAD_PART}register('head', 'mlp')(Sad)",
            NameTakenError,
            "head 'mlp' is registered twice, by menvae.heads.mlp.MLPHead and by sad_clash.parts.Sad; "
            "rename one of them",
        ),
    ],
)
def test_plugin_that_cannot_be_imported_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    parts: str | None,
    cause: type[Exception],
    words: str,
) -> None:
    write_package(tmp_path, name, "parts", {} if parts is None else {"parts.py": parts})
    monkeypatch.syspath_prepend(tmp_path)
    discover.cache_clear()
    for _ in range(2):  # a sweep asks again for its next point
        with pytest.raises(UserError) as caught:
            discover()
        assert str(caught.value) == (
            f"plugin '{name}.parts' cannot be imported: {words}; fix or uninstall package '{name}'"
        )
        assert isinstance(caught.value.__cause__, cause)


def test_a_clash_of_names_ends_a_command_in_one_sentence(tmp_path: Path) -> None:
    site = write_package(tmp_path / "site", "greedy", "parts", {"parts.py": f"{SAD_PART}register('head', 'mlp')(Sad)"})
    for app in ("parts", "train"):
        done = run(site, "-c", f"from menvae.apps.{app} import main; main()")
        assert done.returncode == 2
        assert done.stderr.startswith(f"menvae-{app}: plugin 'greedy.parts' cannot be imported: head 'mlp' is regist")
        assert done.stderr.count("\n") == 1
