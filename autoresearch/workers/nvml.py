"""The NVIDIA GPUs that this process may use, in torch's order, as the driver's management library knows them."""

from __future__ import annotations

import os
from typing import Any

import pynvml

# NVML counts by PCI bus; CUDA does so only when told to. Part of every GPU worker's environment.
ENVIRONMENT = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def handles() -> list[Any]:
    """NVML handle of cuda:0, cuda:1, ...; empty without a driver. Heeds CUDA_VISIBLE_DEVICES (numbers and UUIDs)."""
    try:
        pynvml.nvmlInit()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is None:
            return [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []
    found = []
    for name in visible.split(","):
        try:
            by_number = name.strip().isdecimal()
            found.append(
                pynvml.nvmlDeviceGetHandleByIndex(int(name))
                if by_number
                else pynvml.nvmlDeviceGetHandleByUUID(name.strip())
            )
        except pynvml.NVMLError:
            break  # CUDA too ignores all that follow a name it does not know
    return found
