"""An NVIDIA GPU's energy and power as the driver's management library tells them: by UUID, never by its numbers."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pynvml

# CUDA may number the fastest GPU first. Part of every GPU worker's environment, so that all number them alike.
ENVIRONMENT = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
JETSON = Path("/etc/nv_tegra_release")  # where NVIDIA's driver may have no management library


def is_there() -> bool:
    """Whether there is a driver with a GPU that CUDA_VISIBLE_DEVICES does not hide. Torch may still not see it."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() in ("", "-1", "NoDevFiles"):
        return False
    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetCount() > 0
    except pynvml.NVMLError:
        return JETSON.exists()


def whole_gpu(uuid: str) -> Any | None:
    """Handle of the GPU that torch knows by this UUID.

    None without a driver, and for a MIG slice: a counter tells of its whole card, of all that goes on in it.
    """
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except pynvml.NVMLError:
        return None
    try:
        is_sliced = bool(pynvml.nvmlDeviceGetMigMode(handle)[0])
    except pynvml.NVMLError:  # a card that cannot be
        is_sliced = False
    return None if is_sliced else handle


def computing() -> dict[str, set[int]]:
    """UUID of each GPU of this machine, as torch has it -> the ids of the processes that compute on it, as far as the
    driver tells them: in a container often none. Those that torch does not see are among the GPUs."""
    found: dict[str, set[int]] = {}
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError:
        return found
    for number in range(count):
        with suppress(pynvml.NVMLError, pynvml.NVMLLibraryMismatchError):  # not for us, or an old driver
            handle = pynvml.nvmlDeviceGetHandleByIndex(number)
            processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
            found[pynvml.nvmlDeviceGetUUID(handle).removeprefix("GPU-")] = {process.pid for process in processes}
    return found


def joules(handle: Any) -> float | None:
    """Since the driver was loaded; None where the card has no counter."""
    try:
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
    except pynvml.NVMLError:
        return None


def watts(handle: Any) -> float | None:
    """Of this moment, or the mean of the last second, as the card has it; None where it says nothing."""
    try:
        return pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3
    except pynvml.NVMLError:
        return None
