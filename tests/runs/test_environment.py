"""The hash of the code of a run: what changes it, and what does not."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from functools import cache
from pathlib import Path

import pytest
from plugins import write_package

import menvae
from menvae.runs import environment
from menvae.runs.environment import hash_of_code, meaning_of_code

TERM = "terms/dcor.py"
_parsed_once = cache(environment._meaning_of_module)


@pytest.fixture(autouse=True)
def _same_sources_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_meaning_of_module", _parsed_once)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    source = Path(menvae.__file__).parent
    return Path(shutil.copytree(source, tmp_path / "menvae", ignore=shutil.ignore_patterns("__pycache__", "conf")))


def _append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def test_comments_docstrings_and_layout_do_not_count(package: Path) -> None:
    before = meaning_of_code(package)
    term = package / TERM
    source = term.read_text()
    assert source.startswith('"""')
    term.write_text('"""Another docstring."""\n\n\n# a comment\n' + source.partition('"""\n')[2])
    assert meaning_of_code(package) == before
    term.write_text(source.replace("(", "(  ", 5) + "\n\n# the end\n\n\n")
    assert meaning_of_code(package) == before
    (package / "terms" / "notes.txt").write_text("not code")
    assert meaning_of_code(package) == before


@pytest.mark.parametrize(
    "block",
    [
        "def f():\n    {}return 1\n",
        "try:\n    pass\nfinally:\n    {}x = 2\n",
        "try:\n    pass\nexcept ValueError:\n    {}x = 2\n",
        "match 1:\n  case 1:\n    {}x = 2\n",
    ],
)
def test_docstrings_inside_do_not_count(package: Path, block: str) -> None:
    _append(package / TERM, block.format(""))
    before = meaning_of_code(package)
    (package / TERM).write_text((package / TERM).read_text().removesuffix(block.format("")))
    _append(package / TERM, block.format('"""Words."""\n    '))
    assert meaning_of_code(package) == before


@pytest.mark.parametrize(
    ("before", "after"), [("C = 0.5\n", "C = 0.25\n"), ("C = 'a'\n", "C = 'b'\n"), ("f(1)\n", "f(1, b=2)\n")]
)
def test_a_changed_value_counts(package: Path, before: str, after: str) -> None:
    source = (package / TERM).read_text()
    (package / TERM).write_text(source + before)
    old = meaning_of_code(package)
    (package / TERM).write_text(source + after)
    assert meaning_of_code(package) != old


def test_a_new_module_counts_unless_it_is_aside(package: Path) -> None:
    before = meaning_of_code(package, {"apps"})
    (package / "apps" / "new.py").write_text("A = 1\n")
    assert meaning_of_code(package, {"apps"}) == before
    (package / "terms" / "new.py").write_text("A = 1\n")
    assert meaning_of_code(package, {"apps"}) != before


COUNTS = [
    *("composition", "data", "decoders", "encoders", "evaluation", "heads", "kernels", "metrics", "models"),
    *("observers", "optimizers", "references", "runs", "schedules", "statistics", "terms", "training", "updates"),
]
ASIDE = [
    "apps",
    "capacity",
    "comparison",
    "conformance",
    "console",
    "encoding",
    "forecasting",
    "growth",
    "pictures",
    "preparation",
    "presentation",
    "resources",
    "sweeps",
    "tracking",
]


def test_every_package_is_one_or_the_other(package: Path) -> None:
    assert sorted(COUNTS + ASIDE) == sorted(path.parent.name for path in package.glob("*/__init__.py"))


@pytest.mark.parametrize("folder", [*COUNTS, *ASIDE])
def test_code_of_results_counts_and_no_other(package: Path, folder: str) -> None:
    before = hash_of_code(package)
    _append(package / folder / "__init__.py", "\n_CHANGED = 1\n")
    assert (hash_of_code(package) != before) == (folder in COUNTS)


def test_versions_of_what_computes_count_and_no_other(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, known = hash_of_code(package), environment._version
    changed: list[str] = []
    for name in ("torch", "transformers", "monai", "mlflow", "hydra-core", "menvae"):
        monkeypatch.setattr(environment, "_version", lambda asked, new=name: "0" if asked == new else known(asked))
        changed += [name] * (hash_of_code(package) != before)
    assert changed == ["torch", "transformers"]


COMPUTE = {"torch", "numpy", "scipy", "nibabel", "skimage", "transformers", "triton"}
READ_STORE_OR_SHOW = {
    *("blosc2", "deflate", "pandas", "pyarrow"),  # what they return enters the hash of the data
    *("hydra", "jinja2", "matplotlib", "mlflow", "omegaconf", "optuna", "pydantic", "pydantic_core", "rich", "yaml"),
    *("psutil", "safetensors", "threadpoolctl"),
}


def test_every_imported_package_is_one_or_the_other(package: Path) -> None:
    imported: set[str] = set()
    for path in (path for folder in COUNTS for path in (package / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported |= {name.partition(".")[0] for name in names}
    assert imported - sys.stdlib_module_names - {"menvae"} <= COMPUTE | READ_STORE_OR_SHOW
    assert imported >= COMPUTE, "a package that nothing imports would change the hash in vain"
    distributions = {"skimage": "scikit-image"}
    assert {distributions.get(name, name) for name in COMPUTE} == set(environment._COMPUTING)


def test_code_of_a_plugin_counts(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = hash_of_code(package)
    monkeypatch.syspath_prepend(write_package(tmp_path / "site", "someplugin", "parts", {"parts.py": "A = 1\n"}))
    installed = hash_of_code(package)
    _append(tmp_path / "site" / "someplugin" / "parts.py", "# no change\n")
    assert hash_of_code(package) == installed != before
    _append(tmp_path / "site" / "someplugin" / "parts.py", "B = 1\n")
    assert hash_of_code(package) != installed


def test_version_of_a_plugin_counts_though_its_package_has_another_name(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = write_package(tmp_path / "site", "someplugin", "parts", {"parts.py": "A = 1\n"})
    metadata = site / "someplugin-0.1.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("Name: someplugin", "Name: some-distribution"))
    monkeypatch.syspath_prepend(site)
    before = hash_of_code(package)
    metadata.write_text(metadata.read_text().replace("Version: 0.1", "Version: 0.2"))
    assert hash_of_code(package) != before


def test_a_file_that_is_not_python_counts_with_its_bytes(tmp_path: Path) -> None:
    found = set()
    for content in (b"\x7fELF\x00\x01", b"\x7fELF\x00\x02", b"class {{ name }}:\n", b"TEXT = '\\ud800'\n"):
        (tmp_path / "module.py").write_bytes(content)
        found.add(meaning_of_code(tmp_path / "module.py"))
    assert len(found) == 4


def test_the_minor_version_of_python_counts(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for version in (("3", "11", "0"), ("3", "11", "9"), ("3", "12", "0")):
        monkeypatch.setattr("platform.python_version_tuple", lambda version=version: version)
        found.append(hash_of_code(package))
    assert found[0] == found[1] != found[2]


def test_what_is_kept_of_a_package_is_what_its_files_mean(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept = environment._kept_hash_of_code
    before = hash_of_code(package)
    assert [kept(package), kept(package)] == [before, before]
    (memo,) = (tmp_path / "cache" / "menvae").iterdir()
    _append(package / TERM, "B = 1\n")
    assert kept(package) == hash_of_code(package) != before
    ((state, digest),) = json.loads(memo.read_text()).items()
    for damaged in ("{", "{}", json.dumps({state: digest[1:]}), json.dumps({state: None})):
        memo.write_text(damaged)
        assert kept(package) == hash_of_code(package)
    parsed: list[str] = []
    monkeypatch.setattr(environment, "_meaning_of_module", lambda source: parsed.append(source.decode()) or source)
    kept(package)
    assert not parsed
    monkeypatch.syspath_prepend(write_package(tmp_path / "site", "someplugin", "parts", {"parts.py": "A = 1\n"}))
    kept(package)
    assert parsed == ["", "A = 1\n"], "of all modules only those of the plugin"
