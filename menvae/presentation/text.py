"""Formatting of numbers, and descriptions of gates."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

_EARLIER_GATES: Final = {
    ("max_dcor", "indep/max_dcor"): "Largest distance correlation between two partitions; 0 means independence.",
    ("residual_active_units", "diag/au_frac_residual"): "Fraction of residual dimensions that vary between subjects.",
    ("mean_z_ratio", "diag/mean_z_ratio"): (
        "Error with the mean training latent instead of z, divided by the error with the subject's own z."
    ),
    ("shuffled_ratio", "diag/shuffled_ratio"): (
        "Error with the z of another subject, divided by the error with the subject's own z."
    ),
}
"""(name, metric) of the gates that a gates.json without meanings may contain, besides those of R²."""

_SPLITS: Final = {
    "train": "training split",
    "val": "validation split",
    "test": "test split",
    "cohort": "another cohort",
}


def split_words(name: str) -> str:
    """Return a split in words.

    >>> split_words("val"), split_words("fold_2")
    ('validation split', 'fold_2 split')
    """
    return _SPLITS.get(name, f"{name} split")


def significant(value: object) -> str:
    """Format a value with three significant digits; None and NaN as ``n/a``.

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


def with_spread(value: float, spread: float) -> str:
    """Format a value and its uncertainty to the second significant digit of the latter, but at most three decimals.

    An uncertainty below 0.0005 is formatted to its first significant digit instead.

    >>> with_spread(0.98412, 0.00282), with_spread(-0.12345, 0.0532), with_spread(25.61, 1.3), with_spread(1.0, 0.0)
    ('0.984 ±0.003', '-0.123 ±0.053', '25.6 ±1.3', '1.000 ±0.000')
    >>> with_spread(0.0471234, 0.00041)
    '0.0471 ±0.0004'
    """
    places = _decimals(spread)
    return f"{value:.{places}f} ±{spread:.{places}f}"


def with_interval(value: float, spread: float | None, interval: tuple[float, float]) -> str:
    """Format a value with its uncertainty, if there is one, and its interval, all to the same decimals.

    So a value in the interval is also shown in it.

    Args:
        value: the value.
        spread: its uncertainty, which decides on the decimals as in `with_spread`; None: half of the interval does.
        interval: the interval.

    >>> with_interval(1.002, 0.001, (1.0008, 1.0031)), with_interval(25.61, None, (24.2, 26.8))
    ('1.002 ±0.001 [1.001, 1.003]', '25.6 [24.2, 26.8]')
    """
    low, high = interval
    places = _decimals((high - low) / 2 if spread is None else spread)
    shown = f"{value:.{places}f}" if spread is None else with_spread(value, spread)
    return f"{shown} [{low:.{places}f}, {high:.{places}f}]"


def _decimals(spread: float) -> int:
    """Return the decimals of numbers with this uncertainty; see `with_spread`."""
    if spread <= 0:
        return 3
    first = -math.floor(math.log10(spread))
    return first if spread < 0.0005 else max(0, min(3, first + 1))


def broken(name: str, width: int = 12) -> str:
    r"""Break a long name after dots and underscores, for the header of a narrow column.

    >>> broken("residual_active_units"), broken("max_dcor")
    ('residual_\nactive_units', 'max_dcor')
    """
    lines = [""]
    for piece in re.findall(r"[^._]*[._]|[^._]+", name):
        if lines[-1] and len(lines[-1] + piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def gate_meaning(gate: Mapping[str, Any]) -> str:
    """Return a sentence about what a gate measures; empty if unknown.

    Args:
        gate: entry of ``gates.json``. Earlier versions wrote no ``meaning``, and before that no ``metric``; the names
            of gates were then fixed.

    >>> gate_meaning({"name": "spread_r2", "metric": "mine/spread", "meaning": "Spread of z."})
    'Spread of z.'
    >>> gate_meaning({"name": "vol_r2"})
    'Mean R² of the vol targets on the validation split.'
    """
    if gate.get("meaning"):
        return str(gate["meaning"])
    name, metric = str(gate.get("name", "")), str(gate.get("metric") or "")
    for (its_name, its_metric), sentence in _EARLIER_GATES.items():
        if metric == its_metric or (not metric and name == its_name):
            return sentence
    if found := re.fullmatch(r"sem/(.+)_r2", metric):
        return f"R² of {found[1]} on the validation split."
    is_r2 = not metric and name.endswith("_r2")
    return f"Mean R² of the {name.removesuffix('_r2')} targets on the validation split." if is_r2 else ""


def counted(number: int, noun: str) -> str:
    """Format a number with its noun.

    >>> counted(1, "subject"), counted(1200, "pair")
    ('1 subject', '1,200 pairs')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Format a duration in two units.

    >>> duration(59.6), duration(3661), duration(100 * 3600)
    ('1 min 00 s', '1 h 01 min', '100 h 00 min')
    """
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60} min {rest % 60:02d} s"
