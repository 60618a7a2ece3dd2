"""Contract of every runner, with a worker; jobs whose worker is killed."""

import subprocess
import sys
import time

import pytest
from menvae_example.folder_queue import FolderQueue

from menvae.conformance import RunnerConformance
from menvae.files import write_json
from menvae.sweeps.runners import Fate
from menvae.sweeps.sweep import Submission


@pytest.fixture
def worker(tmp_path):
    """Start a worker on the queue of the output directory of a test."""
    queue = tmp_path / "outputs" / "queue"
    process = subprocess.Popen([sys.executable, "-m", "menvae_example.folder_queue", str(queue), "--stay"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.usefixtures("worker")
class TestFolderQueue(RunnerConformance):
    names = ("folder_queue",)


def test_a_job_is_running_as_long_as_its_worker_lives(tmp_path, worker):
    queue = tmp_path / "outputs" / "queue"
    queue.mkdir(parents=True)
    last = {"run": Submission("folder_queue", str(queue / "1_run.json"), str(tmp_path / "log"))}
    write_json(queue / "1_run.json", {"command": ["sleep", "60"], "log": str(tmp_path / "log")})
    fates = [Fate.PENDING]
    while Fate.RUNNING not in fates:
        fates += [state.fate for state in FolderQueue.states(last).values()]
        time.sleep(0.02)
    assert set(fates) == {Fate.PENDING, Fate.RUNNING}
    worker.kill()
    worker.wait()
    assert FolderQueue.states(last) == {}


def test_two_workers_run_every_job_once(tmp_path):
    queue, done = tmp_path / "queue", tmp_path / "done"
    queue.mkdir()
    for number in range(40):
        command = ["sh", "-c", f"echo {number} >> {done}"]
        write_json(queue / f"{number:02}_run.json", {"command": command, "log": str(tmp_path / "log")})
    workers = [subprocess.Popen([sys.executable, "-m", "menvae_example.folder_queue", str(queue)]) for _ in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0]
    assert sorted(map(int, done.read_text().split())) == list(range(40))
    assert list(queue.iterdir()) == []
