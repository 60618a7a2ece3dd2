"""Models and splits made by hand, of which every figure is known from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from menvae.evaluation.metrics import SplitRecorder
from menvae.latent import LatentLayout
from menvae.metrics import Metric, MetricContext, SplitRecord, build_metrics, measure
from menvae.models import Model
from menvae.types import Batch, ModelOutput, Posterior

Floats = NDArray[np.float64]


class LinearDecoder(Model):
    """Draws z @ basis + offset, whatever the input; what it encodes is handed to it."""

    def __init__(
        self,
        sizes: Mapping[str, int],
        shape: Sequence[int] = (1, 7, 8, 9),
        supervision: Mapping[str, Sequence[str]] | None = None,
        seed: int = 0,
    ) -> None:
        """Args: sizes: of the partitions. shape: (C, D, H, W). supervision: targets. seed: of the basis."""
        super().__init__()
        self.layout, self.supervision, self.shape = LatentLayout(sizes), supervision or {}, tuple(shape)
        generator = torch.Generator().manual_seed(seed)
        values = int(np.prod(self.shape))
        self.basis = nn.Parameter(torch.randn(self.layout.z_dim, values, generator=generator))
        self.offset = nn.Parameter(torch.randn(values, generator=generator))

    def decode(self, z: Tensor) -> Tensor:
        """Z [B, Z] -> [B, C, D, H, W]."""
        return (z @ self.basis + self.offset).reshape(-1, *self.shape)

    def drawn(self, z: Floats) -> Floats:
        """Return `decode` of NumPy arrays, in double precision."""
        basis, offset = (values.detach().double().numpy() for values in (self.basis, self.offset))
        return (z @ basis + offset).reshape(-1, *self.shape)


def split(
    model: Model,
    mean: Floats,
    *,
    logvar: Floats | None = None,
    inputs: Floats | None = None,
    reconstruction: Floats | None = None,
    predictions: Mapping[str, Floats] | None = None,
    targets: Mapping[str, Floats] | None = None,
    observed: Mapping[str, NDArray[np.bool_]] | None = None,
    available: NDArray[np.bool_] | None = None,
    labels: Floats | None = None,
    logits: Floats | None = None,
    first: str = "s",
) -> tuple[Batch, ModelOutput]:
    """Return a whole split as one batch and what a model gave for it; inputs and reconstructions drawn if not given."""

    def of(values: Floats | None) -> Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.float64)).float()

    z = of(mean)
    drawn = model.decode(z).detach() if reconstruction is None else of(reconstruction)
    batch = Batch(
        drawn.clone() if inputs is None else of(inputs),
        tuple(f"{first}{row:04d}" for row in range(len(mean))),
        targets={name: of(values) for name, values in (targets or {}).items()},
        observed={name: torch.from_numpy(values) for name, values in (observed or {}).items()},
        labels=None if labels is None else torch.from_numpy(labels).long(),
        available=None if available is None else torch.from_numpy(available),
    )
    posterior = Posterior(z, torch.full_like(z, -60.0) if logvar is None else of(logvar))
    extras = {} if logits is None else {"logits": of(logits)}
    given = {name: of(values) for name, values in (predictions or {}).items()}
    return batch, ModelOutput(posterior, z, drawn, given, extras)


def rows(batch: Batch, output: ModelOutput, part: slice | list[int]) -> tuple[Batch, ModelOutput]:
    """Return some rows of a split."""
    posterior = Posterior(output.posterior.mean[part], output.posterior.logvar[part])
    smaller = Batch(
        batch.inputs[part],
        tuple(np.array(batch.subject_id)[part].tolist()),
        targets={name: values[part] for name, values in batch.targets.items()},
        observed={name: values[part] for name, values in batch.observed.items()},
        labels=None if batch.labels is None else batch.labels[part],
        available=None if batch.available is None else batch.available[part],
    )
    return smaller, ModelOutput(
        posterior,
        output.latent[part],
        output.reconstruction[part],
        {name: values[part] for name, values in output.predictions.items()},
        {name: values[part] for name, values in output.extras.items()},
    )


def metrics_for(model: Model, batch: Batch, channels: Sequence[str]) -> list[Metric]:
    """Return every metric that applies to a model and its data."""
    size, labelled = tuple(batch.inputs.shape[2:]), batch.labels is not None
    return build_metrics({}, MetricContext(model.layout, tuple(channels), size, model.supervision, labelled))


@torch.no_grad()
def recorded(
    model: Model,
    whole: tuple[Batch, ModelOutput],
    channels: Sequence[str] = ("t1c",),
    batch_size: int = 5,
    training: Sequence[Floats] = (),
) -> SplitRecord:
    """Pass a split through the recorder, in batches; ``training`` is the latents of the training batches before it."""
    recorder = SplitRecorder(model, metrics_for(model, whole[0], channels))
    for mean in training:
        recorder.on_train_step(*split(model, mean))
    recorder.on_validation_start(1)
    for start in range(0, len(whole[0]), batch_size):
        recorder.on_validation_batch(*rows(*whole, slice(start, start + batch_size)))
    return recorder.record()


def measured(
    model: Model, whole: tuple[Batch, ModelOutput], channels: Sequence[str] = ("t1c",), **others: object
) -> dict[str, float | None]:
    """Return every metric of a split that is passed through the recorder."""
    return measure(metrics_for(model, whole[0], channels), recorded(model, whole, channels, **others))  # type: ignore[arg-type]
