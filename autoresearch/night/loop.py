"""The study loop: propose, judge, commit, train, decide, write down; and start again where a killed night ended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from autoresearch.night import seeds
from autoresearch.night.ahead import Ahead
from autoresearch.night.apart import put_back
from autoresearch.night.asking import Asking
from autoresearch.night.coverage import cover
from autoresearch.night.judge import Judge
from autoresearch.night.limits import StopRule
from autoresearch.night.stopping import stop_above
from autoresearch.proposers import NothingLeft, Proposer
from autoresearch.study import history, messages, restore
from autoresearch.study.folder import StudyFolder
from autoresearch.study.observer import Observer
from autoresearch.study.requests import make_request
from autoresearch.trial import NOT_ASKED_FOR, History, Run, Trial, from_iso
from autoresearch.workers.crew import Crew, Ended, Lost, Task, left_behind
from autoresearch.workers.launcher import Launcher, Note, Progress
from autoresearch.workers.machine import Machine
from rails import gate, recipe_key, render_recipe

MAX_BLOCKED_IN_A_ROW = 25


class StudyLoop:
    """One night of one study. `run` returns why it ended; the caller holds the runner's lock."""

    def __init__(
        self,
        folder: StudyFolder,
        launcher: Launcher,
        proposer: Proposer,
        machine: Machine,
        data_dir: Path,
        stop: StopRule,
        observer: Observer | None = None,
    ) -> None:
        self.folder, self.store, self.workspace = folder, folder.store, folder.workspace
        self.settings, self.rule = folder.settings, folder.settings.decision
        self.crew: Crew[Run] = Crew(launcher)
        self.asking, self.ahead = Asking(proposer), Ahead()
        self.machine, self.data_dir = machine, data_dir
        self.stop = stop
        self.observer = observer or Observer()
        self.judge = Judge(folder, self.crew.capacity, self.observer)
        self._blocked_in_a_row = 0

    def run(self) -> str:
        self._recover()
        while True:
            self.judge.workers = self.crew.capacity
            for run in self.crew.hand_out(self._next_task):
                self.observer.run_started(run, self._trial(run.trial))
            if not self.crew.in_flight and (reason := self._end()):
                self.asking.abandon()
                self.store.log("ended", reason)
                return reason
            match self.crew.next_event(self.asking.look_seconds):
                case Progress() as event:
                    self.observer.progress(event)
                    self._ask_ahead(event)
                case Note(text):
                    self.store.log("workers", text)
                    self.observer.note(text)
                case Lost(run, message):
                    self.ahead.ended(run.id)
                    self._take_back(run, message)
                    self.judge.judge()
                case Ended() as ended:
                    self.ahead.ended(ended.run.id)
                    self._absorb(ended)
                    self.judge.judge()

    # --- what to do next ---

    def _end(self) -> str | None:
        stranded = not self.crew.capacity and (self.stop.is_urgent or self.stop.is_late)  # a cluster without a node
        if self.stop.is_over or stranded:
            return self.stop.reason()
        if self.store.pending_runs() or not (reason := self.stop.reason()) or self.judge.unsettled():
            return None
        if self._confirm():
            return None
        self.judge.take_back()
        return reason

    def _confirm(self) -> bool:
        """At a night's end the baseline and the incumbent are measured anew, with seeds that no decision has read and
        both share: what the night is worth is told from these alone. False where there is nothing to confirm."""
        incumbent, wanted = int(self.store.study()["incumbent"]), self.rule.confirmation_runs
        known = self.store.runs_now(incumbent)
        if incumbent == 0 or self.stop.is_urgent or any(run.purpose == "confirmation" for run in known):
            return False
        first = max(run.seed for run in [*known, *self.store.runs_now(0)]) + 1
        confirming = range(first, first + wanted)
        self.store.queue_runs((trial, seed, "confirmation") for seed in confirming for trial in (0, incumbent))
        return bool(confirming)

    def _next_task(self) -> Task[Run] | None:
        run = self._next_run()
        if run is None:
            return None
        trial, is_first = self._trial(run.trial), len(self.store.runs_now(run.trial)) == 1
        request = make_request(
            self.folder,
            self.machine,
            self.data_dir,
            run_id=run.id,
            recipe=trial.recipe,
            seed=run.seed,
            budget=self.settings.whole_budget,
            place=self.folder.run_folder(run.id),
            score_test=run.purpose != "candidate",
            stop_above=stop_above(self.folder, trial) if run.purpose == "candidate" and is_first else (),
        )
        self.store.hand_out_run(run)
        return Task(run, request, self.settings.limits.run_seconds)

    def _next_run(self) -> Run | None:
        """A run that waits for a worker, else one of a new trial or of one that is not settled; None where there is
        nothing to begin just now."""
        if self.stop.is_over:
            return None
        while not (waiting := [run for run in self.store.pending_runs() if run.id not in self.crew.in_flight]):
            if self.stop.paused():
                return None
            if self.stop.reason():
                if not self.judge.settle(last=True):
                    return None
            elif not self.judge.ideas_come_first and self.judge.settle():
                continue
            elif not self._new_trial() and not self.judge.settle():
                return None
        return waiting[0]

    # --- a trial begins ---

    def _new_trial(self) -> bool:
        """Puts one proposal before the rails. False where there is none to be had just now."""
        idea = self.store.next_idea() or put_back(self.store.trials_now(), self._trial(self.judge.reference))
        if not idea and self.asking.is_thinking:
            return False
        # Also for an answer to an earlier question: what was tried and kept meanwhile counts.
        shown = history.now(self.folder, self.machine, self.judge.reference)
        try:
            idea = idea or cover(shown)
            found = (idea, shown) if idea else self.asking.proposal(shown)
        except NothingLeft as error:
            self.stop.request(str(error) or f"{self.asking.proposer.name} has nothing more to propose")
            return False
        if found is None:
            return False
        proposal, shown_then = found
        if shown_then is not shown:
            self.ahead.answered(proposal.latency_seconds)
        number = self.store.open_trial(self.judge.reference, proposal, shown_then)
        for note in proposal.notes:
            self.observer.note(note)
        self._admit(number, proposal.raw, shown)
        return True

    def _ask_ahead(self, event: Progress) -> None:
        """While a model thinks, workers do not idle."""
        self.ahead.progress(event)
        if self.ahead.is_time() and not self.stop.paused() and not self.stop.reason():
            stands = self.judge.reference
            number = len(self.store.trials_now())
            self.asking.ahead(number, lambda: history.now(self.folder, self.machine, stands))

    def _admit(self, number: int, raw: str, shown: History) -> None:
        base = self.judge.reference_commit
        verdict = gate(
            raw,
            shown.recipe,
            shown.menu,
            shown.tried,
            shown.limits,
            diff=lambda candidate: self.workspace.diff(base, render_recipe(candidate)),
        )
        if not verdict.passed:
            self.store.block_trial(number, verdict)
            self._blocked_in_a_row += self._trial(number).proposer not in NOT_ASKED_FOR
            if self._blocked_in_a_row >= MAX_BLOCKED_IN_A_ROW:
                self.stop.request(
                    f"{MAX_BLOCKED_IN_A_ROW} proposals in a row were blocked, the last because {verdict.reason}"
                )
            self.observer.trial_closed(self._trial(number))
            return
        self._blocked_in_a_row = 0
        self.stop.trial_started()
        recipe = {**shown.recipe, **verdict.changes}
        trial = self._trial(number)
        message = messages.commit_message(number, verdict.changes, shown.recipe, trial.proposer, verdict.hypothesis)
        script = self.folder.script_at(recipe)
        commit = self.workspace.commit(base, render_recipe(recipe), message, from_iso(trial.started_at), script)
        self.workspace.hold(number, commit)
        self.store.start_trial(
            number, verdict, recipe, recipe_key(recipe), commit, seeds.next_shared(self.store, trial)
        )

    # --- a run ends, and perhaps a trial ---

    def _take_back(self, run: Run, message: str) -> None:
        message = f"run {run.id}: {message}"
        self.store.take_back_run(run, message)
        self.observer.note(message)

    def _absorb(self, ended: Ended[Run]) -> None:
        run, result = ended.run, ended.result
        self._write_down(ended)
        self.observer.run_finished(run, result)
        if result.failure and run.purpose != "candidate" and run.trial > 0:
            message = f"the incumbent of trial {run.trial} failed with seed {run.seed}: {result.message}"
            self.store.log("confirmation_failed", message, run.trial)
            self.observer.note(message)

    def _write_down(self, ended: Ended[Run]) -> None:
        result = replace(ended.result, versions={"device": self.machine.name, **ended.result.versions})
        self.store.finish_run(ended.run, result, ended.energy, self.folder.noise())

    # --- starting again ---

    def _recover(self) -> None:
        """After a night that was killed: git goes back to what the database says, finished runs are taken in,
        lost ones are queued again, a proposal that nobody judged is judged."""
        running = self.store.open_trials()
        self.judge.tell_of_git(restore.put_right(self.folder))
        if self._trial(0).state == "running":
            baseline = seeds.of_baseline(self.store, self.rule.baseline_runs)
            self.store.queue_runs((0, seed, "reference") for seed in baseline)
        for run in self.store.pending_runs():
            if run.state != "running":
                continue
            if ended := left_behind(run, self.folder.run_folder(run.id) / "result.json", self.settings.energy):
                self._write_down(ended)
            else:
                self.store.take_back_run(run, f"run {run.id} was cut off; it is done again")
        self._try_baseline_again()
        for trial in running:
            if trial.state == "proposed":
                proposal = self.store.proposal(trial.number)
                assert proposal is not None
                self._admit(trial.number, proposal["raw"], history.now(self.folder, self.machine, self.judge.reference))
        self.judge.judge()

    def _try_baseline_again(self) -> None:
        """What an earlier night made of the baseline is no verdict on it: the machine may be well by now."""
        failed = [run for run in self.store.runs_now(0) if run.state == "failed"]
        for run in failed if self._trial(0).state == "running" else []:
            message = (
                f"the baseline failed last time (seed {run.seed}: {run.failure}: {run.message}); it is tried again"
            )
            (self.folder.run_folder(run.id) / "result.json").unlink(missing_ok=True)  # never taken for the new one's
            self.store.queue_again(run, message)
            self.observer.note(message)

    # --- small questions ---

    def _trial(self, number: int) -> Trial:
        return self.store.trial_now(number)
