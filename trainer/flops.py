"""Floating-point operations: how many a token takes, and how many the device can do."""

import time
from functools import lru_cache

import torch

from trainer.backends import Model
from trainer.recipe import Recipe

# Dense TFLOP/s of the matrix units with float32 accumulation, from NVIDIA's datasheets, where sparsity is taken out.
DATASHEET_TFLOPS = {
    "NVIDIA H200": {"bf16": 989.5, "fp8": 1979.0},
    "NVIDIA H100 80GB HBM3": {"bf16": 989.5, "fp8": 1979.0},
    "NVIDIA H100 PCIe": {"bf16": 756.5, "fp8": 1513.0},
    "NVIDIA A100-SXM4-40GB": {"bf16": 312.0},
    "NVIDIA A100-SXM4-80GB": {"bf16": 312.0},
    "NVIDIA L40S": {"bf16": 362.0, "fp8": 733.0},
    "NVIDIA GeForce RTX 4090": {"bf16": 165.2, "fp8": 330.3},
}
MEASURED_WIDTH = {"cpu": 1024, "cuda": 8192}  # of the square product that stands in where there is no datasheet
MEASURED_TIMES = 5

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}


def flops_per_token(model: Model, recipe: Recipe) -> int:
    """Of forward and backward: 6 for each weight that multiplies a token, and attention's two products
    (12 n_layer d_model seq_len), counted whole although half of them is masked (PaLM 2022, appendix B)."""
    return 6 * model.matmul_weights() + 12 * recipe.n_layer * recipe.d_model * recipe.seq_len


@lru_cache
def peak_flops(device: torch.device, precision: str) -> tuple[float, str]:
    """FLOP/s in this precision, and where the figure is from: `datasheet`, or `measured` with one large product."""
    if device.type == "cuda":
        sheet = DATASHEET_TFLOPS.get(torch.cuda.get_device_name(device), {})
        if precision in sheet:
            return sheet[precision] * 1e12, "datasheet"
    return _fastest_product(device, precision), "measured"


def _fastest_product(device: torch.device, precision: str) -> float:
    width = MEASURED_WIDTH[device.type]
    left, right = (torch.randn(width, width, device=device).to(TYPES[precision]) for _ in range(2))
    one = torch.ones((), device=device)
    best = float("inf")
    for _ in range(MEASURED_TIMES):
        _wait(device)
        started = time.perf_counter()
        if precision == "fp8":
            torch._scaled_mm(left, right.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
        else:
            left @ right
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * width**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
