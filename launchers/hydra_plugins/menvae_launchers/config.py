"""What ``hydra/launcher=slurm``, ``hydra/launcher=local`` and ``hydra/sweeper=optuna`` can be told.

Annotations are not postponed here: dataclasses could not look them up, since Hydra executes modules without importing
them.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

_PACKAGE = "hydra_plugins.menvae_launchers"


@dataclass
class LocalConf:
    """Processes of this machine.

    Attributes:
        num_parallel: runs at a time; None is as many as there are GPUs for, or 1.
        gpus_per_run: GPUs that one run sees; None is one for each of ``trainer.devices``.
    """

    _target_: str = f"{_PACKAGE}.local.LocalLauncher"
    num_parallel: int | None = None
    gpus_per_run: int | None = None


@dataclass
class SlurmConf:
    """A SLURM cluster, through submitit; keys are those of hydra-submitit-launcher where it has them.

    Attributes:
        timeout_min: time limit of a job, in minutes.
        signal_delay_s: how long before it the job is told to write its checkpoint.
        max_num_timeout: how often a job whose time ran out is queued again; restarts after a preemption or a lost node
            count, too.
        nodes, tasks_per_node, gpus_per_node, cpus_per_task, mem_gb: what a job gets; all its tasks train one run. 0 GB
            are all that a node has.
        array_parallelism: jobs at a time.
        partition, account, qos, constraint, exclude, nodelist, comment, gres: as sbatch has them.
        additional_parameters: further options of sbatch.
        srun_args: further options of srun.
        modules: environment modules to load before.
        environment: variables to set before.
        setup: shell commands to run before.
        name: of the jobs.
        wait: False returns after submitting.
        poll_s: seconds between two looks at the queue.
    """

    _target_: str = f"{_PACKAGE}.slurm.SlurmLauncher"
    timeout_min: int = 1440
    signal_delay_s: int = 120
    max_num_timeout: int = 20
    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int | None = None
    cpus_per_task: int | None = None
    mem_gb: float | None = None
    array_parallelism: int = 256
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    nodelist: str | None = None
    comment: str | None = None
    gres: str | None = None
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    srun_args: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    setup: list[str] = field(default_factory=list)
    name: str = "menvae"
    wait: bool = True
    poll_s: float = 5.0


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


_store = ConfigStore.instance()
_store.store(group="hydra/launcher", name="local", node=LocalConf, provider="menvae")
_store.store(group="hydra/launcher", name="slurm", node=SlurmConf, provider="menvae")
_store.store(group="hydra/sweeper", name="optuna", node=OptunaConf, provider="menvae")
