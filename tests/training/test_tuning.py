"""`menvae.training.tuning`: the search against cost functions whose minimum is known, and real steps on CPU."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from runs import TINY
from torch import nn

from menvae.composition.experiment import Experiment
from menvae.training.tuning import Choice, StepTimer, Tuned, UnusableChoiceError, alternatives, search, tuned
from menvae.types import Batch, Progress

CPU = torch.device("cpu")
FACTORS = {
    ("num_threads", 2): 0.5,
    ("channels_last", False): 1.4,
    ("precision", "bf16"): 0.99,
    ("cuda_graphs", True): 0.3,
}
OTHERS = [("num_threads", [1, 2]), ("channels_last", [False]), ("precision", ["bf16"]), ("cuda_graphs", [True])]


def _seconds(choice: Choice) -> float:
    """Independent factors, so that the best choice is the product of those below 1."""
    found = 1.0
    for (name, value), factor in FACTORS.items():
        found *= factor if getattr(choice, name) == value else 1.0
    return found


def test_search_keeps_what_is_clearly_faster():
    best, milliseconds = search(Choice(), OTHERS, _seconds, 60.0)
    assert best == Choice(num_threads=2, cuda_graphs=True)  # 0.99 is the clock
    assert milliseconds["as configured"] == 1000.0
    assert milliseconds["cuda_graphs=True"] == pytest.approx(150.0)


def test_search_skips_what_cannot_be_used():
    def measure(choice: Choice) -> float:
        if choice.cuda_graphs:
            raise UnusableChoiceError("no")
        return _seconds(choice)

    best, milliseconds = search(Choice(), OTHERS, measure, 60.0)
    assert best == Choice(num_threads=2)
    assert "cuda_graphs=True" not in milliseconds


def test_search_ends_in_time():
    calls: list[Choice] = []
    search(Choice(), OTHERS, lambda choice: calls.append(choice) or 1.0, 0.0)
    assert len(calls) == 1  # nothing can be chosen without a measurement


def test_alternatives_differ_from_the_start():
    start = Choice(num_threads=1, channels_last=False)
    for name, values in alternatives(CPU, start, graphs=True):
        assert getattr(start, name) not in values
        assert name not in ("precision", "cuda_graphs")  # which change results, or need a GPU


@pytest.fixture
def timer(compose_train: Callable[..., DictConfig]) -> StepTimer:
    experiment = Experiment.from_config(compose_train(*TINY))
    model, objective = experiment.build(8)
    batch = Batch(
        inputs=torch.randn(4, 4, 16, 16, 16),
        subject_id=tuple("abcd"),
        targets={name: torch.randn(4, len(targets)) for name, targets in experiment.supervision.items()},
        observed={
            name: torch.ones(4, len(targets), dtype=torch.bool) for name, targets in experiment.supervision.items()
        },
    )
    return StepTimer(model, objective, batch, Progress(15.0, 15.0))


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_timing_changes_neither_model_nor_objective_nor_threads(timer: StepTimer):
    before, threads = (_state(timer.model), _state(timer.objective)), torch.get_num_threads()
    formats = [value.stride() for value in timer.model.parameters()]
    assert timer(Choice(num_threads=2, channels_last=True)) > 0.0
    for old, new in zip(before, (timer.model, timer.objective), strict=True):
        torch.testing.assert_close(_state(new), old, rtol=0.0, atol=0.0)
    assert [value.stride() for value in timer.model.parameters()] == formats
    assert all(value.grad is None for value in timer.model.parameters())
    assert torch.get_num_threads() == threads


def test_outcome_is_remembered_until_something_changes(timer: StepTimer, tmp_path: Path):
    def found(**about: str) -> Tuned:
        return tuned(timer, Choice(), [("channels_last", [False])], tmp_path, about)

    first = found(terms="dcor")
    again = found(terms="dcor")
    assert (first.remembered, again.remembered) == (False, True)
    assert (again.choice, again.milliseconds) == (first.choice, first.milliseconds)
    assert set(first.milliseconds) == {"as configured", "channels_last=False"}
    assert not found(terms="hsic").remembered
    (path,) = [path for path in tmp_path.iterdir() if json.loads(path.read_text())["of"]["terms"] == "dcor"]
    path.write_text("{")
    assert not found(terms="dcor").remembered
