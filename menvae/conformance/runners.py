"""Conformance suite of runners, with jobs in separate processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from omegaconf import OmegaConf

from menvae.conformance.suite import Case, PartConformance, configuration_file, plain
from menvae.errors import ExitCode, UserError
from menvae.registry import Part, validated
from menvae.sweeps.runners import Fate, Runner
from menvae.sweeps.status import sweep_status
from menvae.sweeps.sweep import Point, Sweep

_OF_LAUNCHER = {"_target_", "runner"}
_CONFIG = {"seed": -1, "trainer": {"resume": "auto", "devices": None, "max_epochs": 1}}  # rejected on reading
_ERROR = "name: a value is required"
_LOOK = """
import sys
from pathlib import Path
from menvae.sweeps.status import sweep_status
from menvae.sweeps.sweep import Sweep
sys.stdout.write(" ".join(status.fate.name for status in sweep_status(Sweep(Path(sys.argv[1])))))
"""


class RunnerConformance(PartConformance):
    """{run: job file} -> submissions, from which any process can read the state of the jobs.

    The jobs are real processes of ``menvae.apps.job`` that reject their configuration. If a queue needs a worker, a
    fixture of the subclass must start it; the sweep is in ``tmp_path / "outputs"``.

    Attributes:
        num_jobs: number of jobs per test.
        patience_s: time limit in seconds for all jobs.
    """

    group = "runner"
    num_jobs: ClassVar[int] = 3
    patience_s: ClassVar[float] = 240.0

    def runner(self, case: Case) -> Runner:
        """Return a runner with the keys of its YAML file and of the case."""
        runner = validated(case.part.factory, {**_keys(case.part), **case.settings}, "hydra.launcher")
        assert isinstance(runner, Runner)
        return runner

    def test_yaml_says_the_same_as_the_constructor(self, part: Part) -> None:
        assert OmegaConf.load(configuration_file(part)).runner == part.name
        keys = _keys(part)
        assert set(keys) == set(part.tunables)
        assert {key: plain(value) for key, value in keys.items()} == {
            key: plain(default) for key, (_, default) in part.tunables.items()
        }

    def test_configuration_is_accepted(self, case: Case) -> None:
        runner = self.runner(case)
        assert runner.poll_s > 0.0
        assert runner.num_open == 0
        assert runner.num_ranks is None or runner.num_ranks > 1

    def test_refuses_a_key_it_does_not_know(self, case: Case) -> None:
        with pytest.raises(UserError, match=r"hydra\.launcher\.no_such_key") as caught:
            validated(case.part.factory, {**_keys(case.part), "no_such_key": 1}, "hydra.launcher")
        assert "\n" not in str(caught.value)

    def test_every_job_runs_once_and_is_never_lost(self, case: Case, tmp_path: Path) -> None:
        sweep = Sweep(tmp_path / "outputs" / "sweeps" / "a_sweep")
        config = {**_CONFIG, "output_dir": str(sweep.output_dir)}
        points = {run: Point(number, run, ()) for number, run in enumerate(self.runs())}
        runner = self.runner(case)
        runner.prepare(sweep.path, config)
        assert not sweep.path.exists(), "`prepare` must not write to the sweep directory"
        submitted = dict(runner.submit({run: sweep.prepare(point, config) for run, point in points.items()}))
        seen: set[Fate] = set()
        until = time.monotonic() + self.patience_s
        while True:
            for run, submission in submitted.items():
                assert submission.launcher == case.part.name, "other processes find the runner by this name"
                assert not points[run].submissions, f"{run} was submitted twice"
                points[run] = sweep.submitted(points[run], submission)
            fates = [status.fate for status in sweep_status(sweep) if status.point.submissions]
            if fates and not seen:
                self._look_from_another_process(sweep)
            seen.update(fates)
            assert seen <= {Fate.PENDING, Fate.RUNNING, Fate.FAILED}
            if len(fates) == self.num_jobs and set(fates) == {Fate.FAILED} and not runner.num_open:
                break
            assert time.monotonic() < until, fates
            time.sleep(min(runner.poll_s, 0.5))
            submitted = dict(runner.advance())
        for point in points.values():
            assert _ERROR in Path(point.submissions[-1].log).read_text()
            outcome = json.loads((sweep.folder(point) / "outcome.json").read_text())
            assert outcome["exit_code"] == ExitCode.WRONG_INPUT
        with suppress(UserError):  # a queue may have no way to end jobs
            runner.cancel({run: point.submissions[-1] for run, point in points.items()})
        assert {status.fate for status in sweep_status(sweep)} == {Fate.FAILED}, "what has ended is left alone"

    def runs(self) -> list[str]:
        """Return the names of the runs of a test."""
        return [f"conformance_{number:010x}" for number in range(self.num_jobs)]

    @staticmethod
    def _look_from_another_process(sweep: Sweep) -> None:
        completed = subprocess.run(
            [sys.executable, "-c", _LOOK, str(sweep.path)], capture_output=True, text=True, check=False
        )
        assert completed.returncode == 0, completed.stderr
        fates = {Fate[name] for name in completed.stdout.split()}
        assert fates & {Fate.PENDING, Fate.RUNNING, Fate.FAILED}
        assert fates <= {Fate.PENDING, Fate.RUNNING, Fate.FAILED, Fate.NOT_STARTED}


def _keys(part: Part) -> Mapping[str, Any]:
    """Return the keys of a launcher's YAML file that belong to the runner."""
    content = OmegaConf.to_container(OmegaConf.load(configuration_file(part)))
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items() if key not in _OF_LAUNCHER}
