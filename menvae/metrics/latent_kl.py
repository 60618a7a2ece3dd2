"""KL divergence from posterior to prior."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from menvae.metrics import Direction, Means, SplitRecord
from menvae.metrics.means import MetricOfMeans, observed, ratios
from menvae.metrics.posterior import sections
from menvae.registry import register


@register("metric", "latent_kl", reference="Kingma & Welling 2014, appendix B")
class LatentKl(MetricOfMeans):
    """KL(q(z|x) || N(0, I)), mean over subjects, of z and partitions: ``diag/kl_all_nats``, ``diag/kl_<p>_nats``."""

    direction: ClassVar[Direction | None] = None
    unit = "nats"
    range = (0.0, math.inf)
    needs = frozenset({"mean", "logvar"})

    def meaning(self, key: str) -> str:
        """Name the partition."""
        endings = sections(self.context.layout)
        partition = next(ending for ending in endings if key == _key(ending)).removeprefix("_")
        return f"KL divergence of the posterior of {partition or 'z'} from the prior, mean over subjects."

    def names(self) -> list[str]:
        """One key for z and one per partition."""
        return list(dict.fromkeys(_key(ending) for ending in sections(self.context.layout)))

    def means(self, record: SplitRecord) -> Means:
        """Average the divergences over subjects."""
        mean, logvar = record.arrays["mean"], record.arrays["logvar"]
        kl = 0.5 * (mean**2 + np.expm1(logvar) - logvar)
        parts = sections(self.context.layout)
        return ratios({_key(ending): observed(kl[:, part].sum(axis=1)) for ending, part in parts.items()})


def _key(ending: str) -> str:
    return f"diag/kl{ending or '_all'}_nats"
