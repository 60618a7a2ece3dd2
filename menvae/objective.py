"""Objective: terms x weights x schedules -> LossReport."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from menvae.errors import UserError, nearest
from menvae.schedules import Schedule
from menvae.terms import Term
from menvae.types import Batch, LossReport, ModelOutput, Progress, Scalar

WEIGHT_PREFIX = "lambda_"


class Objective(nn.Module):
    """A weighted sum of scalars; a term whose weights are all 0 is inactive and never computed.

    The terms are submodules, so that their buffers are part of checkpoints.

    Attributes:
        could_require: what all terms require, including those whose weights are 0.
    """

    def __init__(
        self, terms: Mapping[str, Term], weights: Mapping[str, float], schedules: Mapping[str, Schedule]
    ) -> None:
        """Assemble terms, weights and schedules.

        Args:
            terms: {key in ``loss.terms``: term}.
            weights: {scalar: weight}, ``loss.lambda_<scalar>``.
            schedules: {scalar: factor over progress}; a scalar without a schedule always has its full weight.

        Raises:
            UserError: two terms return a scalar of the same name, a scalar has no weight, a weight or a schedule names
                no scalar, a weight is negative or not finite, or all weights are 0.
        """
        super().__init__()
        owners: dict[str, str] = {}
        for key, term in terms.items():
            for scalar in term.scalars:
                if scalar in owners:
                    raise UserError(
                        f"loss.terms.{key}: loss.terms.{owners[scalar]} already returns a scalar '{scalar}'"
                    )
                owners[scalar] = key
            missing = [f"+loss.{WEIGHT_PREFIX}{scalar}=NUMBER" for scalar in term.scalars if scalar not in weights]
            if missing:
                raise UserError(
                    f"loss.terms.{key} needs a weight for each of its scalars (0 turns one off): {' '.join(missing)}"
                )
        for what, names in (("loss.lambda_", weights), ("loss.schedules.", schedules)):
            for name in names:
                if name not in owners:
                    raise UserError(f"{what}{name}: no term returns a scalar '{name}'; {nearest(name, owners)}")
        for name, weight in weights.items():
            if not 0.0 <= weight < math.inf:
                raise UserError(f"loss.lambda_{name}: {weight} is not allowed; a weight is 0 or larger, and finite")
        if not any(weights.values()):
            raise UserError("loss: every lambda is 0; at least one must be positive")
        self.could_require: frozenset[str] = frozenset().union(*(term.requires for term in terms.values()))
        self.weights = dict(weights)
        self.schedules = dict(schedules)
        self.terms = nn.ModuleDict(
            {key: term for key, term in terms.items() if any(weights[scalar] for scalar in term.scalars)}
        )

    @property
    def active_terms(self) -> dict[str, Term]:
        """The active terms (with a nonzero weight), by their key in ``loss.terms``."""
        return {key: term for key, term in self.terms.items() if isinstance(term, Term)}

    @property
    def requires(self) -> frozenset[str]:
        """What the model must provide for the active terms."""
        return frozenset().union(*(term.requires for term in self.active_terms.values()))

    @property
    def scalars(self) -> list[str]:
        """Names of the scalars with a nonzero weight, in the order of their terms."""
        return [name for term in self.active_terms.values() for name in term.scalars if self.weights[name]]

    def weight(self, scalar: str, progress: Progress) -> float:
        """Return the weight of ``scalar`` at ``progress``."""
        schedule = self.schedules.get(scalar)
        return self.weights[scalar] * (1.0 if schedule is None else schedule(progress))

    def weight_curves(self, positions: Sequence[Progress]) -> dict[str, NDArray[np.float64]]:
        """Return {scalar: its weight at each of P positions [P]} for the scalars with a nonzero weight."""
        return {name: np.array([self.weight(name, position) for position in positions]) for name in self.scalars}

    def forward(
        self, batch: Batch, output: ModelOutput, progress: Progress, terms: Literal["all", "batch", "split"] = "all"
    ) -> LossReport:
        """Evaluate active terms in float32, and weight their scalars for ``progress``.

        Args:
            batch: the subjects.
            output: output of the model for them.
            progress: position in training.
            terms: ``batch``: only those that validation averages over batches; ``split``: only those that it evaluates
                once, on a whole split (see `menvae.terms.Term.of_split`).
        """
        scalars: dict[str, Scalar] = {}
        diagnostics = {}
        with torch.autocast(output.posterior.mean.device.type, enabled=False):
            for term in self.active_terms.values():
                if terms != "all" and term.of_split != (terms == "split"):
                    continue
                term.at(progress if self.training else progress.finished)
                for name, raw in term(batch, output).items():
                    if name not in term.scalars:
                        diagnostics[name] = raw
                    elif self.weights[name]:
                        weight = self.weight(name, progress)
                        # a product with 1 is the value itself, and costs as much as a layer of a table
                        scalars[name] = Scalar(raw, weight, raw if weight == 1.0 else weight * raw)
        weighted = [scalar.weighted for scalar in scalars.values()]
        total = torch.stack(weighted).sum() if weighted else output.posterior.mean.new_zeros(())
        return LossReport(total, scalars, diagnostics)

    def commit(self, output: ModelOutput) -> None:
        """Let every active term store a training batch; call once per optimiser step, never in validation."""
        for term in self.active_terms.values():
            term.commit(output)

    def schedule_metrics(self, progress: Progress) -> dict[str, float]:
        """Return ``sched/`` metrics: current weights, beta = lambda_kl / lambda_recon, and the terms' constants."""
        metrics = {f"sched/{WEIGHT_PREFIX}{name}": self.weight(name, progress) for name in self.scalars}
        if "kl" in self.scalars and "recon" in self.scalars:
            recon = self.weight("recon", progress)
            metrics["sched/beta"] = self.weight("kl", progress) / recon if recon else 0.0
        for term in self.active_terms.values():
            metrics |= {f"sched/{name}": value for name, value in term.constants().items()}
        return metrics
