"""Visits of one patient drawn together, those of different patients apart."""

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
    """InfoNCE between visits: minus the log probability of recognising another visit of the patient among strangers.

    For a visit i, another visit p of its patient, and the visits a of all other patients, with s the cosine of the
    angle between posterior means and t the temperature, it is -log(exp(s_ip / t) / (exp(s_ip / t) + sum_a exp(s_ia /
    t))), averaged over the visits p, and over the visits i that have one. ln(1 + number of strangers) is chance.

    The batch is that of all ranks. Where every patient has two visits in it, this is NT-Xent. Deviation: with three or
    more, NT-Xent has the others in the denominator, which would push visits of one patient apart; here they are not. A
    subject that stands in the batch twice is no visit to itself. ``data.pairs=true`` sees to it that there are pairs.
    """

    scalars = ("contrastive",)
    batch_requires = frozenset({"patient_id"})
    unit = "nats_per_subject"
    min_rows = 3  # two visits of a patient and a stranger
    compares_visits = True
    remedies = MappingProxyType({"visits": "data.pairs=true"})

    def __init__(
        self,
        context: TermContext,
        *,
        partitions: Sequence[str] | None = PARTITIONS,
        temperature: Annotated[float, Field(gt=0.0)] = 0.1,
    ) -> None:
        """Choose what is compared.

        Args:
            context: of the run.
            partitions: whose coordinates; None is all. The residual holds what stays as it is while a tumour grows.
            temperature: t; the smaller, the more the strangers count that are hardest to tell apart.

        Raises:
            UserError: a partition that does not exist.
        """
        super().__init__()
        self.layout, self.temperature = context.layout, temperature
        self.partitions = context.layout.chosen(partitions)

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return ``contrastive``, and how many pairs of visits it was computed from; without a pair both are 0."""
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
    """Return numbers [B, 2] that stand for patients and subjects, the same on all ranks: ranks exchange tensors."""
    names = zip(batch.patient_id, batch.subject_id, strict=True)
    return torch.tensor([[_code(patient), _code(subject)] for patient, subject in names], device=device)


def _code(name: str) -> int:
    """Return 64 bits of a digest; a million names share one with a probability of 3e-8."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)
