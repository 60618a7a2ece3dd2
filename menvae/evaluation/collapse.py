"""The watch that looks at every validation: whether a model uses its latent space."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from menvae.registry import Field
from menvae.types import Observation, Observer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """Keys of ``watch.*``.

    Attributes:
        collapse: ``warn`` in the log, or ``stop`` the run with exit code 4.
        grace: share of the run during which a decoder may not use z yet.
        min_ratio: a decoder whose error grows by less than this factor when z is replaced does not use z.
        min_kl_nats: a posterior closer to the prior than this says nothing.
    """

    collapse: Literal["warn", "stop"] = "warn"
    grace: Annotated[float, Field(ge=0.0, le=1.0)] = 0.3
    min_ratio: Annotated[float, Field(ge=1.0)] = 1.05
    min_kl_nats: Annotated[float, Field(ge=0.0)] = 2.0


class CollapseWatch(Observer):
    """Looks at every validation: KL against its floor, and the decoder with a constant and with shuffled z.

    Active units are no alarm: free bits alone keep them active. The error that grows when z is replaced is one.
    """

    order: ClassVar[int] = 10

    def __init__(self, settings: WatchSettings, max_epochs: int) -> None:
        """Args: settings: thresholds. max_epochs: length of the run."""
        self.settings, self.max_epochs = settings, max_epochs
        self._warned = False

    def on_validation_end(self, epoch: int, metrics: Mapping[str, float | None]) -> Observation:
        """Say whether this epoch is collapsed; warn once, or stop, after the grace."""
        findings = collapse_findings(metrics, self.settings)
        flag = {"diag/collapsed": float(bool(findings))}
        if not findings or epoch <= self.settings.grace * self.max_epochs:
            if self._warned and not findings:
                _log.info("epoch %d: the decoder uses its latent space again", epoch)
            self._warned = False
            return Observation(flag, collapsed=bool(findings))
        sentence = f"posterior collapse in epoch {epoch}: {'; '.join(findings)}"
        if self.settings.collapse == "stop":
            return Observation(flag, collapsed=True, stop=sentence)
        if not self._warned:
            _log.warning("%s (watch.collapse=stop would end the run here)", sentence)
        self._warned = True
        return Observation(flag, collapsed=True)


def collapse_findings(metrics: Mapping[str, float | None], settings: WatchSettings) -> list[str]:
    """Return one phrase for each sign of collapse; what could not be measured is no sign."""
    findings = []
    for key, what in (("diag/mean_z_ratio", "the mean z"), ("diag/shuffled_ratio", "another subject's z")):
        ratio = metrics.get(key)
        if ratio is not None and ratio < settings.min_ratio:
            findings.append(f"with {what} the reconstruction error is {ratio:.3f} times that with the right z")
    kl = metrics.get("val_epoch/kl_raw", metrics.get("diag/kl_all_nats"))  # an objective may have no KL term
    floor = metrics.get("sched/expected_kl_floor") or 0.0
    if kl is not None and (kl < settings.min_kl_nats or kl <= floor):
        findings.append(f"KL is {kl:.2f} nats (floor of free bits {floor:.1f}, healthy above 10)")
    return findings
