"""Classification of the rows whose class is known."""

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
    """Cross-entropy in nats of the rows with a label; this mask is the semi-supervision.

    ``sum`` adds them up and divides by the rows of the batch, labelled or not, as all sums here are averaged over the
    batch: beside a squared error in ``sum`` it is the objective of the reports divided by the batch size. ``mean`` is
    over the labelled rows: the same where all are.
    """

    scalars = ("cross_entropy",)
    requires = frozenset({"logits"})
    batch_requires = frozenset({"labels"})
    unit = "nats_per_subject"

    def __init__(self, context: TermContext, *, reduction: Literal["mean", "sum"] = "mean") -> None:
        """Args: reduction: see the class."""
        super().__init__()
        self.over_labelled = reduction == "mean"

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return ``cross_entropy``; 0 for a batch in which nothing is labelled."""
        assert batch.labels is not None
        known = batch.labels >= 0
        logits = output.extras["logits"].float()
        errors = functional.cross_entropy(logits, batch.labels.clamp(min=0), reduction="none") * known
        total = sum_over_ranks(errors.sum())
        if self.over_labelled:
            return {"cross_entropy": total / sum_over_ranks(known.float().sum()).clamp(min=1.0)}
        return {"cross_entropy": total / (len(batch) * num_ranks())}
