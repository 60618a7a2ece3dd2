"""Everything that the golden tests take from menvae, and where it lies: a move changes lines of this file alone."""

from menvae import __version__, load_run
from menvae.composition.experiment import Experiment
from menvae.data.cache.prepare import _LIBRARIES as LIBRARIES_OF_KEYS
from menvae.data.cache.prepare import prepare
from menvae.data.sources.phantom import PhantomSource
from menvae.registry import configuration_folder
from menvae.runs.identity import run_hash
from menvae.runs.start import checkpoint_identity as checkpoint_identity
from menvae.runs.start import identify
from menvae.training.place import Place
from menvae.types import LossReport, ModelOutput, Progress
from menvae.updates import Side, Stepper, Update

__all__ = [
    "LIBRARIES_OF_KEYS",
    "Experiment",
    "LossReport",
    "ModelOutput",
    "PhantomSource",
    "Place",
    "Progress",
    "Side",
    "Stepper",
    "Update",
    "__version__",
    "checkpoint_identity",
    "configuration_folder",
    "identify",
    "load_run",
    "prepare",
    "run_hash",
]
