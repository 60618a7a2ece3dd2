"""menvae: experiment sweeper for semi-supervised, disentangled variational autoencoders on brain-tumour MRI.

`load_run` and `load_runs` give finished runs to Python, and `encode` what they say of a cohort; they are imported when
they are first used, and torch with them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from menvae.encoding.encode import encode
    from menvae.runs.finished import FinishedRun, load_run
    from menvae.runs.run_table import load_runs

__version__ = "0.1.0"

__all__ = ["FinishedRun", "__version__", "encode", "load_run", "load_runs"]

_HOMES = {
    "FinishedRun": "menvae.runs.finished",
    "encode": "menvae.encoding.encode",
    "load_run": "menvae.runs.finished",
    "load_runs": "menvae.runs.run_table",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'menvae' has no attribute '{name}'")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
