"""The data flow, Batch -> ModelOutput -> LossReport, and the observers of it.

Shape legend used across menvae: B batch, C channels (modalities), D, H, W spatial axes (R, A, S after reorientation),
Z latent size, F features, P size of one partition, N subjects of a split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final, Protocol

import torch
from torch import Tensor

DTYPES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""``trainer.precision`` -> data type of autocast; fp32 has none."""


REGIONS: Final = ("ncr", "ed", "et")
"""Regions of a tumour: labels 1, 2 and 3 of `Batch.mask`."""

NUM_LABELS: Final = 1 + len(REGIONS)
"""Labels of a mask, with the background."""


@dataclass(frozen=True)
class Intensities:
    """Normalisation of stored intensities; a stored 0 is background, and stays 0.

    Attributes:
        mean: mean of each subject's channels [B, C], in stored units; the mid-range for ``data.normalisation=minmax``.
        sd: their standard deviation [B, C]; half their range for ``data.normalisation=minmax``.
    """

    mean: Tensor
    sd: Tensor

    def z_scores(self, stored: Tensor) -> Tensor:
        """Stored values [B, C, ...] of any real type -> float32 of the same shape, on their device.

        Mean and standard deviation are float32: a z-score is exact to 1e-7 times |mean| / sd; in MRI this ratio is a
        few units.
        """
        sides = (1,) * (stored.ndim - 2)
        mean, sd = (  # a blocking copy would wait for all work queued on the device
            value.to(stored.device, torch.float32, non_blocking=True).reshape(*value.shape, *sides)
            for value in (self.mean, self.sd)
        )
        values = stored.to(torch.float32, copy=True)
        background = values == 0
        return values.sub_(mean).div_(sd).masked_fill_(background, 0.0)


@dataclass(frozen=True)
class Batch:
    """A batch of subjects, as models and objectives see it.

    Attributes:
        inputs: normalised images [B, C, D, H, W] or table rows [B, F]; stored values until ``intensities`` is applied.
        subject_id: one identifier per row.
        targets: {partition: z-scored targets [B, F]}; unobserved values are 0.
        observed: {partition: bool [B, F]}; this mask is the semi-supervision.
        mask: labels [B, 1, D, H, W], 0 for background and then as in `REGIONS`, or None.
        labels: class index [B], -1 where unobserved, or None.
        time: time of the visit in days [B], or None.
        intensities: normalisation that `to` applies to the inputs, or None.
        available: which modalities a subject has, bool [B, C], or None for all. Inputs of missing ones are undefined.
        patient_id: the patient of each row, or empty if unknown.
    """

    inputs: Tensor
    subject_id: tuple[str, ...]
    targets: Mapping[str, Tensor] = field(default_factory=dict)
    observed: Mapping[str, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None
    labels: Tensor | None = None
    time: Tensor | None = None
    intensities: Intensities | None = None
    available: Tensor | None = None
    patient_id: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.subject_id)

    def to(self, device: torch.device, memory_format: torch.memory_format = torch.preserve_format) -> Batch:
        """Return the batch on ``device``, its inputs as z-scores; ``memory_format`` applies to volumes.

        Stored values are copied and then normalised on the device: half as many bytes if they are int16.
        """
        there = self.each(lambda value: value.to(device, non_blocking=True))
        inputs = there.inputs
        if there.intensities is not None:
            inputs = there.intensities.z_scores(inputs)
        if memory_format is not torch.preserve_format and inputs.ndim == 5:  # last: channels vary slowly in z_scores
            inputs = inputs.contiguous(memory_format=memory_format)
        return replace(there, inputs=inputs, intensities=None)

    def rows(self, index: Sequence[int]) -> Batch:
        """Return the rows at ``index``."""
        chosen = torch.tensor(index, dtype=torch.long)
        subjects, patients = (
            tuple(names[row] for row in index) if names else () for names in (self.subject_id, self.patient_id)
        )
        return replace(self.each(lambda value: value[chosen]), subject_id=subjects, patient_id=patients)

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, for asynchronous copies to a GPU; `DataLoader` calls it."""
        return self.each(Tensor.pin_memory)

    def each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Apply ``change`` to every tensor of the batch."""

        def unless_none(value: Tensor | None) -> Tensor | None:
            return None if value is None else change(value)

        numbers = self.intensities
        return replace(
            self,
            inputs=change(self.inputs),
            targets={name: change(value) for name, value in self.targets.items()},
            observed={name: change(value) for name, value in self.observed.items()},
            mask=unless_none(self.mask),
            labels=unless_none(self.labels),
            time=unless_none(self.time),
            available=unless_none(self.available),
            intensities=None if numbers is None else Intensities(change(numbers.mean), change(numbers.sd)),
        )


class EpochLoader(Protocol):
    """Batches of one split, in an order that depends on the epoch."""

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches."""

    def epoch(self, epoch: int, first_step: int = 0) -> Iterable[Batch]:
        """Return the batches of an epoch, from ``first_step`` on."""


@dataclass(frozen=True)
class Posterior:
    """Diagonal Gaussian q(z|x) = N(mean, diag(exp(logvar))).

    Attributes:
        mean: [B, Z].
        logvar: [B, Z], natural log of the variance.
    """

    mean: Tensor
    logvar: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw z [B, Z] by reparameterisation, in the dtype of the mean."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)  # not randn, which torch.compile breaks on
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def kl(self) -> Tensor:
        """Return KL(q || N(0, I)) in nats, float32 [B, Z] (Kingma & Welling 2014, appendix B)."""
        mean, logvar = self.mean.float(), self.logvar.float()
        return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar)


@dataclass(frozen=True)
class ModelOutput:
    """Output of a model for a batch.

    Attributes:
        posterior: q(z|x).
        latent: the decoded z [B, Z]: a sample in training, the posterior mean in evaluation.
        reconstruction: same shape as the inputs.
        predictions: {partition: predicted z-scored targets [B, F]}.
        extras: {name: tensor}, further outputs that some terms require, such as ``auxiliary_reconstruction``.
        to_commit: {name: tensor}, what `menvae.models.Model.commit` reads, without gradient; in training only.
    """

    posterior: Posterior
    latent: Tensor
    reconstruction: Tensor
    predictions: Mapping[str, Tensor] = field(default_factory=dict)
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    to_commit: Mapping[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Return {name: tensor}; tensors that are one object appear once."""
        named = {
            "mean": self.posterior.mean,
            "logvar": self.posterior.logvar,
            "latent": self.latent,
            "reconstruction": self.reconstruction,
            **{f"predictions.{name}": value for name, value in self.predictions.items()},
            **{f"extras.{name}": value for name, value in self.extras.items()},
            **{f"to_commit.{name}": value for name, value in self.to_commit.items()},
        }
        first = {id(tensor): name for name, tensor in reversed(named.items())}
        return {name: tensor for name, tensor in named.items() if first[id(tensor)] == name}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> ModelOutput:
        """Return an output with other tensors, by the names of `tensors`."""
        by_id = {id(tensor): tensors[name] for name, tensor in self.tensors().items()}
        posterior = self.posterior
        return replace(
            self,
            posterior=Posterior(by_id[id(posterior.mean)], by_id[id(posterior.logvar)]),
            latent=by_id[id(self.latent)],
            reconstruction=by_id[id(self.reconstruction)],
            predictions={name: by_id[id(value)] for name, value in self.predictions.items()},
            extras={name: by_id[id(value)] for name, value in self.extras.items()},
            to_commit={name: by_id[id(value)] for name, value in self.to_commit.items()},
        )


@dataclass(frozen=True)
class Progress:
    """Position of training on the clock that schedules are written for.

    Attributes:
        epoch: fractional epochs done, in epochs of ``curriculum.reference_epochs``.
        total_epochs: length of the run on the same clock.
    """

    epoch: float
    total_epochs: float

    @property
    def finished(self) -> Progress:
        """The end of the run, whose weights are used to compare checkpoints."""
        return Progress(self.total_epochs, self.total_epochs)


@dataclass(frozen=True)
class Scalar:
    """One scalar of an objective: its value, its current weight, and their product (float32, zero-dimensional)."""

    raw: Tensor
    weight: float
    weighted: Tensor


@dataclass(frozen=True)
class LossReport:
    """An objective evaluated on one batch.

    Attributes:
        total: sum of the weighted scalars, which training minimises.
        scalars: {name: Scalar}.
        diagnostics: {name: detached value} of values that terms report without a weight, such as ``kl_raw``.
    """

    total: Tensor
    scalars: Mapping[str, Scalar]
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)

    def logged(self) -> dict[str, Tensor]:
        """Return {metric name: detached value}: the total as ``loss``, every raw scalar, every diagnostic."""
        values = {"loss": self.total.detach()}
        values |= {name: scalar.raw.detach() for name, scalar in self.scalars.items()}
        return values | {name: value.detach() for name, value in self.diagnostics.items()}


@dataclass(frozen=True)
class Observation:
    """Result of an observer after a validation.

    Attributes:
        metrics: {metric key: value}, logged with the losses.
        collapsed: whether to exclude the epoch from the candidates for ``best.ckpt``.
        stop: reason to end the run now, or empty.
        pruned: whether a pruner stops the run.
    """

    metrics: Mapping[str, float | None] = field(default_factory=dict)
    collapsed: bool = False
    stop: str = ""
    pruned: bool = False


class Observer:
    """Watches training without influencing its steps; every method is optional.

    The trainer calls observers in their order, on all ranks; gather over ranks in ``on_validation_end``, which every
    rank reaches. Checkpoints store ``epoch_state`` under the name of the class.

    Attributes:
        order: position among the observers of a run. Smaller values are called first, and later observers see their
            metrics. The built-in metrics have 0, the collapse watch 10, the report to an Optuna study, which needs all
            metrics, 90, and the reconstructions 95.
    """

    order: ClassVar[int] = 50

    def on_epoch_start(self, epoch: int) -> None:
        """Called before the first step of an epoch; ``epoch`` counts finished epochs."""

    def on_train_step(self, batch: Batch, output: ModelOutput) -> None:
        """Called after every optimiser step."""

    def epoch_state(self) -> dict[str, Any]:
        """Return what this rank has gathered since the epoch began, as tensors and plain values, for a checkpoint."""
        return {}

    def load_epoch_state(self, state: Mapping[str, Any]) -> None:
        """Restore the return value of `epoch_state`; called after ``on_epoch_start``."""

    def on_validation_start(self, epoch: int) -> None:
        """Called before a validation; ``epoch`` counts finished epochs."""

    def on_validation_batch(self, batch: Batch, output: ModelOutput) -> None:
        """Called after every validation batch, under no_grad and in evaluation mode."""

    def on_validation_end(self, epoch: int, metrics: Mapping[str, float | None]) -> Observation:
        """Called after a validation; ``metrics`` holds all metrics of this epoch so far, including other observers'."""
        return Observation()

    def on_training_end(self, epoch: int, outputs: Iterable[tuple[Batch, ModelOutput]]) -> None:
        """Called after training, on the main rank only, with the weights of the best epoch in evaluation mode.

        Args:
            epoch: the best epoch.
            outputs: batches of the validation split, then of the training split, computed lazily.
        """
