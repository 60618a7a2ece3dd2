"""Records a split as it passes by, and computes every metric of it at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from menvae import collectives
from menvae.evaluation.classification import class_metrics
from menvae.evaluation.collapse import latent_metrics
from menvae.evaluation.independence import independence_metrics
from menvae.evaluation.regression import semantic_metrics
from menvae.evaluation.similarity import psnr, ssim
from menvae.models import Model
from menvae.types import Batch, ModelOutput, Observation, Observer, Posterior

_SMALLEST_SSIM_SIDE = 7


@dataclass(frozen=True)
class SplitRecord:
    """A whole split after one pass, sorted by subject, in double precision.

    Attributes:
        subject_id: N identifiers.
        arrays: name -> [N, ...]: ``mean``, ``logvar`` [N, Z]; ``targets.<p>``, ``observed.<p>``, ``predictions.<p>``
            [N, F]; ``mse_<variant>`` [N] with the variants mu, sampled, shuffled, mean_z, z0 (NaN where a variant
            could not be made), over the channels that a subject has; ``ssim``, ``psnr`` [N, C] of volumes, ``mse``
            [N, C] of rows; ``available`` [N, C], 1 for these channels, only where not all have all; ``labels`` and
            predicted ``classes`` [N] where there are any.
    """

    subject_id: tuple[str, ...]
    arrays: Mapping[str, NDArray[np.float64]]

    def by_partition(self, kind: str) -> dict[str, NDArray[np.float64]]:
        """Return the arrays called ``<kind>.<partition>`` by partition."""
        return {name.split(".", 1)[1]: array for name, array in self.arrays.items() if name.startswith(kind + ".")}


class SplitRecorder(Observer):
    """Keeps what metrics need of every validation batch; also decodes latents that are not the subject's own."""

    def __init__(self, model: Model, channels: Sequence[str]) -> None:
        """Args: model: to decode with. channels: their names."""
        self.model, self.channels = model, tuple(channels)
        self._training_sum: Tensor | None = None
        self._training_rows = 0
        self.reset()

    def reset(self) -> None:
        """Forget the split and the mean latent it was compared with."""
        self.mean_training_z: Tensor | None = None
        self._batches: list[dict[str, NDArray[np.float64]]] = []
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
        image, reconstruction = batch.inputs.float(), output.reconstruction.float()
        values |= _similarities(image, reconstruction)
        if "logits" in output.extras:
            values["classes"] = output.extras["logits"].argmax(dim=1)
        if batch.available is not None:
            values["available"] = batch.available
        values["mse_mu"] = _mse(image, reconstruction, batch.available)
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
        values = {"mse_sampled": _mse(image, self.model.decode(mean + torch.exp(0.5 * logvar) * noise), available)}
        for name, z in (("z0", torch.zeros_like(mean[:1])), ("mean_z", self.mean_training_z)):
            if z is not None:
                if name not in self._constants:
                    self._constants[name] = self.model.decode(z.reshape(1, -1))
                values[f"mse_{name}"] = _mse(image, self._constants[name].expand_as(image), available)
        if self._previous_z is None and len(mean) == 1:  # the first subject of a split that comes one by one
            values["mse_shuffled"] = torch.full((1,), torch.nan)
        else:
            before = mean[-1:] if self._previous_z is None else self._previous_z
            values["mse_shuffled"] = _mse(image, self.model.decode(torch.cat([before, mean[:-1]])), available)
        self._previous_z = mean[-1:]
        return values

    def record(self) -> SplitRecord:
        """Return the split so far, of all ranks, each subject once."""
        stacked = {
            name: np.concatenate([batch[name] for batch in self._batches]) for name in (self._batches or [{}])[0]
        }
        gathered = collectives.gather_objects((self._subjects, stacked))
        subjects = [subject for names, _ in gathered for subject in names]
        first = {subject: index for index, subject in reversed(list(enumerate(subjects)))}
        order = [first[subject] for subject in sorted(first)]
        arrays = {name: np.concatenate([rank[name] for _, rank in gathered])[order] for name in stacked}
        return SplitRecord(tuple(sorted(first)), arrays)

    def on_validation_end(self, epoch: int, metrics: Mapping[str, float | None]) -> Observation:
        """Return every metric of the split."""
        return Observation(split_metrics(self.record(), self.model, self.channels))


def split_metrics(record: SplitRecord, model: Model, channels: Sequence[str]) -> dict[str, float | None]:
    """Return ``diag/``, ``sem/``, ``indep/`` and similarity metrics of a split; None for what it cannot give."""
    arrays = record.arrays
    metrics: dict[str, float | None] = {}
    for index, channel in enumerate(channels):
        for kind in ("ssim", "psnr", "mse"):
            if kind in arrays:
                values = arrays[kind][:, index]
                if "available" in arrays:
                    values = values[arrays["available"][:, index] > 0]
                metrics[f"val_epoch/{kind}_{channel}"] = float(values.mean()) if len(values) else None
    metrics |= latent_metrics(arrays["mean"], arrays["logvar"], model.layout)
    errors = {name.removeprefix("mse_"): array for name, array in arrays.items() if name.startswith("mse_")}
    metrics |= decoder_metrics(errors)
    metrics |= semantic_metrics(
        model.supervision,
        record.by_partition("targets"),
        {name: array.astype(bool) for name, array in record.by_partition("observed").items()},
        record.by_partition("predictions"),
    )
    if "classes" in arrays and "labels" in arrays:
        metrics |= class_metrics(arrays["labels"], arrays["classes"])
    return metrics | independence_metrics(arrays["mean"], model.layout)


def decoder_metrics(errors: Mapping[str, NDArray[np.float64]]) -> dict[str, float | None]:
    """Return how much the reconstruction error grows when z is not the subject's own.

    Args:
        errors: variant of z -> mean squared error per subject [N].

    Returns:
        ``diag/recon_<variant>_mse``, ``diag/<variant>_ratio`` over z = mu for mean_z, shuffled and z0, and
        ``diag/recon_delta_mu_vs_sampled``; None where a variant is missing or not finite.
    """
    means = {name: float(np.nanmean(values)) for name, values in errors.items() if np.isfinite(values).any()}
    variants = ("mu", "sampled", "shuffled", "mean_z", "z0")
    metrics: dict[str, float | None] = {f"diag/recon_{name}_mse": means.get(name) for name in variants}
    for variant in ("mean_z", "shuffled", "z0"):
        metrics[f"diag/{variant}_ratio"] = means[variant] / means["mu"] if variant in means and means["mu"] else None
    delta = means["sampled"] - means["mu"] if "sampled" in means and "mu" in means else None
    metrics["diag/recon_delta_mu_vs_sampled"] = delta
    return metrics


def _similarities(image: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
    """Return what can be said of each channel: of volumes their similarity as images, of rows the squared error."""
    sides = image.shape[2:]
    if not sides:
        return {"mse": (image - reconstruction).square()}
    values = {"psnr": psnr(image, reconstruction)}
    if min(sides) >= _SMALLEST_SSIM_SIDE:
        values["ssim"] = ssim(image, reconstruction)
    return values


def _mse(image: Tensor, reconstruction: Tensor, available: Tensor | None) -> Tensor:
    """Mean squared error [B] over the voxels of the channels that are available, bool [B, C]; None: all."""
    squares = (image - reconstruction.float()).square()
    if available is None:
        return squares.flatten(1).mean(dim=1)
    of_channels = squares.flatten(2).mean(dim=2).masked_fill(~available, 0.0)
    return of_channels.sum(dim=1) / available.sum(dim=1)
