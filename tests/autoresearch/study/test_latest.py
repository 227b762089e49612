"""What is kept of trials and scores between two looks is what the database says, whoever has written it."""

from __future__ import annotations

from pathlib import Path

import pytest
from studies import GOOD, change, make_study, query, run_study

from autoresearch.decide import pool_noise
from autoresearch.evidence.meters import Verdicts, meters_of
from autoresearch.study.folder import StudyFolder
from autoresearch.study.observer import Observer
from autoresearch.trial import Run, Trial
from trainer.protocol import RunResult

ANSWERS = [
    change("lr", GOOD), change("lr", GOOD), change("beta1", 0.5), change("n_layer", 1), "no JSON", change("n_head", 3),
    *(change("lr", 0.004 + 0.0001 * step) for step in range(1, 8)), *[change("d_ff", 1024)] * 6,
]  # fmt: skip


class Looks(Observer):
    """Compares, at all that happens, what is kept with what is read anew."""

    def __init__(self, folder: StudyFolder) -> None:
        self.folder, self.verdicts, self.verdicts_seen = folder, Verdicts(folder), set[str]()

    def look(self) -> None:
        store = self.folder.store
        assert store.trials_now() == store.trials()
        assert store.measurements_now() == store.measurements()
        assert [*store.scores_now().items()] == [*store.scores().items()]
        assert self.folder.noise() == pool_noise(store.scores().values(), self.folder.settings.decision)

    def run_started(self, run: Run, trial: Trial) -> None:
        self.look()

    def run_finished(self, run: Run, result: RunResult) -> None:
        self.look()

    def trial_closed(self, trial: Trial) -> None:
        self.look()
        meters = meters_of(self.folder)
        assert self.verdicts.now() == (meters.verdict, meters.why)
        self.verdicts_seen.add(meters.verdict)


@pytest.mark.parametrize("workers", [1, 3])
def test_at_each_step_of_a_night_what_is_kept_is_what_the_database_says(tmp_path: Path, workers: int) -> None:
    folder = make_study(tmp_path / "home", decision__max_runs=3)
    looks = Looks(folder)
    run_study(folder, ANSWERS, workers=workers, observer=looks)
    assert looks.verdicts_seen >= {"researching", "flailing"}
    assert {trial.outcome for trial in folder.store.trials()} >= {"keep", "discard", "blocked", "failed"}


def test_what_another_connection_wrote_is_seen(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "home")
    run_study(folder, [change("lr", GOOD)])
    before = folder.store.scores_now()
    query(folder, "UPDATE runs SET val_bpb = val_bpb + 1 WHERE trial = 1")
    query(folder, "UPDATE trials SET reason = 'otherwise' WHERE number = 1")
    assert folder.store.trials_now()[1].reason == "otherwise"
    assert folder.store.scores_now()[1] == {seed: value + 1 for seed, value in before[1].items()}


def test_what_a_transaction_took_back_is_not_kept(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "home")
    run_study(folder, [change("lr", GOOD)])
    before = folder.store.trials_now()
    with pytest.raises(RuntimeError), folder.store.db.atomic():
        folder.store.db.execute("UPDATE trials SET reason = 'otherwise'")
        raise RuntimeError("the disk is full")
    assert folder.store.trials_now() == before == folder.store.trials()


def test_scores_are_the_same_object_until_a_run_is_complete(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "home")
    run_study(folder, [change("lr", GOOD)])
    scores = folder.store.scores_now()
    folder.store.queue_runs([(1, 99, "reference")])
    folder.store.log("note", "nothing to do with it")
    assert folder.store.scores_now() is scores
