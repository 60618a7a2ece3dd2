"""A package of a third party: found by its entry point, used by its name, held to the same suite."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from plugins import write_package

from menvae.errors import UserError
from menvae.registry import discover

CODE = '''"""Encoders of a third party."""

from torch import Tensor, nn

from menvae.encoders import Encoder, Features
from menvae.latent import LatentLayout
from menvae.registry import register


@register("encoder", "tiny", reference="nobody 2026")
class TinyEncoder(Encoder):
    """One linear map of the mean of each channel."""

    def __init__(self, in_channels: int, size: tuple[int, ...], layout: LatentLayout, *, gain: float = 2.0) -> None:
        super().__init__()
        self.gain = gain
        self.map = nn.Linear(in_channels, 2 * layout.z_dim)

    def features(self, inputs: Tensor, available: Tensor | None = None) -> Features:
        if available is not None:
            inputs = inputs.masked_fill(~available[..., None, None, None], 0.0)
        return {"means": self.gain * inputs.mean(dim=(2, 3, 4))}

    def posterior(self, features: Features, *, isolated: bool = False) -> tuple[Tensor, Tensor]:
        mean, logvar = self.map(features["means"]).float().chunk(2, dim=1)
        return mean, logvar
'''
LEAKY = '''

@register("encoder", "leaky")
class Leaky(TinyEncoder):
    """Looks at other rows of the batch and at what is missing, and has a parameter that does nothing."""

    def __init__(self, in_channels: int, size: tuple[int, ...], layout: LatentLayout, *, gain: float = 2.0) -> None:
        super().__init__(in_channels, size, layout, gain=gain)
        self.unused = nn.Linear(1, 1)

    def features(self, inputs: Tensor, available: Tensor | None = None) -> Features:
        return super().features(inputs - inputs.mean(dim=0))


@register("encoder", "misread")
class Misread(TinyEncoder):
    """Its file says something else than its constructor."""

    def __init__(self, in_channels: int, size: tuple[int, ...], layout: LatentLayout, *, gain: float = 2.0) -> None:
        super().__init__(in_channels, size, layout, gain=gain)
'''
SUITE = """
import sys

import pytest

from menvae.conformance import EncoderConformance


class TestTiny(EncoderConformance):
    names = ("tiny",)
    variants = {"tiny": [{}, {"gain": 0.5}]}


class TestWrong(EncoderConformance):
    names = ("leaky", "misread")


def run(monkeypatch, main, *arguments):
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_its_value_is_checked(monkeypatch, capsys):
    from menvae.apps.train import main

    assert run(monkeypatch, main, "encoder=tiny", "encoder.gain=big") == 2
    assert capsys.readouterr().err.startswith("menvae-train: encoder.gain: 'big' is not allowed; it should be a valid")


def test_an_experiment_is_built_with_it(monkeypatch, capsys):
    from menvae.apps import hydra_application
    from menvae.experiment import Experiment

    def task(config):
        print(type(Experiment.from_config(config).build(1)[0].encoder).__module__)
        return 0

    assert run(monkeypatch, lambda: hydra_application.run("train", task), "encoder=tiny") == 0
    assert capsys.readouterr().out == "tinyplugin.encoders\\n"


def test_parts_tells_its_origin(monkeypatch, capsys):
    from menvae.apps.parts import main

    monkeypatch.setattr(sys, "argv", ["menvae-parts", "encoder"])
    main()
    text = capsys.readouterr().out
    assert "tiny  (tinyplugin)  One linear map of the mean of each channel." in text
    assert "reference: nobody 2026" in text
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as pip leaves it: package, its configuration, and its metadata."""
    site = tmp_path_factory.mktemp("site")
    files = {
        "encoders.py": CODE + LEAKY,
        "conf/encoder/tiny.yaml": "name: tiny\ngain: 2.0\n",
        "conf/encoder/leaky.yaml": "name: leaky\ngain: 2.0\n",
        "conf/encoder/misread.yaml": "name: misread\ngain: 3.0\n",
    }
    write_package(site, "tinyplugin", "encoders", files)
    (site / "test_plugin_parts.py").write_text(SUITE)
    return site


def run(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=site, env=environment, capture_output=True, text=True, check=False
    )


TRAIN = "from menvae.apps.train import main; main()"


def test_its_part_is_configured_by_name_and_not_imported_for_that(site: Path) -> None:
    program = "import sys, atexit; atexit.register(lambda: print('imported', 'tinyplugin' in sys.modules)); " + TRAIN
    done = run(site, "-c", program, "--cfg", "job", "--package", "encoder", "encoder=tiny", "encoder.gain=3")
    assert done.stdout.splitlines() == ["# @package encoder", "name: tiny", "gain: 3", "imported False"], done.stderr


def test_help_offers_it(site: Path) -> None:
    lines = run(site, "-c", TRAIN, "--help").stdout.splitlines()
    (offered,) = [line for line in lines if line.strip().startswith("encoder: ")]
    assert {"leaky", "misread", "resnet", "tiny"} <= set(offered.strip().removeprefix("encoder: ").split(", "))


def test_its_own_tests_pass_what_is_right_and_find_what_is_wrong(site: Path) -> None:
    done = run(site, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA", "test_plugin_parts.py")
    outcomes = {
        line.split(" - ")[0].split("::", 1)[1]: line.split(" ", 1)[0]
        for line in done.stdout.splitlines()
        if line.startswith(("PASSED", "FAILED", "ERROR"))
    }
    failed = {name for name, outcome in outcomes.items() if outcome != "PASSED"}
    assert failed == {
        "TestWrong::test_yaml_says_the_same_as_the_constructor[misread]",
        "TestWrong::test_every_parameter_gets_a_gradient[leaky]",
        "TestWrong::test_bfloat16_is_finite_and_near_float32[leaky]",
        "TestWrong::test_rows_do_not_depend_on_each_other[leaky]",
        "TestWrong::test_what_is_missing_does_not_matter[leaky]",
    }, done.stdout
    assert "TestTiny::test_rows_do_not_depend_on_each_other[tiny-gain=0.5]" in outcomes
    assert "test_an_experiment_is_built_with_it" in outcomes


def test_plugin_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_package(tmp_path, "sad", "parts", {})
    monkeypatch.syspath_prepend(tmp_path)
    discover.cache_clear()
    with pytest.raises(UserError, match=r"plugin 'sad\.parts' cannot be imported: No module named 'sad\.parts'"):
        discover()
