"""Which precisions a device trains for sure: `python -m trainer.capability DEVICE BACKEND` tries each, prints JSON.

A datasheet's word is not enough: the library, the driver and the card must agree, so each precision does a small
forward and backward pass before a night is planned on it.
"""

import json
import sys

import torch

from trainer.backends import backend_named, precisions
from trainer.recipe import Recipe
from trainer.run import device_named

PROBE = {
    "n_layer": 1,
    "n_head": 2,
    "d_model": 64,
    "d_ff": 128,
    "lr": 1e-3,
    "lr_warmup": 0,
    "grad_clip": 1.0,
    "weight_decay": 0.0,
    "beta1": 0.9,
    "beta2": 0.95,
    "batch_size": 2,
    "seq_len": 32,
}


def proven_precisions(device: torch.device, backend: str = "torch") -> list[str]:
    """The values of a recipe's `precision` with which a small model takes a step on the device."""
    return [precision for precision in precisions(device) if _takes_a_step(precision, device, backend)]


def _takes_a_step(precision: str, device: torch.device, backend: str) -> bool:
    recipe = Recipe.from_mapping({**PROBE, "precision": precision})
    tokens = torch.zeros(recipe.batch_size, recipe.seq_len, dtype=torch.int64, device=device)
    try:
        model = backend_named(backend).build(recipe, 256, device, seed=0)
        loss = model(tokens, tokens).mean()
        loss.backward()
        return all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    except (RuntimeError, ValueError) as error:
        print(f"{precision} on {device}: {error}", file=sys.stderr)
        return False


if __name__ == "__main__":
    try:
        device, backend = (*sys.argv[1:3], *("auto", "torch")[len(sys.argv[1:3]) :])
        print(json.dumps(proven_precisions(device_named(device), backend)))
    except ValueError as error:
        sys.exit(f"error: {error}")
