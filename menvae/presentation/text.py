"""How numbers, gates and pictures are put into words."""

from __future__ import annotations

import math
from typing import Final

LATENT_PICTURES: Final = {
    "latent_scatter.png": "Every partition on its own first two principal components, coloured by a target.",
    "leak_matrix.png": "What each partition knows. A partition should predict its own targets and nothing else.",
    "traversals.png": "What the decoder changes along the leading direction of each partition, all else held fixed.",
    "regression.png": "Predictions of the semantic heads in physical units; a good head lies on the line.",
}
"""Pictures that every run has of its latent space, with what they show."""
_GATE_MEANINGS: Final = {
    "max_dcor": "Largest distance correlation between two partitions: 0 is independent.",
    "residual_active_units": "Share of residual dimensions that vary between subjects.",
    "mean_z_ratio": "Error with z replaced by the mean training latent, over the error with the subject's own z.",
    "shuffled_ratio": "Error with z of another subject, over the error with the subject's own z.",
}


def significant(value: object) -> str:
    """Write a value with three significant places; None and NaN as ``n/a``.

    >>> significant(0.85), significant(25.6), significant(None), significant(5e-05), significant(1234567.0)
    ('0.850', '25.6', 'n/a', '5.00e-05', '1,234,567')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "n/a"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (math.isfinite(value) and abs(value) >= 1000):
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def gate_meaning(name: str) -> str:
    """Say in a sentence what a gate measures; empty for a gate that is not known.

    >>> gate_meaning("vol_r2")
    'Mean R² of the vol targets, validation split.'
    """
    if name.endswith("_r2") and name not in _GATE_MEANINGS:
        return f"Mean R² of the {name.removesuffix('_r2')} targets, validation split."
    return _GATE_MEANINGS.get(name, "")
