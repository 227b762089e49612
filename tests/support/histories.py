"""Made-up histories for proposers: a menu, a recipe, and whatever trials a test wants to have been."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studies import MACHINE

from autoresearch import words
from autoresearch.trial import History, Trial
from rails import Limits, Menu, load_menu, recipe_key

MENU = load_menu((Path(__file__).parents[2] / "autoresearch" / "presets" / "cpu-nano" / "menu.toml").read_text())
LIMITS = Limits(budget={"tokens": 200_000}, vocab_size=2048, memory_bytes=MACHINE.memory_bytes)


def history(trials: list[Trial] | None = None, seed: int = 0, menu: Menu = MENU) -> History:
    """Before the trial that follows the given ones; its recipe is the menu's defaults."""
    trials = trials or []
    tried: dict[str, str] = {}
    for trial in trials:
        if trial.recipe_key:
            tried.setdefault(trial.recipe_key, words.tried(trial.number, trial.state, trial.decision, trial.val_bpb))
    return History(len(trials) + 1, seed, menu, menu.defaults(), trials, tried, LIMITS, 0.02)


def past_trial(number: int, knob: str, value: Any, gain: float | None, /, **more: Any) -> Trial:
    """A change of the defaults that was better than they are by so much, or that failed; `more` says it otherwise."""
    recipe = {**MENU.defaults(), knob: value}
    complete = gain is not None
    fields: dict[str, Any] = {
        "number": number,
        "parent": 0,
        "proposer": "tpe",
        "changes": {knob: value},
        "recipe": recipe,
        "recipe_key": recipe_key(recipe),
        "hypothesis": "",
        "expected_delta": None,
        "state": "complete" if complete else "failed",
        "decision": "discard" if complete else None,
        "rail": None,
        "reason": "" if complete else "diverged",
        "val_bpb": 2.8 - gain if gain is not None else None,
        "n_runs": int(complete),
        "reference": 0 if complete else None,
        "improvement": gain,
        "improvement_low": None if gain is None else gain - 0.04,
        "improvement_high": None if gain is None else gain + 0.04,
        "test_bpb": None,
        "commit": "0" * 40,
        "merge_commit": None,
        "energy_joules": None,
        "energy_source": None,
        "started_at": "2026-01-01T00:00:00.000Z",
        "finished_at": None,
    }
    return Trial(**{**fields, **more})


def baseline(state: str = "complete") -> Trial:
    """Trial 0, measured or with its runs still on their way."""
    recipe = MENU.defaults()
    complete = state == "complete"
    return past_trial(
        0, "lr", recipe["lr"], None, parent=None, proposer="baseline", changes={}, state=state, reason="",
        val_bpb=2.8 if complete else None, n_runs=3 if complete else 0,
    )  # fmt: skip
