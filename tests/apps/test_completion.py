"""Completion and help answer from what was composed before, word for word as Hydra does, until a file changes."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.plugins import Plugins
from hydra.core.utils import JobRuntime, setup_globals
from hydra.plugins.completion_plugin import DefaultCompletionPlugin
from plugins import write_package

from menvae.apps import completed, completion, light_hydra
from menvae.apps.completion import Line
from menvae.apps.configuration_files import read_digits_as_typed
from menvae.apps.hydra_application import PluginConfigurations
from menvae.groups import configuration_folder

PROGRAM = """
import sys
from menvae.apps.train import main
try:
    main()
finally:
    print("hydra" in sys.modules, file=sys.stderr)
"""


def ask(arguments: list[str], folder: Path, *site: Path, **variables: str) -> tuple[str, bool]:
    """Return what ``menvae-train`` prints, and whether Hydra was imported."""
    paths = [*map(str, site), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=folder,
        env={
            **os.environ,
            "XDG_CACHE_HOME": str(folder / "cache"),
            "PYTHONPATH": os.pathsep.join(paths),
            **variables,
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, done.stderr.split()[-1] == "True"


def complete(line: str, folder: Path, *site: Path) -> tuple[list[str], bool]:
    """Return the completions of a line of ``menvae-train``, and whether Hydra answered."""
    text, is_of_hydra = ask(["-sc", "query=bash"], folder, *site, COMP_LINE=line, COMP_POINT=str(len(line)))
    return text.split(), is_of_hydra


class Both:
    """Hydra's completion, and what it leaves for that without Hydra."""

    def __init__(self) -> None:
        setup_globals()
        JobRuntime().set("name", "menvae-train")
        Plugins.instance().register(PluginConfigurations)
        read_digits_as_typed()
        light_hydra.install()
        path = create_automatic_config_search_path(None, None, str(configuration_folder("menvae")))
        self.loader = light_hydra.LightLoader(path)
        self.plugin = DefaultCompletionPlugin(self.loader)

    def of_hydra(self, text: str) -> list[str]:
        return self.plugin._query("train", text)

    def without_hydra(self, text: str) -> list[str] | None:
        line = Line.read(f"menvae-train {text}")
        return None if line is None else completion._answer(self.known, line)

    def remember(self, text: str) -> None:
        line = Line.read(f"menvae-train {text}")
        assert line is not None
        places = completed.Places.now()
        assert places is not None
        self.of_hydra(text)
        completed.remember("train", line, self.loader, places)
        known = completion.read("train")
        assert known is not None
        self.known = known


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Both]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return Both()


@pytest.fixture(scope="module")
def remembered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """Both, after one completion of an empty line; only to be asked."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("remembered")))
        both = Both()
        both.remember("")
        yield both


@pytest.mark.parametrize("before", ["", "-m seed=1,2 experiment=semivae_run6 +term@loss.terms.mine=kl "])
def test_every_section_group_and_value_is_completed_as_by_hydra(
    both: Both, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    both.remember(before)
    known = both.known
    (keys,) = known["compositions"].values()
    composed, repository = both.loader.composed_last, both.loader.repository_of_last
    monkeypatch.setattr(both.loader, "load_configuration", lambda **_: composed)  # once for a thousand queries
    monkeypatch.setattr(both.loader, "_parse_overrides_and_create_caching_repo", lambda *_: ([], repository))
    sections = [f"{path}." for path in keys["children"] if path not in ("", "hydra.searchpath")]
    values = [f"{key}=" for key in keys["values"]]
    groups = [group for group in known["groups"] if group]
    options = [f"{group}={option[:2]}" for group, found in known["options"].items() for option in ("", *found)]
    words = ["", "l", "hy", "nothing", *sections, *values, *groups, *(f"{group}/" for group in groups), *options]
    words += [word[:-2] for word in (*sections, *values) if len(word) > 3]
    assert len(sections) > 50
    assert len(values) > 100
    unknown = []
    for word in words:
        found = both.without_hydra(before + word)
        if found is None:
            unknown.append(word)
        else:
            assert found == both.of_hydra(before + word), word
    assert not set(unknown) & {"", "l", "hy", "nothing", *sections, *values, *options}


@pytest.mark.parametrize(
    "text",
    [
        *("+lo", "~lo", "data.root=./", "data.root=/ho", "--cfg job lo", "'lo", "loss.lambda_dcor=1.", "output_dir.x"),
        *("hydra.searchpath=[a] lo", "model.partitions=", "hydra.runtime.", "hydra.job.env_set.", "loss..", ".loss"),
        *("seed=2 seed=", "seed=1,2 lo", "seed=2 encoder=resnet lo", "nothing=2 lo", "tracking.uri."),
        *("schedule@loss.schedules.vol=", "model.partitions=3 lo", "hydra.run.dir=a lo", "+seed=2 lo"),
    ],
)
def test_what_is_not_known_is_left_to_hydra(remembered: Both, text: str) -> None:
    assert remembered.without_hydra(text) is None


@pytest.mark.parametrize("word", ["loss.lam", "model.", "see", "trainer.max_epochs=", "encoder=", ""])
def test_values_typed_before_a_word_change_no_keys(remembered: Both, word: str) -> None:
    before = "seed=3 loss.lambda_dcor=null model.z_dim=1e-3 "
    assert remembered.without_hydra(before + word) == remembered.of_hydra(before + word) != []


def test_as_many_compositions_as_a_user_types_are_kept(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completed, "_MAX_COMPOSITIONS", 2)
    for seed in (1, 2, 3):
        both.remember(f"seed={seed} ")
    assert len(both.known["compositions"]) == 2
    known = [both.without_hydra(f"seed={seed} loss.lambda_d") for seed in (1, 2, 3)]
    assert known == [None, ["loss.lambda_dcor="], ["loss.lambda_dcor="]]
    assert both.without_hydra("seed=3 seed=") == ["seed=3"]
    assert completion.file_of("train").stat().st_mode & 0o077 == 0, "a line may hold a password"


def test_a_damaged_memory_is_as_none(both: Both) -> None:
    both.remember("")
    file = completion.file_of("train")
    whole = file.read_text()
    for text in (whole[:-9], "[]", whole.replace('"options"', '"choices"')):
        file.write_text(text)
        assert completion.read("train") is None
    file.write_text(whole)
    assert completion.read("train") is not None


def test_the_second_completion_imports_no_hydra(tmp_path: Path) -> None:
    for line, expected in (
        ("menvae-train loss.lambda_dc", ["loss.lambda_dcor="]),
        ("menvae-train encoder=resn", ["encoder=resnet"]),
        ("menvae-train model.z_d", ["model.z_dim="]),
    ):
        assert complete(line, tmp_path) == (expected, line.endswith("dc"))
    assert complete("menvae-train loss.lambda_dc", tmp_path) == (["loss.lambda_dcor="], False)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a folder with the plugin ``pluginy``, whose ``conf`` has the encoder ``tiny``."""
    files = {"parts.py": "", "conf/encoder/tiny.yaml": "name: tiny\nwidth: 3\n"}
    return write_package(tmp_path / "site", "pluginy", "parts", files)


def _add_option(site: Path) -> None:
    (site / "pluginy/conf/encoder/tinier.yaml").write_text("name: tinier\n")


def _remove_option(site: Path) -> None:
    (site / "pluginy/conf/encoder/tiny.yaml").unlink()


def _replace_key(site: Path) -> None:
    file = site / "pluginy/conf/encoder/tiny.yaml"
    file.write_text(file.read_text().replace("width", "depth"))


def _remove_plugin(site: Path) -> None:
    (site / "pluginy-0.1.dist-info/entry_points.txt").write_text("")


def _add_plugin(site: Path) -> None:
    write_package(site, "other", "parts", {"parts.py": "", "conf/encoder/tiniest.yaml": "name: tiniest\n"})


def _add_search_path(site: Path) -> None:
    """Write a plugin of Hydra that adds a folder, as a package without metadata."""
    folder = site / "hydra_plugins" / "of_site"
    (site / "more/encoder").mkdir(parents=True)
    (site / "more/encoder/tiny_of_site.yaml").write_text("name: tiny\n")
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(
        "from hydra.plugins.search_path_plugin import SearchPathPlugin\n\n\n"
        "class OfSite(SearchPathPlugin):\n"
        "    def manipulate_search_path(self, search_path):\n"
        f"        search_path.append(provider='site', path='file://{site}/more')\n"
    )


@pytest.mark.parametrize(
    ("change", "options", "keys"),
    [
        (_add_option, ["tinier", "tiny"], ["width="]),
        (_remove_option, [], None),
        (_replace_key, ["tiny"], ["depth="]),
        (_remove_plugin, [], None),
        (_add_plugin, ["tiniest", "tiny"], ["width="]),
        (_add_search_path, ["tiny", "tiny_of_site"], ["width="]),
    ],
)
def test_a_change_is_seen(
    change: Callable[[Path], None], options: list[str], keys: list[str] | None, site: Path, tmp_path: Path
) -> None:
    of_options, of_keys = "menvae-train encoder=tin", "menvae-train encoder=tiny encoder."
    assert complete(of_keys, tmp_path, site) == (["encoder.name=", "encoder.width="], True)
    assert complete(of_keys, tmp_path, site) == (["encoder.name=", "encoder.width="], False)
    assert complete(of_options, tmp_path, site) == (["encoder=tiny"], False)
    change(site)
    found, is_of_hydra = complete(of_options, tmp_path, site)
    assert (found, is_of_hydra) == ([f"encoder={option}" for option in options], True)
    if keys is not None:
        assert complete(of_keys, tmp_path, site)[0] == sorted(["encoder.name=", *(f"encoder.{key}" for key in keys)])


def test_the_second_help_imports_no_hydra(site: Path, tmp_path: Path) -> None:
    first, is_of_hydra = ask(["--help"], tmp_path, site)
    assert is_of_hydra
    assert "tiny" in first
    for flag in ("--help", "-h"):
        assert ask([flag], tmp_path, site) == (first, False)
    assert ask(["--help", "hydra.verbose=false"], tmp_path, site) == (first, True)
    assert complete("menvae-train encoder=tin", tmp_path, site) == (["encoder=tiny"], False)
    _remove_option(site)
    found, is_of_hydra = ask(["--help"], tmp_path, site)
    assert is_of_hydra
    assert "tiny" not in found


def test_nothing_is_kept_of_a_search_path_of_somebody_else(site: Path, tmp_path: Path) -> None:
    _add_search_path(site)
    for _ in range(2):
        assert complete("menvae-train encoder=tin", tmp_path, site) == (["encoder=tiny", "encoder=tiny_of_site"], True)
        assert ask(["--help"], tmp_path, site)[1]


def test_nothing_is_kept_of_defaults_that_depend_on_the_environment(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site / "pluginy/conf/experiment").mkdir()
    (site / "pluginy/conf/experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /encoder: ${oc.env:AN_ENCODER}\n"
    )
    line = "menvae-train experiment=mine encoder."
    monkeypatch.setenv("AN_ENCODER", "tiny")
    assert complete(line, tmp_path, site) == (["encoder.name=", "encoder.width="], True)
    monkeypatch.setenv("AN_ENCODER", "resnet")
    found, is_of_hydra = complete(line, tmp_path, site)
    assert "encoder.width=" not in found
    assert is_of_hydra
