"""The cache of references: it is used again, and damage is noticed."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from balls import Loader, cohort
from torch import Tensor

from menvae.files import DamagedFileError
from menvae.references import fitting
from menvae.references.cohort import ReferenceCohort
from menvae.references.find import Kind, cached_ceiling, find_references, identity_of
from menvae.references.readings import Readings
from menvae.references.store import ReferenceStore

READINGS = Readings(("vol_total",), {"val": {"a": [0.1], "b": [-2.0]}}, {"n": 2})
WEIGHTS = {"layer": torch.arange(3.0)}
IDENTITY = {"data_hash": "balls"}
KINDS: tuple[Kind, ...] = ("floor", "ceiling", "segmented")


@pytest.fixture(scope="module")
def of_balls() -> ReferenceCohort:
    return cohort()


@pytest.fixture(scope="module")
def computed(of_balls: ReferenceCohort, tmp_path_factory: pytest.TempPathFactory) -> tuple[ReferenceStore, Path]:
    """A cache with all references, after a short training."""
    output_dir = tmp_path_factory.mktemp("references")
    store = ReferenceStore(output_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "MOST_STEPS", 12)
        patch.setattr(fitting, "FEWEST_STEPS", 12)
        assert set(find_references(of_balls, store, "all")) == set(KINDS)
    return store, output_dir / "references"


def states(root: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*") if path.is_file()}


def epochs(cohort: ReferenceCohort) -> int:
    """Return how often subjects were read."""
    loaders = [cohort.train, *cohort.splits.values()]
    return sum(loader.epochs for loader in loaders if isinstance(loader, Loader))


def test_a_cached_reference_is_not_computed_again(
    of_balls: ReferenceCohort, computed: tuple[ReferenceStore, Path]
) -> None:
    store, root = computed
    before, read = states(root), epochs(of_balls)
    assert len(before) == 5  # three files of readings, two of weights
    assert set(find_references(of_balls, store, "all")) == set(KINDS)
    assert states(root) == before
    assert epochs(of_balls) == read


def test_what_does_not_matter_to_a_reference_is_not_part_of_its_key(of_balls: ReferenceCohort) -> None:
    other_encoder = replace(of_balls, encoder_identity={"name": "slices"})
    augmented = replace(of_balls, training_identity={"flip": 0.5})
    other_data = replace(of_balls, identity={"data_hash": "cubes"})
    store = ReferenceStore(Path("nowhere"))

    def folders(cohort: ReferenceCohort) -> dict[str, Path]:
        return {kind: store.folder(kind, identity_of(kind, cohort)) for kind in KINDS}

    own = folders(of_balls)
    assert {kind for kind in KINDS if folders(other_encoder)[kind] != own[kind]} == {"ceiling"}
    assert {kind for kind in KINDS if folders(augmented)[kind] != own[kind]} == {"ceiling", "segmented"}
    assert {kind for kind in KINDS if folders(other_data)[kind] != own[kind]} == set(KINDS)


def test_without_a_request_only_the_floor_is_computed(of_balls: ReferenceCohort, tmp_path: Path) -> None:
    assert set(find_references(of_balls, ReferenceStore(tmp_path / "small"), "cheap")) == {"floor"}
    large = replace(of_balls, num_subjects=10**6)
    assert find_references(large, ReferenceStore(tmp_path / "large"), "cheap") == {}
    slow = replace(of_balls, num_channels=4000, size=(), num_observed=[2000])  # few values, a decomposition of 10 s
    assert slow.num_values < 10**6
    assert find_references(slow, ReferenceStore(tmp_path / "large"), "cheap") == {}
    assert find_references(of_balls, ReferenceStore(tmp_path / "large"), "none") == {}


def test_a_single_kind_is_computed_on_request(of_balls: ReferenceCohort, tmp_path: Path) -> None:
    store = ReferenceStore(tmp_path)
    assert set(find_references(of_balls, store, "all", ["floor"])) == {"floor"}
    assert [path.name.split("_")[0] for path in (tmp_path / "references").iterdir()] == ["floor"]


def test_a_cohort_without_masks_is_not_segmented(of_balls: ReferenceCohort, tmp_path: Path) -> None:
    rows = find_references(replace(of_balls, spacing_mm={}), ReferenceStore(tmp_path), "cheap")
    assert "segmented" not in rows


def test_the_cached_ceiling_reads_as_it_did(
    of_balls: ReferenceCohort, computed: tuple[ReferenceStore, Path], tmp_path: Path
) -> None:
    store, _ = computed
    reader = cached_ceiling(of_balls, store)
    assert reader is not None
    assert reader.targets == of_balls.targets
    assert not any(parameter.requires_grad for parameter in reader.parameters())
    found = store.load("ceiling", identity_of("ceiling", of_balls))
    assert found is not None
    rows = of_balls.splits["val"].rows  # type: ignore[attr-defined]
    read: Tensor = reader.read(rows.inputs)
    expected = torch.tensor([found.values["val"][name] for name in rows.subject_id])
    assert torch.allclose(read, expected, atol=1e-5)
    assert cached_ceiling(of_balls, ReferenceStore(tmp_path)) is None


@pytest.mark.parametrize(
    "damage", ["truncated", "changed", "no weights", "changed weights", "another version", "empty"]
)
def test_a_damaged_reference_is_reported_and_replaced(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ReferenceStore(tmp_path)
    store.save("ceiling", IDENTITY, READINGS, WEIGHTS)
    folder = store.folder("ceiling", IDENTITY)
    file, weights = folder / "references.json", folder / "weights.pt"
    content = json.loads(file.read_text())
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-40])
    elif damage == "changed":
        content["values"]["val"]["a"] = [0.2]
        file.write_text(json.dumps(content))
    elif damage == "no weights":
        weights.unlink()
    elif damage == "changed weights":
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    elif damage == "another version":
        del content["facts"]
        file.write_text(json.dumps(content))
    else:
        file.unlink()
    with caplog.at_level(logging.WARNING):
        assert store.load("ceiling", IDENTITY) is None
    assert "is damaged" in caplog.text
    assert str(folder) in caplog.text
    if "weights" in damage or damage == "empty":
        with pytest.raises(DamagedFileError):
            store.load_weights("ceiling", IDENTITY, torch.device("cpu"))
    store.save("ceiling", IDENTITY, READINGS, WEIGHTS)
    assert store.load("ceiling", IDENTITY) == READINGS
    assert torch.equal(store.load_weights("ceiling", IDENTITY, torch.device("cpu"))["layer"], WEIGHTS["layer"])


def test_the_first_of_two_processes_writes_a_reference(tmp_path: Path) -> None:
    """The second one, which computed it at the same time, keeps what is there."""
    first, second = ReferenceStore(tmp_path), ReferenceStore(tmp_path)
    first.save("floor", IDENTITY, READINGS)
    before = states(tmp_path)
    second.save("floor", IDENTITY, replace(READINGS, facts={"n": 3}))
    assert states(tmp_path) == before
    assert [path.name for path in (tmp_path / "references").iterdir()] == [first.folder("floor", IDENTITY).name]
