"""Pictures of reconstructions on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from menvae.registry import Field
from menvae.types import Batch, ModelOutput, Observation, Observer


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """Keys of ``pictures.*``.

    Attributes:
        every_epochs: how often reconstructions are drawn; the last epoch always is.
        num_subjects: how many validation subjects are drawn.
    """

    every_epochs: Annotated[int, Field(ge=1)] = 10
    num_subjects: Annotated[int, Field(ge=1)] = 2


class ReconstructionPictures(Observer):
    """Draws the first validation subjects into ``pictures/epoch_<E>/``."""

    def __init__(
        self, settings: PictureSettings, pictures: Path, modalities: Sequence[str], max_epochs: int
    ) -> None:
        """Args: settings: how many and how often. pictures: folder. modalities: channels. max_epochs: of the run."""
        self.settings, self.pictures, self.modalities, self.max_epochs = settings, pictures, modalities, max_epochs
        self._pending: list[tuple[Batch, ModelOutput]] = []
        self._epoch = 0
        self._due = False

    def on_validation_start(self, epoch: int) -> None:
        """Decide whether this epoch is drawn."""
        self._epoch, self._pending = epoch, []
        self._due = epoch % self.settings.every_epochs == 0 or epoch == self.max_epochs

    def on_validation_batch(self, batch: Batch, output: ModelOutput) -> None:
        """Keep the batch until enough subjects are there."""
        if self._due and sum(len(kept) for kept, _ in self._pending) < self.settings.num_subjects:
            self._pending.append((batch, output))

    def on_validation_end(self, epoch: int, metrics: Mapping[str, float | None]) -> Observation:
        """Draw what was kept."""
        remaining = self.settings.num_subjects
        for batch, output in self._pending:
            draw_reconstructions(batch, output, self.modalities, epoch, self.pictures, limit=remaining)
            remaining -= len(batch)
        self._pending = []
        return Observation()


def draw_reconstructions(
    batch: Batch, output: ModelOutput, modalities: Sequence[str], epoch: int, pictures: Path, *, limit: int
) -> list[Path]:
    """Draw at most ``limit`` subjects of a batch; return the files."""
    from menvae.evaluation.pictures import reconstruction_picture

    folder = pictures / f"epoch_{epoch}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for row, subject in list(enumerate(batch.subject_id))[: max(0, limit)]:
        paths.append(
            reconstruction_picture(
                batch.inputs[row].float().cpu().numpy(),
                output.reconstruction[row].float().cpu().numpy(),
                None if batch.mask is None else batch.mask[row, 0].cpu().numpy(),
                modalities,
                f"{subject}, epoch {epoch}",
                folder / f"{subject}.png",
            )
        )
    return paths
