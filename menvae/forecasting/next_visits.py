"""The picture of decoded next visits: last known, true and forecast, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from menvae.forecasting.decoded import NextVisit
from menvae.pictures.drawing.marks import GREY, display_window
from menvae.pictures.drawing.sheet import Sheet
from menvae.presentation.figures import INK, MUTED, new_figure
from menvae.presentation.planes import AXIAL, displayed_slice, slice_index, slice_size_mm

_HEADINGS: Final = ("last known visit", "next visit, true", "next visit, decoded")
_INCH: Final = 2.1
"""Height of a slice."""
_LEFT: Final = 1.9


def draw_next_visits(visits: Sequence[NextVisit]) -> Figure:
    """Draw a row a patient: last known visit, true next visit, and the next visit decoded from the forecast.

    Every row shows the axial slice in which the true tumour is largest, with the outline of the tumour of each image.

    Args:
        visits: what to draw, at least one.
    """
    shape = visits[0].true.shape
    size = slice_size_mm(AXIAL, shape, visits[0].spacing_mm)
    inch = _INCH / size[1]
    gap = 0.06 / inch
    extent = (len(_HEADINGS) * (size[0] + gap), len(visits) * (size[1] + gap))
    box = (_LEFT, 0.15, extent[0] * inch, extent[1] * inch)
    note = (
        f"{visits[0].modality}, axial slice of the largest tumour; outlines: tumour; the patient's right is on the left"
    )
    figure = new_figure(max(box[0] + box[2] + 0.1, 8.0), box[3] + 1.15, "Next visits, decoded", note)
    sheet = Sheet(figure, box, extent)
    for column, heading in enumerate(_HEADINGS):
        sheet.text(heading, (column * (size[0] + gap) + size[0] / 2, -0.06 / inch), "center", "bottom")
    grey = Normalize(*display_window(np.stack([visit.true for visit in visits]), 0.5, 99.9))
    for row, visit in enumerate(visits):
        y, index = row * (size[1] + gap), slice_index(visit.masks["true"], AXIAL, shape)
        images: dict[str, NDArray[np.float32]] = {"last": visit.last, "true": visit.true, "drawn": visit.drawn}
        for column, (name, image) in enumerate(images.items()):
            place = (column * (size[0] + gap), y)
            sheet.image(displayed_slice(image, AXIAL, index), place, size, GREY, grey)
            mask = visit.masks[name]
            if mask is not None:
                sheet.outline(displayed_slice(mask, AXIAL, index), place, size)
        sheet.letters(AXIAL, (0.0, y), size)
        for line, words in enumerate(_words(visit)):
            colour = INK if line == 0 else MUTED
            sheet.text(words, (-0.1 / inch, y + (0.3 + 0.09 * line) * size[1]), "right", "top", 8, colour=colour)
    return figure


def _words(visit: NextVisit) -> list[str]:
    words = [visit.patient, f"{visit.years:.1f} years later"]
    if visit.dice is not None:
        words.append(f"Dice {visit.dice:.2f}")
    if visit.dice_of_last is not None:
        words.append(f"(last visit {visit.dice_of_last:.2f})")
    return [*words, f"SSIM {visit.ssim:.2f}"]
