"""Contrastive term: pulls visits of one patient together and pushes those of different patients apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from types import MappingProxyType
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

from menvae.collectives import gather_rows
from menvae.registry import Field, register
from menvae.terms import Term, TermContext
from menvae.types import Batch, ModelOutput

PARTITIONS: Sequence[str] = ("residual",)


@register("term", "contrastive", reference="Oord et al. 2018 (InfoNCE), eq. 4; Chen et al. 2020 (NT-Xent), eq. 1")
class Contrastive(Term):
    """InfoNCE between visits: negative log probability of picking another visit of the same patient among strangers.

    For a visit i, another visit p of its patient, and the visits a of all other patients, with s the cosine of the
    angle between posterior means and t the temperature, it is -log(exp(s_ip / t) / (exp(s_ip / t) + sum_a exp(s_ia /
    t))), averaged over the visits p, and over the visits i that have one. ln(1 + number of strangers) is chance.

    The batch is that of all ranks. If every patient has two visits in it, this is NT-Xent. Deviation: with three or
    more, NT-Xent also puts the other visits into the denominator, which would push visits of one patient apart. A
    subject that appears twice in the batch is not paired with itself. ``data.pairs=true`` makes batches of pairs.
    """

    scalars = ("contrastive",)
    of_split = True
    batch_requires = frozenset({"patient_id"})
    unit = "nats_per_subject"
    min_rows = 3  # two visits of a patient and a stranger
    compares_visits = True
    fine_tunes = True
    remedies = MappingProxyType({"visits": "data.pairs=true"})

    def __init__(
        self,
        context: TermContext,
        *,
        partitions: Sequence[str] | None = PARTITIONS,
        temperature: Annotated[float, Field(gt=0.0)] = 0.1,
    ) -> None:
        """Choose the coordinates to compare.

        Args:
            context: run context.
            partitions: partitions to compare; None: all. The residual encodes what stays constant as a tumour grows.
            temperature: t; smaller values emphasise the strangers that are hardest to distinguish.

        Raises:
            UserError: a partition does not exist.
        """
        super().__init__()
        self.layout, self.temperature = context.layout, temperature
        self.partitions = context.layout.chosen(partitions)

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return ``contrastive`` and the number of pairs of visits ``contrastive_pairs``; both are 0 without a pair."""
        mean = self.layout.join(output.posterior.mean.float(), self.partitions)
        z_MP = normalize(gather_rows(mean), dim=1)
        patients_M, subjects_M = gather_rows(_codes(batch, mean.device)).unbind(dim=1)
        strangers_MM = patients_M[:, None] != patients_M
        visits_MM = ~strangers_MM & (subjects_M[:, None] != subjects_M)
        similarities_MM = z_MP @ z_MP.T / self.temperature
        of_strangers_M1 = similarities_MM.masked_fill(~strangers_MM, -torch.inf).logsumexp(dim=1, keepdim=True)
        losses_MM = softplus(of_strangers_M1 - similarities_MM).masked_fill(~visits_MM, 0.0)
        num_visits_M = visits_MM.sum(dim=1)
        of_rows_M = losses_MM.sum(dim=1) / num_visits_M.clamp(min=1)
        value = of_rows_M.sum() / num_visits_M.count_nonzero().clamp(min=1)
        return {"contrastive": value, "contrastive_pairs": visits_MM.sum().float() / 2.0}


def _codes(batch: Batch, device: torch.device) -> Tensor:
    """Return int64 codes of patients and subjects [B, 2], equal on all ranks, because ranks exchange only tensors."""
    names = zip(batch.patient_id, batch.subject_id, strict=True)
    return torch.tensor([[_code(patient), _code(subject)] for patient, subject in names]).to(device, non_blocking=True)


def _code(name: str) -> int:
    """Return a 64-bit digest; a collision among a million names has probability 3e-8."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)
