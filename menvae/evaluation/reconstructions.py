"""Pictures of reconstructions on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
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
        self,
        settings: PictureSettings,
        pictures: Path,
        modalities: Sequence[str],
        spacing_mm: tuple[float, float, float],
        max_epochs: int,
    ) -> None:
        """Prepare to draw.

        Args:
            settings: how many and how often.
            pictures: folder.
            modalities: names of the channels.
            spacing_mm: voxel size along R, A, S.
            max_epochs: of the run.
        """
        self.settings, self.pictures, self.max_epochs = settings, pictures, max_epochs
        self.modalities, self.spacing_mm = modalities, spacing_mm
        self._pending: list[tuple[Batch, ModelOutput]] = []
        self._due = False

    def on_validation_start(self, epoch: int) -> None:
        """Decide whether this epoch is drawn."""
        self._pending = []
        self._due = epoch % self.settings.every_epochs == 0 or epoch == self.max_epochs

    def on_validation_batch(self, batch: Batch, output: ModelOutput) -> None:
        """Keep the batch until enough subjects are there."""
        if self._due and sum(len(kept) for kept, _ in self._pending) < self.settings.num_subjects:
            self._pending.append((batch, output))

    def on_validation_end(self, epoch: int, metrics: Mapping[str, float | None]) -> Observation:
        """Draw what was kept."""
        self.draw(self._pending, epoch)
        self._pending = []
        return Observation()

    def draw(self, batches: Iterable[tuple[Batch, ModelOutput]], epoch: int) -> None:
        """Draw the first ``num_subjects`` subjects of some batches as pictures of ``epoch``."""
        from menvae.pictures.drawing.volumes import draw_reconstruction
        from menvae.presentation.figures import save_figure

        subjects = ((batch, output, row) for batch, output in batches for row in range(len(batch)))
        for batch, output, row in islice(subjects, self.settings.num_subjects):
            subject = batch.subject_id[row]
            drawn = draw_reconstruction(
                batch.inputs[row].float().cpu().numpy(),
                output.reconstruction[row].float().cpu().numpy(),
                None if batch.mask is None else batch.mask[row, 0].cpu().numpy(),
                self.modalities,
                f"{subject}, epoch {epoch}",
                self.spacing_mm,
                available=None if batch.available is None else batch.available[row].tolist(),
            )
            save_figure(drawn, self.pictures / f"epoch_{epoch}" / f"{subject}.png")
