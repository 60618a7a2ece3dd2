"""What is asked of a source of data."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from menvae.conformance.suite import Case, PartConformance
from menvae.data.subjects import Geometry, Source


class DataConformance(PartConformance):
    """A frozen dataclass of keys that knows its geometry and finds its subjects."""

    group = "data"
    shared_keys: ClassVar[frozenset[str]] = frozenset(
        {"roi_size", "spacing_mm", "modalities", "label_map", "val_fraction", "test_fraction", "split_seed", "on_error"}
        | {"box", "refuse_below", "warn_below", "cache_format", "normalisation", "missing_modalities", "pairs"}
    )

    def test_has_the_keys_that_every_source_has(self, case: Case) -> None:
        assert self.shared_keys <= set(case.part.tunables)

    def test_is_a_frozen_source(self, case: Case) -> None:
        source = case.bound()()
        assert isinstance(source, Source)
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
