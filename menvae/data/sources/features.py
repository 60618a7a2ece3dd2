"""A synthetic table of the features of a frozen encoder, whose targets are known.

Every feature is a linear combination of tumour factors and of nuisances, with noise. The factors of different
partitions are independent; those of volume depend on each other, as parts of one tumour do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from menvae.data.tables.table_file import Table
from menvae.data.tables.tabular import TabularSource
from menvae.errors import UserError, nearest
from menvae.registry import Field, register

MIXING = {
    "vol_total": (1.0, 0.0, 0.0, 0.0),
    "vol_ncr": (0.8, 0.6, 0.0, 0.0),
    "vol_ed": (0.6, 0.0, 0.8, 0.0),
    "vol_et": (0.7, 0.0, 0.0, 0.714),
}
"""Volume target -> its coordinates in four independent factors; every target has variance 1."""
INDEPENDENT = ("loc_x", "loc_y", "loc_z", "sphericity_total", "solidity_total", "aspect_xy_total")
"""Targets that are a factor of their own."""
FACTORS = (*MIXING, *INDEPENDENT)
NUM_NUISANCES = 40


@register("data", "features", reference="SDP of MenGrowth-Model; menvae.data.sources.features")
@dataclass(frozen=True, kw_only=True)
class FeatureSource(TabularSource):
    """A synthetic table of features.

    Attributes:
        num_rows: number of rows N.
        seed: seed of the table.
        feature_noise: standard deviation of the noise of each feature; that of its signal is about 7.
        target_noise: standard deviation of the measurement noise of each target; that of a factor is 1.
    """

    added_keys: ClassVar[Mapping[str, object]] = MappingProxyType({})

    columns: tuple[str, ...] = ("feature_{000..767}",)
    target_columns: tuple[str, ...] = FACTORS
    num_rows: Annotated[int, Field(ge=20)] = 800
    seed: Annotated[int, Field(ge=0)] = 0
    feature_noise: Annotated[float, Field(ge=0.0)] = 4.0
    target_noise: Annotated[float, Field(ge=0.0)] = 0.15

    def __post_init__(self) -> None:
        """Refuse unknown targets."""
        super().__post_init__()
        for name in self.target_columns:
            if name not in FACTORS:
                raise UserError(f"data.target_columns: '{name}' is not a factor of the table; {nearest(name, FACTORS)}")

    @property
    def files(self) -> Sequence[Path]:
        """Only those of another run: the table is drawn."""
        return self.files_of_others

    @property
    def gives(self) -> frozenset[str]:
        """No optional fields."""
        return frozenset()

    def table(self) -> Table:
        """Draw the table."""
        features, factors = draw_features(self.num_rows, len(self.columns), self.feature_noise, self.seed)
        noise = np.random.default_rng([self.seed, 1]).normal(size=factors.shape)
        measured = factors + self.target_noise * noise
        targets = {name: measured[:, FACTORS.index(name)] for name in self.target_columns}
        rows = np.arange(self.num_rows)
        return Table(self.columns, features, np.full(self.num_rows, -1), (), rows, targets)


def draw_features(
    num_rows: int, num_features: int, noise: float, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw features and the factors behind them.

    Args:
        num_rows: number of rows N.
        num_features: number of features F.
        noise: standard deviation of the noise of each feature.
        seed: seed of all draws.

    Returns:
        Features [N, F], and the factors [N, 10] in the order of `FACTORS`, each of variance 1.
    """
    random = np.random.default_rng([seed, num_features])
    latent = random.normal(size=(num_rows, len(FACTORS)))
    mixing = np.eye(len(FACTORS))
    mixing[:4, :4] = np.array(list(MIXING.values()))
    nuisances = random.normal(size=(num_rows, NUM_NUISANCES))
    signal = latent @ random.normal(size=(len(FACTORS), num_features))
    signal += nuisances @ random.normal(size=(NUM_NUISANCES, num_features))
    return signal + noise * random.normal(size=signal.shape), latent @ mixing.T
