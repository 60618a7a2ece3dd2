"""``menvae-encode``: the latents and predictions of a cohort, to a Parquet file."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from menvae.apps import application

if TYPE_CHECKING:
    from omegaconf import DictConfig


def task(config: DictConfig) -> int:
    """Encode one cohort; the heavy imports wait until here."""
    from menvae.encoding.file import encode_to_file
    from menvae.interruption import stop_requests

    with stop_requests():
        return encode_to_file(config)


def main() -> None:
    """Entry point."""
    sys.argv[1:] = with_free_data(sys.argv[1:])
    application.run("encode", task)


def with_free_data(arguments: Sequence[str]) -> list[str]:
    """Return a command line on which any key of ``data`` may be set: which there are depends on the run.

    >>> with_free_data(["run=a", "data=brats", "data.root=/b", "data.label_map.et=4"])
    ['run=a', '++data.name=brats', '++data.root=/b', '++data.label_map.et=4']
    """
    return [re.sub(r"^data(?:\.name)?=", "++data.name=", re.sub(r"^data\.", "++data.", text)) for text in arguments]
