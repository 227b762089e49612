"""The piece `speed`: tokens a second of the trainer's ways to train one shape, and what repeatability costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from light.pieces import Notes, Plan
from light.runs import WarmWorker, recipe_of, request_of

ROUNDS = 3


@dataclass(frozen=True)
class Way:
    """How to train; its name is that of its row."""

    name: str
    precision: str = "bf16"
    fields: dict[str, Any] = field(default_factory=dict)  # of the request
    every_round: bool = False  # those that are compared with each other


def measure(plan: Plan, notes: Notes) -> None:
    """Rounds of the ways that are compared, every other one in reverse, then the others once, all in one warm worker.

    A run's first step, which may compile, counts for no speed.
    """
    ways, worker = _ways(plan), WarmWorker()
    compared = [way for way in ways if way.every_round]
    for number in range(2 if plan.quick else ROUNDS):
        for way in compared[:: 1 if number % 2 == 0 else -1]:
            _run(plan, notes, worker, way, number)
    for way in ways:
        if not way.every_round:
            _run(plan, notes, worker, way, 0)
    worker.close()


def _run(plan: Plan, notes: Notes, worker: WarmWorker, way: Way, number: int) -> None:
    if any(row["name"] == way.name for row in notes.found.get("failed", [])):
        return
    recipe = recipe_of(plan, precision=way.precision)
    row = {"name": way.name, "round": number, "recipe": recipe}
    row |= worker.run(plan, request_of(plan, recipe, **way.fields))
    notes.add("rows" if row["state"] == "complete" else "failed", row)


def _ways(plan: Plan) -> list[Way]:
    compiled = ", compiled" if plan.on_gpu else ""
    free = {"repeatable": False}
    ways = [
        Way(f"bf16{compiled}, not repeatable", fields=free, every_round=True),
        Way(f"bf16{compiled}, repeatable", every_round=True),
    ]
    if "fp8" in plan.precisions:
        ways.append(Way(f"fp8{compiled}, repeatable", "fp8", every_round=True))
    if plan.on_gpu:
        ways.append(Way("bf16, eager, repeatable", fields={"compile": False}))
    if not plan.quick and _is_here("megatron.core"):
        ways.append(Way("bf16, backend megatron, repeatable", fields={"compile": False, "backend": "megatron"}))
    if "fp8" in plan.precisions:
        ways.append(Way(f"fp8{compiled}, not repeatable", "fp8", free))
    return ways


def _is_here(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False
