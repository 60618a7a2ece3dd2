"""A training step waits for its device once: where it reads losses and gradient norm."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import losses
from shrunk import composed, trainer_of
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from menvae.composition.experiment import Experiment

METHODS = ("tolist", "cpu", "numpy")
"""Methods of a tensor that wait for a GPU without an operator of their own."""
OPERATORS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2")
"""Operators whose result has a size, or a value, that the process needs; the first is ``item``, ``bool``, ``float``."""


class Waits(TorchFunctionMode):
    """Counts what would wait for a GPU: methods called in Python, and operators."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.operators = _Operators()

    def __enter__(self) -> Waits:
        super().__enter__()
        self.operators.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.operators.__exit__(*error)
        super().__exit__(*error)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in METHODS:
            self.found[name] += 1
        return function(*args, **(kwargs or {}))

    @property
    def total(self) -> Counter[str]:
        """Number of waits by what waits."""
        return self.found + self.operators.found


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.name().partition(".")[0]
        masks = args[1] if name == "aten::index" else []
        if name in OPERATORS or any(mask is not None and mask.dtype == torch.bool for mask in masks):
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


def test_each_way_to_wait_is_counted() -> None:
    x = torch.arange(3.0)
    ways = (x[0].item, x.tolist, x.cpu, x.numpy, lambda: bool(x[0]), lambda: float(x[0]), lambda: x[x > 1.0], x.nonzero)
    for way in ways:
        with Waits() as waits:
            way()
        assert waits.total.total() == 1, (way, waits.total)


@pytest.mark.parametrize(
    "name",
    [
        "default",
        "contrastive_finetune",
        "exp2_tcvae_sbd",
        "exp2_dipvae",
        "semivae_aggressive",
        "semivae_cross_partition",
        "semivae_cycle",
        "semivae_hierarchical",
        "lithology_semisup",
        "lithology_hybrid",
        "table_semivae",
    ],
)
def test_a_step_waits_once(name: str, prepared_cache: Path, tmp_path: Path) -> None:
    losses.fill_cache(prepared_cache)
    (tmp_path / "cache").symlink_to(prepared_cache)
    trainer = trainer_of(Experiment.from_config(composed(*losses.shrunk(name), f"output_dir={tmp_path}")), tmp_path)
    trainer.model.train()
    trainer.objective.train()
    for step, batch in enumerate(trainer.ingredients.train.epoch(0)):
        there = batch.to(trainer.place.device, trainer.memory_format)
        with Waits() as waits:
            taken = trainer._train_step(there, 0, step)
        assert waits.total == {"tolist": 1}, name
        assert taken.logged["loss"] == taken.report.total.item()
        if step == 2:  # by now, memories of earlier rows are in use
            break
