"""Functions shared by metrics of the posterior."""

from __future__ import annotations

from collections.abc import Mapping

from menvae.latent import LatentLayout

ACTIVE_VARIANCE = 0.01
"""A dimension is active if the variance of its posterior mean over a split exceeds this (Burda et al. 2016)."""


def sections(layout: LatentLayout) -> Mapping[str, slice]:
    """Return {suffix of a key: dimensions}: no suffix for all of z, ``_<partition>`` for a partition.

    >>> sections(LatentLayout({"vol": 2, "residual": 3}))
    {'': slice(0, 5, None), '_vol': slice(0, 2, None), '_residual': slice(2, 5, None)}
    """
    return {"": slice(0, layout.z_dim)} | {f"_{name}": slice(*layout.bounds(name)) for name in layout}
