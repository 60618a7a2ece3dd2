"""Records a split batch by batch and computes all metrics at its end."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from menvae import collectives
from menvae.evaluation.interventions import reader_columns
from menvae.metrics import Floats, Metric, SplitRecord, measure
from menvae.models import Model
from menvae.references.reader import FeatureReader
from menvae.statistics.gaussian import draws_by_name
from menvae.statistics.patients import previous_of_another
from menvae.types import Batch, ModelOutput, Observation, Observer, Posterior

NUM_DRAWS = 256
"""Draws of q(z|x) behind the spread of a prediction, as by default in menvae-encode."""
_ROWS_AT_ONCE = 64
"""Rows whose draws are predicted in one piece; tables have batches of thousands of rows."""


@dataclass(frozen=True)
class Reference:
    """What the evaluation after training compares subjects with.

    Attributes:
        mean_z: mean over the training subjects [Z].
        mean_image: mean training image [C, D, H, W] or row [F].
        foreign: subject -> z [Z] of another patient; empty: of the subject that was recorded before.
        reader: reads the targets from the images; None: nothing is read.
    """

    mean_z: Tensor
    mean_image: Tensor
    foreign: Mapping[str, Tensor]
    reader: FeatureReader | None = None


class SplitRecorder(Observer):
    """Records what metrics need from every validation batch, including reconstruction errors from foreign latents."""

    order: ClassVar[int] = 0

    def __init__(self, model: Model, metrics: Sequence[Metric] = ()) -> None:
        """Args: model: model that decodes latents. metrics: metrics to compute."""
        self.model, self.metrics = model, tuple(metrics)
        self._decodes = any("errors" in metric.needs for metric in self.metrics)
        self._training_sum: Tensor | None = None
        self._training_rows = 0
        self._noise: dict[tuple[str, ...], Tensor] = {}
        self.reset()

    def reset(self) -> None:
        """Clear the record, the mean training latent and the reference of a final evaluation."""
        self.mean_training_z: Tensor | None = None
        self.reference: Reference | None = None
        self._batches: list[dict[str, Floats]] = []
        self._subjects: list[str] = []
        self._patients: list[str] = []
        self._previous = _PreviousPatients()
        self._constants: dict[str, Tensor] = {}

    def compare_with(self, reference: Reference) -> None:
        """Set what the subjects of a final evaluation are compared with."""
        self.mean_training_z, self.reference = reference.mean_z, reference

    def on_epoch_start(self, epoch: int) -> None:
        """Reset the running mean of training latents, so that it covers only this epoch."""
        self._training_sum, self._training_rows = None, 0

    def on_train_step(self, batch: Batch, output: ModelOutput) -> None:
        """Add the batch to the mean training latent of this epoch."""
        total = output.posterior.mean.detach().double().sum(dim=0)
        self._training_sum = total if self._training_sum is None else self._training_sum.to(total.device) + total
        self._training_rows += len(batch)

    def epoch_state(self) -> dict[str, Any]:
        """Return the sum and number of this epoch's training latents."""
        total = None if self._training_sum is None else self._training_sum.cpu()
        return {"training_sum": total, "training_rows": self._training_rows}

    def load_epoch_state(self, state: Mapping[str, Any]) -> None:
        """Restore the sum and number."""
        self._training_sum, self._training_rows = state["training_sum"], state["training_rows"]

    def on_validation_start(self, epoch: int) -> None:
        """Clear the record and compute the mean latent of this epoch's training batches."""
        self.reset()
        if self._training_sum is not None:
            total = collectives.sum_over_ranks(self._training_sum) / collectives.num_ranks()
            self.mean_training_z = (total / self._training_rows).float()

    def record_latents(self, batch: Batch, posterior: Posterior) -> None:
        """Record latents and targets of a batch, but nothing of its images."""
        self._keep(batch, self._latents(batch, posterior))

    def record_predictions(self, batch: Batch, posterior: Posterior) -> None:
        """Record latents, targets, and predictions with their spread over draws of q(z|x)."""
        mean = posterior.mean
        predictions = {f"predictions.{name}": value for name, value in self.model.predict(mean).items()}
        self._keep(batch, {**self._latents(batch, posterior), **predictions, **self._spread(batch, posterior)})

    def on_validation_batch(self, batch: Batch, output: ModelOutput) -> None:
        """Record the batch."""
        mean, logvar = output.posterior.mean, output.posterior.logvar
        values = self._latents(batch, output.posterior)
        values |= {f"predictions.{partition}": value for partition, value in output.predictions.items()}
        if "logits" in output.extras:
            values["classes"] = output.extras["logits"].argmax(dim=1)
        if batch.available is not None:
            values["available"] = batch.available
        for metric in self.metrics:
            observed = metric.observe(batch, output)
            if taken := observed.keys() & values.keys():
                raise ValueError(f"{type(metric).__name__}.observe: {', '.join(sorted(taken))} is already recorded")
            values |= observed
        if self._decodes:
            image = batch.inputs.float()
            values["errors.mu"] = _mse(image, output.reconstruction, batch.available)
            values |= self._with_other_latents(image, batch, mean, logvar)
        if self._decodes and self.reference is not None:
            values |= self._with_reference(image, batch, output, self.reference)
        if self.reference is not None and self.reference.reader is not None:
            reader = self.reference.reader
            read = reader.read(batch.inputs, batch.available)
            values["read"] = read[:, reader_columns(reader, self.model.supervision)]
        if self.reference is not None and output.predictions:
            values |= self._spread(batch, output.posterior)
        self._keep(batch, values)

    @staticmethod
    def _latents(batch: Batch, posterior: Posterior) -> dict[str, Tensor]:
        values = {"mean": posterior.mean, "logvar": posterior.logvar}
        values |= {f"targets.{partition}": value for partition, value in batch.targets.items()}
        values |= {} if batch.labels is None else {"labels": batch.labels}
        return values | {f"observed.{partition}": value for partition, value in batch.observed.items()}

    def _spread(self, batch: Batch, posterior: Posterior) -> dict[str, Tensor]:
        """Return the mean squared difference [B, F] of predictions from draws of q(z|x) and from its mean.

        Heads predict in float32 in runs of any precision: rounding to bfloat16 would be larger than small spreads.
        """
        found: dict[str, list[Tensor]] = {}
        for first in range(0, len(batch), _ROWS_AT_ONCE):
            rows = slice(first, first + _ROWS_AT_ONCE)
            mean, logvar = posterior.mean[rows].float(), posterior.logvar[rows].float()
            draws = draws_by_name(mean, logvar, batch.subject_id[rows], NUM_DRAWS)
            with torch.autocast(mean.device.type, enabled=False):
                of_draws, of_mean = self.model.predict(draws.flatten(0, 1)), self.model.predict(mean)
            for name, centre in of_mean.items():
                values = of_draws[name].reshape(len(mean), NUM_DRAWS, -1)
                squares = (values - centre[:, None]).square()
                found.setdefault(f"spread.{name}", []).append(squares.mean(dim=1))
        return {name: torch.cat(values) for name, values in found.items()}

    def _keep(self, batch: Batch, values: Mapping[str, Tensor]) -> None:
        self._subjects += batch.subject_id
        self._patients += patients_of(batch)
        self._batches.append({name: value.detach().double().cpu().numpy() for name, value in values.items()})

    def _with_other_latents(self, image: Tensor, batch: Batch, mean: Tensor, logvar: Tensor) -> dict[str, Tensor]:
        available = batch.available
        sampled = mean + torch.exp(0.5 * logvar) * self._noise_of(batch.subject_id, mean)
        values = {"errors.sampled": _mse(image, self.model.decode(sampled), available)}
        for name, z in (("z0", torch.zeros_like(mean[:1])), ("mean_z", self.mean_training_z)):
            if z is not None:
                if name not in self._constants:
                    self._constants[name] = self.model.decode(z.reshape(1, -1).to(mean.device))
                values[f"errors.{name}"] = _mse(image, self._constants[name].expand_as(image), available)
        given = self.reference.foreign if self.reference is not None else {}
        z, known = self._previous.of_others(patients_of(batch), mean)
        if rows := [row for row, subject in enumerate(batch.subject_id) if subject in given]:
            z[rows], known[rows] = torch.stack([given[batch.subject_id[row]] for row in rows]).to(mean), True
        values["errors.shuffled"] = _mse(image, self.model.decode(z), available).masked_fill(~known, torch.nan)
        return values

    def _noise_of(self, subjects: tuple[str, ...], like: Tensor) -> Tensor:
        """Return `_noise`, drawn once a run for the batches that every validation has."""
        if subjects not in self._noise:
            self._noise[subjects] = _noise(subjects, like)
        return self._noise[subjects]

    def _with_reference(
        self, image: Tensor, batch: Batch, output: ModelOutput, reference: Reference
    ) -> dict[str, Tensor]:
        """Return the errors of the mean image, and of z without each partition, also inside the tumour."""
        mean_image = reference.mean_image.to(image).expand_as(image)
        values = {"final_errors.mean_image": _mse(image, mean_image, batch.available)}
        tumour = None if batch.mask is None else batch.mask > 0
        if tumour is not None:
            values["tumour_errors.mu"] = _mse_inside(image, output.reconstruction, tumour, batch.available)
        mean = output.posterior.mean
        for partition in self.model.layout:
            start, stop = self.model.layout.bounds(partition)
            z = mean.clone()
            z[:, start:stop] = reference.mean_z[start:stop].to(mean)
            without = self.model.decode(z)
            values[f"final_errors.without_{partition}"] = _mse(image, without, batch.available)
            if tumour is not None:
                inside = _mse_inside(image, without, tumour, batch.available)
                values[f"tumour_errors.without_{partition}"] = inside
        return values

    def record(self) -> SplitRecord:
        """Return the record so far, gathered over ranks, with each subject once."""
        stacked = {
            name: np.concatenate([batch[name] for batch in self._batches]) for name in (self._batches or [{}])[0]
        }
        mine = SplitRecord(tuple(self._subjects), stacked, tuple(self._patients))
        return SplitRecord.joined(collectives.gather_objects(mine))

    def on_validation_end(self, epoch: int, metrics: Mapping[str, float | None]) -> Observation:
        """Return the metrics of the split that every epoch has."""
        return Observation(measure([metric for metric in self.metrics if metric.when == "epoch"], self.record()))


class _PreviousPatients:
    """The latest z of the last two patients, so that every row finds one of another patient."""

    def __init__(self) -> None:
        self._latest: list[tuple[str, Tensor]] = []

    def of_others(self, patients: Sequence[str], mean: Tensor) -> tuple[Tensor, Tensor]:
        """Return, for each row, the latest z before it of another patient; in the first batch also one behind it.

        Args:
            patients: patient of each row.
            mean: posterior means [B, Z].

        Returns:
            z [B, Z], 0 where there is none, and whether there is one, bool [B].
        """
        is_first, num_kept = not self._latest, len(self._latest)
        rows = torch.cat([*(z.to(mean)[None] for _, z in self._latest), mean])
        latest = [(patient, row) for row, (patient, _) in enumerate(self._latest)]
        found: list[int | None] = []
        for row, patient in enumerate(patients, start=num_kept):
            others = latest[1:] if latest and latest[0][0] == patient else latest[:1]
            found.append(others[0][1] if others else None)
            latest = [(patient, row), *others]
        self._latest = [(patient, rows[row]) for patient, row in latest]
        if is_first:
            found = [
                next((row for row in reversed(range(len(mean))) if patients[row] != patient), None)
                if other is None
                else other
                for other, patient in zip(found, patients, strict=True)
            ]
        known = torch.tensor([row is not None for row in found], device=mean.device)
        z = rows[torch.tensor([row or 0 for row in found], device=mean.device)]
        return z.masked_fill_(~known[:, None], 0.0), known


def patients_of(batch: Batch) -> tuple[str, ...]:
    """Return the patient of each row; a subject without a known patient is one of its own."""
    return batch.patient_id or batch.subject_id


def latents_of_others(record: SplitRecord) -> dict[str, Tensor]:
    """Return, for each subject, the posterior mean [Z] of the subject before it that is of another patient.

    Subjects are in the order of the record, and the last precedes the first. Empty for a single patient.
    """
    means = torch.from_numpy(record.arrays["mean"]).float()
    others = zip(record.subject_id, previous_of_another(record.patient_id), strict=True)
    return {subject: means[other] for subject, other in others if other is not None}


class MeanImage:
    """Mean over subjects of the images of each channel, in double precision."""

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._count: Tensor | None = None

    def add(self, batch: Batch) -> None:
        """Add the subjects of a batch; unavailable channels do not count."""
        image = batch.inputs.double()
        has = image.new_ones(image.shape[:2]) if batch.available is None else batch.available.to(image)
        weights = has.reshape(*has.shape, *(1,) * (image.ndim - 2))
        total, count = torch.where(weights > 0, image, 0.0).sum(dim=0), has.sum(dim=0)
        self._total = total if self._total is None else self._total + total
        self._count = count if self._count is None else self._count + count

    def value(self) -> Tensor:
        """Return the mean [C, ...] over all ranks; 0 for a channel that no subject has."""
        assert self._total is not None, "no batch was added"
        assert self._count is not None, "no batch was added"
        total, count = collectives.sum_over_ranks(self._total), collectives.sum_over_ranks(self._count)
        return total / count.clamp(min=1.0).reshape(-1, *(1,) * (total.ndim - 1))


def _noise(subjects: Sequence[str], like: Tensor) -> Tensor:
    """Return standard normal noise [B, Z] that depends on the subject only, not on batches, ranks or devices."""
    rows = [
        torch.randn(like.shape[1], generator=torch.Generator().manual_seed(zlib.crc32(subject.encode())))
        for subject in subjects
    ]
    return torch.stack(rows).to(like)


def _mse_inside(image: Tensor, reconstruction: Tensor, inside: Tensor, available: Tensor | None) -> Tensor:
    """Mean squared error [B] over the voxels ``inside``, bool [B, 1, ...], of available channels; NaN without any."""
    squares = (image - reconstruction.float()).square()
    wanted = inside.expand_as(squares)
    if available is not None:
        wanted = wanted & available.reshape(*available.shape, *(1,) * (squares.ndim - 2))
    total = torch.where(wanted, squares, 0.0).flatten(1).sum(dim=1)
    return total / wanted.flatten(1).sum(dim=1)


def _mse(image: Tensor, reconstruction: Tensor, available: Tensor | None) -> Tensor:
    """Mean squared error [B] over the available channels, bool [B, C]; None: all."""
    squares = (image - reconstruction.float()).square()
    if available is None:
        return squares.flatten(1).mean(dim=1)
    of_channels = squares.reshape(*available.shape, -1).mean(dim=2).masked_fill(~available, 0.0)
    return of_channels.sum(dim=1) / available.sum(dim=1)
