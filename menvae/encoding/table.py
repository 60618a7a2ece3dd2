"""The table of one run: a row per visit, and the units of its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from menvae.data.source import DataSource, Visit
from menvae.data.targets.declaration import Target
from menvae.data.targets.physical import physical, physical_unit
from menvae.encoding.posterior import Floats, Posteriors, spread
from menvae.latent import LatentLayout

if TYPE_CHECKING:
    import pandas as pd

IDENTITY = ("subject", "patient", "visit", "days", "split")
"""Columns that say which visit a row is."""


def latent_names(layout: LatentLayout) -> list[str]:
    """Return the name of each dimension of z, such as ``vol.03``.

    >>> latent_names(LatentLayout.from_config(12, {"vol": 11, "residual": None}))[-2:]
    ['vol.10', 'residual.0']
    """
    return [
        f"{partition}.{number:0{len(str(size - 1))}d}"
        for partition, size in layout.sizes.items()
        for number in range(size)
    ]


def visit_columns(found: Posteriors, source: DataSource) -> dict[str, Any]:
    """Return the columns that do not depend on the model: the visit, its modalities, and its measured features."""
    import pandas as pd

    visits = found.visits
    columns: dict[str, Any] = {
        "subject": [visit.subject_id for visit in visits],
        "patient": [visit.patient_id or None for visit in visits],
        "visit": pd.array(visit_numbers(visits), dtype="Int64"),
        "days": np.array([np.nan if visit.days is None else visit.days for visit in visits]),
        "split": list(found.splits),
    }
    if source.size:  # the columns of a table are all there
        columns |= {f"available.{name}": found.available[:, index] for index, name in enumerate(source.channels)}
    return columns | {f"measured.{name}": _measured(visits, name, target) for name, target in source.targets.items()}


def visit_numbers(visits: Sequence[Visit]) -> list[int | None]:
    """Return the number of each visit among those of its patient, from 1, in order of days and then of names.

    >>> visit_numbers([Visit("a-2", "a", 9.0, {}), Visit("a-3", "a", 0.0, {}), Visit("b", "b", None, {})])
    [2, 1, 1]
    """
    by_patient: dict[str, list[Visit]] = {}
    for visit in visits:
        by_patient.setdefault(visit.patient_id, []).append(visit)
    numbers: dict[str, int | None] = {}
    for patient, own in by_patient.items():
        ordered = sorted(own, key=lambda one: (np.inf if one.days is None else one.days, one.subject_id))
        numbers |= {visit.subject_id: number if patient else None for number, visit in enumerate(ordered, 1)}
    return [numbers[visit.subject_id] for visit in visits]


def _measured(visits: Sequence[Visit], name: str, target: Target) -> Floats:
    raw = (visit.raw.get(name) for visit in visits)
    return physical(target, np.array([np.nan if value is None else value for value in raw], np.float64))


def latent_columns(found: Posteriors, layout: LatentLayout) -> dict[str, Any]:
    """Return mean and log variance of every dimension of z."""
    names = latent_names(layout)
    return {
        f"{what}.{name}": values[:, column]
        for what, values in (("mean", found.mean), ("logvar", found.logvar))
        for column, name in enumerate(names)
    }


def prediction_columns(found: Posteriors) -> dict[str, Any]:
    """Return the prediction of every target, with the spread that q(z|x) gives it."""
    columns: dict[str, Any] = {}
    for name, values in found.predicted.items():
        columns[f"predicted.{name}"] = values
        columns |= {f"predicted.{name}.{what}": values for what, values in spread(found.draws[name]).items()}
    return columns


def table_of(found: Posteriors, source: DataSource, layout: LatentLayout) -> pd.DataFrame:
    """Return the table of one run."""
    import pandas as pd

    return pd.DataFrame(visit_columns(found, source) | prediction_columns(found) | latent_columns(found, layout))


def units(columns: Sequence[str], targets: Mapping[str, Target]) -> dict[str, str]:
    """Return column -> unit, for the columns that have one."""
    found = {"days": "days since the patient's first visit"}
    for column in columns:
        for place, word in enumerate(words := column.split(".")):
            if word in ("measured", "predicted"):
                target = targets.get(words[place + 1])
                found |= {column: physical_unit(target)} if target is not None else {}
    return found
