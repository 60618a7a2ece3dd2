"""Base class of table sources: group splits, scaling, targets and hidden labels."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from menvae.configuration import path_of
from menvae.data.batches.folds import SPLIT_KEYS, Folds
from menvae.data.batches.splits import SPLITS, warn_of_small_splits
from menvae.data.digests import digest_of
from menvae.data.source import (
    Data,
    DataRequest,
    DataSource,
    FittedTargets,
    RowsToEmbed,
    Stream,
    StreamRequest,
    Visit,
)
from menvae.data.tables.column_ranges import expanded
from menvae.data.tables.rows import RowLoader
from menvae.data.tables.scaler import TableScaler, Transform, check_domain, transformed
from menvae.data.tables.table_file import Table
from menvae.data.targets.declaration import Target, check_supervised
from menvae.data.targets.fit import fit_targets
from menvae.errors import UserError, nearest
from menvae.registry import Field
from menvae.types import Batch

_log = logging.getLogger(__name__)

_INFERENCE_BATCH_SIZE = 8192
"""Rows per batch where nothing is trained."""


@dataclass(frozen=True, kw_only=True)
class TabularSource(DataSource):
    """A source of table rows, with the keys common to all of them.

    Attributes:
        columns: F numeric input columns; ``f{000..767}`` means 768 of them, also in ``target_columns``.
        target_columns: numeric columns that ``model.supervision`` may use as targets; they may also be inputs. Missing
            values are not observed.
        transforms: column -> transform before standardisation: ``signed_log``, sign(x) log(1 + |x|); ``log1p``; or
            ``none``, the default of every column.
        val_fraction: share of the groups for validation; at least one group.
        test_fraction: share of the groups for test, never used in training.
        split_seed: seed of the random split and of the choice of hidden labels.
        fold: number from 0 of the fold of groups that is the test split, in place of ``test_fraction``. None: no
            cross-validation.
        num_folds: number of folds, or ``groups`` to leave out one group at a time.
        labelled_fraction: share of the labelled training rows whose labels are used; validation uses all labels.
        unsup_run: directory of a run without classes on the same table, whose embeddings are added to
            ``embeddings.npz``; None adds none.
    """

    split_keys: ClassVar[frozenset[str]] = SPLIT_KEYS
    outside_identity: ClassVar[frozenset[str]] = frozenset({"unsup_run"})
    added_keys: ClassVar[Mapping[str, object]] = MappingProxyType({"target_columns": []})

    columns: tuple[str, ...]
    target_columns: tuple[str, ...] = ()
    transforms: dict[str, Transform] | None = None
    val_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    test_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    split_seed: Annotated[int, Field(ge=0)] = 42
    fold: Annotated[int, Field(ge=0)] | None = None
    num_folds: Annotated[int, Field(ge=2)] | Literal["groups"] = 5
    labelled_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    unsup_run: str | None = None

    def __post_init__(self) -> None:
        """Expand ranges of columns, and validate the keys without reading any data."""
        object.__setattr__(self, "columns", expanded(self.columns, "data.columns"))
        object.__setattr__(self, "target_columns", expanded(self.target_columns, "data.target_columns"))
        for key, names in (("columns", self.columns), ("target_columns", self.target_columns)):
            twice = [name for name in names if names.count(name) > 1]
            if twice:
                raise UserError(f"data.{key}: {twice[0]} appears twice")
        if not self.columns:
            raise UserError("data.columns: at least one is needed")
        used = (*self.columns, *self.target_columns)
        for name in self.transforms or {}:
            if name not in used:
                raise UserError(f"data.transforms: '{name}' is not a column; {nearest(name, used)}")
        _ = self.folds

    @property
    def folds(self) -> Folds | None:
        """The fold that is the test split, or None; raises `UserError` if it does not exist."""
        return Folds.of_keys(self.fold, self.num_folds)

    @property
    def files_of_others(self) -> Sequence[Path]:
        """The file that ``unsup_run`` names, if it does."""
        return [] if self.unsup_run is None else [path_of(self.unsup_run, "data.unsup_run") / "embeddings.npz"]

    @property
    def channels(self) -> tuple[str, ...]:
        """The columns."""
        return self.columns

    @property
    def size(self) -> tuple[int, ...]:
        """Empty: an input is a row [F]."""
        return ()

    @property
    def value_range(self) -> tuple[float, float]:
        """Unbounded: values are standardised."""
        return (-math.inf, math.inf)

    @property
    def identity(self) -> Mapping[str, str]:
        """The columns, and the target columns with their transforms."""
        targets = ", ".join(f"{name} ({self._transform(name)})" for name in self.target_columns)
        return {"data.columns": ", ".join(self.columns), **({"data.target_columns": targets} if targets else {})}

    @property
    def input_identity(self) -> frozenset[str]:
        """The columns; targets are compared by ``model.supervision``."""
        return frozenset({"data.columns"})

    @property
    def targets(self) -> Mapping[str, Target]:
        """The target columns; a table does not declare their units."""
        units = {name: self._transform(name) for name in self.target_columns}
        return {name: Target("as in the table" if unit == "none" else unit, "table") for name, unit in units.items()}

    def _transform(self, column: str) -> Transform:
        return (self.transforms or {}).get(column, "none")

    @abstractmethod
    def table(self) -> Table:
        """Read or generate the table.

        Raises:
            UserError: if the table is invalid.
        """

    def load(self, request: DataRequest) -> Data:
        """Read and split the table, fit the scaler and targets on training rows, hide labels, create loaders."""
        _check(request)
        check_supervised(request.supervision, self.targets)
        table = request.prepared if isinstance(request.prepared, Table) else self.table()
        transforms = [self._transform(name) for name in self.columns]
        check_domain(table.values, self.columns, transforms, table.place)
        splits = split_groups(table.groups, self.val_fraction, self.test_fraction, self.split_seed, self.folds)
        if table is not request.prepared:
            warn_of_small_splits(splits.tolist(), self.test_fraction, "row", self.folds)
        training = np.flatnonzero(splits == "train")
        scaler = TableScaler.fit(table.values[training], self.columns, transforms)
        inputs = scaler.scaled(table.values).astype(np.float32)
        subject_id = row_names(len(table))
        split_of = dict(zip(subject_id.tolist(), splits.tolist(), strict=True))
        units = table.group_of_row
        learnt = self._labels_to_learn(table, training, warns=request.learns_classes)
        fitted = self._fit_targets(table, training, subject_id, request)
        z_scores = {} if fitted is None else _z_scores(fitted, request.supervision)
        loaders = {}
        for split in SPLITS:
            rows = np.flatnonzero(splits == split)
            loaders[split] = RowLoader(
                inputs[rows],
                learnt[rows] if table.classes else None,
                subject_id[rows],
                request.batch_size if split == "train" else max(_INFERENCE_BATCH_SIZE, request.batch_size),
                targets={partition: values[rows] for partition, values in z_scores.items()},
                patient_id=None if units is None else units[rows],
                # shuffles validation too: neighbours in a file are alike
                seed=None if request.in_order else request.seed,
                rank=request.rank,
                num_ranks=request.num_ranks,
            )
        return Data(
            prepared=table,
            data_hash=table.hash,
            targets_hash=scaler.hash if fitted is None else _combined_hash(scaler, fitted),
            description=scaler.as_dict()
            if fitted is None
            else {**fitted.normalizer.as_dict(), **scaler.as_dict(), "hash": _combined_hash(scaler, fitted)},
            splits=split_of,
            split_columns=("subject_id", "split"),
            split_rows=list(split_of.items()),
            train=loaders["train"],
            val=loaders["val"],
            test=loaders["test"] if np.any(splits == "test") else None,
            classes=table.classes,
            targets=fitted,
            embedded=RowsToEmbed(
                RowLoader(inputs, None, subject_id, _INFERENCE_BATCH_SIZE),
                table.labels,
                table.rows_hash,
                self._others(table),
            ),
        )

    def stream(self, request: StreamRequest) -> Stream:
        """Read the table, and scale its rows as the run that encodes them scaled its own."""
        table = self.table()
        transforms = [self._transform(name) for name in self.columns]
        check_domain(table.values, self.columns, transforms, table.place)
        scaler = TableScaler.from_dict(request.description)
        names = row_names(len(table))
        size = max(_INFERENCE_BATCH_SIZE, request.batch_size)
        loader = RowLoader(scaler.scaled(table.values).astype(np.float32), None, names, size)
        return Stream(names.tolist(), self._stream(table, loader))

    def _stream(self, table: Table, loader: RowLoader) -> Iterator[tuple[Batch, Sequence[Visit]]]:
        raw = self._raw_targets(table)
        labels = (table.classes[label] if label >= 0 else "" for label in table.labels.tolist())
        groups = table.group_of_row
        units = repeat("") if groups is None else iter(groups.tolist())
        for batch in loader.epoch(0):
            yield batch, [Visit(name, next(units), None, next(raw), next(labels)) for name in batch.subject_id]

    def find(self, request: DataRequest) -> Data:
        """Load the data; tables need no preparation."""
        return self.load(request)

    def _fit_targets(
        self, table: Table, training: NDArray[np.intp], subject_id: NDArray[np.str_], request: DataRequest
    ) -> FittedTargets | None:
        """Return the targets, fitted on training rows; None if no partition is supervised."""
        if not any(request.supervision.values()):
            return None
        raw = list(self._raw_targets(table))
        normalizer = request.normalizer or fit_targets(
            [raw[row] for row in training], request.targets, request.supervision, self.targets
        )
        names = subject_id.tolist()
        return FittedTargets(normalizer, dict(zip(names, raw, strict=True)), [names[row] for row in training])

    def _raw_targets(self, table: Table) -> Iterator[dict[str, float | None]]:
        """Yield the transformed targets of each row, None where not observed."""
        columns = []
        for name, values in table.targets.items():
            transform = [self._transform(name)]
            check_domain(values[:, None], [name], transform, table.place)
            numbers: list[float] = transformed(values[:, None], transform)[:, 0].tolist()
            columns.append([None if math.isnan(number) else number for number in numbers])
        if not columns:
            yield from ({} for _ in range(len(table)))
        for row in zip(*columns, strict=True):
            yield dict(zip(table.targets, row, strict=True))

    def _labels_to_learn(self, table: Table, training: NDArray[np.intp], *, warns: bool) -> NDArray[np.int64]:
        """Return the labels, hidden (-1) in a share of the training rows.

        Args:
            table: all rows.
            training: positions of the training rows.
            warns: whether to warn about classes that are left without labels.
        """
        labels = table.labels.copy()
        labelled = training[labels[training] >= 0]
        order = np.random.default_rng([self.split_seed, 1]).permutation(labelled)
        labels[order[max(1, round(self.labelled_fraction * len(order))) :]] = -1
        unseen = sorted(set(table.labels[table.labels >= 0].tolist()) - set(labels[training].tolist()))
        if unseen and warns:
            _log.warning(
                "%d of %d classes have no labelled training row and cannot be learnt, such as '%s'; change "
                "data.split_seed or data.labelled_fraction, or merge rare classes",
                len(unseen),
                len(table.classes),
                table.classes[unseen[0]],
            )
        return labels

    def _others(self, table: Table) -> dict[str, NDArray[np.float32]]:
        if not self.files_of_others:
            return {}
        path = self.files_of_others[0]
        if not path.is_file():
            raise UserError(f"data.unsup_run: '{path}' does not exist; give the directory of a finished run")
        with np.load(path) as file:
            if "unsup" not in file.files:
                raise UserError(f"data.unsup_run: '{path}' is of a run with classes; use a run of lithology_vae")
            if str(file["rows_hash"]) != table.rows_hash:
                raise UserError(f"data.unsup_run: '{path}' belongs to another table")
            return {"unsup": file["unsup"]}


def _z_scores(fitted: FittedTargets, supervision: Mapping[str, Sequence[str]]) -> dict[str, NDArray[np.float32]]:
    """Return partition -> z-scored targets of all rows [N, F], NaN where not observed."""
    scores = {}
    for partition, names in supervision.items():
        rows = [[fitted.normalizer.normalise(raw, name) for name in names] for raw in fitted.raw.values()]
        scores[partition] = np.array(rows, dtype=np.float32).reshape(len(rows), len(names))  # None becomes NaN
    return scores


def _combined_hash(scaler: TableScaler, fitted: FittedTargets) -> str:
    return digest_of([scaler.hash, fitted.normalizer.hash])[:16]


def row_names(num: int) -> NDArray[np.str_]:
    """Return row names whose alphabetical order is the row order.

    >>> row_names(10).tolist()[::9]
    ['row-01', 'row-10']
    """
    digits = len(str(num))
    return np.array([f"row-{number:0{digits}d}" for number in range(1, num + 1)])


def split_groups(
    groups: NDArray[np.int64], val_fraction: float, test_fraction: float, seed: int, folds: Folds | None = None
) -> NDArray[np.str_]:
    """Return the split of each row [N]; all rows of a group are in the same split.

    Args:
        groups: group number of each row [N].
        val_fraction: share of the groups for validation; at least one group.
        test_fraction: share of the groups for test; may round to none.
        seed: seed of the draw.
        folds: the fold that is the test split instead of ``test_fraction``, or None.

    Raises:
        UserError: if there are too few groups, or the training or validation split has only one row.
    """
    present, inverse = np.unique(groups, return_inverse=True)
    num = len(present)
    what = "rows" if num == len(groups) else "groups"
    in_test = np.zeros(num, dtype=bool) if folds is None else folds.test(np.zeros(num), seed, what)
    num_val = max(1, round(val_fraction * num))
    num_test = round(test_fraction * num) if folds is None else np.count_nonzero(in_test)
    if num_val + num_test >= num:
        lower = "data.val_fraction" if folds is not None else "data.val_fraction and data.test_fraction"
        raise UserError(
            f"data: {num} {what} are too few for {num_val} in validation, {num_test} in test and one in training; add "
            f"rows or lower {lower}"
        )
    random = np.random.default_rng(seed) if folds is None else folds.draws(seed)
    order = random.permutation(num)
    rest = order[~in_test[order]]
    of_group = np.full(num, "train", dtype="<U5")
    of_group[rest[:num_val]] = "val"
    of_group[rest[num_val : num_val + num_test] if folds is None else in_test] = "test"
    splits: NDArray[np.str_] = of_group[inverse]
    for split in ("train", "val"):
        if np.count_nonzero(splits == split) < 2:
            raise UserError(f"data: the {split} split has only one row; at least 2 are needed")
    return splits


def _check(request: DataRequest) -> None:
    """Refuse augmentation, and batches of one row."""
    if request.augmentation.does_something:
        raise UserError("augmentation: tables cannot be augmented; remove the keys augmentation.*")
    if request.batch_size < 2:
        raise UserError("trainer.batch_size: 1 is not allowed for tables; batch normalisation needs 2 or more")
