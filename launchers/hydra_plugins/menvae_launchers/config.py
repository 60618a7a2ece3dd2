"""The keys of ``hydra/sweeper=optuna``; those of launchers are in ``conf/hydra/launcher/``.

Annotations are not postponed here: dataclasses could not look them up, since Hydra executes modules without importing
them.
"""

from dataclasses import dataclass

from hydra.core.config_store import ConfigStore

_PACKAGE = "hydra_plugins.menvae_launchers"


@dataclass
class OptunaConf:
    """A search with Optuna; what is searched and wanted stands in ``sweep.space`` and ``sweep.objectives``.

    Attributes:
        n_trials: in all, those of earlier launches included.
        batch: trials at a time; as many jobs go to the launcher.
        sampler: ``tpe``, ``random``, ``grid``, ``cmaes`` or ``nsga2``.
        pruner: ``none``, or ``median`` for a single objective.
        startup_trials: finished trials before any is pruned.
        warmup_epochs: epochs before a trial may be pruned.
        seed: of the sampler.
        storage: URL of a database; None is a journal file in the sweep's folder.
    """

    _target_: str = f"{_PACKAGE}.optuna_sweeper.OptunaSweeper"
    n_trials: int = 20
    batch: int = 1
    sampler: str = "tpe"
    pruner: str = "none"
    startup_trials: int = 5
    warmup_epochs: int = 3
    seed: int = 0
    storage: str | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=OptunaConf, provider="menvae")
