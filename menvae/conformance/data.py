"""What is asked of a source of data."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from menvae.conformance.suite import Case, PartConformance
from menvae.data.batches.augmentation import AugmentationSettings
from menvae.data.geometry.transforms import Geometry
from menvae.data.source import Data, DataRequest
from menvae.data.tables.tabular import TabularSource
from menvae.data.targets.normalizer import TargetSettings
from menvae.data.volumes import VolumeSource


class DataConformance(PartConformance):
    """A frozen dataclass of keys that knows its geometry and finds its subjects, which are volumes."""

    group = "data"
    shared_keys: ClassVar[frozenset[str]] = frozenset(
        {"roi_size", "spacing_mm", "modalities", "label_map", "val_fraction", "test_fraction", "split_seed", "on_error"}
        | {"box", "refuse_below", "warn_below", "cache_format", "normalisation", "missing_modalities", "pairs"}
    )

    def test_has_the_keys_that_every_source_has(self, case: Case) -> None:
        assert self.shared_keys <= set(case.part.tunables)

    def test_is_a_frozen_source(self, case: Case) -> None:
        source = case.bound()()
        assert isinstance(source, VolumeSource)
        assert type(source).__dataclass_params__.frozen  # type: ignore[attr-defined]
        assert dataclasses.replace(source) == source

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


class TableConformance(PartConformance):
    """A frozen dataclass of keys that gives the rows of a table; its variants must be loadable."""

    group = "data"

    def load(self, case: Case, **more: Any) -> Data:
        """Return the data of a run."""
        wishes = {
            "cache": Path(),
            "supervision": {},
            "targets": TargetSettings(),
            "augmentation": AugmentationSettings(),
        }
        source: TabularSource = case.bound()()
        return source.load(DataRequest(**{**wishes, "batch_size": 8, "seed": 0, **more}))

    def test_is_a_frozen_source_of_rows(self, case: Case) -> None:
        source = case.bound()()
        assert isinstance(source, TabularSource)
        assert type(source).__dataclass_params__.frozen  # type: ignore[attr-defined]
        assert dataclasses.replace(source) == source
        assert source.size == ()

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
