"""Records a split batch by batch and computes all metrics at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from menvae import collectives
from menvae.metrics import Floats, Metric, SplitRecord, measure
from menvae.models import Model
from menvae.types import Batch, ModelOutput, Observation, Observer, Posterior


class SplitRecorder(Observer):
    """Records what metrics need from every validation batch, including reconstruction errors from foreign latents."""

    order: ClassVar[int] = 0

    def __init__(self, model: Model, metrics: Sequence[Metric] = ()) -> None:
        """Args: model: model that decodes latents. metrics: metrics to compute."""
        self.model, self.metrics = model, tuple(metrics)
        self._decodes = any("errors" in metric.needs for metric in self.metrics)
        self._training_sum: Tensor | None = None
        self._training_rows = 0
        self.reset()

    def reset(self) -> None:
        """Clear the record and the mean training latent."""
        self.mean_training_z: Tensor | None = None
        self._batches: list[dict[str, Floats]] = []
        self._subjects: list[str] = []
        self._previous_z: Tensor | None = None
        self._constants: dict[str, Tensor] = {}

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
            values |= self._with_other_latents(image, batch.available, mean, logvar)
        self._keep(batch, values)

    @staticmethod
    def _latents(batch: Batch, posterior: Posterior) -> dict[str, Tensor]:
        values = {"mean": posterior.mean, "logvar": posterior.logvar}
        values |= {f"targets.{partition}": value for partition, value in batch.targets.items()}
        values |= {} if batch.labels is None else {"labels": batch.labels}
        return values | {f"observed.{partition}": value for partition, value in batch.observed.items()}

    def _keep(self, batch: Batch, values: Mapping[str, Tensor]) -> None:
        self._subjects += batch.subject_id
        self._batches.append({name: value.detach().double().cpu().numpy() for name, value in values.items()})

    def _with_other_latents(
        self, image: Tensor, available: Tensor | None, mean: Tensor, logvar: Tensor
    ) -> dict[str, Tensor]:
        generator = torch.Generator(device=mean.device).manual_seed(len(self._subjects))
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        values = {"errors.sampled": _mse(image, self.model.decode(mean + torch.exp(0.5 * logvar) * noise), available)}
        for name, z in (("z0", torch.zeros_like(mean[:1])), ("mean_z", self.mean_training_z)):
            if z is not None:
                if name not in self._constants:
                    self._constants[name] = self.model.decode(z.reshape(1, -1))
                values[f"errors.{name}"] = _mse(image, self._constants[name].expand_as(image), available)
        if self._previous_z is None and len(mean) == 1:  # the first subject at batch size 1 has no predecessor
            values["errors.shuffled"] = torch.full((1,), torch.nan)
        else:
            before = mean[-1:] if self._previous_z is None else self._previous_z
            values["errors.shuffled"] = _mse(image, self.model.decode(torch.cat([before, mean[:-1]])), available)
        self._previous_z = mean[-1:]
        return values

    def record(self) -> SplitRecord:
        """Return the record so far, gathered over ranks, with each subject once."""
        stacked = {
            name: np.concatenate([batch[name] for batch in self._batches]) for name in (self._batches or [{}])[0]
        }
        return SplitRecord.joined(collectives.gather_objects((self._subjects, stacked)))

    def on_validation_end(self, epoch: int, metrics: Mapping[str, float | None]) -> Observation:
        """Return the metrics of the split that every epoch has."""
        return Observation(measure([metric for metric in self.metrics if metric.when == "epoch"], self.record()))


def _mse(image: Tensor, reconstruction: Tensor, available: Tensor | None) -> Tensor:
    """Mean squared error [B] over the available channels, bool [B, C]; None: all."""
    squares = (image - reconstruction.float()).square()
    if available is None:
        return squares.flatten(1).mean(dim=1)
    of_channels = squares.reshape(*available.shape, -1).mean(dim=2).masked_fill(~available, 0.0)
    return of_channels.sum(dim=1) / available.sum(dim=1)
