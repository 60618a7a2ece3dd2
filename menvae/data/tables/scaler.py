"""Scaling of table columns: a transform, then standardisation fitted on the training rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from menvae.data.digests import digest_of
from menvae.data.tables.frame import RowPlace
from menvae.errors import UserError

_log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Transform = Literal["signed_log", "log1p", "none"]


def signed_log(values: Floats) -> Floats:
    """Return sign(x) log(1 + |x|): close to x for small |x|, logarithmic for large |x|.

    >>> signed_log(np.array([-1.0, 0.0, 1.0])).round(4).tolist()
    [-0.6931, 0.0, 0.6931]
    """
    result: Floats = np.sign(values) * np.log1p(np.abs(values))
    return result


_FUNCTIONS: Mapping[Transform, Callable[[Floats], Floats]] = {
    "signed_log": signed_log,
    "log1p": np.log1p,
    "none": np.array,
}


@dataclass(frozen=True)
class TableScaler:
    """Values [N, F] -> standardised values, fitted on training rows only.

    Attributes:
        columns: names of the F columns.
        transforms: transform of each column, applied before standardisation.
        mean: mean of each transformed column.
        sd: standard deviation of each transformed column (population form); 1 for a constant.
    """

    columns: tuple[str, ...]
    transforms: tuple[Transform, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]

    @classmethod
    def fit(cls, training: Floats, columns: Sequence[str], transforms: Sequence[Transform]) -> TableScaler:
        """Fit mean and standard deviation.

        Args:
            training: values of the training rows [N, F].
            columns: names of the F columns.
            transforms: transform of each column.
        """
        values = transformed(training, transforms)
        mean, sd = values.mean(axis=0), values.std(axis=0)
        constant = sd <= 1e-12 * np.maximum(1.0, np.abs(mean))
        for name in np.array(columns)[constant]:
            _log.warning("column '%s' is constant over %d training rows; its sd is set to 1", name, len(training))
        sd[constant] = 1.0
        return cls(tuple(columns), tuple(transforms), tuple(map(float, mean)), tuple(map(float, sd)))

    def scaled(self, values: Floats) -> Floats:
        """Values [N, F] -> standardised values [N, F]."""
        scores: Floats = (transformed(values, self.transforms) - np.array(self.mean)) / np.array(self.sd)
        return scores

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description with its hash, for ``targets.json``."""
        return {"hash": self.hash, "scaler": asdict(self)}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> TableScaler:
        """Read what `as_dict` wrote."""
        return cls(**{name: tuple(values) for name, values in description["scaler"].items()})

    @property
    def hash(self) -> str:
        """Hash of all fields."""
        return digest_of(asdict(self))[:16]


def check_domain(values: Floats, columns: Sequence[str], transforms: Sequence[Transform], place: RowPlace) -> None:
    """Refuse values outside the domain of a transform.

    Args:
        values: values [N, F].
        columns: names of the F columns.
        transforms: transform of each column.
        place: where a row stands in its file.

    Raises:
        UserError: if log1p meets a value of -1 or less.
    """
    for column, (name, transform) in enumerate(zip(columns, transforms, strict=True)):
        wrong = values[:, column] <= -1.0
        if transform == "log1p" and wrong.any():
            row = int(np.argmax(wrong))
            value = values[row, column]
            repeats = np.count_nonzero(values[:, column] == value) > 1
            advice = "if it marks missing values, add it to data.null_values" if repeats else "or choose signed_log"
            raise UserError(
                f"data.transforms.{name}: log1p is undefined for {value:g} in {place(row)}; values must be above -1; "
                f"{advice}"
            )


def transformed(values: Floats, transforms: Sequence[Transform]) -> Floats:
    """Values [N, F] -> transformed values [N, F]; NaN stays NaN."""
    columns = [_FUNCTIONS[transform](values[:, column]) for column, transform in enumerate(transforms)]
    return np.stack(columns, axis=1)
