"""Conformance suite of optimizers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from menvae.conformance.suite import Case, PartConformance, seeded


class OptimizerConformance(PartConformance):
    """Parameters -> `torch.optim.Optimizer`; must have a tunable ``learning_rate``, which schedules scale."""

    group = "optimizer"

    def setup(self, case: Case) -> tuple[nn.Linear, torch.optim.Optimizer]:
        """Return a seeded layer and its optimizer."""
        torch.manual_seed(0)
        layer = nn.Linear(4, 3)
        optimizer: torch.optim.Optimizer = case.bound()(layer.parameters())
        return layer, optimizer

    def step(self, layer: nn.Linear, optimizer: torch.optim.Optimizer, seed: int) -> None:
        """Take one step on a batch of noise."""
        optimizer.zero_grad()
        layer(torch.randn(5, 4, generator=seeded(seed))).square().sum().backward()
        optimizer.step()

    def test_every_parameter_moves(self, case: Case) -> None:
        layer, optimizer = self.setup(case)
        before = [parameter.detach().clone() for parameter in layer.parameters()]
        self.step(layer, optimizer, 1)
        assert all(not torch.equal(old, new) for old, new in zip(before, layer.parameters(), strict=True))

    def test_learning_rate_is_the_configured_one_and_0_stops(self, case: Case) -> None:
        layer, optimizer = self.setup(case)
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(case.bound().settings["learning_rate"])
            group["lr"] = 0.0
        before = layer.weight.detach().clone()
        self.step(layer, optimizer, 1)
        assert torch.equal(layer.weight, before)

    def test_resumes_from_its_state(self, case: Case) -> None:
        layer, optimizer = self.setup(case)
        self.step(layer, optimizer, 1)
        other_layer, other_optimizer = self.setup(case)
        other_layer.load_state_dict(layer.state_dict())
        other_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        self.step(layer, optimizer, 2)
        self.step(other_layer, other_optimizer, 2)
        assert torch.equal(layer.weight, other_layer.weight)
