"""The trajectory of a study in its database: trials, proposals, runs and events; every method is one transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Literal

from autoresearch.decide import Comparison, Noise, Runs
from autoresearch.study.store.reflections import Reflections
from autoresearch.study.store.rows import answered
from autoresearch.study.store.study_row import StudyRow
from autoresearch.study.store.terms import limits_text
from autoresearch.trial import Attempt, History, Proposal, Purpose, Recipe, Run, Trial, TrialState, iso
from autoresearch.workers.energy import Energy
from rails import Verdict
from trainer.protocol import RunResult

OPEN_STATES = ("proposed", "running")
TAKEN_BACK = "; taken back: "  # in the reason of a keep that fresh runs contradict
# Of the latest runs: what the prediction of memory and time rests on.
MEASUREMENTS = 64
_TRIAL_FIELDS = tuple(Trial.__dataclass_fields__)
RUN_FIELDS = tuple(Run.__dataclass_fields__)


def sums_of_runs(condition: str = "1") -> dict[str, str]:
    """Column of trials -> SQL of it over the trial's runs, or over those of them that meet the condition."""
    of_trial = f"FROM runs WHERE trial = number AND {condition}"
    # The + keeps SQLite from looking through all complete runs of the study; so they are also summed by seed.
    complete = f"{of_trial} AND +state = 'complete' AND purpose <> 'confirmation'"
    return {
        "n_runs": f"(SELECT COUNT(*) {complete})",
        "val_bpb": f"(SELECT AVG(val_bpb) {complete})",
        "test_bpb": f"(SELECT AVG(test_bpb) {complete})",
        "energy_joules": f"(SELECT SUM(energy_joules) {of_trial})",
        "energy_source": "(SELECT GROUP_CONCAT(s, '+') FROM (SELECT DISTINCT energy_source AS s "
        f"{of_trial} AND energy_source IS NOT NULL ORDER BY s))",
    }


class Trajectory(StudyRow, Reflections):
    """What the study loop writes and everybody reads."""

    # --- proposals and trials ---

    def queue_idea(self, raw: str) -> int:
        """A person's proposal, to be taken before any proposer is asked. Returns its id."""
        with self.db.atomic():
            return self._insert(
                "proposals", proposer="queue", raw=raw, latency_seconds=0.0, reason="", created_at=iso(self.clock())
            )

    def next_idea(self) -> Proposal | None:
        """What waits for a trial: changes that are carried over first, then a person's."""
        order = "ORDER BY carries IS NULL, id LIMIT 1"
        row = self._first(f"SELECT id, raw, proposer FROM proposals WHERE trial IS NULL {order}")
        return Proposal(raw=row["raw"], proposer=row["proposer"], idea=row["id"]) if row else None

    def waiting_ideas(self) -> int:
        return self._one("SELECT COUNT(*) AS n FROM proposals WHERE trial IS NULL")["n"]

    def open_trial(self, parent: int, proposal: Proposal, shown: History | None = None) -> int:
        """Writes the proposal down before anything judges it, and of what its proposer was shown that which cannot be
        told from the trials. Returns the trial's number."""
        now = iso(self.clock())
        terms: dict[str, Any] = {}
        if shown:
            terms = {"limits": limits_text(shown.limits), "deviation": shown.deviation}
        # Read before the transaction, whose first statement must write: SQLite refuses, at once, a write after a read
        # that another process has written over. Nobody else opens trials.
        number = self._one("SELECT MAX(number) + 1 AS n FROM trials")["n"]
        with self.db.atomic():
            tick = self._next_tick()
            if shown and shown.tick not in (None, tick):  # asked ahead
                terms |= {"asked_tick": shown.tick, "asked_on": shown.parent}
            self._insert(
                "trials",
                number=number, parent=parent, proposer=proposal.proposer, changes="{}", recipe="{}", hypothesis="",
                state="proposed", reason="", n_runs=0, started_at=now, opened_tick=tick,
            )  # fmt: skip
            if proposal.idea is not None:
                self._update("proposals", "id", proposal.idea, trial=number, **terms)
            else:
                proposed = self._insert(
                    "proposals", **terms,
                    trial=number, proposer=proposal.proposer, prompt=proposal.prompt, raw=proposal.raw,
                    model=proposal.model, latency_seconds=proposal.latency_seconds,
                    prompt_tokens=proposal.prompt_tokens, completion_tokens=proposal.completion_tokens,
                    energy_joules=proposal.energy_joules, energy_source=proposal.energy_source,
                    reason="", created_at=now,
                )  # fmt: skip
                for n, attempt in enumerate(proposal.attempts, 1):
                    self._insert("attempts", proposal=proposed, n=n, **asdict(attempt))
            if proposal.reflection:
                self._add_reflection(number, proposal.reflection)
            for note in proposal.notes:
                self._event("proposer", note, number)
        return int(number)

    def block_trial(self, number: int, verdict: Verdict) -> None:
        with self.db.atomic():
            tick = self._next_tick()
            self._judge(number, verdict)
            self._update_trial(
                number, state="blocked", rail=verdict.rail, reason=verdict.reason, finished_at=iso(self.clock()),
                closed_tick=tick, changes=json.dumps(verdict.changes),
            )  # fmt: skip

    def start_trial(self, number: int, verdict: Verdict, recipe: Recipe, key: str, commit: str, seed: int) -> None:
        """The proposal passed and its recipe is committed: queues its first run."""
        with self.db.atomic():
            self._judge(number, verdict)
            self._update_trial(
                number, state="running", changes=json.dumps(verdict.changes), recipe=json.dumps(recipe),
                recipe_key=key, commit=commit,
            )  # fmt: skip
            self._queue_run(number, seed, "candidate")

    def finish_trial(
        self,
        number: int,
        state: TrialState,
        reason: str,
        *,
        decision: Literal["keep", "discard"] | None = None,
        comparison: Comparison | None = None,
        noise: Noise | None = None,
        merge_commit: str | None = None,
        incumbent: tuple[int, str] | None = None,
        carried: tuple[int, str] | None = None,
    ) -> None:
        """Closes a trial; `incumbent` (trial, commit) moves the incumbent and `carried` (trial, proposal) queues
        what makes a trial's change again, all at once. What it was compared with is its parent."""
        low, high = comparison.interval if comparison else (None, None)
        with self.db.atomic():
            tick = self._next_tick()
            self._update_trial(
                number, state=state, decision=decision, reason=reason, merge_commit=merge_commit,
                improvement=comparison and comparison.improvement, improvement_low=low, improvement_high=high,
                finished_at=iso(self.clock()), closed_tick=tick,
            )  # fmt: skip
            self._sum_up(number, noise)
            if incumbent:
                self.db.execute("UPDATE studies SET incumbent = ?, incumbent_commit = ?", list(incumbent))
            if comparison:
                self.db.execute("UPDATE trials SET reference = parent WHERE number = ?", [number])
            if carried:
                self._insert(
                    "proposals", proposer="carried", raw=carried[1], carries=carried[0], latency_seconds=0.0, reason="",
                    created_at=iso(self.clock()),
                )  # fmt: skip
            self._event(decision or state, reason, number)

    def standing_keeps(self) -> list[Trial]:
        """Kept trials that the incumbent is made of, in that order."""
        return self.trials("decision = 'keep' AND merge_commit IS NOT NULL")

    def take_back(self, keeps: Iterable[Trial], why: str, commit: str) -> None:
        """Fresh runs contradict these keeps: from now on they count as discarded, and the baseline stands."""
        with self.db.atomic():
            tick = self._next_tick()
            for trial in keeps:
                reason = f"{trial.reason}{TAKEN_BACK}{why}"
                self._update_trial(trial.number, decision="discard", reason=reason, kept_until=tick)
                self._event("taken_back", why, trial.number)
            self.db.execute("UPDATE studies SET incumbent = 0, incumbent_commit = ?", [commit])

    def trials(self, where: str = "1") -> list[Trial]:
        return [trial_of(row) for row in self._rows(f"SELECT * FROM trials WHERE {where} ORDER BY number")]

    def open_trials(self) -> list[Trial]:
        return self.trials(f"state IN {OPEN_STATES}")

    def trial(self, number: int) -> Trial | None:
        found = self.trials(f"number = {int(number)}")
        return found[0] if found else None

    def proposal(self, trial: int) -> dict[str, Any] | None:
        row = self._first("SELECT * FROM proposals WHERE trial = ?", [trial])
        return row and answered(row)

    def proposals(self) -> dict[int, dict[str, Any]]:
        """Trial -> what was proposed in it, as it came."""
        rows = self._rows("SELECT * FROM proposals WHERE trial IS NOT NULL")
        return {row["trial"]: answered(row) for row in rows}

    def asking_energy(self) -> dict[int, Energy]:
        """Trial -> what a language model on this machine took for its proposal; those of which nothing is known are not
        there."""
        rows = self._rows(
            "SELECT trial, energy_joules, COALESCE(energy_source, '') AS energy_source FROM proposals "
            "WHERE trial IS NOT NULL AND energy_joules IS NOT NULL"
        )
        return {row["trial"]: Energy(row["energy_joules"], row["energy_source"]) for row in rows}

    def attempts(self, trial: int | None = None) -> dict[int, list[Attempt]]:
        """Trial -> the questions that its proposal took, of all or of one; trials that took none are not there."""
        columns = ", ".join(f"attempts.{name}" for name in Attempt.__dataclass_fields__)
        where, values = ("WHERE trial = ?", [trial]) if trial is not None else ("WHERE trial IS NOT NULL", [])
        found: dict[int, list[Attempt]] = {}
        for row in self._rows(
            f"SELECT trial, {columns} FROM attempts JOIN proposals ON id = proposal {where} ORDER BY trial, n", values
        ):
            found.setdefault(row.pop("trial"), []).append(Attempt(**row))
        return found

    def sources(self, trial: int | None = None) -> dict[int, str]:
        """Trial -> the text it was imported from, of all or of one; empty where the trials were run here."""
        where, values = ("AND number = ?", [trial]) if trial is not None else ("", [])
        rows = self._rows(f"SELECT number, source FROM trials WHERE source IS NOT NULL {where}", values)
        return {row["number"]: row["source"] for row in rows}

    # --- runs ---

    def queue_runs(self, runs: Iterable[tuple[int, int, Purpose]]) -> None:
        with self.db.atomic():
            for trial, seed, purpose in runs:
                self._queue_run(trial, seed, purpose)

    def hand_out_run(self, run: Run) -> None:
        with self.db.atomic():
            self.db.execute(
                "UPDATE runs SET state = 'running', attempts = attempts + 1, started_at = ? "
                "WHERE trial = ? AND seed = ?",
                [iso(self.clock()), run.trial, run.seed],
            )

    def take_back_run(self, run: Run, message: str) -> None:
        """The worker was lost, not the recipe's fault: the run waits for another worker."""
        with self.db.atomic():
            self.db.execute("UPDATE runs SET state = 'queued' WHERE trial = ? AND seed = ?", [run.trial, run.seed])
            self._event("worker_lost", message, run.trial)

    def queue_again(self, run: Run, message: str) -> None:
        """A run that failed waits for a worker once more, as if it had never ended, but for the energy it took."""
        ended = ("failure", "failed_step", "curve", "versions", "finished_at", "ended_tick")
        with self.db.atomic():
            self.db.execute(
                f"UPDATE runs SET state = 'queued', message = '', {', '.join(f'{name} = NULL' for name in ended)} "
                "WHERE trial = ? AND seed = ?",
                [run.trial, run.seed],
            )
            self._event("baseline_again", message, run.trial)

    def finish_run(self, run: Run, result: RunResult, energy: Energy, noise: Noise | None = None) -> None:
        """Writes a run's result; the sums of a trial that is complete already (an incumbent) follow it."""
        measured = {
            name: getattr(result, name)
            for name in (
                "failure", "message", "failed_step", "val_bpb", "test_bpb", "window_bpb", "tokens", "steps", "params",
                "train_seconds", "eval_seconds", "total_seconds", "cpu_seconds", "tokens_per_second",
                "peak_memory_bytes", "device", "first_step_seconds", "mfu", "peak_flops", "peak_flops_source",
                "flops",
            )
        }  # fmt: skip
        measured |= {f"{phase}_seconds": seconds for phase, seconds in result.step_seconds.items()}
        with self.db.atomic():
            tick = self._next_tick()
            self.db.execute(
                "UPDATE runs SET state = ?, energy_joules = COALESCE(energy_joules, 0) + ?, energy_source = ?, "
                "curve = ?, versions = ?, "
                f"finished_at = ?, ended_tick = ?, {', '.join(f'{name} = ?' for name in measured)} "
                "WHERE trial = ? AND seed = ?",
                [
                    result.state, energy.joules, energy.source, json.dumps(result.curve), json.dumps(result.versions),
                    iso(self.clock()), tick, *measured.values(), run.trial, run.seed,
                ],
            )  # fmt: skip
            self._sum_up(run.trial, noise)

    def runs(self, trial: int | None = None) -> list[Run]:
        where, values = ("WHERE trial = ?", [trial]) if trial is not None else ("", [])
        rows = self._rows(f"SELECT {', '.join(RUN_FIELDS)} FROM runs {where} ORDER BY trial, seed", values)
        return [Run(**row) for row in rows]

    def pending_runs(self) -> list[Run]:
        """Runs that are queued or with a worker; those for references first, since others wait for them. Those that
        confirm go seed by seed, so that a drift of the machine is in both sides alike."""
        rows = self._rows(
            f"SELECT {', '.join(RUN_FIELDS)} FROM runs WHERE state IN ('queued', 'running') "
            "ORDER BY purpose = 'candidate', CASE purpose WHEN 'confirmation' THEN seed END, trial, seed"
        )
        return [Run(**row) for row in rows]

    def scores(self, before: int | None = None) -> dict[int, Runs]:
        """Trial -> seed -> val_bpb, over all complete runs of the study that decisions read, or those that ended before
        a tick."""
        scores: dict[int, dict[int, float]] = {}
        sql = "SELECT trial, seed, val_bpb FROM runs WHERE state = 'complete' AND purpose <> 'confirmation'"
        sql, values = (sql, []) if before is None else (f"{sql} AND ended_tick < ?", [before])
        for row in self._rows(f"{sql} ORDER BY trial, seed", values):
            scores.setdefault(row["trial"], {})[row["seed"]] = row["val_bpb"]
        return dict(scores)

    def devices(self) -> set[str]:
        """The classes of device that complete runs were made on, as far as they tell."""
        sql = "SELECT DISTINCT json_extract(versions, '$.device') AS device FROM runs WHERE state = 'complete'"
        return {row["device"] for row in self._rows(sql) if row["device"]}

    def curve(self, trial: int, seed: int) -> list[list[float]]:
        row = self._first("SELECT curve FROM runs WHERE trial = ? AND seed = ?", [trial, seed])
        return json.loads(row["curve"]) if row and row["curve"] else []

    def curves(self) -> dict[tuple[int, int], list[list[float]]]:
        """(trial, seed) -> [[step, training loss in nats per token], ...]."""
        rows = self._rows("SELECT trial, seed, curve FROM runs WHERE curve IS NOT NULL")
        return {(row["trial"], row["seed"]): json.loads(row["curve"]) for row in rows}

    def measurements(self, before: int | None = None, last: int = MEASUREMENTS) -> list[tuple[Recipe, int, float, int]]:
        """(recipe, peak memory bytes, train seconds, tokens) of the latest complete runs, or those before a tick."""
        condition, values = ("1", []) if before is None else ("ended_tick < ?", [before])
        sql = f"""
            SELECT t.recipe, r.peak_memory_bytes AS memory, r.train_seconds AS seconds, r.tokens
            FROM (
                SELECT trial, peak_memory_bytes, train_seconds, tokens, ended_tick FROM runs
                WHERE state = 'complete' AND peak_memory_bytes > 0 AND train_seconds > 0 AND tokens > 0 AND {condition}
                ORDER BY ended_tick DESC LIMIT ?
            ) r JOIN trials t ON t.number = r.trial
            ORDER BY r.ended_tick DESC"""
        rows = self._rows(sql, [*values, last])
        return [(json.loads(row["recipe"]), row["memory"], row["seconds"], row["tokens"]) for row in rows]

    # --- sums and events ---

    def totals(self, since: str | None = None) -> dict[str, Any]:
        """Trials that were trained, runs, joules (also of asking a language model) and run seconds, and the model's
        tokens as far as its server counts them; all or since a moment (ISO-8601)."""
        since = since or ""
        return {
            **self._one(
                "SELECT COUNT(*) AS trained FROM trials WHERE number > 0 AND state NOT IN ('proposed', 'blocked') "
                "AND started_at >= ?",
                [since],
            ),
            **self._one(
                "SELECT COUNT(*) AS runs, COALESCE(SUM(energy_joules), 0) + (SELECT COALESCE(SUM(energy_joules), 0) "
                "FROM proposals WHERE created_at >= ?) + (SELECT COALESCE(SUM(energy_joules), 0) FROM repeats "
                "WHERE finished_at >= ?) AS joules, "
                "COALESCE(SUM(total_seconds), 0) AS run_seconds FROM runs WHERE finished_at >= ?",
                [since, since, since],
            ),
            **self._one(
                "SELECT COALESCE(SUM(prompt_tokens), 0) AS prompt_tokens, "
                "COALESCE(SUM(completion_tokens), 0) AS completion_tokens FROM ("
                "SELECT prompt_tokens, completion_tokens, created_at FROM proposals UNION ALL "
                "SELECT prompt_tokens, completion_tokens, started_at FROM reflections JOIN trials ON number = trial"
                ") WHERE created_at >= ?",
                [since],
            ),
        }

    def log(self, kind: str, message: str, trial: int | None = None) -> None:
        with self.db.atomic():
            self._event(kind, message, trial)

    def events(self, last: int = 20) -> list[dict[str, Any]]:
        return self._rows("SELECT * FROM (SELECT * FROM events ORDER BY id DESC LIMIT ?) ORDER BY id", [last])

    def events_of(self, *kinds: str) -> list[dict[str, Any]]:
        """All events of these kinds, in order."""
        marks = ", ".join("?" for _ in kinds)
        return self._rows(f"SELECT * FROM events WHERE kind IN ({marks}) ORDER BY id", kinds)

    # --- rows ---

    def _judge(self, number: int, verdict: Verdict) -> None:
        self.db.execute(
            "UPDATE proposals SET passed = ?, rail = ?, reason = ? WHERE trial = ?",
            [int(verdict.passed), verdict.rail, verdict.reason, number],
        )
        self._update_trial(number, hypothesis=verdict.hypothesis, expected_delta=verdict.expected_delta)

    def _queue_run(self, trial: int, seed: int, purpose: Purpose) -> None:
        self.db.execute(
            "INSERT OR IGNORE INTO runs (trial, seed, purpose, state, attempts, message) "
            "VALUES (?, ?, ?, 'queued', 0, '')",
            [trial, seed, purpose],
        )

    def _sum_up(self, number: int, noise: Noise | None) -> None:
        sums = sums_of_runs()
        sums["val_bpb"] = f"CASE WHEN state = 'complete' THEN {sums['val_bpb']} END"
        columns = ", ".join(f"{name} = {sql}" for name, sql in sums.items())
        self.db.execute(f"UPDATE trials SET {columns} WHERE number = ?", [number])
        if noise:
            self.db.execute(
                "UPDATE trials SET val_bpb_stderr = ? / sqrt(n_runs) WHERE number = ? AND val_bpb IS NOT NULL",
                [noise.deviation, number],
            )

    def _update_trial(self, number: int, **values: Any) -> None:
        self._update("trials", "number", number, **values)


def trial_of(row: dict[str, Any]) -> Trial:
    fields = {name: row[name] for name in _TRIAL_FIELDS}
    return Trial(**{**fields, "changes": json.loads(row["changes"]), "recipe": json.loads(row["recipe"])})
