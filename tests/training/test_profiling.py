"""``trainer.profile``: what a run writes about its steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from shrunk import TINY, composed, trainer_of

from menvae.composition.experiment import Experiment
from menvae.pictures.drawing.profile import draw_profile
from menvae.runs.identity import run_hash
from menvae.training.passes import WholeBatch
from menvae.training.phases import PHASES
from menvae.training.profiling import PROFILE, TRACE, RunProfiler


def test_profiles_some_steps_and_changes_nothing(tmp_path: Path) -> None:
    weights = []
    for profiled in (False, True):
        experiment = Experiment.from_config(composed(*TINY, "trainer.batch_size=1", f"output_dir={tmp_path}"))
        trainer = trainer_of(experiment, tmp_path)
        if profiled:
            trainer.profiler = RunProfiler(trainer, tmp_path)
        trainer.fit(None)
        assert isinstance(trainer.optimisation.passes, WholeBatch), "the clock is gone"
        weights.append(torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()]))
    assert torch.equal(*weights)
    found = json.loads((tmp_path / PROFILE).read_text())
    assert found["steps"] == 5
    assert list(found["seconds"]) == list(PHASES)
    assert sum(found["seconds"].values()) == pytest.approx(found["seconds_per_step"])
    assert min(found["seconds"].values()) > 0.0
    assert any("convolution" in name for name in found["operators"])
    assert json.loads((tmp_path / TRACE).read_text())["traceEvents"]
    (bar, _) = draw_profile(found).axes
    widths = [patch.get_width() for patch in bar.patches]
    assert widths == pytest.approx([value / found["seconds_per_step"] for value in found["seconds"].values()])


def test_a_profiled_or_split_run_keeps_its_name() -> None:
    plain = {"trainer": {"batch_size": 4, "profile": False, "auto_batch": False}}
    other = {"trainer": {"batch_size": 4, "profile": True, "auto_batch": True}}
    assert run_hash(plain, "d", "t") == run_hash(other, "d", "t") == run_hash({"trainer": {"batch_size": 4}}, "d", "t")
