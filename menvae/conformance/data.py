"""Conformance suites of data sources."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch

from menvae.conformance.suite import Case, PartConformance, plain
from menvae.data.batches.augmentation import AugmentationSettings
from menvae.data.geometry.transforms import Geometry
from menvae.data.source import Data, DataRequest, DataSource
from menvae.data.tables.tabular import TabularSource
from menvae.data.targets.declaration import by_group
from menvae.data.targets.normalizer import TargetSettings
from menvae.data.volumes import VolumeSource
from menvae.runs.identity import run_hash

UNTOUCHED = TargetSettings(residualise={})
"""Settings of targets that are z-scored but not residualised."""


def source_of(case: Case) -> DataSource:
    """Return the source of a case, with its settings."""
    source: DataSource = case.bound()()
    return source


def class_of(case: Case) -> type[DataSource]:
    """Return the class of the source of a case."""
    return cast(type[DataSource], case.part.factory)


def hash_of(config: Mapping[str, Any]) -> str:
    """Return the hash of a run with a configuration of a source."""
    return run_hash({"data": config}, "data", "targets")


class SourceConformance(PartConformance):
    """Common tests of volumes and tables: the declarations of a source, and batches that match them.

    Attributes:
        loadable: {part name: deviations from its YAML file that give a small cohort}; the data of other parts are not
            loaded.
    """

    group = "data"
    loadable: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def load(self, case: Case, folder: Path, **more: Any) -> Data:
        """Return the data of a run with all declared targets, one partition per group."""
        source = source_of(case)
        wishes = {"supervision": by_group(source.targets), "targets": UNTOUCHED, "batch_size": 4, "seed": 0}
        return source.load(DataRequest(**{"cache": folder, "augmentation": AugmentationSettings(), **wishes, **more}))

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run a test that takes ``small`` once per small cohort."""
        super().pytest_generate_tests(metafunc)
        if "small" in metafunc.fixturenames:
            metafunc.parametrize("small", self.small_cases(), ids=str)

    @classmethod
    def small_cases(cls) -> list[Case]:
        """Return the cases whose data the tests load."""
        return [Case(part, cls.loadable[part.name]) for part in cls.parts() if part.name in cls.loadable]

    def test_is_frozen(self, case: Case) -> None:
        source = cast(Any, source_of(case))
        assert type(source).__dataclass_params__.frozen
        assert dataclasses.replace(source) == source

    def test_keys_that_it_declares_are_keys(self, case: Case) -> None:
        assert class_of(case).outside_identity <= set(case.part.tunables)
        for key, value in class_of(case).added_keys.items():
            assert plain(case.part.tunables[key][1]) == plain(value), (
                f"{key}: its default must not change existing runs"
            )

    def test_identity_names_the_keys_that_weights_depend_on(self, case: Case) -> None:
        source = source_of(case)
        assert source.input_identity <= source.identity.keys(), "`input_identity` must contain keys of `identity`"

    def test_hash_of_a_run_depends_on_the_keys_that_belong_to_its_identity(self, case: Case) -> None:
        config = case.config()
        with_fold = (
            [{**config, "fold": 0}] if "fold" in config else []
        )  # some keys have an effect only with, or without
        for key in case.part.tunables:
            changes = [hash_of({**one, key: "another"}) != hash_of(one) for one in (config, *with_fold)]
            assert any(changes) != (key in class_of(case).outside_identity), key
        before = hash_of(config)
        old = {key: value for key, value in config.items() if key not in class_of(case).added_keys}
        if all(plain(config[key]) == plain(value) for key, value in class_of(case).added_keys.items()):
            assert hash_of(old) == before

    def test_place_of_the_data_is_outside_of_the_identity(self, case: Case) -> None:
        location = source_of(case).location
        if location is not None:
            assert _location_keys(case), "`location` must be the value of a key"
            assert set(_location_keys(case)) <= class_of(case).outside_identity

    def test_targets_are_declared_with_units_and_groups(self, case: Case) -> None:
        for name, target in source_of(case).targets.items():
            assert name
            assert target.unit
            assert target.group
            assert target.axis in (None, *range(len(source_of(case).size)))

    def test_generative_factors_are_those_of_its_groups(self, small: Case, tmp_path: Path) -> None:
        source = source_of(small)
        names = [name for group in source.factor_groups.values() for name in group]
        assert len(names) == len(set(names)), "names of factors must differ between groups"
        subjects = list(self.load(small, tmp_path).splits) if names else []
        found = source.factors(subjects)
        assert list(found) == subjects
        for values in found.values():
            assert set(values) == set(names)
            assert all(math.isfinite(value) for value in values.values())

    def test_data_that_moved_are_the_same(self, small: Case, tmp_path: Path) -> None:
        location = source_of(small).location
        if location is None:
            return
        old, new = Path(location), tmp_path / "elsewhere" / Path(location).name
        new.parent.mkdir()
        if old.is_dir():
            shutil.copytree(old, new)
        else:
            shutil.copy(old, new)
        moved = Case(small.part, {**small.settings, **dict.fromkeys(_location_keys(small), str(new))})
        hashes = set()
        for one in (small, moved):
            data = self.load(one, tmp_path / "cache")
            hashes.add(run_hash({"data": one.config()}, data.data_hash, data.targets_hash))
        assert len(hashes) == 1

    def test_batches_hold_targets_and_say_which_are_observed(self, small: Case, tmp_path: Path) -> None:
        supervision, data = by_group(source_of(small).targets), self.load(small, tmp_path)
        assert (data.targets is not None) or not supervision
        assert (data.test is not None) == ("test" in data.splits.values())
        for loader, split in ((data.train, "train"), (data.val, "val"), (data.test, "test")):
            batches = list(loader.epoch(0)) if loader is not None else []
            names = {name for batch in batches for name in batch.subject_id}
            assert names == {name for name, of in data.splits.items() if of == split}
            for batch in batches:
                assert set(batch.targets) == set(batch.observed) == set(supervision)
                for partition, targets in supervision.items():
                    values, observed = batch.targets[partition], batch.observed[partition]
                    assert values.shape == observed.shape == (len(batch), len(targets))
                    assert (values.dtype, observed.dtype) == (torch.float32, torch.bool)
                    assert torch.isfinite(values).all()
                    assert not values[~observed].any(), "unobserved targets must be 0"
                    assert data.targets is not None
                    raw = [[data.targets.raw[name][target] for target in targets] for name in batch.subject_id]
                    present = torch.tensor([[value is not None for value in row] for row in raw])
                    assert (observed <= present).all(), "missing targets must not be marked as observed"
                    if split == "train":
                        assert torch.equal(observed, present)

    def test_a_look_finds_every_subject_in_the_order_of_the_splits(self, small: Case, tmp_path: Path) -> None:
        data = self.load(small, tmp_path, in_order=True)
        for loader, split in ((data.train, "train"), (data.val, "val"), (data.test, "test")):
            for epoch in (0, 3):
                found = [name for batch in loader.epoch(epoch) for name in batch.subject_id] if loader else []
                assert found == [row[0] for row in data.split_rows if row[1] == split]

    def test_targets_are_standardised_by_the_training_subjects(self, small: Case, tmp_path: Path) -> None:
        supervision, data = by_group(source_of(small).targets), self.load(small, tmp_path)
        values: dict[str, dict[str, float]] = {}
        for batch in data.train.epoch(0):
            for partition, targets in supervision.items():
                for row, name in enumerate(batch.subject_id):
                    for column, target in enumerate(targets):
                        if batch.observed[partition][row, column]:
                            values.setdefault(target, {})[name] = float(batch.targets[partition][row, column])
        for target, scores in values.items():
            assert abs(np.mean(list(scores.values()))) < 1e-4, target
            sd = np.std(list(scores.values()))
            assert abs(sd - 1.0) < 1e-4 or sd < 1e-4, target


def _location_keys(case: Case) -> list[str]:
    location = source_of(case).location
    return [key for key, value in case.config().items() if key != "name" and value == location]


class DataConformance(SourceConformance):
    """A frozen dataclass of keys with a geometry, whose subjects are volumes."""

    shared_keys: ClassVar[frozenset[str]] = frozenset(
        {"roi_size", "spacing_mm", "modalities", "label_map", "val_fraction", "test_fraction", "split_seed", "on_error"}
        | {
            "fold",
            "num_folds",
            "box",
            "refuse_below",
            "warn_below",
            "cache_format",
            "normalisation",
            "missing_modalities",
            "pairs",
        }
    )

    def test_has_the_keys_that_every_source_has(self, case: Case) -> None:
        assert self.shared_keys <= set(case.part.tunables)

    def test_can_be_prepared(self, case: Case) -> None:
        source = source_of(case)
        assert isinstance(source, VolumeSource)
        assert source.cohort is not None
        assert len(source.size) == 3

    def test_geometry_follows_the_configuration(self, case: Case) -> None:
        settings = {
            **case.settings,
            "roi_size": [16, 32, 48],
            "spacing_mm": [2.0, 3.0, 4.0],
            "label_map": {"et": [3, 4]},
            "box": "center",
        }
        geometry = Case(case.part, settings).bound()().geometry
        assert geometry == Geometry((16, 32, 48), (2.0, 3.0, 4.0), {3: "et", 4: "et"})
        default: Geometry = case.bound()().geometry
        assert all(side > 0 for side in default.roi_size)
        assert all(spacing > 0.0 for spacing in default.spacing_mm or ())

    def test_augmentation_moves_locations_and_nothing_else(self, small: Case, tmp_path: Path) -> None:
        targets = source_of(small).targets
        settings = [AugmentationSettings(flip=flip) for flip in (0.0, 1.0)]
        plain_, mirrored = (self.load(small, tmp_path, augmentation=one, batch_size=1000) for one in settings)
        (before,), (after,) = (list(data.train.epoch(1)) for data in (plain_, mirrored))
        assert before.subject_id == after.subject_id
        torch.testing.assert_close(after.inputs, before.inputs.flip(2))
        assert plain_.targets is not None
        for partition, names in by_group(targets).items():
            for column, name in enumerate(names):
                z_scores = [batch.targets[partition][:, column] for batch in (before, after)]
                if targets[name].axis == 0:
                    statistics = plain_.targets.normalizer.statistics[name]
                    assert statistics.mean is not None
                    first, second = (z_score * statistics.sd + statistics.mean for z_score in z_scores)
                    observed = before.observed[partition][:, column]
                    torch.testing.assert_close(second[observed], 1.0 - first[observed], rtol=1e-4, atol=1e-4)
                else:
                    assert torch.equal(*z_scores), name


class TableConformance(SourceConformance):
    """A frozen dataclass of keys whose subjects are the rows of a table; its variants must be loadable."""

    @classmethod
    def small_cases(cls) -> list[Case]:
        """Return every variant."""
        return cls.cases()

    def load(self, case: Case, folder: Path = Path(), **more: Any) -> Data:
        """Return the data of a run."""
        return super().load(case, folder, **{"batch_size": 8, **more})

    def test_is_a_source_of_rows_that_need_no_preparation(self, case: Case) -> None:
        source = source_of(case)
        assert isinstance(source, TabularSource)
        assert source.size == ()
        assert source.cohort is None

    def test_batches_hold_every_training_row_once(self, case: Case) -> None:
        data, source = self.load(case), case.bound()()
        batches = list(data.train.epoch(0))
        assert len(batches) == data.train.steps_per_epoch
        names = [name for batch in batches for name in batch.subject_id]
        assert sorted(names) == sorted(name for name, split in data.splits.items() if split == "train")
        for batch in batches:
            assert batch.inputs.shape == (len(batch), len(source.channels))
            assert batch.inputs.dtype == torch.float32
            assert torch.isfinite(batch.inputs).all()
            assert (batch.labels is not None) == ("labels" in source.gives)

    def test_training_rows_are_standardised(self, case: Case) -> None:
        inputs = torch.cat([batch.inputs for batch in self.load(case).train.epoch(0)]).double()
        torch.testing.assert_close(inputs.mean(dim=0), torch.zeros_like(inputs[0]), rtol=0.0, atol=1e-4)
        sd = inputs.std(dim=0, correction=0)
        assert ((sd - 1.0).abs() < 1e-4).logical_or(sd < 1e-4).all()

    def test_the_same_again_is_the_same(self, case: Case) -> None:
        ours, again = self.load(case), self.load(case)
        assert (ours.data_hash, ours.targets_hash) == (again.data_hash, again.targets_hash)
        prepared = self.load(case, prepared=ours.prepared)
        assert prepared.splits == ours.splits
        for epoch in (0, 3):
            first, second = next(iter(ours.train.epoch(epoch, 1))), list(again.train.epoch(epoch))[1]
            assert first.subject_id == second.subject_id
            assert torch.equal(first.inputs, second.inputs)

    def test_ranks_share_an_epoch(self, case: Case) -> None:
        ranks = [self.load(case, rank=rank, num_ranks=2).train for rank in (0, 1)]
        assert ranks[0].steps_per_epoch == ranks[1].steps_per_epoch
        sizes = [[len(batch) for batch in rank.epoch(1)] for rank in ranks]
        assert sizes[0] == sizes[1]
        names = {name for rank in ranks for batch in rank.epoch(1) for name in batch.subject_id}
        assert names == {name for name, split in self.load(case).splits.items() if split == "train"}

    @pytest.mark.parametrize(
        ("more", "word"),
        [
            ({"batch_size": 1}, "trainer.batch_size"),
            ({"augmentation": AugmentationSettings(flip=0.5)}, "augmentation"),
            ({"supervision": {"vol": ["vol_total"]}}, "model.supervision"),
        ],
    )
    def test_refuses_what_rows_have_no_use_for(self, case: Case, more: dict[str, Any], word: str) -> None:
        with pytest.raises(ValueError, match=word):
            self.load(case, **more)
