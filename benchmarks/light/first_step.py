"""The piece `first_step`: how long until the first step is done, cold and warm, and whether the number repeats."""

from __future__ import annotations

from light.pieces import Notes, Plan
from light.runs import WarmWorker, recipe_of, request_of


def measure(plan: Plan, notes: Notes) -> None:
    """One request three times: nothing compiled yet, again in that worker, and in a new one beside the compiled code.

    This piece is the first to use its folder of compiled code, which those after it find full.
    """
    recipe = recipe_of(plan)
    first, second = WarmWorker(), WarmWorker()
    for name, worker in (
        ("cold: new worker, nothing compiled", first),
        ("warm worker, seen shape", first),
        ("new worker, compiled before", second),
    ):
        facts = worker.run(plan, request_of(plan, recipe, score=True))
        notes.add("rows", {"name": name, "recipe": recipe, **facts})
    first.close()
    second.close()
    rows = notes.found["rows"]
    if all(row["state"] == "complete" for row in rows):
        notes(repeats=all((row["val_bpb"], row["curve"]) == (rows[0]["val_bpb"], rows[0]["curve"]) for row in rows))
