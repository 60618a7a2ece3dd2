"""System metrics of a process, once per epoch."""

from __future__ import annotations

import torch

from menvae.resources.resident import peak_resident_bytes

_MIB = 2**20


class SystemMetrics:
    """CPU load and memory of this process since the last sample."""

    def __init__(self, device: torch.device) -> None:
        """Args: device: device of the process."""
        import psutil  # needed for training, not for checking a configuration

        self._device = device
        self._process = psutil.Process()
        self._process.cpu_percent()  # the first call only sets the reference

    def sample(self) -> dict[str, float]:
        """Return ``system/`` metrics: CPU in percent of one core, memory in MiB (of a CUDA device too)."""
        import psutil

        values = {
            "system/cpu_percent": self._process.cpu_percent(),
            "system/max_rss_mib": peak_resident_bytes() / _MIB,
            "system/memory_available_mib": psutil.virtual_memory().available / _MIB,
        }
        if self._device.type == "cuda":
            values["system/gpu_max_memory_mib"] = torch.cuda.max_memory_allocated(self._device) / _MIB
            torch.cuda.reset_peak_memory_stats(self._device)
        return values
