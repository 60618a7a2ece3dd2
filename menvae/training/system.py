"""How hard a process works its machine, once an epoch."""

from __future__ import annotations

import resource

import torch

_MIB = 2**20


class SystemMetrics:
    """Load and memory of this process since the last look."""

    def __init__(self, device: torch.device) -> None:
        """Args: device: what the process computes on."""
        import psutil  # where a run is trained, not where its configuration is checked

        self._device = device
        self._process = psutil.Process()
        self._process.cpu_percent()  # the first call has nothing to compare with

    def sample(self) -> dict[str, float]:
        """Return ``system/`` metrics: CPU in percent of one core, memory in MiB (of the GPU too, if there is one)."""
        import psutil

        values = {
            "system/cpu_percent": self._process.cpu_percent(),
            "system/max_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "system/memory_available_mib": psutil.virtual_memory().available / _MIB,
        }
        if self._device.type == "cuda":
            values["system/gpu_max_memory_mib"] = torch.cuda.max_memory_allocated(self._device) / _MIB
            torch.cuda.reset_peak_memory_stats(self._device)
        return values
