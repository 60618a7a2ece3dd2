"""The things that flow: Batch -> ModelOutput -> LossReport, and who may watch them.

Shape legend used across menvae: B batch, C channels (modalities), D, H, W spatial axes (R, A, S after reorientation),
Z latent size, F features, P size of one partition, N subjects of a split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Intensities:
    """What normalises stored intensities; a stored 0 is background, and stays 0.

    Attributes:
        mean: of each subject's channels [B, C], in stored units; with ``data.normalisation=minmax`` their middle.
        sd: their standard deviation; with ``data.normalisation=minmax`` half their range.
    """

    mean: Tensor
    sd: Tensor

    def z_scores(self, stored: Tensor) -> Tensor:
        """Stored values [B, C, ...] of any real type -> float32 of the same shape, on their device.

        Mean and standard deviation are float32: a z-score is exact to 1e-7 times |mean| / sd, which is a few units for
        an MRI.
        """
        sides = (1,) * (stored.ndim - 2)
        mean, sd = (  # not awaited: a copy that is would wait for all work that the device was given before
            value.to(stored.device, torch.float32, non_blocking=True).reshape(*value.shape, *sides)
            for value in (self.mean, self.sd)
        )
        values = stored.to(torch.float32, copy=True)
        return values.sub_(mean).div_(sd).masked_fill_(stored == 0, 0.0)


@dataclass(frozen=True)
class Batch:
    """What a model and its objective see of some subjects.

    Attributes:
        inputs: normalised images [B, C, D, H, W] or table rows [B, F]; stored values while there are ``intensities``.
        subject_id: one identifier a row.
        targets: {partition: z-scored targets [B, F]}; values that are not observed are 0.
        observed: {partition: bool [B, F]}; this mask is the semi-supervision.
        mask: label volume [B, 1, D, H, W], or None.
        labels: class index [B], -1 where it is not observed, or None.
        time: time of the visit in days [B], or None.
        intensities: what makes z-scores of the inputs when the batch is brought to its device, or None.
        available: which modalities a subject has, bool [B, C], or None: all. The inputs of the others mean nothing.
        patient_id: whose visit each row is, or empty where that is not known.
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

        What is sent to the device are the stored values, half as many bytes where they are int16.
        """
        there = self._each(lambda value: value.to(device, non_blocking=True))
        inputs = there.inputs
        if memory_format is not torch.preserve_format and inputs.ndim == 5:
            inputs = inputs.contiguous(memory_format=memory_format)
        if there.intensities is not None:
            inputs = there.intensities.z_scores(inputs)
        return replace(there, inputs=inputs, intensities=None)

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from which a GPU copies while others work; `DataLoader` calls it."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with every tensor changed."""

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
    """What a model returns for a batch.

    Attributes:
        posterior: q(z|x).
        latent: the z that was decoded [B, Z]: a sample in training, the posterior mean in evaluation.
        reconstruction: same shape as the inputs.
        predictions: {partition: predicted z-scored targets [B, F]}.
        extras: {name: tensor}, what some terms require beyond that, such as ``auxiliary_reconstruction``.
    """

    posterior: Posterior
    latent: Tensor
    reconstruction: Tensor
    predictions: Mapping[str, Tensor] = field(default_factory=dict)
    extras: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """Where training stands on the clock that schedules are written for.

    Attributes:
        epoch: fractional epochs done, in epochs of ``curriculum.reference_epochs``.
        total_epochs: length of the run on the same clock.
    """

    epoch: float
    total_epochs: float

    @property
    def finished(self) -> Progress:
        """The end of the run: where checkpoints are compared."""
        return Progress(self.total_epochs, self.total_epochs)


@dataclass(frozen=True)
class Scalar:
    """One term of an objective: its value, its weight now, and their product (float32, no dimensions)."""

    raw: Tensor
    weight: float
    weighted: Tensor


@dataclass(frozen=True)
class LossReport:
    """An objective evaluated on one batch.

    Attributes:
        total: sum of the weighted scalars; what is minimised.
        scalars: {name: Scalar}.
        diagnostics: {name: detached value} that terms report without a weight, such as ``kl_raw``.
    """

    total: Tensor
    scalars: Mapping[str, Scalar]
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)

    def raw_values(self) -> dict[str, float]:
        """Return the total as ``loss`` and every raw scalar as numbers; waits for the device."""
        return {"loss": self.total.item(), **{name: scalar.raw.item() for name, scalar in self.scalars.items()}}

    def logged(self) -> dict[str, Tensor]:
        """Return {metric name: detached value}: the total as ``loss``, every raw scalar, every diagnostic."""
        values = {"loss": self.total.detach()}
        values |= {name: scalar.raw.detach() for name, scalar in self.scalars.items()}
        return values | {name: value.detach() for name, value in self.diagnostics.items()}


@dataclass(frozen=True)
class Observation:
    """What an observer says after a validation.

    Attributes:
        metrics: {metric key: value}, written beside the losses.
        collapsed: the epoch is no candidate for ``best.ckpt``.
        stop: a reason to end the run now, or empty.
        pruned: whether that is to make room for better runs.
    """

    metrics: Mapping[str, float | None] = field(default_factory=dict)
    collapsed: bool = False
    stop: str = ""
    pruned: bool = False


class Observer:
    """Someone who watches training without taking part; every method may be left out.

    The trainer calls observers in their order, on all ranks; those that gather over ranks do it in
    ``on_validation_end``, which every rank reaches. Checkpoints keep ``epoch_state`` under the name of the class.

    Attributes:
        order: place among the observers of a run; those with a smaller one are called first, and their metrics are
            known to the others. The metrics of menvae are at 0, the collapse watch at 10, and the report to a study,
            which may be of any metric, at 90.
    """

    order: ClassVar[int] = 50

    def on_epoch_start(self, epoch: int) -> None:
        """Before the first step of an epoch; ``epoch`` counts finished epochs."""

    def on_train_step(self, batch: Batch, output: ModelOutput) -> None:
        """After every optimiser step."""

    def epoch_state(self) -> dict[str, Any]:
        """Return what this rank gathered since the epoch began, as tensors and plain values, for a checkpoint."""
        return {}

    def load_epoch_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `epoch_state` returned, after ``on_epoch_start``."""

    def on_validation_start(self, epoch: int) -> None:
        """Before a validation; ``epoch`` counts finished epochs."""

    def on_validation_batch(self, batch: Batch, output: ModelOutput) -> None:
        """After every validation batch, under no_grad and in evaluation mode."""

    def on_validation_end(self, epoch: int, metrics: Mapping[str, float | None]) -> Observation:
        """After a validation; ``metrics`` holds what is known of this epoch so far, other observers' included."""
        return Observation()

    def on_training_end(self, epoch: int, outputs: Iterable[tuple[Batch, ModelOutput]]) -> None:
        """After training, on the main rank only, with the weights of the best epoch in evaluation mode.

        Args:
            epoch: that the weights are of.
            outputs: batches of the validation split, then of the training split, computed as they are read.
        """
