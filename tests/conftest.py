"""What all tests share."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tiny tensors, shared cores
os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is imported: its kernels run on any machine

from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from omegaconf import DictConfig
from shrunk import composed

# A package with tests of its own, which tests/apps/test_plugin.py installs and runs.
collect_ignore = ["plugin_example"]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """One thread in this process; runs in processes of their own say how many they want."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Tests do not depend on which tests ran before them."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def prepared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the cache of the cohort of `runs.TINY` and one subject more, one for all processes that run tests."""
    from menvae.data.cache.prepare import prepare
    from menvae.data.sources.phantom import PhantomSource

    base = tmp_path_factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    prepare(PhantomSource(num_subjects=13, roi_size=(16, 16, 16), spacing_mm=(10.0, 10.0, 10.0)), path)
    return path


@pytest.fixture(scope="module")
def forked_jobs() -> Iterator[None]:
    """The jobs of sweeps fork as their commands do: for tests to which it does not matter how their processes start."""
    import runs

    with mock.patch.object(runs, "jobs_fork", new=True):
        yield


@pytest.fixture
def compose_train() -> Callable[..., DictConfig]:
    """Return a function: overrides -> composed configuration of ``menvae-train``."""
    return composed


_LONG = ("tests/slurm/", "tests/distributed/", "tests/sweeps/", "tests/e2e/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the folders that take minutes, so that no process of several ends long after the others."""
    items.sort(key=lambda item: next((rank for rank, path in enumerate(_LONG) if item.nodeid.startswith(path)), 9))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Count a skipped test as a failure where ``MENVAE_FAIL_ON_SKIP`` is set: CI installs all that tests need.

    ``MENVAE_MAY_SKIP`` names the folder of tests for which CI could not.
    """
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("MENVAE_FAIL_ON_SKIP") or reporter is None:
        return
    may_skip = os.environ.get("MENVAE_MAY_SKIP")
    skipped = [report.nodeid for report in reporter.stats.get("skipped", [])]
    if any(not (may_skip and name.startswith(may_skip)) for name in skipped):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
