"""The documentation builds without a warning, its links lead somewhere, and its code and commands are real."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from plugins import write_package

from menvae.apps.encode import with_free_data
from menvae.groups import configuration_folder

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("_build", "reference"))
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", "site"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    reference = tmp_path / "site" / "reference"
    assert "menvae.load_run" in (reference / "python.html").read_text()
    assert "lambda_dcor" in (reference / "configuration.html").read_text()
    assert "growth=reduced_gompertz" in (reference / "parts.html").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_to_files_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, heading = link.partition("#")
        if re.match(r"[a-z]+:", path) or path.startswith("reference/"):  # the site's build checks those
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not heading or heading in headings(target.read_text()), link


def headings(text: str) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and MyST make them."""
    found = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?ms)^```.*?^```", "", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 200


# --- the part of docs/parts.md ----------------------------------------------------------------------------------------


def test_the_part_of_the_guide_passes_its_suite(tmp_path: Path) -> None:
    blocks = {
        language: re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "parts.md").read_text(), re.DOTALL)
        for language in ("python", "yaml", "toml")
    }
    code, tests = (re.sub(r"(?m)^    ", "", block) for block in blocks["python"])
    (conf,), (project,) = ([re.sub(r"(?m)^    ", "", block) for block in blocks[kind]] for kind in ("yaml", "toml"))
    assert tomllib.loads(project)["project"]["entry-points"]["menvae.parts"] == {"sparse": "my_parts.sparse"}
    site = write_package(tmp_path / "site", "my_parts", "sparse", {"sparse.py": code, "conf/term/sparse.yaml": conf})
    (tmp_path / "test_sparse.py").write_text(tests)
    paths = os.pathsep.join([str(site), str(ROOT), str(ROOT / "launchers"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_sparse.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) >= 3


# --- commands ---------------------------------------------------------------------------------------------------------

CONFIGURATIONS = {
    **dict.fromkeys(("menvae-train", "menvae-sweep plan"), "train"),
    **{f"menvae-{name}": name for name in ("prepare", "evaluate", "encode", "compare", "grow")},
    "menvae-plan-resources": "plan_resources",
}
_OPTIONS = re.compile(r"^(-m|--help|--config-dir|FOLDER)$")
_OWN_GRAMMAR = re.compile(r"=(\d+\.\.|zip\(|tag\(|interval\(|f\{)|^site=mine|^experiment=best")


def commands() -> Iterator[tuple[str, str, list[str]]]:
    """Yield page, configuration and arguments of the commands in blocks of code."""
    for page in PAGES:
        for language, block in re.findall(r"(?ms)^ *```([^\n]*)\n(.*?)^ *```$", page.read_text()):
            for line in [] if language else map(str.strip, block.replace("\\\n", " ").splitlines()):
                command = next((name for name in CONFIGURATIONS if re.match(rf"{name}(\s|$)", line)), None)
                if command is not None and "=sparse" not in line:  # the part of docs/parts.md is installed nowhere
                    arguments = shlex.split(line.removeprefix(command), comments=True)
                    yield page.name, CONFIGURATIONS[command], arguments


def first_points(arguments: list[str]) -> list[str]:
    """Return overrides of the first point of a sweep; without those in a grammar that only menvae-train -m reads."""
    if any(argument.startswith("run=") for argument in arguments):  # as menvae-encode, -evaluate and -grow do
        arguments = with_free_data(arguments)
    plain = [argument for argument in arguments if not _OPTIONS.match(argument) and not _OWN_GRAMMAR.search(argument)]
    found = []
    for text, override in zip(plain, OverridesParser.create().parse_overrides(plain), strict=True):
        if override.is_sweep_override():
            found.append(f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}")
        else:
            found.append(text)
    return found


def test_commands_of_the_documentation_compose() -> None:
    told = list(commands())
    assert len(told) > 50
    assert {page for page, _, _ in told} >= {"README.md", "experiments.md", "growth.md", "sweeps.md", "training.md"}
    wrong = []
    with initialize_config_dir(str(configuration_folder("menvae")), version_base="1.3"):
        for page, name, arguments in told:
            try:
                compose(name, first_points(arguments), return_hydra_config=True)
            except Exception as error:  # noqa: BLE001 - any is told
                wrong.append(f"{page}: {name} {' '.join(arguments)}: {error}")
    assert not wrong, "\n".join(wrong)
