"""``hydra/sweeper=points``: Hydra's basic sweeper, without composing every job twice."""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class PointsSweeper(BasicSweeper):
    """Hydra's basic sweeper, but a `SweepLauncher` composes all jobs before the first starts."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Do nothing: the launcher composes every job."""
