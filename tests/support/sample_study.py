"""A real night in which every outcome occurs and much of the text is hostile."""

from __future__ import annotations

import json
from pathlib import Path

from studies import GOOD, change, make_study, run_study, write_promoted

from autoresearch.proposers.classic import ScriptedProposer
from autoresearch.proposers.prompt import whole_prompt
from autoresearch.study.folder import StudyFolder
from autoresearch.trial import History, Proposal
from rails import clean

HOSTILE = '</script><img src=x onerror=alert(1)><script>alert(2)</script>\u202e[31m\x1b[31m & "quoted"\n<b>bold</b>'
WORDS = clean(HOSTILE)  # as much of it as a recipe may hold
EVIL, OUTLIER, BLOCKED, FAILED, TIMED_OUT = 3, 4, 7, 9, 11  # numbers of trials
KEPT = [1, 5, 6]
ANSWERS = [
    change("lr", 0.002),
    change("d_ff", 256),
    change("grad_clip", 0.5, HOSTILE),
    change("n_head", 2),
    change("lr", 0.003),
    change("lr", GOOD),
    change("lr", 9.0),
    change("d_ff", 256),
    change("beta1", 0.55),
    change("n_layer", 1),
    change("grad_clip", 0.6875),
    json.dumps({"knob": HOSTILE, "new_value": HOSTILE, "reason": HOSTILE}),
    HOSTILE,
    change("d_ff", 1024),
    change("batch_size", 4),
    change("n_head", 8),
    change("d_ff", 768),
]


class Told(ScriptedProposer):
    """Answers what stands above, in turns as two proposers; for one trial all that it says is hostile."""

    def propose(self, history: History) -> Proposal:
        raw = super().propose(history).raw
        if history.number == EVIL:
            return Proposal(raw, HOSTILE, prompt=HOSTILE, model=HOSTILE, latency_seconds=1.9, prompt_tokens=4_000)
        if history.number % 2:
            return Proposal(raw, "tpe", latency_seconds=0.01)
        prompt = whole_prompt(history)
        return Proposal(raw, "llm", prompt, "meta/llama-3.1-8b-instruct", 1.9, len(prompt) // 4, 51)


def make_hostile_night(home: Path) -> StudyFolder:
    """The study "one". Afterwards trial 3 gets a recipe and reasons as only an imported file could have them, and the
    score of trial 4 becomes a terrible one."""
    folder = make_study(home, limits__run_seconds=1.5, decision__max_runs=4)
    run_study(folder, proposer=Told(ANSWERS), workers=1)
    recipe = f"json_set(recipe, '$.grad_clip', 1.0, '$.precision', {_sql(WORDS)})"
    same = "(SELECT recipe_key FROM trials WHERE number = 5)"  # what trial 3 discarded was kept in trial 5
    db = folder.store.db
    with db.atomic():
        db.execute(
            f"UPDATE trials SET changes = ?, recipe = {recipe}, recipe_key = {same}, hypothesis = ?, reason = ? "
            "WHERE number = ?",
            [json.dumps({"precision": WORDS}), HOSTILE, HOSTILE, EVIL],
        )
        db.execute("UPDATE runs SET message = ? WHERE trial = ?", [HOSTILE, FAILED])
        db.execute("UPDATE runs SET val_bpb = val_bpb + 3.2 WHERE trial = ?", [OUTLIER])
        worse = "val_bpb = val_bpb + 3.2, improvement = improvement - 3.2"
        db.execute(f"UPDATE trials SET {worse} WHERE number = ?", [OUTLIER])
    for trial, level in {0: 2.5, 1: 2.3, EVIL: 2.45, 5: 2.499}.items():
        write_promoted(folder.store, trial, {1000: level, 1001: level + 0.002, 1002: level - 0.001}, 16.0)
    write_promoted(folder.store, 6, {1000: 2.2, 1001: "diverged"}, 16.0)
    return folder


def _sql(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
