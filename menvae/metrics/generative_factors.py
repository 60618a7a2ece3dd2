"""Scores of the partitions against the factors that generated the subjects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import numpy as np

from menvae.metrics import Direction, Interval, Metric, MetricContext, SplitRecord, When
from menvae.metrics.beta_vae import GroupBetaVae
from menvae.metrics.dci import GroupDci
from menvae.metrics.dci_es import GroupDciEs
from menvae.metrics.factor_vae import GroupFactorVae
from menvae.metrics.groups import GroupScore, usable_targets
from menvae.metrics.infomec import GroupInfoMec
from menvae.metrics.irs import GroupIrs
from menvae.metrics.mig import GroupMig
from menvae.metrics.sap import GroupSap
from menvae.registry import register

SCORES: Final[tuple[type[GroupScore], ...]] = (
    *(GroupDci, GroupDciEs, GroupMig, GroupSap, GroupInfoMec, GroupIrs, GroupFactorVae, GroupBetaVae),
)


@register("metric", "generative_factors", reference="menvae.data.source.DataSource.factors")
class GenerativeFactors(Metric):
    """Scores of partitions and groups of generative factors: ``truth/<score>``, such as ``truth/mig``.

    They are the scores ``disent/<score>`` with the factors that a source of generated subjects knows
    (`menvae.data.source.DataSource.factors`) in place of the targets that are measured on masks. Models without
    supervision have them too.
    """

    direction: ClassVar[Direction | None] = "higher"
    range = (0.0, 1.0)
    needs = frozenset({"mean", "factors"})
    min_subjects = GroupScore.min_subjects
    absent = "it needs 20 subjects, and two groups of generative factors that vary"
    when: ClassVar[When] = "final"
    interval: ClassVar[Interval | None] = None

    def __init__(self, context: MetricContext) -> None:
        """Args: context: run context."""
        super().__init__(context)
        self._scores = {_key(key): score(context) for score in SCORES for key in score.keys}

    def meaning(self, key: str) -> str:
        """Return what the score measures."""
        return self._scores[key].keys[f"disent/{key.removeprefix('truth/')}"].replace("targets", "generative factors")

    def names(self) -> list[str]:
        """Return all keys, or none without two partitions and two groups of factors."""
        return list(self._scores) if min(len(list(self.context.layout)), len(self.context.factors)) > 1 else []

    def compute(self, record: SplitRecord) -> dict[str, float | None]:
        """Return the scores; None with fewer than two groups of factors that vary."""
        factors = []
        for values in record.by_partition("factors").values():
            usable = usable_targets(values, np.ones_like(values))
            factors += [values[:, usable]] if usable.any() else []
        if len(factors) < 2:
            return dict.fromkeys(self.names())
        codes, observed = list(record.codes(self.context.layout).values()), [np.ones_like(each) for each in factors]
        found: Mapping[str, float] = {}
        for score in dict.fromkeys(self._scores.values()):
            found = {**found, **score.scores(codes, factors, observed)}
        return {_key(key): value for key, value in found.items()}


def _key(key: str) -> str:
    return f"truth/{key.removeprefix('disent/')}"
