"""When the night asks ahead."""

from __future__ import annotations

import pytest

from autoresearch.night.ahead import FIRST_SECONDS, MARGIN, Ahead
from autoresearch.workers.launcher import Progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def progress(run: str, step: int) -> Progress:
    return Progress(run, "train", step, 100, None)


def test_a_question_is_asked_when_an_answer_takes_as_long_as_the_run_that_ends_first(clock: Clock) -> None:
    ahead = Ahead(clock)
    assert not ahead.is_time(), "no run is in flight"
    for step in range(0, 101, 10):  # a step a second
        clock.now = float(step)
        ahead.progress(progress("0001-0", step))
        assert ahead.is_time() == (step > 0 and 100 - step <= MARGIN * FIRST_SECONDS)
    ahead.ended("0001-0")
    assert not ahead.is_time()


def test_what_is_learned_of_answers_moves_the_question(clock: Clock) -> None:
    ahead = Ahead(clock)
    ahead.answered(40.0)
    for step in (0, 50):
        clock.now = float(step)
        ahead.progress(progress("0001-0", step))
    assert ahead.is_time()
    ahead.answered(1.0)
    assert not ahead.is_time()
    ahead.progress(progress("0002-0", 98))
    clock.now += 1
    ahead.progress(progress("0002-0", 99))
    assert ahead.is_time(), "the second run ends in a second"


def test_a_proposal_that_no_model_made_teaches_nothing(clock: Clock) -> None:
    ahead = Ahead(clock)
    ahead.answered(40.0)
    ahead.answered(0.0)
    for step in (0, 50):
        clock.now = float(step)
        ahead.progress(progress("0001-0", step))
    assert ahead.is_time(), "the model will be asked again"
