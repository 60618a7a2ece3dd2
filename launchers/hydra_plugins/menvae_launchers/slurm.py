"""``hydra/launcher=slurm``: every point a job of one array, sent with submitit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hydra_plugins.menvae_launchers.sweep_launcher import SweepLauncher

if TYPE_CHECKING:
    from menvae.sweeps.campaign import Runner
    from menvae.sweeps.sweep import Submission, Sweep

_OWN = ("max_num_timeout", "modules", "environment", "setup", "wait", "poll_s", "srun_args", "additional_parameters")
_SHARED = ("timeout_min", "nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task", "mem_gb", "name")
_SMALLEST = MappingProxyType(
    {
        **dict.fromkeys(("timeout_min", "nodes", "tasks_per_node", "cpus_per_task", "array_parallelism"), 1),
        **dict.fromkeys(("signal_delay_s", "max_num_timeout", "gpus_per_node", "mem_gb"), 0),
        "poll_s": 0.1,
    }
)
_SECONDS_AFTER_FIRST_TASK = 45  # all tasks of a run leave together; one that is left is waiting for one that failed


class SlurmLauncher(SweepLauncher):
    """Sends points to SLURM."""

    smallest = _SMALLEST

    @property
    def num_ranks(self) -> int | None:
        """All tasks of a job train together; a single one may start its own ranks."""
        num_tasks: int = self.settings["nodes"] * self.settings["tasks_per_node"]
        return num_tasks if num_tasks > 1 else None

    @property
    def wait(self) -> bool:
        """As configured."""
        return bool(self.settings["wait"])

    def make_runner(self, sweep: Sweep, config: Mapping[str, Any]) -> Runner:
        """Return a `SlurmRunner`; raises `UserError` where there is no SLURM, and for limits that cannot be."""
        import shutil

        from menvae.errors import UserError

        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise UserError(
                "hydra/launcher=slurm: sbatch and srun are not on the path; launch from a node of the cluster"
            )
        if self.settings["signal_delay_s"] >= 60 * self.settings["timeout_min"]:
            raise UserError(
                f"hydra.launcher.signal_delay_s={self.settings['signal_delay_s']} must be shorter than "
                f"hydra.launcher.timeout_min={self.settings['timeout_min']} minutes, or jobs are stopped at once"
            )
        return SlurmRunner(sweep, self.settings)


class SlurmRunner:
    """Submits all jobs at once as an array; see `menvae.sweeps.campaign.Runner`."""

    name = "slurm"
    num_open = 0

    def __init__(self, sweep: Sweep, settings: Mapping[str, Any]) -> None:
        """Args: sweep: for scripts and logs. settings: fields of `SlurmConf`."""
        self._sweep, self._settings = sweep, settings
        self.poll_s = float(settings["poll_s"])

    def submit(self, jobs: Mapping[str, Path]) -> dict[str, Submission]:
        """Submit the array."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        from menvae.apps.job import run_slurm_task
        from menvae.errors import UserError
        from menvae.sweeps.sweep import Submission

        executor = self._executor()
        timeouts = self._settings["max_num_timeout"]
        try:
            with executor.batch():
                submitted = {run: executor.submit(run_slurm_task, str(job), timeouts) for run, job in jobs.items()}
        except (FailedJobError, FailedSubmissionError) as error:
            raise UserError(f"hydra/launcher=slurm: sbatch refuses the jobs: {' '.join(str(error).split())}") from error
        return {run: Submission(self.name, job.job_id, str(job.paths.stdout)) for run, job in submitted.items()}

    def advance(self) -> dict[str, Submission]:
        """Nothing is left to do."""
        return {}

    def stop(self) -> None:
        """Jobs live without the launching process."""

    def _executor(self) -> Any:
        import submitit

        settings = self._settings
        shared = {key: settings[key] for key in _SHARED if settings[key] is not None}
        slurm = {key: value for key, value in settings.items() if key not in (*_OWN, *_SHARED) and value is not None}
        executor = submitit.AutoExecutor(folder=self._sweep.path / "slurm" / "%j", cluster="slurm")
        executor.update_parameters(
            **shared,
            **{f"slurm_{key}": value for key, value in slurm.items()},
            stderr_to_stdout=True,
            slurm_setup=self._setup(),
            slurm_srun_args=[f"--wait={_SECONDS_AFTER_FIRST_TASK}", *settings["srun_args"]],
            slurm_additional_parameters={"requeue": True, **settings["additional_parameters"]},
        )
        return executor

    def _setup(self) -> list[str]:
        import shlex

        settings = self._settings
        loads = [f"module load {shlex.quote(module)}" for module in settings["modules"]]
        exports = [f"export {name}={shlex.quote(str(value))}" for name, value in settings["environment"].items()]
        return [*loads, *exports, *settings["setup"]]
