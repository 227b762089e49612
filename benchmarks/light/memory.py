"""The piece `memory`: the peak of other shapes, which the rail `fit` predicts before a run."""

from __future__ import annotations

from light.pieces import Notes, Plan
from light.runs import WarmWorker, predicted_bytes, recipe_of, request_of
from rails import Value

STEPS = 6
LARGEST_SHARE = 0.8  # of the memory that is there; a shape beyond it is not tried

# Small and wide, long, every knob that changes what is kept, and large.
SHAPES: dict[str, dict[str, Value]] = {
    "12 layers, 768 wide": {"n_layer": 12, "n_head": 12, "d_model": 768, "d_ff": 3072},
    "2,048 tokens a sequence": {"seq_len": 2048, "batch_size": 4, "n_layer": 8},
    "swiglu, rope, rmsnorm, muon": {
        "activation": "swiglu",
        "position": "rope",
        "norm": "rmsnorm",
        "optimizer": "muon",
        "n_layer": 8,
    },
    "2,048 wide": {"n_layer": 16, "n_head": 16, "d_model": 2048, "d_ff": 8192, "batch_size": 4},
}
SMALL_SHAPES: dict[str, dict[str, Value]] = {
    "twice as wide": {"d_model": 256, "d_ff": 1024},
    "swiglu, rope, rmsnorm, muon": SHAPES["swiglu, rope, rmsnorm, muon"] | {"n_layer": 4},
}


def measure(plan: Plan, notes: Notes) -> None:
    shapes = SHAPES if plan.preset == "gpt-354m" else SMALL_SHAPES
    worker = WarmWorker()
    for name, changes in list(shapes.items())[: 1 if plan.quick else None]:
        recipe = recipe_of(plan, **changes)
        # Scored too: what scoring takes is part of what is predicted.
        request = request_of(plan, recipe, budget={"steps": 2 if plan.quick else STEPS}, score=True)
        predicted = predicted_bytes(plan, request)
        if predicted is not None and predicted > LARGEST_SHARE * plan.memory_bytes:
            facts = {"state": "skipped", "message": "too large for this machine", "predicted_memory_bytes": predicted}
        else:
            facts = worker.run(plan, request)
        notes.add("rows", {"name": name, "recipe": recipe, **facts})
    worker.close()
