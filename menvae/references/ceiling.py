"""The ceiling: the encoder of the run with a linear head, trained to read the targets and nothing else."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor, nn

from menvae.encoders import Encoder
from menvae.layers import set_memory_format
from menvae.references.cohort import ReferenceCohort
from menvae.references.fitting import Fit, fit, in_chunks, seeded
from menvae.references.readings import Readings, by_subject
from menvae.types import Batch

LEARNING_RATE = 1.5e-3
LEAST_FALL = 0.01


class CeilingReader(nn.Module):
    """Encoder and linear head; a `menvae.references.reader.FeatureReader`.

    A factor for each target, fitted to the validation subjects like the length of training, shrinks what it reads
    towards the training mean, so that a target that cannot be read is read as its mean.

    Attributes:
        targets: names of the targets.
    """

    def __init__(self, encoder: Encoder, z_dim: int, targets: tuple[str, ...]) -> None:
        """Args: encoder: encoder. z_dim: size of its posterior mean. targets: names of the targets."""
        super().__init__()
        self.encoder, self.targets = encoder, targets
        self.head = nn.Linear(z_dim, len(targets))
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(len(targets)))

    def forward(self, inputs: Tensor, available: Tensor | None = None) -> Tensor:
        """Inputs [B, C, D, H, W], available channels [B, C] or None -> z-scored targets [B, F]."""
        z_scores: Tensor = self.head(self.encoder(inputs, available)[0]).float()
        return self.scale * z_scores

    @torch.no_grad()
    def read(self, images: Tensor, available: Tensor | None = None) -> Tensor:
        """Return the z-scores of the targets [N, F] of images [N, C, D, H, W], from the available channels [N, C]."""
        z_scores: Tensor = self(images, available)
        return z_scores


def new_reader(cohort: ReferenceCohort) -> CeilingReader:
    """Build the reader with new weights, on the device."""
    reader = CeilingReader(cohort.build_encoder(), cohort.z_dim, cohort.targets)
    reader.to(cohort.device)
    set_memory_format(reader, cohort.memory_format)
    return reader


def read_ceiling(cohort: ReferenceCohort) -> tuple[Readings, CeilingReader]:
    """Train the reader, and read the judged subjects."""

    def loss(batch: Batch) -> Tensor:
        values, observed = cohort.truth(batch)
        squares = (_z_scores(reader, cohort, batch) - values).square()
        return torch.where(observed, squares, 0.0).sum() / observed.sum().clamp(min=1)

    def validate() -> float:
        return _shrinkage(reader, cohort)[1]

    with seeded(cohort.device):
        reader = new_reader(cohort)
        fitted = fit(reader, loss, validate, cohort, learning_rate=LEARNING_RATE, least_fall=LEAST_FALL, name="ceiling")
    with torch.no_grad():
        reader.scale.copy_(_shrinkage(reader, cohort)[0])
    return _read(reader, cohort, fitted), reader


def _z_scores(reader: CeilingReader, cohort: ReferenceCohort, batch: Batch) -> Tensor:
    return in_chunks(reader, cohort.chunk_size, batch.inputs, batch.available)


def _shrinkage(reader: CeilingReader, cohort: ReferenceCohort) -> tuple[Tensor, float]:
    """Return the factors from 0 to 1 [F] with the least squared error on the validation subjects.

    Also returns this error, relative to that of the training mean and averaged over the targets.
    """
    sums = torch.zeros(3, len(reader.targets), dtype=torch.float64)
    for batch in cohort.batches("val"):
        values, observed = cohort.truth(batch)
        true, read = (
            torch.where(observed, tensor, 0.0).double().cpu() for tensor in (values, _z_scores(reader, cohort, batch))
        )
        sums += torch.stack([true * true, true * read, read * read]).sum(dim=1)
    of_true, of_both, of_read = sums
    scale = (of_both / of_read.clamp(min=1e-12)).clamp(0.0, 1.0)
    left = (of_true - 2.0 * scale * of_both + scale.square() * of_read) / of_true.clamp(min=1e-12)
    return scale, float(left[of_true > 0].mean()) if bool((of_true > 0).any()) else 1.0


@torch.no_grad()
def _read(reader: CeilingReader, cohort: ReferenceCohort, fitted: Fit) -> Readings:
    """Read the judged subjects."""
    values = {}
    for split in cohort.judged:
        subjects: list[str] = []
        read: list[Tensor] = []
        for batch in cohort.batches(split):
            subjects += batch.subject_id
            read.append(_z_scores(reader, cohort, batch).double().cpu())
        values[split] = by_subject(subjects, torch.cat(read).numpy())
    return Readings(cohort.targets, values, {"training": asdict(fitted)})
