"""The piece `references`: the trainer beside Hugging Face and plain PyTorch, a fresh process a run, in turns."""

from __future__ import annotations

from dataclasses import asdict, replace
from importlib.util import find_spec

from light.pieces import Notes, Plan
from light.runs import recipe_of, request_of

ROUNDS = 2
STEPS = 32  # of which trainer_speed.py leaves the first eight untimed


def measure(plan: Plan, notes: Notes) -> None:
    """Speeds alone, the likeliest to be wanted first: that all train the same model, `trainer_speed.py` checks."""
    import trainer_speed

    request = request_of(plan, recipe_of(plan), budget={"steps": STEPS})
    contestants = [name for name in trainer_speed.CONTESTANTS if name.startswith("torch")]
    references = [name for name in trainer_speed.CONTESTANTS if name.startswith(("huggingface", "plain"))]
    if find_spec("transformers") is None or plan.quick:
        notes(left_out=f"Hugging Face: {'a quick look' if plan.quick else 'transformers is not installed'}")
        references = [name for name in references if not name.startswith("huggingface")]
    for number in range(1 if plan.quick else ROUNDS):
        for name in [*references, *contestants][:: 1 if number % 2 == 0 else -1]:
            ours = name in contestants
            for repeatable in (False,) if plan.quick else (False, True):
                row = {"name": name, "round": number, "repeatable": repeatable, "ours": ours}
                try:
                    found = asdict(trainer_speed.measure(name, replace(request, repeatable=repeatable)))
                except SystemExit as end:  # how a contestant that fails ends the script
                    notes.add("failed", row | {"message": str(end.code)})
                    continue
                notes.add("rows", row | found)
