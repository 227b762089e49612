"""The piece `speed`: tokens a second of the trainer's ways to train one shape, and what repeatability costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from light.pieces import Notes, Plan
from light.runs import HAS_REPEATABLE, WarmWorker, recipe_of, request_of

ROUNDS = 3


@dataclass(frozen=True)
class Way:
    """How to train; its name is that of its row."""

    name: str
    precision: str = "bf16"
    fields: dict[str, Any] = field(default_factory=dict)  # of the request
    every_round: bool = False  # those that are compared with each other


def measure(plan: Plan, notes: Notes) -> None:
    """Rounds in one warm worker, every other one in reverse; the first run of each way warms up and counts for no
    speed."""
    ways = list(_ways(plan))
    worker = WarmWorker()
    for way in ways:
        _run(plan, notes, worker, way, "warm_up", steps=2)
        _run(plan, notes, worker, way, "rows")
    compared = [way for way in ways if way.every_round]
    for number in range(1, 2 if plan.quick else ROUNDS):
        for way in compared[:: 1 if number % 2 == 0 else -1]:
            _run(plan, notes, worker, way, "rows", number)
    worker.close()


def _run(
    plan: Plan, notes: Notes, worker: WarmWorker, way: Way, rows: str, number: int = 0, steps: int | None = None
) -> None:
    if any(row["name"] == way.name for row in notes.found.get("failed", [])):
        return
    recipe = recipe_of(plan, precision=way.precision)
    request = request_of(plan, recipe, **way.fields | ({"budget": {"steps": steps}} if steps else {}))
    row = {"name": way.name, "round": number, "recipe": recipe, **worker.run(plan, request)}
    notes.add(rows if row["state"] == "complete" else "failed", row)


def _ways(plan: Plan) -> list[Way]:
    compiled = ", compiled" if plan.on_gpu else ""
    ways = [Way(f"bf16{compiled}, repeatable", every_round=True)]
    if HAS_REPEATABLE:
        ways.insert(0, Way(f"bf16{compiled}, not repeatable", "bf16", {"repeatable": False}, every_round=True))
    if "fp8" in plan.precisions:
        ways.append(Way(f"fp8{compiled}, repeatable", "fp8", every_round=True))
        if HAS_REPEATABLE:
            ways.append(Way(f"fp8{compiled}, not repeatable", "fp8", {"repeatable": False}, every_round=True))
    if plan.on_gpu:
        ways.append(Way("bf16, eager, repeatable", "bf16", {"compile": False}))
    if not plan.quick and _is_here("megatron.core"):
        ways.append(Way("bf16, backend megatron, repeatable", "bf16", {"compile": False, "backend": "megatron"}))
    return ways


def _is_here(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False
