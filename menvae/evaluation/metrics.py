"""Records a split as it passes by, and asks every metric about it at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from menvae import collectives
from menvae.errors import UserError
from menvae.metrics import Floats, Metric, MetricContext, SplitRecord, measure
from menvae.models import Model
from menvae.registry import bind, known, lookup
from menvae.types import Batch, ModelOutput, Observation, Observer, Posterior

__all__ = ["SplitRecord", "SplitRecorder", "build_metrics"]


def build_metrics(config: Mapping[str, Any], context: MetricContext) -> list[Metric]:
    """Build every registered metric that applies in a context.

    Args:
        config: ``metrics.*``: key -> configuration of a metric, in place of its defaults, or None: the metric of that
            name is left out.
        context: of the run.

    Returns:
        Metrics, by name. One that has a tunable without a default is built only where it is configured.

    Raises:
        UserError: a metric that does not exist, a value that is not allowed, or two metrics of one key.
    """
    parts = {name: lookup("metric", name) for name in known("metric")}
    wanted: dict[str, Metric] = {}
    for key, entry in config.items():
        if entry is None:
            lookup("metric", key, f"metrics.{key}")
        else:
            wanted[f"metrics.{key}"] = bind("metric", entry, f"metrics.{key}")(context)
    configured = {entry["name"] for entry in config.values() if entry is not None}
    for name, part in parts.items():
        complete = all(default is not ... for _, default in part.tunables.values())
        if complete and name not in configured and (name not in config or config[name] is not None):
            wanted.setdefault(name, part.factory(context))
    owners: dict[str, str] = {}
    for owner, metric in wanted.items():
        for key in metric.names():
            if key in owners:
                raise UserError(f"metrics: {owners[key]} and {owner} both give '{key}'; set one of them to null")
            owners[key] = owner
    return [metric for _, metric in sorted(wanted.items()) if metric.names()]


class SplitRecorder(Observer):
    """Keeps what metrics need of every validation batch; also decodes latents that are not the subject's own."""

    order: ClassVar[int] = 0

    def __init__(self, model: Model, metrics: Sequence[Metric] = ()) -> None:
        """Args: model: to decode with. metrics: to ask."""
        self.model, self.metrics = model, tuple(metrics)
        self._decodes = any("errors" in metric.needs for metric in self.metrics)
        self._training_sum: Tensor | None = None
        self._training_rows = 0
        self.reset()

    def reset(self) -> None:
        """Forget the split and the mean latent it was compared with."""
        self.mean_training_z: Tensor | None = None
        self._batches: list[dict[str, Floats]] = []
        self._subjects: list[str] = []
        self._previous_z: Tensor | None = None
        self._constants: dict[str, Tensor] = {}

    def on_epoch_start(self, epoch: int) -> None:
        """Begin the mean training latent anew, so that it is that of the last epoch, whatever came before."""
        self._training_sum, self._training_rows = None, 0

    def on_train_step(self, batch: Batch, output: ModelOutput) -> None:
        """Add to the mean training latent of this epoch."""
        total = output.posterior.mean.detach().double().sum(dim=0)
        self._training_sum = total if self._training_sum is None else self._training_sum.to(total.device) + total
        self._training_rows += len(batch)

    def epoch_state(self) -> dict[str, Any]:
        """Return the sum of this epoch's training latents, and of how many."""
        total = None if self._training_sum is None else self._training_sum.cpu()
        return {"training_sum": total, "training_rows": self._training_rows}

    def load_epoch_state(self, state: Mapping[str, Any]) -> None:
        """Go on with the sum."""
        self._training_sum, self._training_rows = state["training_sum"], state["training_rows"]

    def on_validation_start(self, epoch: int) -> None:
        """Take the mean latent of the training batches of this epoch."""
        self.reset()
        if self._training_sum is not None:
            total = collectives.sum_over_ranks(self._training_sum) / collectives.num_ranks()
            self.mean_training_z = (total / self._training_rows).float()

    def record_latents(self, batch: Batch, posterior: Posterior) -> None:
        """Record latents and targets of a batch, nothing of its images."""
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
                raise ValueError(f"{type(metric).__name__}.observe: {', '.join(sorted(taken))} is recorded already")
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
        if self._previous_z is None and len(mean) == 1:  # the first subject of a split that comes one by one
            values["errors.shuffled"] = torch.full((1,), torch.nan)
        else:
            before = mean[-1:] if self._previous_z is None else self._previous_z
            values["errors.shuffled"] = _mse(image, self.model.decode(torch.cat([before, mean[:-1]])), available)
        self._previous_z = mean[-1:]
        return values

    def record(self) -> SplitRecord:
        """Return the split so far, of all ranks, each subject once."""
        stacked = {
            name: np.concatenate([batch[name] for batch in self._batches]) for name in (self._batches or [{}])[0]
        }
        return SplitRecord.joined(collectives.gather_objects((self._subjects, stacked)))

    def on_validation_end(self, epoch: int, metrics: Mapping[str, float | None]) -> Observation:
        """Return every metric of the split."""
        return Observation(measure(self.metrics, self.record()))


def _mse(image: Tensor, reconstruction: Tensor, available: Tensor | None) -> Tensor:
    """Mean squared error [B] over the voxels of the channels that are available, bool [B, C]; None: all."""
    squares = (image - reconstruction.float()).square()
    if available is None:
        return squares.flatten(1).mean(dim=1)
    of_channels = squares.reshape(*available.shape, -1).mean(dim=2).masked_fill(~available, 0.0)
    return of_channels.sum(dim=1) / available.sum(dim=1)
