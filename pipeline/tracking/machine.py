"""How busy the machine is, under the names that MLflow's page of system metrics shows."""

import importlib
import os
import time
from typing import Any

EVERY_S = 10.0
_MB = 1e6


class Machine:
    """Reads processors, memory, disk, network and (with NVIDIA's library for Python) GPUs every ten seconds."""

    def __init__(self) -> None:
        self._due = time.monotonic() + EVERY_S
        self._network: tuple[int, int] | None = None
        self._gpus: list[Any] | None = None

    def due(self) -> dict[str, float]:
        """The figures, where it is time for them; else empty."""
        if time.monotonic() < self._due:
            return {}
        self._due = time.monotonic() + EVERY_S
        import psutil

        memory, disk, network = psutil.virtual_memory(), psutil.disk_usage(os.sep), psutil.net_io_counters()
        readings = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / _MB,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / _MB,
            "disk_available_megabytes": disk.free / _MB,
        }
        if network is not None:
            self._network = self._network or (network.bytes_recv, network.bytes_sent)
            readings["network_receive_megabytes"] = (network.bytes_recv - self._network[0]) / _MB
            readings["network_transmit_megabytes"] = (network.bytes_sent - self._network[1]) / _MB
        return {f"system/{name}": round(float(value), 1) for name, value in (readings | self._of_gpus()).items()}

    def _of_gpus(self) -> dict[str, float]:
        try:
            pynvml = importlib.import_module("pynvml")
        except ImportError:
            return {}
        readings = {}
        try:
            if self._gpus is None:
                self._gpus = []
                pynvml.nvmlInit()
                self._gpus = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            for i, gpu in enumerate(self._gpus):
                memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
                readings[f"gpu_{i}_memory_usage_percentage"] = 100 * memory.used / memory.total
                readings[f"gpu_{i}_memory_usage_megabytes"] = memory.used / _MB
                readings[f"gpu_{i}_utilization_percentage"] = pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu
        except pynvml.NVMLError:  # no driver
            return {}
        return readings
