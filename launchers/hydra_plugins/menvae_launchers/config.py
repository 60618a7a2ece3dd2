"""The keys of ``hydra/sweeper=optuna``; those of launchers are in ``conf/hydra/launcher/``.

Annotations are not postponed here, because Hydra executes plugin modules without importing them, and dataclasses could
not resolve postponed ones.
"""

from dataclasses import dataclass

from hydra.core.config_store import ConfigStore

_PACKAGE = "hydra_plugins.menvae_launchers"


@dataclass
class OptunaConf:
    """A search with Optuna; ``sweep.space`` and ``sweep.objectives`` define search space and objectives.

    Attributes:
        n_trials: total number of trials, including those of earlier launches.
        batch: number of trials that are launched together.
        sampler: ``tpe``, ``random``, ``grid``, ``cmaes`` or ``nsga2``.
        pruner: ``none``, or for a single objective ``median``, ``halving`` (successive halving) or ``hyperband``.
        startup_trials: number of finished trials before ``median`` may prune any.
        warmup_epochs: number of epochs before ``median`` may prune a trial.
        min_epochs: number of epochs after which trials of ``halving`` and ``hyperband`` pause first.
        reduction_factor: one in so many of these trials goes on, to so many times as many epochs.
        seed: seed of the sampler.
        storage: URL of a database; None: a journal file in the sweep's folder.
    """

    _target_: str = f"{_PACKAGE}.optuna_sweeper.OptunaSweeper"
    n_trials: int = 20
    batch: int = 1
    sampler: str = "tpe"
    pruner: str = "none"
    startup_trials: int = 5
    warmup_epochs: int = 3
    min_epochs: int = 1
    reduction_factor: int = 3
    seed: int = 0
    storage: str | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=OptunaConf, provider="menvae")
