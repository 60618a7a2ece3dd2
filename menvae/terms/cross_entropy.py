"""Classification of the labelled rows."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

from menvae.collectives import num_ranks, sum_over_ranks
from menvae.registry import register
from menvae.terms import Term, TermContext
from menvae.types import Batch, ModelOutput


@register("term", "cross_entropy", reference="lithology design reports")
class CrossEntropy(Term):
    """Cross-entropy in nats over the labelled rows only, which makes training semi-supervised.

    ``sum`` divides their sum by the number of rows in the batch, labelled or not; together with a squared error in
    ``sum``, this is the objective of the reports divided by the batch size. ``mean`` averages over the labelled rows.
    The two are equal if all rows are labelled.
    """

    scalars = ("cross_entropy",)
    requires = frozenset({"logits"})
    batch_requires = frozenset({"labels"})
    unit = "nats_per_subject"

    def __init__(self, context: TermContext, *, reduction: Literal["mean", "sum"] = "mean") -> None:
        """Args: context: run context. reduction: see the class."""
        super().__init__()
        self.over_labelled = reduction == "mean"

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return ``cross_entropy``; 0 for a batch without labels."""
        assert batch.labels is not None
        known = batch.labels >= 0
        logits = output.extras["logits"].float()
        errors = functional.cross_entropy(logits, batch.labels.clamp(min=0), reduction="none") * known
        total = sum_over_ranks(errors.sum())
        if self.over_labelled:
            return {"cross_entropy": total / sum_over_ranks(known.float().sum()).clamp(min=1.0)}
        return {"cross_entropy": total / (len(batch) * num_ranks())}
