"""The tests of pictures can fail: whatever a picture puts on paper, one of them misses it.

For each picture, every method of Axes that draws it is made to draw elsewhere, one at a time; its test must turn red.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from looking import drawn_elsewhere, primitives_used

TESTS = Path(__file__).parents[1]
PICTURES = {
    "pictures/test_curves.py": ("test_schedule", "test_training_curves"),
    "pictures/test_volumes.py": ("test_reconstruction", "test_traversals"),
    "pictures/test_matrices.py": ("test_leak_matrix", "test_target_correlation"),
    "pictures/test_swaps.py": ("test_swaps", "test_walks", "test_interventions"),
    "pictures/test_latent.py": ("test_latent_scatter", "test_regression"),
    "preparation/test_pictures.py": ("test_cohort", "test_patients"),
    "comparison/test_pictures.py": ("test_trade_offs", "test_effect"),
}


@pytest.mark.parametrize(
    ("file", "test"),
    [(file, test) for file, tests in PICTURES.items() for test in tests],
    ids=lambda value: Path(value).stem,
)
def test_whatever_is_not_drawn_is_missed(file: str, test: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend((TESTS / file).parent)  # for helpers that lie beside it
    check: Callable[[Path], None] = runpy.run_path(str(TESTS / file))[test]
    used = primitives_used(lambda: check(tmp_path))
    assert used
    survivors = []
    for primitive in used:
        try:
            with drawn_elsewhere(primitive):
                check(tmp_path)
        except (AssertionError, ValueError, IndexError):
            continue
        survivors.append(primitive)
    assert survivors == []
