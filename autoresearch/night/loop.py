"""The study loop: propose, judge, commit, train, decide, write down; and start again where a killed night ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Literal

from autoresearch import words
from autoresearch.decide import Comparison, Decision, Noise, Runs, decide
from autoresearch.errors import BaselineFails
from autoresearch.night import seeds
from autoresearch.night.apart import put_back
from autoresearch.night.asking import Asking
from autoresearch.night.limits import StopRule
from autoresearch.proposers import NothingLeft, Proposer
from autoresearch.study import history, messages, restore
from autoresearch.study.folder import StudyFolder
from autoresearch.study.observer import Observer
from autoresearch.study.requests import make_request
from autoresearch.trial import APART, History, Purpose, Run, Trial, TrialState, from_iso
from autoresearch.workers.crew import Crew, Ended, Lost, Task, left_behind
from autoresearch.workers.launcher import Launcher, Progress
from autoresearch.workers.machine import Machine
from rails import gate, recipe_key, render_recipe

MAX_FAILED_REFERENCE_RUNS = 3
MAX_BLOCKED_IN_A_ROW = 25
NOT_ASKED_FOR = ("queue", "carried", APART)  # a person's ideas and the night's own: blocked, they end no night


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
        self.asking, self.machine, self.data_dir = Asking(proposer), machine, data_dir
        self.stop = stop
        self.observer = observer or Observer()
        self._blocked_in_a_row = 0

    def run(self) -> str:
        self._recover()
        while True:
            for run in self.crew.hand_out(self._next_task):
                self.observer.run_started(run, self._trial(run.trial))
            if not self.crew.in_flight and (reason := self._end()):
                self.asking.abandon()
                self.store.log("ended", reason)
                return reason
            match self.crew.next_event(self.asking.look_seconds):
                case Progress() as event:
                    self.observer.progress(event)
                case Lost(run, message):
                    self._take_back(run, message)
                    self._judge()
                case Ended() as ended:
                    self._absorb(ended)
                    self._judge()

    # --- what to do next ---

    def _end(self) -> str | None:
        if self.store.pending_runs() or not (reason := self.stop.reason()):
            return None
        return None if self._confirm() else reason

    def _confirm(self) -> bool:
        """At a night's end the baseline and the incumbent are measured anew, with seeds that no decision has read and
        both share: what the night is worth is told from these alone. False where there is nothing to confirm."""
        incumbent, wanted = int(self.store.study()["incumbent"]), self.rule.confirmation_runs
        known = self.store.runs(incumbent)
        if incumbent == 0 or self.stop.is_urgent or any(run.purpose == "confirmation" for run in known):
            return False
        first = max(run.seed for run in [*known, *self.store.runs(0)]) + 1
        confirming = range(first, first + wanted)
        self.store.queue_runs((trial, seed, "confirmation") for seed in confirming for trial in (0, incumbent))
        return bool(confirming)

    def _next_task(self) -> Task[Run] | None:
        run = self._next_run()
        if run is None:
            return None
        request = make_request(
            self.folder,
            self.machine,
            self.data_dir,
            run_id=run.id,
            recipe=self._trial(run.trial).recipe,
            seed=run.seed,
            budget=self.settings.whole_budget,
            place=self.folder.run_folder(run.id),
            score_test=run.purpose != "candidate",
        )
        self.store.hand_out_run(run)
        return Task(run, request, self.settings.limits.run_seconds)

    def _next_run(self) -> Run | None:
        """A run that waits for a worker, else one of a new trial; None where there is nothing to begin just now."""
        while not (waiting := [run for run in self.store.pending_runs() if run.id not in self.crew.in_flight]):
            if self.stop.reason() or self.stop.paused():
                return None
            if not self._new_trial():
                return None
        return waiting[0]

    # --- a trial begins ---

    def _new_trial(self) -> bool:
        """Puts one proposal before the rails. False where there is none to be had just now."""
        idea = self.store.next_idea() or put_back(self.store.trials_now(), self._trial(self._reference))
        if not idea and self.asking.is_thinking:
            return False
        # Also for an answer to an earlier question: what was tried and kept meanwhile counts.
        shown = history.now(self.folder, self.machine, self._reference)
        try:
            proposal = idea or self.asking.proposal(shown)
        except NothingLeft as error:
            self.stop.request(str(error) or f"{self.asking.proposer.name} has nothing more to propose")
            return False
        if proposal is None:
            return False
        number = self.store.open_trial(self._reference, proposal, shown)
        for note in proposal.notes:
            self.observer.note(note)
        self._admit(number, proposal.raw, shown)
        return True

    def _admit(self, number: int, raw: str, shown: History) -> None:
        base = self._reference_commit
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
        commit = self.workspace.commit(base, render_recipe(recipe), message, from_iso(trial.started_at))
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
        self.store.finish_run(ended.run, ended.result, ended.energy, self.folder.noise())

    def _judge(self) -> None:
        for trial in self.store.open_trials():
            states = [run.state for run in self.store.runs(trial.number)]
            enough = trial.number == 0 and states.count("complete") >= self.rule.baseline_runs
            if enough or "failed" in states or not {"queued", "running"} & set(states):
                self._judge_trial(trial)

    def _judge_trial(self, trial: Trial) -> None:
        runs = self.store.runs(trial.number)
        if failed := next((run for run in runs if run.state == "failed"), None):
            self._close_failed(trial, failed)
            return
        scores, noise = self.store.scores_now(), self.folder.noise()
        if trial.number == 0:
            self._close(trial, "complete", f"measured with {words.count(trial.n_runs, 'seed')}", noise=noise)
            return
        if trial.number not in scores:
            self._close(trial, "abandoned", f"cancelled before it was measured: {runs[-1].message}")
            return
        reference = trial.parent
        assert reference is not None
        if reference not in scores or self._trial(reference).state == "running":
            return  # the baseline is not measured yet
        decision = decide(scores[trial.number], scores[reference], noise, self.rule, self._waiting_for(reference))
        if self._is_overtaken(trial):
            self._judge_overtaken(trial, decision, noise)
            return
        if decision.action == "replicate":
            self._replicate(trial, reference, decision, noise)
            return
        leads = decision.action == "keep" and self._leads(trial.number, scores)
        self._close(
            trial,
            "complete",
            decision.reason,
            decision=decision.action,
            comparison=decision.comparison,
            noise=noise,
            merge_commit=self._merge(trial, decision.comparison) if leads else None,
        )

    def _waiting_for(self, reference: int) -> int:
        """Trials that are judged against this one just now, and have a run to be judged by."""
        scores = self.store.scores_now()
        return sum(trial.parent == reference and trial.number in scores for trial in self.store.running_now())

    def _is_overtaken(self, trial: Trial) -> bool:
        """Whether the recipe that it changed stands no more."""
        return self.rule.reference == "incumbent" and trial.parent != self._reference

    def _judge_overtaken(self, trial: Trial, at_parent: Decision, noise: Noise) -> None:
        """The recipe that it changed stands no more. What is better than the one that stands takes its place, and the
        other's change is made again on it; what helped where it was made is made again on the one that stands; the
        rest gets no further run, since new ideas are worth more."""
        stands, scores = self._trial(self._reference), self.store.scores_now()
        decision = decide(scores[trial.number], scores[stands.number], noise, self.rule)
        if decision.action == "replicate":
            self._replicate(trial, stands.number, decision, noise)
            return
        verdict: Literal["keep", "discard"] | None = "discard"
        merge, carried, gain = None, None, messages.gain_of(at_parent.comparison)
        if decision.action == "keep":
            reason = f"{decision.reason}: better than trial {stands.number}'s recipe, which stood by then"
            verdict, merge = "keep", self._merge(trial, at_parent.comparison)
            carried = messages.carried(stands, messages.gain_then(stands), trial)
        elif at_parent.action == "keep" and (carried := messages.carried(trial, gain, stands)):
            helps = f"{at_parent.reason}: it helps on trial {trial.parent}'s recipe"
            verdict, reason = None, f"{helps}, but trial {stands.number}'s stands by now: carried over"
        else:
            reason = f"{at_parent.reason}; no better than trial {stands.number}'s recipe, which stands by now"
        self._close(
            trial,
            "complete",
            reason,
            decision=verdict,
            comparison=at_parent.comparison,
            noise=noise,
            merge_commit=merge,
            carried=carried,
        )

    def _replicate(self, trial: Trial, reference: int, decision: Decision, noise: Noise) -> None:
        runs: list[tuple[int, int, Purpose]] = []
        if decision.candidate_runs:
            runs.append((trial.number, seeds.next_shared(self.store, trial), "candidate"))
        known = self.store.runs(reference)
        on_their_way = sum(run.state in ("queued", "running") for run in known)
        if sum(run.state == "failed" for run in known) < MAX_FAILED_REFERENCE_RUNS:
            missing = max(0, decision.reference_runs - on_their_way)
            runs += [(reference, seed, "reference") for seed in seeds.fresh(self.store, reference, missing)]
        if not runs and not on_their_way:
            reason = f"{decision.reason}, but runs of trial {reference} keep failing"
            self._close(trial, "complete", reason, decision="discard", comparison=decision.comparison, noise=noise)
            return
        self.store.queue_runs(runs)

    def _leads(self, number: int, scores: Mapping[int, Runs]) -> bool:
        """Whether a kept recipe becomes the incumbent: always when it was measured against it."""
        standing = self.store.study()["incumbent"]
        return self.rule.reference == "incumbent" or fmean(scores[number].values()) < fmean(scores[standing].values())

    def _merge(self, trial: Trial, comparison: Comparison) -> str:
        assert trial.commit is not None
        runs, before = self.store.runs(trial.number), self._trial(trial.parent or 0).recipe
        message = messages.merge_message(trial, before, messages.gain_of(comparison), runs)
        standing = self.store.study()["incumbent_commit"]
        return self.workspace.merge(standing, trial.commit, message, messages.last_moment(trial, runs))

    def _close_failed(self, trial: Trial, run: Run) -> None:
        reason = f"seed {run.seed}: {run.failure}: {run.message}"
        if trial.number == 0:
            log = self.folder.run_folder(run.id) / "worker.log"
            raise BaselineFails(f"the baseline itself fails ({reason}): see {log}; the next night tries it again")
        self._close(trial, "timed_out" if run.failure == "timed_out" else "failed", reason)

    def _close(
        self,
        trial: Trial,
        state: TrialState,
        reason: str,
        *,
        decision: Literal["keep", "discard"] | None = None,
        comparison: Comparison | None = None,
        noise: Noise | None = None,
        merge_commit: str | None = None,
        carried: tuple[int, str] | None = None,
    ) -> None:
        """Git first, then the database in one transaction: after a crash between them the same close comes again."""
        assert trial.commit is not None
        ended, gain = self.store.runs(trial.number), messages.gain_of(comparison) if comparison else None
        message = messages.tag_message(trial, state, decision, reason, gain, ended)
        self.workspace.tag(trial.number, trial.commit, message, messages.last_moment(trial, ended))
        if merge_commit:
            self._tell_of_git(self.workspace.move_incumbent(merge_commit))
        self.store.finish_trial(
            trial.number,
            state,
            reason,
            decision=decision,
            comparison=comparison,
            noise=noise,
            merge_commit=merge_commit,
            incumbent=(trial.number, merge_commit) if merge_commit else None,
            carried=carried,
        )
        self.workspace.release(trial.number)
        self.observer.trial_closed(self._trial(trial.number))

    # --- starting again ---

    def _recover(self) -> None:
        """After a night that was killed: git goes back to what the database says, finished runs are taken in,
        lost ones are queued again, a proposal that nobody judged is judged."""
        running = self.store.open_trials()
        self._tell_of_git(restore.put_right(self.folder))
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
                self._admit(trial.number, proposal["raw"], history.now(self.folder, self.machine, self._reference))
        self._judge()

    def _tell_of_git(self, found: Iterable[str]) -> None:
        for text in found:
            self.store.log("git", text)
            self.observer.note(text)

    def _try_baseline_again(self) -> None:
        """What an earlier night made of the baseline is no verdict on it: the machine may be well by now."""
        failed = [run for run in self.store.runs(0) if run.state == "failed"]
        for run in failed if self._trial(0).state == "running" else []:
            message = (
                f"the baseline failed last time (seed {run.seed}: {run.failure}: {run.message}); it is tried again"
            )
            (self.folder.run_folder(run.id) / "result.json").unlink(missing_ok=True)  # never taken for the new one's
            self.store.queue_again(run, message)
            self.observer.note(message)

    # --- small questions ---

    @property
    def _reference(self) -> int:
        """The trial whose recipe is changed and against which the change is judged."""
        return int(self.store.study()["incumbent"]) if self.rule.reference == "incumbent" else 0

    @property
    def _reference_commit(self) -> str:
        study = self.store.study()
        return study["incumbent_commit"] if self.rule.reference == "incumbent" else str(self._trial(0).commit)

    def _trial(self, number: int) -> Trial:
        return self.store.trial_now(number)
