"""A tracker that notifies a web address, such as a chat or a dashboard, when a run starts and how it ends."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.request import Request, urlopen

from menvae.registry import Field, register
from menvae.tracking.local import LocalLog
from menvae.tracking.tracker import DatasetInput, Status, Tracker, TrackerContext


@register("tracker", "webhook")
class Webhook(Tracker):
    """Posts ``{"run", "sweep", "status", "params", "tags", "metrics", ...}`` with the last values to an address."""

    def __init__(self, context: TrackerContext, *, url: str, timeout_s: Annotated[float, Field(gt=0.0)] = 5.0) -> None:
        """Choose the address.

        Args:
            context: context of the run.
            url: ``http(s)://`` address; if it does not answer 2xx, the run counts as not tracked and is sent again.
            timeout_s: seconds to wait for an answer.
        """
        self._context, self._url, self._timeout_s = context, url, timeout_s
        self._facts: dict[str, Any] = {}
        self._metrics: dict[str, float] = {}
        self._artifacts: list[str] = []

    @property
    def address(self) -> str:
        """The address without its query, which may contain a token."""
        return self._url.partition("?")[0]

    def start(
        self,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        log: LocalLog,
        datasets: Sequence[DatasetInput] = (),
    ) -> None:
        """Post the start of the run."""
        self._facts = {"params": dict(params), "tags": dict(tags), "datasets": [data.name for data in datasets]}
        for row in sorted(log.metrics() + log.timings(), key=lambda row: row["epoch"] or 0):
            self._take({key: value for key, value in row.items() if key != "epoch"})
        self._post("RUNNING")

    def log(self, epoch: int, metrics: Mapping[str, float | None], timings: Mapping[str, float]) -> None:
        """Store the last values."""
        self._take({**metrics, **timings})

    def log_artifacts(self, paths: Sequence[Path]) -> None:
        """Store the paths."""
        self._artifacts += [self._context.relative(path).as_posix() for path in paths]

    def finish(self, status: Status, tags: Mapping[str, str] | None = None, *, patience_s: float | None = None) -> bool:
        """Post the end of the run; raises if the address does not answer, which stops only this tracker."""
        self._facts["tags"] |= tags or {}
        self._post(status)
        return True

    def _take(self, values: Mapping[str, float | None]) -> None:
        self._metrics |= {key: value for key, value in values.items() if value is not None and math.isfinite(value)}

    def _post(self, status: str) -> None:
        parent = self._context.parent
        message = {
            "run": self._context.run_name,
            "sweep": parent.name if parent else None,
            "status": status,
            **self._facts,
            "metrics": self._metrics,
            "artifacts": self._artifacts,
        }
        headers = {"Content-Type": "application/json"}
        request = Request(self._url, json.dumps(message).encode(), headers)
        with urlopen(request, timeout=self._timeout_s):
            pass
