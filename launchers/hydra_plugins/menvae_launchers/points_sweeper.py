"""``hydra/sweeper=points``: Hydra's own sweeper, without composing every job twice."""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class PointsSweeper(BasicSweeper):
    """Hydra's own sweeper, which leaves it to a `SweepLauncher` to compose all jobs before the first begins."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose every job, unless the launcher does so at once."""
        from hydra_plugins.menvae_launchers.sweep_launcher import SweepLauncher  # Hydra executes it anew before

        if not isinstance(self.launcher, SweepLauncher):
            super().validate_batch_is_legal(batch)
