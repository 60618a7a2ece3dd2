"""Real sweeps in processes of this machine: stopped, resumed, and run again with other values of keys."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import TWO_AT_A_TIME, Machine
from runs import TRACKED, Started, environment, menvae_sweep

from menvae.sweeps.runners import Fate

pytestmark = pytest.mark.usefixtures("forked_jobs")


@pytest.fixture
def machine(prepared_cache: Path, tmp_path: Path) -> Iterator[Machine]:
    with Machine.among(tmp_path, prepared_cache, TWO_AT_A_TIME) as machine:
        yield machine


def test_a_stopped_point_resumes_and_one_without_memory_gets_a_stand_in(machine: Machine) -> None:
    import mlflow

    sweep = ("loss.lambda_dcor=1,2,3", TRACKED)
    stand_in = "2 trainer.batch_size=4"
    machine.hold("1")
    (machine.flags / "2").write_text("memory")
    launching = machine.start(*sweep)
    machine.wait_until_held("1")
    machine.wait_for(lambda: machine.fates()["3"] == Fate.FINISHED)
    assert machine.fates() == {"1": "running", "2": "out of memory", "3": "finished"}
    watched = menvae_sweep(machine.output_dir, "watch", "--once", code=1, site=machine.site)
    assert re.search(r"out_of_memory +1 ", watched)
    assert re.search(r"CPU hours \S+ so far, \S+ to come", watched)

    told = menvae_sweep(machine.output_dir, "stop", "0", site=machine.site)
    assert "point 0 (running): asked to stop" in told
    machine.let_go("1")
    launching.ended(1)
    assert machine.fates()["1"] == Fate.INTERRUPTED
    assert machine.statuses()["1"].reason.startswith("SIGTERM in epoch 1")
    assert (machine.run_dir("1") / "checkpoints" / "last.ckpt").is_file()
    again = menvae_sweep(machine.output_dir, "stop", "0", code=2, site=machine.site)
    assert again == "menvae-sweep: point 0 is 'interrupted'; only points that run or wait can be stopped\n"

    (machine.flags / "2").unlink()
    changes = ("--cause", "out_of_memory", "trainer.batch_size=4")
    told = menvae_sweep(machine.output_dir, "retry", *changes, site=machine.site)
    assert "point 3, loss.lambda_dcor=2 trainer.batch_size=4, stands for 1" in told
    assert machine.fates() == {"1": "interrupted", "2": "out of memory", "3": "finished", stand_in: "finished"}
    assert machine.num_submissions() == {"1": 1, "2": 1, "3": 1, stand_in: 1}
    shown = menvae_sweep(machine.output_dir, "status", code=1, site=machine.site)
    assert "point 3 stands for it" in shown
    assert "1 stopped, 1 replaced, 2 finished" in shown
    assert "1 point was stopped: menvae-sweep retry resumes it" in shown

    assert "1 point: 1 interrupted; 1 to run" in menvae_sweep(machine.output_dir, "retry", site=machine.site)
    assert "3 finished, 1 replaced" in menvae_sweep(machine.output_dir, "status", site=machine.site)
    assert "0 to run" in machine.launch(*sweep), "the stand-in is what the point is now"
    assert len(list((machine.output_dir / "runs").iterdir())) == 4
    client = mlflow.MlflowClient(f"sqlite:///{machine.output_dir / 'mlflow.db'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "menvae"]
    runs = {run.data.tags.get("menvae.run"): run for run in client.search_runs([experiment.experiment_id])}
    failed, new = (machine.run_dir(label).name for label in ("2", stand_in))
    assert runs[new].data.tags["menvae.stands_for"] == failed
    assert runs[new].data.tags["menvae.sweep"] == runs[failed].data.tags["menvae.sweep"]
    (job,) = machine.output_dir.glob(f"sweeps/*/points/{new}/job.json")
    assert json.loads(job.read_text())["config"]["trainer"]["batch_size"] == 4


def test_all_of_a_sweep_stops_and_the_same_command_goes_on(machine: Machine) -> None:
    for label in ("1", "2"):
        machine.hold(label)
    launching = machine.start("loss.lambda_dcor=1,2,3")
    for label in ("1", "2"):
        machine.wait_until_held(label)
    arguments = ["stop", "--all", f"output_dir={machine.output_dir}"]
    stopping = Started("sweep", arguments, environment(site=machine.site), both=True)
    stopping.read_until(f"waiting for process {launching.pid} on ")
    time.sleep(2.0)  # the launching process looks every half second, and passes the signal on
    for label in ("1", "2"):
        machine.let_go(label)
    told = stopping.ended(0)
    assert told.count("(running): asked to stop") == 2
    launching.ended(75)
    assert machine.fates() == {"1": "interrupted", "2": "interrupted", "3": "not started"}
    assert "nothing of sweep" in menvae_sweep(machine.output_dir, "stop", "--all", site=machine.site)
    assert "2 interrupted, 1 not started; 3 to run" in machine.launch("loss.lambda_dcor=1,2,3")
    assert set(machine.fates().values()) == {Fate.FINISHED}
