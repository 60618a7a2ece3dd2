"""Leaks: what a partition says about the targets of another one, beyond what its own targets say.

Probes (see `menvae.statistics.probes`) are fitted on the training patients and on the other folds of a judged split,
and scored by one R2 over all held-out patients of the split. Of a target f and a source partition S,

    conditional = max(0, R2 of f from z_S) - max(0, R2 of f from the targets of S).

The null distribution keeps what the targets of S say about f: f is replaced by its linear prediction from them plus
residuals permuted between patients (Freedman & Lane 1983, J. Bus. Econ. Stat. 1:292), which is f permuted where S has
no targets. The quantile and the p-values are those of the largest conditional value of all pairs (Westfall & Young
1993, Resampling-Based Multiple Testing), for each probe.

Shape suffixes: N training and judged rows, J judged rows, P dimensions, C columns (targets and their permutations).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from menvae.cores import num_cores
from menvae.statistics.bootstrap import MIN_PATIENTS, bootstrap_intervals_of_means
from menvae.statistics.estimate import Estimate
from menvae.statistics.patients import spaced
from menvae.statistics.probes import QuadraticProbe, RidgeProbe, num_values

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Probe = Literal["ridge", "quadratic"]
PROBES: tuple[Probe, ...] = ("ridge", "quadratic")
NUM_PERMUTATIONS = 100
NUM_FOLDS = 5
LEVEL = 0.975
"""Quantile of the null of a probe above which a conditional value counts: 5 % of splits for both probes together."""
MOST_ROWS = 4096
"""Larger splits are subsampled to evenly spaced rows, because features of all pairs of dimensions need memory."""
MOST_VALUES = 2**28
"""Values of the features of all folds that are fitted at the same time: a GB."""
COLUMNS_AT_ONCE = 1024
"""Bounds the memory of a batch of columns."""


@dataclass(frozen=True)
class Codes:
    """Posterior means and targets of the rows (visits) of a split.

    Attributes:
        means: partition -> [N, P].
        targets: target -> [N], NaN where not observed.
        patients: patient of each row.
    """

    means: Mapping[str, Floats]
    targets: Mapping[str, Floats]
    patients: Sequence[str]


@dataclass(frozen=True)
class Leak:
    """What a probe reads about a target from a source partition.

    Attributes:
        target: target f.
        partition: the partition that f supervises.
        source: partition that is read.
        probe: ``ridge`` or ``quadratic``.
        n: judged patients in whom f was observed.
        r2: cross-validated R2 of f from the source; None if undefined.
        own_r2: R2 of f from the targets of the source, by the same probe; None without any, or if f is one of them.
        conditional: see the module; None if undefined, or if f is a target of the source.
        null: quantile `LEVEL` of the largest conditional value of all pairs without leaks, for this probe.
        p_value: share of permutations whose largest conditional value reaches this one (the data count as one).
        reason: why ``r2`` is missing.
    """

    target: str
    partition: str
    source: str
    probe: Probe
    n: int
    r2: float | None = None
    own_r2: float | None = None
    conditional: float | None = None
    null: float | None = None
    p_value: float | None = None
    reason: str = ""

    @property
    def significant(self) -> bool:
        """Whether the conditional value lies above its null."""
        return self.conditional is not None and self.null is not None and self.conditional > max(0.0, self.null)


@dataclass(frozen=True)
class Leaks:
    """The leak matrix of a split.

    Attributes:
        table: one row per target, source and probe, own sources included.
        leak_max: largest conditional value above its null, 0 if there is none. The 95 % interval is a BCa bootstrap
            over judged patients with the cross-validated predictions held fixed; it is that of the row ``largest``.
        largest: the row that ``leak_max`` is from; if none is above its null, the one with the largest conditional
            value, whose interval bounds what may be hidden. None without a value.
    """

    table: tuple[Leak, ...]
    leak_max: Estimate
    largest: Leak | None


def leak_table(
    train: Codes,
    judged: Codes,
    supervision: Mapping[str, Sequence[str]],
    *,
    num_permutations: int = NUM_PERMUTATIONS,
    seed: int = 0,
) -> Leaks:
    """Return what each partition says about each target on a judged split.

    Training rows of patients of the judged split are left out, and of more than `MOST_ROWS` rows of a split, evenly
    spaced ones are used.

    Args:
        train: training split.
        judged: split to judge, with the same partitions and targets.
        supervision: partition -> its targets.
        num_permutations: 0 or more; without any, nothing is above the null.
        seed: deals folds and permutations.

    Raises:
        ValueError: no judged row.
    """
    whose = set(judged.patients)
    others = np.array([row for row, who in enumerate(train.patients) if who not in whose], dtype=np.intp)
    train, judged = (
        _rows(train, spaced(others, MOST_ROWS)),
        _rows(judged, spaced(np.arange(len(judged.patients)), MOST_ROWS)),
    )
    train, judged = (_rows(codes, np.argsort(np.array(codes.patients), kind="stable")) for codes in (train, judged))
    pooled = _Pooled(train, judged, supervision, num_permutations, seed)
    with threadpool_limits(1):  # folds have threads of their own; those of BLAS would wait for each other
        found = [pooled.read(source, targets) for source in train.means for targets in pooled.groups()]
    readings = [reading for some in found for reading in some]
    nulls = {
        probe: np.max([r.null for r in readings if r.leak.probe == probe and r.null is not None], axis=0, initial=-1)
        for probe in PROBES
    }
    readings = [_against_null(reading, nulls[reading.leak.probe]) for reading in readings]
    table = tuple(reading.leak for reading in readings)
    largest = _largest(readings)
    if largest is None:
        num_patients = len(set(judged.patients))
        reason = (
            f"{num_patients} patients in the split; at least {MIN_PATIENTS} in whom a target was observed are needed"
            if any(leak.reason for leak in table)
            else "no target with a partition other than its own"
        )
        return Leaks(table, Estimate(None, None, None, num_patients, reason), None)
    return Leaks(table, _interval(largest, seed), largest.leak)


@dataclass(frozen=True)
class _Reading:
    """A row of the table, its null distribution, and what its interval needs.

    Attributes:
        leak: the row.
        null: conditional values of the permutations [B]; None if the row does not count in the maximum.
        values: y - mean y, its square, squared error, squared error from the targets of the source [J, 4].
        patients: patient of each judged row.
    """

    leak: Leak
    null: Floats | None = None
    values: Floats | None = None
    patients: tuple[str, ...] = ()


class _Pooled:
    """Training and judged rows together, the training rows first."""

    def __init__(
        self, train: Codes, judged: Codes, supervision: Mapping[str, Sequence[str]], num_permutations: int, seed: int
    ) -> None:
        self.supervision = supervision
        self.partition_of = {target: name for name, targets in supervision.items() for target in targets}
        self.means = {name: np.concatenate([train.means[name], judged.means[name]]) for name in train.means}
        self.targets = {name: np.concatenate([train.targets[name], judged.targets[name]]) for name in self.partition_of}
        self.patients = (*train.patients, *judged.patients)
        self.is_judged_N = np.arange(len(self.patients)) >= len(train.patients)
        random = np.random.default_rng(seed)
        names = sorted(set(judged.patients))
        folds = random.permutation(len(names)) % NUM_FOLDS
        fold_of = dict(zip(names, folds.tolist(), strict=True))
        self.fold_N = np.array([fold_of.get(patient, -1) for patient in self.patients])
        everyone = {patient: place for place, patient in enumerate(sorted(set(self.patients)))}
        self.patient_N = np.array([everyone[patient] for patient in self.patients])
        self._keys = random.random((num_permutations, len(everyone)))

    def groups(self) -> list[list[str]]:
        """Return the targets, those observed in the same rows together: they share all linear algebra of codes."""
        found: dict[bytes, list[str]] = {}
        for name, values_N in self.targets.items():
            found.setdefault(np.isfinite(values_N).tobytes(), []).append(name)
        return list(found.values())

    def read(self, source: str, targets: Sequence[str]) -> list[_Reading]:
        """Return the rows of a source and targets that are observed in the same rows."""
        rows = np.flatnonzero(np.isfinite(self.targets[targets[0]]))
        judged_N = self.is_judged_N[rows]
        patients = tuple(self.patients[row] for row in rows[judged_N])
        named = [(name, self.partition_of[name], source) for name in targets]
        num_patients = len(set(patients))
        if num_patients < MIN_PATIENTS:
            reason = f"observed in {num_patients} patients of the split; at least {MIN_PATIENTS} are needed"
            return [_Reading(Leak(*of, probe, num_patients, reason=reason)) for of in named for probe in PROBES]
        y_NC = np.stack([self.targets[name][rows] for name in targets], axis=1)
        others = [index for index, (_, partition, _) in enumerate(named) if partition != source]
        own_NP = self._own(source, rows)
        columns_NC = np.concatenate([y_NC, self._permuted(y_NC[:, others], own_NP, rows)], axis=1)
        held_JC = columns_NC[judged_N]
        folds_N, whose_N = self.fold_N[rows], self.patient_N[rows]
        from_z = _predictions(self.means[source][rows], columns_NC, folds_N, whose_N, judged_N)
        from_own = None if own_NP is None else _predictions(own_NP, columns_NC, folds_N, whose_N, judged_N)
        readings = []
        for probe in PROBES:
            r2_C = _r2(held_JC, from_z[probe])
            own_C = np.zeros_like(r2_C) if from_own is None else _r2(held_JC, from_own[probe])
            conditional_C = np.maximum(r2_C, 0.0) - np.maximum(own_C, 0.0)
            null_BC = conditional_C[len(targets) :].reshape(-1, len(others)) if others else None
            for index, of in enumerate(named):
                if np.isnan(r2_C[index]):
                    reason = f"the same in all {num_patients} patients of the split"
                    readings.append(_Reading(Leak(*of, probe, num_patients, reason=reason)))
                    continue
                r2 = float(r2_C[index])
                if index not in others:
                    readings.append(_Reading(Leak(*of, probe, num_patients, r2)))
                    continue
                assert null_BC is not None
                own_r2 = None if from_own is None else float(own_C[index])
                leak = Leak(*of, probe, num_patients, r2, own_r2, float(conditional_C[index]))
                y_J = held_JC[:, index] - held_JC[:, index].mean()
                own_error_J = y_J if from_own is None else held_JC[:, index] - from_own[probe][:, index]
                error_J = held_JC[:, index] - from_z[probe][:, index]
                values = np.stack([y_J, y_J**2, error_J**2, own_error_J**2], axis=1)
                null = np.nan_to_num(null_BC[:, others.index(index)], nan=0.0)
                readings.append(_Reading(leak, null, values, patients))
        return readings

    def _own(self, source: str, rows: Indices) -> Floats | None:
        """Return the targets of a source as codes: the mean where one is missing, and a column that says where."""
        columns = []
        for name in self.supervision.get(source, ()):
            values_N = self.targets[name][rows]
            seen_N = np.isfinite(values_N)
            if seen_N.any():
                columns.append(np.where(seen_N, values_N, values_N[seen_N].mean()))
                columns += [] if seen_N.all() else [seen_N.astype(np.float64)]
        return np.stack(columns, axis=1) if columns else None

    def _permuted(self, y_NC: Floats, own_NP: Floats | None, rows: Indices) -> Floats:
        """Return targets [N, B C] without leaks: predictions from a source's targets, plus permuted residuals."""
        mean_C = y_NC.mean(axis=0)
        residuals_NC = y_NC - mean_C if own_NP is None else RidgeProbe(own_NP, own_NP).fit(y_NC)[1]
        explained_NC = y_NC - residuals_NC
        orders = [self._order(keys, rows) for keys in self._keys]
        return np.concatenate([y_NC[:, :0], *(explained_NC + residuals_NC[order] for order in orders)], axis=1)

    def _order(self, keys: Floats, rows: Indices) -> Indices:
        """Order rows by patients in the order of their keys, within each split; visits of a patient stay neighbours.

        Different targets, seen in different rows, get the same order of patients.
        """
        key_N = keys[self.patient_N[rows]]
        return np.lexsort((np.arange(len(rows)), key_N, self.is_judged_N[rows]))


def _rows(codes: Codes, rows: Sequence[int] | Indices) -> Codes:
    index = np.asarray(rows, dtype=np.intp)
    return Codes(
        {name: array[index] for name, array in codes.means.items()},
        {name: array[index] for name, array in codes.targets.items()},
        [codes.patients[row] for row in index],
    )


def _predictions(
    codes_NP: Floats, columns_NC: Floats, fold_N: Indices, patient_N: Indices, judged_N: NDArray[np.bool_]
) -> dict[Probe, Floats]:
    """Return the predictions of the judged rows by both probes, each by a fit without its fold [J, C]."""
    found: dict[Probe, Floats] = {probe: np.zeros(columns_NC.shape) for probe in PROBES}

    def predict(fold: int) -> None:
        held = fold_N == fold
        ridge = RidgeProbe(codes_NP[~held], codes_NP[held])
        quadratic = QuadraticProbe(ridge, patient_N[~held])
        for start in range(0, columns_NC.shape[1], COLUMNS_AT_ONCE):
            block = slice(start, start + COLUMNS_AT_ONCE)
            predicted, residuals = ridge.fit(columns_NC[~held, block])
            found["ridge"][held, block] = predicted
            found["quadratic"][held, block] = quadratic.refine(predicted, residuals)

    folds = np.unique(fold_N[judged_N]).tolist()
    num_threads = min(num_cores(), NUM_FOLDS, max(1, MOST_VALUES // num_values(*codes_NP.shape)))
    with ThreadPoolExecutor(num_threads) as threads:  # a fold writes to rows of its own
        for _ in threads.map(predict, folds):
            pass
    return {probe: array[judged_N] for probe, array in found.items()}


def _r2(y_JC: Floats, predicted_JC: Floats) -> Floats:
    """Return the R2 of each column, NaN where it is constant."""
    centred_JC = y_JC - y_JC.mean(axis=0)
    total_C = np.sum(centred_JC**2, axis=0)
    varies_C = total_C > 1e-12 * np.maximum(np.sum(y_JC**2, axis=0), 1e-300)
    error_C = np.sum((y_JC - predicted_JC) ** 2, axis=0)
    return np.where(varies_C, 1.0 - error_C / np.where(varies_C, total_C, 1.0), np.nan)


def _against_null(reading: _Reading, largest_B: Floats) -> _Reading:
    leak = reading.leak
    if leak.conditional is None or len(np.atleast_1d(largest_B)) == 0 or reading.null is None:
        return reading
    null = float(np.quantile(largest_B, LEVEL, method="higher"))
    p_value = (1.0 + float(np.sum(largest_B >= leak.conditional))) / (1.0 + len(largest_B))
    counted = Leak(**{**leak.__dict__, "null": null, "p_value": p_value})
    return _Reading(counted, reading.null, reading.values, reading.patients)


def _largest(readings: Sequence[_Reading]) -> _Reading | None:
    """Return the reading with the largest conditional value, of those above their null if there are any."""
    counted = [reading for reading in readings if reading.leak.conditional is not None]
    significant = [reading for reading in counted if reading.leak.significant]
    return max(significant or counted, key=lambda reading: reading.leak.conditional or 0.0, default=None)


def _interval(reading: _Reading, seed: int) -> Estimate:
    def conditional(means_R4: Floats) -> dict[str, Floats]:
        mean_R, square_R, error_R, own_error_R = means_R4.T
        variance_R = square_R - mean_R**2
        return {"leak": np.maximum(1.0 - error_R / variance_R, 0.0) - np.maximum(1.0 - own_error_R / variance_R, 0.0)}

    assert reading.values is not None
    found = bootstrap_intervals_of_means(conditional, reading.values, reading.patients, seed=seed)["leak"]
    if reading.leak.significant:
        return found
    high = found.high if found.high is not None else reading.leak.conditional
    assert high is not None
    return Estimate(0.0, 0.0, max(0.0, high), found.n)
