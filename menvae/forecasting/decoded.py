"""The next visit as a decoder draws it from a forecast, beside the true one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from menvae.errors import UserError
from menvae.forecasting.protocols import Task
from menvae.growth import FittedGrowth, Visits
from menvae.growth.volume_latent import VolumeLatent, volume_latent
from menvae.metrics.ssim import ssim
from menvae.runs.cohort import CohortRequest, open_cohort
from menvae.runs.finished import FinishedRun
from menvae.statistics.segmentation import dice_of_masks

if TYPE_CHECKING:
    import pandas as pd

Image = NDArray[np.float32]
OF_VOLUME = "vol"
"""Partition that the volume is drawn from."""


@dataclass(frozen=True)
class Encoded:
    """What the volumes of patients were read from.

    Attributes:
        run: the encoder.
        data: keys of its cohort, as for `menvae.encode`; empty for that of the run.
        table: of `menvae.encode`, a row per visit.
        volume: targets whose volumes are added up.
        smallest_mm3: volumes below count as this one.
        evolving: columns of ``table`` that `Visits.latents` holds.
    """

    run: FinishedRun
    data: Mapping[str, Any]
    table: pd.DataFrame
    volume: Sequence[str]
    smallest_mm3: float
    evolving: Sequence[str]

    @property
    def modality(self) -> str:
        """Name of the first modality."""
        return self.run.experiment.source.channels[0]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along D, H, W, or equal numbers where it differs between visits."""
        cohort = self.run.experiment.source.cohort
        return (cohort and cohort.geometry.spacing_mm) or (1.0, 1.0, 1.0)

    def subject(self, visits: Visits, number: int) -> str:
        """Return the identifier of a visit."""
        rows = self.table[(self.table["patient"] == visits.patient) & (self.table["days"] == visits.days[number])]
        return str(rows["subject"].iloc[0])

    def log_volume(self, z: Tensor) -> Tensor:
        """Z [B, Z] -> predicted log volume [B], differentiable."""
        normalizer = self.run.targets
        assert normalizer is not None, "a run that predicts volumes has targets"
        predicted = self.run.model.predict(z)
        total = z.new_zeros(len(z))
        for partition, names in self.run.model.supervision.items():
            for column, name in enumerate(names):
                fitted = normalizer.statistics[name]
                if name in self.volume and fitted.mean is not None:
                    total = total + torch.expm1(predicted[partition][:, column] * fitted.sd + fitted.mean)
        return total.clamp(min=self.smallest_mm3).log()


@dataclass(frozen=True)
class NextVisit:
    """A visit as it was, and as it was forecast.

    Attributes:
        patient: name.
        years: from the last known visit.
        last: first modality at the last known visit [D, H, W].
        true: at the visit that is forecast.
        drawn: as it is decoded.
        masks: of the tumour, for ``last``, ``true`` and ``drawn``; None: unknown.
        dice: of the decoded and the true tumour; None: one of them is unknown.
        dice_of_last: of the tumour of the last visit and the true one.
        ssim: of the decoded and the true images, mean over modalities.
        round_trip: error of the log volume that the head reads from the decoded state.
        modality: name of the first modality.
        spacing_mm: voxel size along D, H, W.
    """

    patient: str
    years: float
    last: Image
    true: Image
    drawn: Image
    masks: Mapping[str, NDArray[np.bool_] | None]
    dice: float | None
    dice_of_last: float | None
    ssim: float
    round_trip: float
    modality: str
    spacing_mm: tuple[float, float, float]


def decode_next_visits(
    encoded: Encoded,
    fits: Mapping[int, FittedGrowth],
    patients: Sequence[Visits],
    wanted: Sequence[Task],
    kind: VolumeLatent,
) -> list[NextVisit]:
    """Decode forecasts of visits.

    The volume's partition follows from the forecast, partitions that the model evolves from its state; the others, such
    as the residual, stay as at the last known visit.

    Args:
        encoded: where the volumes come from.
        fits: number of a patient -> the model that has not seen him.
        patients: all patients.
        wanted: what to forecast.
        kind: how the partition of the volume follows from the volume.

    Raises:
        UserError: ``kind`` is ``identity``, and the first coordinate is not that of the volume.
    """
    if kind == "identity":
        _check_identity(encoded)
    drawn = [_next_visit(encoded, fits[task.patient], patients[task.patient], task, kind) for task in wanted]
    subjects = {
        encoded.subject(patients[task.patient], number)
        for task in wanted
        for number in (task.num_seen - 1, task.target)
    }
    found = _images(encoded, subjects)
    return [
        _compared(encoded, patients[task.patient], task, one, found) for task, one in zip(wanted, drawn, strict=True)
    ]


def _check_identity(encoded: Encoded) -> None:
    first = list(encoded.run.model.supervision[OF_VOLUME])[: len(encoded.volume)]
    if first != list(encoded.volume) or len(first) > 1:
        raise UserError(
            f"volume_latent: 'identity' moves the first coordinate, off which the head of run '{encoded.run.name}' "
            f"reads {first[0]}; choose volume=[{first[0]}], or minimum_norm"
        )


@dataclass(frozen=True)
class _Drawn:
    image: Tensor
    labels: Tensor | None
    round_trip: float


def _next_visit(encoded: Encoded, fitted: FittedGrowth, visits: Visits, task: Task, kind: VolumeLatent) -> _Drawn:
    run = encoded.run
    seen, day = visits[: task.num_seen], float(visits.days[task.target])
    log_volume, evolved = _state(fitted, seen, day)
    layout = run.model.layout
    row = encoded.table.set_index("subject").loc[encoded.subject(visits, task.num_seen - 1)]
    names = [column for column in encoded.table.columns if column.startswith("mean.")]
    values = row[names].to_numpy(dtype=np.float64, copy=True)
    if evolved is not None:
        values[[names.index(column) for column in encoded.evolving]] = evolved
    z = torch.tensor(values, dtype=torch.float32, device=run.device)
    start, end = layout.bounds(OF_VOLUME)

    def whole(of_volume: Tensor) -> Tensor:
        """Z of the volume's partition [P] -> z [1, Z]."""
        return torch.cat([z[:start], of_volume.to(z), z[end:]]).unsqueeze(0)

    def head(of_volume: Tensor) -> Tensor:
        """Z of the volume's partition [P] -> log volume."""
        return encoded.log_volume(whole(of_volume))[0]

    of_volume, round_trip = volume_latent(z[start:end], torch.tensor(log_volume), head, kind)
    with torch.no_grad():
        image, extras = run.model.decoder.draw(whole(of_volume))  # type: ignore[operator, union-attr]
    labels = extras["drawn_segmentation"].argmax(dim=1)[0] if "drawn_segmentation" in extras else None
    return _Drawn(image[0].float(), labels, float(round_trip))


def _state(fitted: FittedGrowth, seen: Visits, day: float) -> tuple[float, NDArray[np.float64] | None]:
    """Return the forecast log volume, and the latents that the model evolves, if it does."""
    state = getattr(fitted, "state", None)
    if state is not None:
        log_volume, latents = state(seen, day)
        return float(log_volume), latents
    return float(fitted.predict(seen, np.array([day])).mean[0]), None


def _images(encoded: Encoded, subjects: set[str]) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Return the image [C, D, H, W] and mask [D, H, W] of some visits, as the encoder sees them."""
    run = encoded.run
    cohort = open_cohort(run, CohortRequest(data=encoded.data))
    found: dict[str, tuple[Tensor, Tensor | None]] = {}
    for stored, _, _ in cohort.rows:
        if not subjects & set(stored.subject_id):
            continue
        batch = stored.to(run.device, torch.contiguous_format)
        for row, subject in enumerate(batch.subject_id):
            if subject in subjects:
                found[subject] = (batch.inputs[row].float(), None if batch.mask is None else batch.mask[row, 0])
    return found


def _compared(
    encoded: Encoded, visits: Visits, task: Task, drawn: _Drawn, found: Mapping[str, tuple[Tensor, Tensor | None]]
) -> NextVisit:
    last, last_mask = found[encoded.subject(visits, task.num_seen - 1)]
    true, true_mask = found[encoded.subject(visits, task.target)]
    masks = {"last": last_mask, "true": true_mask, "drawn": drawn.labels}
    tumours = {name: None if mask is None else (mask > 0).cpu().numpy() for name, mask in masks.items()}
    images = [image[0].cpu().numpy() for image in (last, true, drawn.image)]
    return NextVisit(
        patient=visits.patient,
        years=float(visits.years[task.target] - visits.years[task.num_seen - 1]),
        last=images[0],
        true=images[1],
        drawn=images[2],
        masks=tumours,
        dice=_dice(tumours["drawn"], tumours["true"]),
        dice_of_last=_dice(tumours["last"], tumours["true"]),
        ssim=float(ssim(true[None], drawn.image[None]).mean()),
        round_trip=drawn.round_trip,
        modality=encoded.modality,
        spacing_mm=encoded.spacing_mm,
    )


def _dice(one: NDArray[np.bool_] | None, other: NDArray[np.bool_] | None) -> float | None:
    return None if one is None or other is None else dice_of_masks(one, other)
