"""What is done faster than by Hydra has the same result."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.plugins import Plugins
from hydra.core.utils import JobRuntime, setup_globals
from hydra.types import RunMode
from omegaconf import OmegaConf

from menvae.apps import light_hydra
from menvae.apps.configuration_files import DecimalFiles, read_digits_as_typed
from menvae.apps.hydra_application import PluginConfigurations
from menvae.groups import configuration_folder


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=3"],
        ["experiment=semivae_run6", "model.z_dim=64", "+hydra.job.env_set.A=1"],
        ["loss.lambda_dcor=1,2", "+term@loss.terms.mine=kl"],
        ["site=example"],
    ],
    ids=" ".join,
)
def test_one_composition_equals_the_two_of_hydra(monkeypatch: pytest.MonkeyPatch, overrides: list[str]) -> None:
    setup_globals()
    JobRuntime().set("name", "menvae-train")
    Plugins.instance().register(PluginConfigurations)
    read_digits_as_typed()
    mode = RunMode.MULTIRUN if any("," in text for text in overrides) else RunMode.RUN
    path = create_automatic_config_search_path(None, None, str(configuration_folder("menvae")))
    whole = [*overrides, f"hydra.mode={mode.name}"]

    monkeypatch.setattr(defaults_list, "_create_interpolation_map", light_hydra._choices_so_far)
    expected = ConfigLoaderImpl(path).load_configuration("train", list(whole), mode)
    light_hydra.install()
    loader = light_hydra.LightLoader(path)
    of_mode = loader.load_configuration("train", list(overrides), RunMode.MULTIRUN, validate_sweep_overrides=False)
    composed = loader.load_configuration("train", list(whole), mode)

    assert composed is of_mode
    assert OmegaConf.to_yaml(composed) == OmegaConf.to_yaml(expected)
    other = loader.load_configuration("train", list(whole), mode)
    assert other is not composed
    assert OmegaConf.to_yaml(other) == OmegaConf.to_yaml(expected)


@pytest.mark.parametrize("command", ["train", "compare", "prepare", "encode", "evaluate", "grow"])
def test_help_is_that_of_hydra(tmp_path: Path, command: str) -> None:
    program = f"from menvae.apps.{command} import main; main()"
    composing = "hydra.verbose=false"  # with an override, Hydra composes and prints the help
    mine, theirs = (
        subprocess.run(
            [sys.executable, "-c", program, "--help", *more],
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "120"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for more in ([], [composing])
    )
    assert mine == theirs
    assert len(mine.splitlines()) > 20


def test_options_are_those_of_hydra() -> None:
    Plugins.instance().register(PluginConfigurations)
    path = create_automatic_config_search_path(None, None, str(configuration_folder("menvae")))
    read_digits_as_typed()
    mine, theirs = light_hydra.LightLoader(path), ConfigLoaderImpl(path)
    groups = mine.list_groups("")
    assert groups == theirs.list_groups("")
    for group in [*groups, "hydra/launcher", "hydra/help", "nothing"]:
        assert mine.get_group_options(group) == theirs.get_group_options(group)


def test_a_job_of_hydras_launchers_may_register_its_source_of_files_again() -> None:
    """As submitit does, which copies registries into a process where Hydra then registers its own plugins."""
    registry = SourcesRegistry()
    registry.types["file"] = DecimalFiles
    registry.register(FileConfigSource)
    assert registry.types["file"] is DecimalFiles
