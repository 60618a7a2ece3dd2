"""The contract of every runner, on a real SLURM."""

from __future__ import annotations

from typing import ClassVar

import pytest

from menvae.conformance import RunnerConformance


@pytest.fixture
def _cluster(cluster: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", cluster["SLURM_CONF"])


@pytest.mark.usefixtures("_cluster")
class TestSlurm(RunnerConformance):
    names = ("slurm",)
    num_jobs = 2


@pytest.mark.usefixtures("_cluster")
class TestSlurmWithSmallArrays(RunnerConformance):
    """A cluster whose largest array holds a single job."""

    names = ("slurm",)
    num_jobs = 2

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("menvae.sweeps.runners.slurm_queue.largest_array", lambda: 1)


@pytest.mark.usefixtures("_cluster")
class TestSlurmWithSharedJobs(RunnerConformance):
    """Both points share one job."""

    names = ("slurm",)
    num_jobs = 2
    variants: ClassVar = {"slurm": [{"points_per_gpu": 2}]}
