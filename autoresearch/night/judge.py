"""What becomes of open trials by their runs: kept, discarded, made again on another recipe, or given more runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Literal

from autoresearch import words
from autoresearch.decide import Comparison, Decision, Noise, Runs, contradiction, decide
from autoresearch.errors import BaselineFails
from autoresearch.night import seeds
from autoresearch.study import messages
from autoresearch.study.folder import StudyFolder
from autoresearch.study.observer import Observer
from autoresearch.study.store.trajectory import TAKEN_BACK
from autoresearch.trial import Purpose, Run, Trial, TrialState

MAX_FAILED_REFERENCE_RUNS = 3
# What settles whether an idea helped takes so many runs for each idea that had its first; by benchmarks/search.
SETTLING_SHARE = 0.25
SOON_SETTLED = 4.0  # standard errors of improvement that few runs will make sure of
MOST_UNSETTLED = 3  # trials that wait for more runs, besides one a worker
Unsure = Literal["wait", "measure", "drop"]


class Judge:
    """Reads the runs, closes trials in git and database, queues runs. The arithmetic is in decide.py."""

    def __init__(self, folder: StudyFolder, workers: int, observer: Observer) -> None:
        self.folder, self.store, self.workspace = folder, folder.store, folder.workspace
        self.rule, self.workers, self.observer = folder.settings.decision, workers, observer

    @property
    def reference(self) -> int:
        """The trial whose recipe is changed and against which the change is judged."""
        return int(self.store.study()["incumbent"]) if self.rule.reference == "incumbent" else 0

    @property
    def reference_commit(self) -> str:
        study = self.store.study()
        return study["incumbent_commit"] if self.rule.reference == "incumbent" else str(self._trial(0).commit)

    def judge(self) -> None:
        """Closes what its runs have settled; where a few more runs will settle it, they are queued."""
        for trial in self.store.open_trials():
            states = [run.state for run in self.store.runs_now(trial.number)]
            enough = trial.number == 0 and states.count("complete") >= self.rule.baseline_runs
            if enough or "failed" in states or not {"queued", "running"} & set(states):
                self._judge_trial(trial)
        for trial in self.unsettled()[MOST_UNSETTLED + self.workers :]:
            self._judge_trial(trial, "drop")

    @property
    def ideas_come_first(self) -> bool:
        """Whether enough was spent on settling what earlier ideas are worth."""
        scores = self.store.scores_now()
        ideas = max(0, len(scores) - 1)
        return sum(map(len, scores.values())) - ideas - self.rule.baseline_runs >= SETTLING_SHARE * ideas

    def unsettled(self) -> list[Trial]:
        """Trials that are not decided and have no run under way, the one that looks best first."""
        scores = self.store.scores_now()
        found = [
            trial
            for trial in self.store.running_now()
            if trial.number and trial.number in scores
            if not {"queued", "running"} & {run.state for run in self.store.runs_now(trial.number)}
        ]
        return sorted(found, key=lambda trial: fmean(scores[trial.number].values()))

    def settle(self, last: bool = False) -> bool:
        """Gives the unsettled trial that looks best its next runs. False where none needs any. last: since the night
        ends, only as many are measured as there are idle workers, and the others are dropped."""
        unsettled = self.unsettled()
        idle = max(1, self.workers - len(self.store.pending_runs())) if last else len(unsettled)
        for trial in unsettled[idle:]:
            self._judge_trial(trial, "drop")
        return any(self._judge_trial(trial, "measure") for trial in unsettled[:idle])

    def take_back(self) -> None:
        """Where the fresh runs of a night's end say that what stands is no better than the baseline, that stands
        again: that costs nothing now, and later all that would have been built upon it."""
        standing, baseline = self.store.study(), self._trial(0)
        incumbent = int(standing["incumbent"])
        fresh = self._fresh(incumbent)
        if incumbent == 0 or (gain := contradiction(fresh, self._fresh(0))) is None:
            return
        why = (
            f"{words.count(len(fresh), 'fresh run')} of trial {incumbent} and of the baseline say that it is no better "
            f"({words.improvement(gain, metric=self.folder.metric)})"
        )
        keeps, runs = self.store.standing_keeps(), self.store.runs_at_close()
        assert baseline.commit is not None
        for trial in keeps:
            assert trial.commit is not None
            reason, ended = f"{trial.reason}{TAKEN_BACK}{why}", runs[trial.number]
            gain_then = messages.gain_then(trial)
            message = messages.tag_message(trial, trial.state, "discard", reason, gain_then, ended, self.folder.metric)
            self.workspace.tag(trial.number, trial.commit, message, messages.last_moment(trial, ended))
        self.tell_of_git(self.workspace.move_incumbent(baseline.commit, standing["incumbent_commit"]))
        self.store.take_back(keeps, why, baseline.commit)
        self.observer.note(f"the baseline stands again: {why}")

    def _fresh(self, number: int) -> dict[int, float]:
        """Seed -> val_bpb of the runs that confirm."""
        runs = self.store.runs_now(number)
        return {run.seed: run.val_bpb for run in runs if run.purpose == "confirmation" and run.val_bpb is not None}

    def _judge_trial(self, trial: Trial, unsure: Unsure = "wait") -> bool:
        """Whether it was closed or runs were queued for it."""
        queued = self._judge_by_runs(trial, unsure)
        return queued or self.store.trial_now(trial.number).state != "running"

    def _judge_by_runs(self, trial: Trial, unsure: Unsure) -> bool:
        """Whether runs were queued."""
        runs = self.store.runs_now(trial.number)
        if failed := next((run for run in runs if run.state == "failed"), None):
            self._close_failed(trial, failed)
            return False
        if stopped := next((run for run in runs if run.state == "stopped"), None):
            self._close(trial, "stopped", stopped.message)
            return False
        scores, noise = self.store.scores_now(), self.folder.noise()
        if trial.number == 0:
            self._close(trial, "complete", f"measured with {words.count(trial.n_runs, 'seed')}", noise=noise)
            return False
        if trial.number not in scores:
            self._close(trial, "abandoned", f"cancelled before it was measured: {runs[-1].message}")
            return False
        reference = trial.parent
        assert reference is not None
        if reference not in scores or self._trial(reference).state == "running":
            return False  # the baseline is not measured yet
        decision = decide(scores[trial.number], scores[reference], noise, self.rule, self._waiting_for(reference))
        if self._is_overtaken(trial):
            return self._judge_overtaken(trial, decision, noise, unsure)
        if decision.action == "replicate":
            return self._go_on(trial, reference, decision, decision.comparison, noise, unsure)
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
        return False

    def _waiting_for(self, reference: int) -> int:
        """Trials that are judged against this one just now, and have a run to be judged by."""
        scores = self.store.scores_now()
        return sum(trial.parent == reference and trial.number in scores for trial in self.store.running_now())

    def _is_overtaken(self, trial: Trial) -> bool:
        """Whether the recipe that it changed stands no more."""
        return self.rule.reference == "incumbent" and trial.parent != self.reference

    def _judge_overtaken(self, trial: Trial, at_parent: Decision, noise: Noise, unsure: Unsure) -> bool:
        """The recipe that it changed stands no more. What is better than the one that stands takes its place, and the
        other's change is made again on it; what helped where it was made is made again on the one that stands; the
        rest gets no further run, since new ideas are worth more."""
        stands, scores = self._trial(self.reference), self.store.scores_now()
        decision = decide(scores[trial.number], scores[stands.number], noise, self.rule)
        if decision.action == "replicate":
            return self._go_on(trial, stands.number, decision, at_parent.comparison, noise, unsure)
        verdict: Literal["keep", "discard"] | None = "discard"
        merge, carried, gain = None, None, messages.gain_of(at_parent.comparison)
        if decision.action == "keep":
            reason = f"{decision.reason}: better than trial {stands.number}'s recipe, which stood by then"
            verdict, merge = "keep", self._merge(trial, at_parent.comparison)
            carried = messages.carried(stands, messages.gain_then(stands), trial, self.folder.metric)
        elif at_parent.action == "keep" and (carried := messages.carried(trial, gain, stands, self.folder.metric)):
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
        return False

    def _go_on(
        self, trial: Trial, reference: int, decision: Decision, at_parent: Comparison, noise: Noise, unsure: Unsure
    ) -> bool:
        """More runs, at once where a few will settle the best that there is. What would take many waits: a new idea may
        be worth more, and where it is, nobody has to know whether this one helped; so do those that another one will
        overtake. at_parent: what is told of it if it closes."""
        result = decision.comparison
        if unsure == "drop":
            reason = f"{decision.reason}, but others look better"
            self._close(trial, "complete", reason, decision="discard", comparison=at_parent, noise=noise)
            return False
        gain = result.improvement - self.rule.min_improvement
        will_take_many = gain < SOON_SETTLED * result.stderr and self.ideas_come_first
        if unsure == "wait" and (will_take_many or not self._looks_best(trial)):
            return False
        return self._replicate(trial, reference, decision, at_parent, noise)

    def _looks_best(self, trial: Trial) -> bool:
        """Of all that is not decided yet."""
        scores = self.store.scores_now()
        open_ones = [scores[other.number] for other in self.store.running_now() if other.number in scores]
        return fmean(scores[trial.number].values()) <= min(fmean(runs.values()) for runs in open_ones)

    def _replicate(self, trial: Trial, reference: int, decision: Decision, at_parent: Comparison, noise: Noise) -> bool:
        runs: list[tuple[int, int, Purpose]] = []
        if decision.candidate_runs:
            runs.append((trial.number, seeds.next_shared(self.store, trial), "candidate"))
        known = self.store.runs_now(reference)
        on_their_way = sum(run.state in ("queued", "running") for run in known)
        if sum(run.state == "failed" for run in known) < MAX_FAILED_REFERENCE_RUNS:
            wanted = decision.reference_runs
            if self.workers > 1:  # What a keep asks of it, at once: one after the other, a keep would wait twice.
                wanted = max(wanted, self.rule.reference_runs - len(self.store.scores_now()[reference]))
            missing = max(0, wanted - on_their_way)
            runs += [(reference, seed, "reference") for seed in seeds.fresh(self.store, reference, missing)]
        if not runs and not on_their_way:
            reason = f"{decision.reason}, but runs of trial {reference} keep failing"
            self._close(trial, "complete", reason, decision="discard", comparison=at_parent, noise=noise)
        self.store.queue_runs(runs)
        return bool(runs)

    def _leads(self, number: int, scores: Mapping[int, Runs]) -> bool:
        """Whether a kept recipe becomes the incumbent: always when it was measured against it."""
        standing = self.store.study()["incumbent"]
        return self.rule.reference == "incumbent" or fmean(scores[number].values()) < fmean(scores[standing].values())

    def _merge(self, trial: Trial, comparison: Comparison) -> str:
        assert trial.commit is not None
        runs, before = self.store.runs_now(trial.number), self._trial(trial.parent or 0).recipe
        message = messages.merge_message(trial, before, messages.gain_of(comparison), runs, self.folder.metric)
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
        ended, gain = self.store.runs_now(trial.number), messages.gain_of(comparison) if comparison else None
        message = messages.tag_message(trial, state, decision, reason, gain, ended, self.folder.metric)
        self.workspace.tag(trial.number, trial.commit, message, messages.last_moment(trial, ended))
        if merge_commit:
            self.tell_of_git(self.workspace.move_incumbent(merge_commit))
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

    def tell_of_git(self, found: Iterable[str]) -> None:
        for text in found:
            self.store.log("git", text)
            self.observer.note(text)

    def _trial(self, number: int) -> Trial:
        return self.store.trial_now(number)
