"""Models made by hand, whose codes are known functions of the factors of a drawn cohort."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from drawn_cohort import FACTORS, SUPERVISION, DrawnCohort, Floats, Subjects
from torch import Tensor, nn

from menvae.latent import LatentLayout
from menvae.models import Model
from menvae.types import Batch, ModelOutput, Posterior

Factors = Mapping[str, Floats]
Codes = Mapping[str, Floats]
"""Partition -> posterior means [N, P]."""
Encoding = Callable[[Subjects], Codes]
Reader = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Codes -> factors, both by partition."""

LOG_VARIANCE = -4.0


def as_they_are(codes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Take the first dimensions of each partition for its factors."""
    return {part: codes[part][:, :num] for part, num in FACTORS.items()}


class ExactModel(Model):
    """Knows the codes of all images of a cohort, and decodes them exactly."""

    def __init__(
        self,
        cohort: DrawnCohort,
        encoding: Encoding,
        *,
        decoded: Reader = as_they_are,
        predicted: Reader = as_they_are,
        decoder: Callable[[Tensor], Tensor] | None = None,
        log_variance: float = LOG_VARIANCE,
    ) -> None:
        """Encode all subjects of a cohort.

        Args:
            cohort: cohort that draws images.
            encoding: codes of the subjects of a split.
            decoded: factors that the decoder draws.
            predicted: factors that the heads predict, those of `SUPERVISION`.
            decoder: z [N, Z] -> images, instead of drawing ``decoded``.
            log_variance: of the posterior, in all dimensions.
        """
        super().__init__()
        codes = {name: encoding(subjects) for name, subjects in cohort.splits.items()}
        self.layout = LatentLayout({part: codes["train"][part].shape[1] for part in FACTORS})
        self.supervision = {part: list(names) for part, names in SUPERVISION.items()}
        self.device = nn.Parameter(torch.zeros(()))  # as every model has parameters
        self._cohort, self._decoded, self._predicted = cohort, decoded, predicted
        self._decoder, self._log_variance = decoder, log_variance
        self._known: dict[bytes, Tensor] = {}
        for name, subjects in cohort.splits.items():
            z = torch.from_numpy(np.concatenate([codes[name][part] for part in FACTORS], axis=1)).float()
            self._known |= {_content(image): row for image, row in zip(subjects.images, z, strict=True)}

    def encode(self, inputs: Tensor, available: Tensor | None = None) -> Posterior:
        """Look the codes of the images up."""
        mean = torch.stack([self._known[_content(image)] for image in inputs])
        return Posterior(mean, torch.full_like(mean, self._log_variance))

    def decode(self, z: Tensor) -> Tensor:
        """Draw the factors that the decoder reads."""
        if self._decoder is not None:
            return self._decoder(z)
        return self._cohort.draw(self._decoded(self.layout.split(z)))

    def predict(self, mean: Tensor) -> dict[str, Tensor]:
        """Predict the factors that the heads read."""
        found = self._predicted(self.layout.split(mean))
        return {part: found[part] for part in SUPERVISION}

    def forward(self, batch: Batch) -> ModelOutput:
        """Encode, decode the mean, predict."""
        posterior = self.encode(batch.inputs)
        return ModelOutput(posterior, posterior.mean, self.decode(posterior.mean), self.predict(posterior.mean))


@dataclass(frozen=True)
class Turned:
    """A non-linear code: asinh of the factors and of nothing, rotated within each partition.

    Attributes:
        seed: of the rotations.
        spare: dimensions that each partition has beyond its factors.
    """

    seed: int = 0
    spare: int = 2

    def __call__(self, subjects: Subjects) -> Codes:
        """Encode."""
        return {
            part: np.arcsinh(2.0 * values) @ self._rotation(part)[: values.shape[1]]
            for part, values in subjects.factors.items()
        }

    def read(self, codes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Decode."""
        return {
            part: 0.5 * torch.sinh(codes[part] @ torch.from_numpy(self._rotation(part)[:num]).float().T)
            for part, num in FACTORS.items()
        }

    def _rotation(self, part: str) -> Floats:
        size = FACTORS[part] + (0 if part == "residual" else self.spare)
        random = np.random.default_rng([self.seed, *part.encode()])
        return np.linalg.qr(random.normal(size=(size, size)))[0]


def factors_of(subjects: Subjects) -> dict[str, Floats]:
    """Use the factors as codes."""
    return dict(subjects.factors)


def noise_of(subjects: Subjects, num: int, sd: float = 1.0) -> Floats:
    """Noise [N, num] that depends on the image and says nothing about its factors."""
    seeds = [np.frombuffer(_content(image), np.uint32)[:8].tolist() for image in subjects.images]
    return sd * np.stack([np.random.default_rng(seed).normal(size=num) for seed in seeds])


def rows_nearest(wanted: Tensor, known: Tensor, num: int = 1) -> Tensor:
    """Return the indices [N, num] of the rows of ``known`` [M, Z] nearest to each of ``wanted`` [N, Z]."""
    return torch.cdist(wanted, known).topk(num, dim=1, largest=False).indices


def _content(image: Tensor) -> bytes:
    return image.contiguous().numpy().tobytes()
