"""The objective on a whole split."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from menvae import collectives
from menvae.objective import Objective
from menvae.training.state import RunningMeans
from menvae.types import Batch, LossReport, ModelOutput, Posterior, Progress

MOST_ROWS = 4096
"""Larger splits are subsampled to evenly spaced rows for terms of the split, whose memory may be quadratic."""


@dataclass
class _Latents:
    """Latents of a split, on the CPU."""

    subject_id: list[str] = field(default_factory=list)
    patient_id: list[str] = field(default_factory=list)
    mean: list[Tensor] = field(default_factory=list)
    logvar: list[Tensor] = field(default_factory=list)


class SplitObjective:
    """Evaluates an objective in evaluation mode on a split, batch by batch, with every rank's share of the batches.

    Terms of single subjects are averaged over subjects. Terms of the split (`menvae.terms.Term.of_split`), such as the
    distance correlation of partitions, are evaluated once on the latents of all its subjects.
    """

    def __init__(self, objective: Objective, progress: Progress) -> None:
        """Args: objective: in evaluation mode. progress: position in training, for the weights."""
        self.objective, self.progress = objective, progress
        self._means = RunningMeans()
        self._latents = _Latents()
        self._whole = any(term.of_split for term in objective.active_terms.values())
        self._device = torch.device("cpu")

    @torch.no_grad()
    def add(self, batch: Batch, output: ModelOutput) -> None:
        """Add a batch with the outputs of the model."""
        report = self.objective(batch, output, self.progress, "batch")
        self._means.add({**report.logged(), "loss_at_final_weights": self._at_final_weights(report)}, len(batch))
        if not self._whole:
            return
        posterior = output.posterior
        self._device = posterior.mean.device
        self._latents.subject_id += batch.subject_id
        self._latents.patient_id += batch.patient_id or batch.subject_id
        self._latents.mean.append(posterior.mean.float().cpu())
        self._latents.logvar.append(posterior.logvar.float().cpu())

    @torch.no_grad()
    def values(self) -> dict[str, float]:
        """Return ``loss``, ``loss_at_final_weights`` and every scalar and diagnostic, without the weights."""
        values = self._means.averages()
        if not self._whole:
            return values
        batch, output = self._joined()
        with collectives.alone():
            report = self.objective(batch, output, self.progress, "split")
        of_split = {**report.logged(), "loss_at_final_weights": self._at_final_weights(report)}
        for name, value in of_split.items():
            values[name] = values.get(name, 0.0) + float(value)
        return values

    def _at_final_weights(self, report: LossReport) -> Tensor:
        weights = {name: self.objective.weight(name, self.progress.finished) for name in report.scalars}
        parts = [weight * report.scalars[name].raw for name, weight in weights.items()]
        return torch.stack(parts).sum() if parts else report.total.new_zeros(())

    def _joined(self) -> tuple[Batch, ModelOutput]:
        """Return the latents of all ranks, each subject once, in the order of their names."""
        pieces = collectives.gather_objects(self._latents)
        subjects = [name for piece in pieces for name in piece.subject_id]
        patients = [name for piece in pieces for name in piece.patient_id]
        first = {name: row for row, name in reversed(list(enumerate(subjects)))}
        rows = [first[name] for name in sorted(first)]
        rows = rows[:: -(-len(rows) // MOST_ROWS)]
        mean, logvar = (
            torch.cat([tensor for piece in pieces for tensor in getattr(piece, name)])[rows].to(self._device)
            for name in ("mean", "logvar")
        )
        batch = Batch(
            mean.new_zeros(len(rows), 0),
            tuple(subjects[row] for row in rows),
            patient_id=tuple(patients[row] for row in rows),
        )
        return batch, ModelOutput(Posterior(mean, logvar), mean, batch.inputs)
