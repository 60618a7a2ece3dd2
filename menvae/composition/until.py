"""How far a sweep repeats its configurations, such as ``interval(vol_r2)<0.05``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from menvae.errors import UserError

_FORM = re.compile(r"\s*interval\(\s*([^\s()<>=]+)\s*\)\s*<\s*([0-9.eE+-]+)\s*")


@dataclass(frozen=True)
class Until:
    """A wanted interval.

    Attributes:
        metric: name of a gate, or key of a metric of the validation split in ``evaluation.json``.
        width: its interval over the replicates of a configuration has to be narrower than this.
    """

    metric: str
    width: float

    @classmethod
    def parse(cls, text: str, key: str) -> Until:
        """Read a text.

        Args:
            text: the text.
            key: configuration key that holds it, for messages.

        Raises:
            UserError: it has another form, or the width is not a number above 0.

        >>> Until.parse("interval(sem/vol_r2) < 5e-2", "sweep.until")
        Until(metric='sem/vol_r2', width=0.05)
        """
        found = _FORM.fullmatch(text)
        try:
            width = float(found[2]) if found is not None else math.nan
        except ValueError:
            width = math.nan
        if found is None or not 0.0 < width < math.inf:
            raise UserError(
                f"{key}: '{text}' is not allowed; write interval(METRIC)<WIDTH with a gate or metric and a number "
                "above 0, such as interval(vol_r2)<0.05"
            )
        return cls(found[1], width)
