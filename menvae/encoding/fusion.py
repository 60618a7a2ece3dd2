"""One table of several runs: side by side, or the predictions of an ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from menvae.data.source import DataSource
from menvae.encoding.posterior import LEVELS, Posteriors
from menvae.encoding.table import IDENTITY, visit_columns
from menvae.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

Fusion = Literal["concatenate", "ensemble"]


def check_same_visits(found: Mapping[str, Posteriors]) -> None:
    """Check that all runs encoded the same visits in the same splits.

    Args:
        found: name of a run -> what it encoded.

    Raises:
        UserError: they did not; a visit of a test split must not have trained one of the others.
    """
    (first, reference), *others = ((name, _splits(one)) for name, one in found.items())
    for name, splits in others:
        apart = sorted(splits.keys() ^ reference.keys())
        if apart:
            raise UserError(
                f"run: '{first}' and '{name}' have other visits, such as '{apart[0]}'; encode one cohort with data.*"
            )
        moved = [subject for subject, split in splits.items() if reference[subject] != split]
        if moved:
            raise UserError(
                f"run: '{first}' and '{name}' have other splits: '{moved[0]}' is in {reference[moved[0]]} of one and "
                f"in {splits[moved[0]]} of the other; use runs with the same data.split_seed and fractions"
            )


def _splits(found: Posteriors) -> dict[str, str]:
    return {visit.subject_id: split for visit, split in zip(found.visits, found.splits, strict=True)}


def concatenated(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the columns of all runs side by side, each behind its prefix.

    Columns that say which visit a row is, which modalities it has and what was measured stand once; measurements that
    differ, because the geometries do, have prefixes too.

    Args:
        tables: prefix -> table of a run, all of the same visits.
    """
    import pandas as pd

    order = next(iter(tables.values()))["subject"]
    aligned = {name: table.set_index("subject").loc[order].reset_index() for name, table in tables.items()}
    shared: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for prefix, table in aligned.items():
        for column in table.columns:
            known = [other[column] for other in aligned.values() if column in other.columns]
            of_visit = column in IDENTITY or column.startswith("available.")
            if of_visit or (column.startswith("measured.") and all(known[0].equals(other) for other in known)):
                shared.setdefault(column, table[column])
            else:
                own[f"{prefix}.{column}"] = table[column]
    return pd.DataFrame({**shared, **own})


def ensemble(found: Mapping[str, Posteriors], source: DataSource) -> pd.DataFrame:
    """Return the mean of the predictions of several runs, with the variance within and between them.

    The variance of the mixture is the mean variance within the runs plus the variance between their predictions (law
    of total variance; Lakshminarayanan et al. 2017); its quantiles are those of the draws of all runs.

    Args:
        found: name of a run -> what it encoded, all of the same visits.
        source: source of the visits.

    Raises:
        UserError: the runs predict other targets.
    """
    import pandas as pd

    (first, reference), *others = found.items()
    for name, other in others:
        if differing := sorted(reference.predicted.keys() ^ other.predicted.keys()):
            raise UserError(
                f"run: only one of '{first}' and '{name}' predicts '{differing[0]}'; such runs are no ensemble"
            )
    if not reference.predicted:
        raise UserError(f"fusion: run '{first}' predicts no targets; latents of several runs cannot be averaged")
    members = [_aligned(other, reference) for other in found.values()]
    columns = visit_columns(reference, source)
    for name in reference.predicted:
        means = np.stack([other.predicted[name][rows] for other, rows in members])
        draws = np.stack([other.draws[name][rows].astype(np.float64) for other, rows in members])
        within, between = draws.var(axis=2).mean(axis=0), means.var(axis=0)
        low, high = np.quantile(draws, LEVELS, axis=(0, 2))
        columns[f"predicted.{name}"] = means.mean(axis=0)
        columns[f"predicted.{name}.sd"] = np.sqrt(within + between)
        columns[f"predicted.{name}.sd_within"] = np.sqrt(within)
        columns[f"predicted.{name}.sd_between"] = np.sqrt(between)
        columns |= {f"predicted.{name}.low": low, f"predicted.{name}.high": high}
    return pd.DataFrame(columns)


def _aligned(other: Posteriors, reference: Posteriors) -> tuple[Posteriors, Sequence[int]]:
    """Return the rows of another run in the order of the reference."""
    places = {visit.subject_id: row for row, visit in enumerate(other.visits)}
    return other, [places[visit.subject_id] for visit in reference.visits]
