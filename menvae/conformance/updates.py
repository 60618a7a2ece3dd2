"""Conformance suite of updates."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from menvae.conformance.suite import Case, PartConformance, seeded
from menvae.types import LossReport, ModelOutput, Posterior, Progress, Scalar
from menvae.updates import Side


class LinearStepper:
    """A stepper over one linear layer that records the calls of an update."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 4)
        self.optimizer = torch.optim.SGD(self.layer.parameters(), lr=0.01)
        self.inputs = torch.randn(3, 4, generator=seeded())
        self.progress, self.step = Progress(0.0, 10.0), 0
        self.reports: list[LossReport] = []
        self.descended: list[Tensor] = []

    def evaluate(self) -> tuple[ModelOutput, LossReport]:
        """Run the layer on the batch."""
        rows = self.layer(self.inputs)
        error = rows.square().mean()
        self.reports.append(LossReport(error, {"recon": Scalar(error, 1.0, error)}))
        return ModelOutput(Posterior(rows, rows), rows, rows), self.reports[-1]

    def descend(self, total: Tensor, only: Side | None = None) -> float:
        """Take one step of all parameters, which belong to both sides."""
        self.descended.append(total)
        self.optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return float(nn.utils.get_total_norm([p.grad for p in self.layer.parameters() if p.grad is not None]))


class UpdateConformance(PartConformance):
    """Stepper -> last output, its report, and the last gradient norm."""

    group = "update"

    def test_takes_a_step_and_reports_it(self, case: Case) -> None:
        stepper = LinearStepper()
        before = stepper.layer.weight.detach().clone()
        output, report, norm = case.bound()()(stepper)
        assert isinstance(output, ModelOutput)
        assert report is stepper.reports[-1]
        assert stepper.descended
        assert not torch.equal(stepper.layer.weight, before)
        assert math.isfinite(norm)
        assert norm > 0.0

    def test_descends_the_objective(self, case: Case) -> None:
        stepper, update = LinearStepper(), case.bound()()
        totals = [update(stepper)[1].total.item() for _ in range(10)]
        assert totals[-1] < totals[0]
