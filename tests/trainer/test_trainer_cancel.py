"""Cancelling a run: it ends between two steps with what it has, and the worker goes on as if it had not been."""

from collections.abc import Callable

import pytest
from worker_process import Worker

from trainer.protocol import RunRequest, RunResult, cancel_line, cancelled_run
from trainer.run import execute

RequestFor = Callable[..., RunRequest]
NewWorker = Callable[..., Worker]

FOREVER = {"steps": 10_000_000}


def ignore(*_: object) -> None: ...


def test_a_cancelled_run_ends_between_two_steps_with_its_curve_so_far_and_the_worker_stays_warm(
    new_worker: NewWorker, warm_worker: Worker, request_for: RequestFor
) -> None:
    fresh = new_worker().run(request_for(score_test=True))
    request = request_for(budget=FOREVER)
    warm_worker.submit(request)
    warm_worker.events_until("progress")
    warm_worker.cancel(request.run_id)
    assert warm_worker.events_until("done")[-1] == {
        "event": "done", "run_id": request.run_id, "state": "cancelled", "val_bpb": None,
    }  # fmt: skip
    result = RunResult.read(request.result_path)
    assert (result.state, result.failure, result.val_bpb, result.test_bpb) == ("cancelled", None, None, None)
    assert result.steps and result.tokens == result.steps * 4 * 32
    assert result.curve[-1][0] == result.steps and result.message == f"cancelled after step {result.steps}"
    assert result.train_seconds and result.total_seconds and result.total_seconds > result.train_seconds
    assert result.cpu_seconds and result.peak_memory_bytes

    after = warm_worker.run(request_for(score_test=True))
    assert (after.val_bpb, after.test_bpb, after.curve) == (fresh.val_bpb, fresh.test_bpb, fresh.curve)


@pytest.mark.parametrize("last", [1, 7])
def test_a_cancelled_run_leaves_the_beginning_of_what_the_whole_run_leaves(request_for: RequestFor, last: int) -> None:
    steps: list[int] = []
    whole = execute(request_for(), ignore)
    cut = execute(request_for(), lambda phase, step, *_: steps.append(step), lambda: steps[-1] == last)
    assert (whole.state, whole.steps, cut.state, cut.steps) == ("complete", 20, "cancelled", last)
    assert cut.curve == whole.curve[:last]


def test_a_run_stops_by_itself_at_the_first_point_where_it_is_behind_and_only_there(request_for: RequestFor) -> None:
    whole = execute(request_for(), ignore)
    losses = [loss for _, loss in whole.curve]
    at_half, later = sum(losses[8:10]) / 2, sum(losses[12:14]) / 2  # a tenth of twenty steps are two
    ahead = execute(request_for(stop_above=[[0.5, at_half + 1e-4], [0.7, later + 1e-4]]), ignore)
    assert (ahead.state, ahead.val_bpb, ahead.curve) == ("complete", whole.val_bpb, whole.curve)
    behind = execute(request_for(stop_above=[[0.7, later - 1e-4], [0.5, at_half + 1e-4]]), ignore)
    assert (behind.state, behind.failure, behind.val_bpb, behind.steps) == ("stopped", None, None, 14)
    assert behind.curve == whole.curve[:14] and behind.train_seconds and behind.tokens == 14 * 4 * 32
    assert behind.message == f"stopped after 70% of its run: training loss {later:.4f} nats, above {later - 1e-4:.4f}"


@pytest.mark.parametrize("points", [[[0.5]], [[0.0, 5.0]], [[1.0, 5.0]], [["half", 5.0]], [[0.5, float("nan")]]])
def test_points_to_stop_at_that_mean_nothing_are_refused(request_for: RequestFor, points: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="stop_above"):
        request_for(stop_above=points)


def test_a_budget_in_seconds_has_no_points_to_stop_at(request_for: RequestFor) -> None:
    with pytest.raises(ValueError, match="stop_above"):
        request_for(budget={"seconds": 1.0}, stop_above=[[0.5, 5.0]])


@pytest.mark.parametrize("last", ["val", "test"])
def test_a_run_may_be_cancelled_while_it_is_scored(request_for: RequestFor, last: str) -> None:
    phases: list[str] = []
    whole = execute(request_for(score_test=True), ignore)
    cut = execute(request_for(score_test=True), lambda phase, *_: phases.append(phase), lambda: phases[-1] == last)
    assert (cut.state, cut.val_bpb, cut.test_bpb) == ("cancelled", None, None), "a part of a text is no score"
    assert (cut.steps, cut.curve) == (20, whole.curve) and cut.train_seconds and cut.tokens_per_second


def test_a_cancel_that_comes_too_late_or_for_nobody_harms_no_run(warm_worker: Worker, request_for: RequestFor) -> None:
    request = request_for()
    assert warm_worker.run(request).state == "complete"
    for run_id in (request.run_id, "nobody", ""):
        warm_worker.cancel(run_id)
    assert warm_worker.run(request).state == "complete", "the same run again: the word was for the one before"
    warm_worker.cancel("nobody")
    assert warm_worker.run(request_for()).state == "complete"


def test_a_run_that_waits_in_line_may_be_cancelled_too(warm_worker: Worker, request_for: RequestFor) -> None:
    first, second = request_for(budget=FOREVER), request_for(budget=FOREVER)
    for request in (first, second):
        warm_worker.submit(request)
    for request in (second, first):
        warm_worker.cancel(request.run_id)
    for request in (first, second):
        warm_worker.events_until("done")
        assert RunResult.read(request.result_path).state == "cancelled"
    assert warm_worker.run(request_for()).state == "complete"


@pytest.mark.parametrize("line", ["", "/runs/0001-0/request.json", "{half", '{"cancel": 3}', '["cancel"]', "7", "null"])
def test_a_line_that_asks_for_no_end_is_a_path(line: str) -> None:
    assert cancelled_run(line) is None
    assert cancelled_run(cancel_line(line)) == line
