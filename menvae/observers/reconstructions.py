"""Pictures of reconstructions during training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import ClassVar

from menvae.observers import ObserverContext
from menvae.pictures import PictureSettings, VolumeFacts
from menvae.registry import register
from menvae.types import Batch, ModelOutput, Observation, Observer


@register("observer", "reconstructions")
def reconstructions(context: ObserverContext) -> ReconstructionPictures | None:
    """Draws input, reconstruction and difference of a few validation subjects, as set by ``pictures.*``."""
    settings: PictureSettings = context.settings["pictures"]
    if context.volumes is None or not context.is_main or settings.num_subjects == 0:
        return None
    return ReconstructionPictures(settings, context.folder / "pictures", context.volumes, context.max_epochs)


class ReconstructionPictures(Observer):
    """Draws the first validation subjects into ``pictures/epoch_<E>/``."""

    order: ClassVar[int] = 95

    def __init__(self, settings: PictureSettings, folder: Path, volumes: VolumeFacts, max_epochs: int) -> None:
        """Set what to draw.

        Args:
            settings: number of subjects and epochs between pictures.
            folder: folder for the pictures.
            volumes: modalities and spacing of the volumes.
            max_epochs: length of the run.
        """
        self.settings, self.folder, self.volumes, self.max_epochs = settings, folder, volumes, max_epochs
        self._pending: list[tuple[Batch, ModelOutput]] = []
        self._due = False

    def on_validation_start(self, epoch: int) -> None:
        """Decide whether to draw this epoch."""
        self._pending = []
        self._due = epoch % self.settings.every_epochs == 0 or epoch == self.max_epochs

    def on_validation_batch(self, batch: Batch, output: ModelOutput) -> None:
        """Store the batch unless enough subjects are stored."""
        if self._due and sum(len(kept) for kept, _ in self._pending) < self.settings.num_subjects:
            self._pending.append((batch, output))

    def on_validation_end(self, epoch: int, metrics: Mapping[str, float | None]) -> Observation:
        """Draw the stored subjects."""
        self._draw(self._pending, epoch)
        self._pending = []
        return Observation()

    def on_training_end(self, epoch: int, outputs: Iterable[tuple[Batch, ModelOutput]]) -> None:
        """Draw the best epoch; training subjects follow if the validation split is too small."""
        self._draw(outputs, epoch)

    def _draw(self, batches: Iterable[tuple[Batch, ModelOutput]], epoch: int) -> None:
        from menvae.pictures.drawing.volumes import draw_reconstruction
        from menvae.presentation.figures import save_figure

        subjects = ((batch, output, row) for batch, output in batches for row in range(len(batch)))
        for batch, output, row in islice(subjects, self.settings.num_subjects):
            subject = batch.subject_id[row]
            figure = draw_reconstruction(
                batch.inputs[row].float().cpu().numpy(),
                output.reconstruction[row].float().cpu().numpy(),
                None if batch.mask is None else batch.mask[row, 0].cpu().numpy(),
                self.volumes.modalities,
                f"{subject}, epoch {epoch}",
                self.volumes.spacing_mm,
                available=None if batch.available is None else batch.available[row].tolist(),
            )
            save_figure(figure, self.folder / f"epoch_{epoch}" / f"{subject}.png")
