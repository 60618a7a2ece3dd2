"""Detection of posterior collapse at every validation."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from menvae.observers import ObserverContext
from menvae.registry import Field, register
from menvae.types import Observation, Observer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """Keys of ``watch.*``.

    Attributes:
        collapse: ``warn`` in the log, or ``stop`` the run with exit code 4.
        grace: initial share of the run, in [0, 1], in which collapse causes neither a warning nor a stop, because the
            latent space of a healthy run may open late: with 0.3, epochs 1 to 18 of 60. ``diag/collapsed`` records
            these epochs too, and ``best.ckpt`` prefers any other epoch.
        min_ratio: collapse if replacing z multiplies the reconstruction error by less than this factor.
        min_kl_nats: collapse if the KL to the prior is below this value in nats.
    """

    collapse: Literal["warn", "stop"] = "warn"
    grace: Annotated[float, Field(ge=0.0, le=1.0)] = 0.3
    min_ratio: Annotated[float, Field(ge=1.0)] = 1.05
    min_kl_nats: Annotated[float, Field(ge=0.0)] = 2.0


@register("observer", "collapse_watch")
def collapse_watch(context: ObserverContext) -> CollapseWatch:
    """Warns of posterior collapse or ends the run, as set by ``watch.*``."""
    return CollapseWatch(context.settings["watch"], context.max_epochs)


class CollapseWatch(Observer):
    """Detects collapse from the KL and from the reconstruction errors with the mean z and with shuffled z.

    It ignores active units, because free bits alone keep them active.
    """

    order: ClassVar[int] = 10

    def __init__(self, settings: WatchSettings, max_epochs: int) -> None:
        """Args: settings: thresholds. max_epochs: length of the run."""
        self.settings, self.max_epochs = settings, max_epochs
        self._warned = False

    def epoch_state(self) -> dict[str, Any]:
        """Return whether the current collapse was reported, so that a resumed run does not repeat the warning."""
        return {"warned": self._warned}

    def load_epoch_state(self, state: Mapping[str, Any]) -> None:
        """Restore `epoch_state`; checkpoints of earlier versions have none."""
        self._warned = bool(state.get("warned", False))

    def on_validation_end(self, epoch: int, metrics: Mapping[str, float | None]) -> Observation:
        """Return whether this epoch is collapsed; after the grace period, warn once or stop."""
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
    """Return one phrase per sign of collapse; missing metrics are ignored."""
    findings = []
    for key, what in (("diag/mean_z_ratio", "the mean z"), ("diag/shuffled_ratio", "another subject's z")):
        ratio = metrics.get(key)
        if ratio is not None and ratio < settings.min_ratio:
            findings.append(f"decoding {what} gives {ratio:.3f} times the reconstruction error of the subject's own z")
    kl = metrics.get("val_epoch/kl_raw", metrics.get("diag/kl_all_nats"))  # an objective may have no KL term
    floor = metrics.get("sched/expected_kl_floor") or 0.0
    if kl is not None and (kl < settings.min_kl_nats or kl <= floor):
        findings.append(f"KL is {kl:.2f} nats (limit {settings.min_kl_nats:g}, free-bits floor {floor:.1f})")
    return findings
