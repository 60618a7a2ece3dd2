"""The hash of the code of a run: what changes it, and what does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import menvae
from menvae.runs.environment import meaning_of_code

TERM = "terms/dcor.py"


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


@pytest.mark.parametrize("block", ["def f():\n    {}return 1\n", "try:\n    pass\nfinally:\n    {}x = 2\n"])
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
