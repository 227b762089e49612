"""Joules of a real card by the driver's own counter."""

from __future__ import annotations

import os
import time

import pytest

pytest.importorskip("autoresearch.workers.energy", reason="the meter needs all packages that autoresearch declares")

from autoresearch.config import EnergySettings
from autoresearch.workers.energy import EnergyMeter


@pytest.mark.gpu
def test_a_busy_card_is_metered_and_not_estimated() -> None:
    import torch

    meter = EnergyMeter(EnergySettings(), [str(torch.cuda.get_device_properties(0).uuid)])
    assert meter.source([0]).startswith("nvml"), meter.source([0])
    product = torch.randn(4096, 4096, device="cuda")
    meter.start("busy", os.getpid(), [0])
    started = time.monotonic()
    while (seconds := time.monotonic() - started) < 2.0:
        for _ in range(20):
            product @ product
        torch.cuda.synchronize()
    energy = meter.stop("busy", os.getpid(), [0], cpu_seconds=seconds)
    assert energy.source.startswith("nvml")
    assert 10 < energy.joules / seconds < 3000, "watts of one card that is busy"
