"""What git is told: a hostile hypothesis stays a quoted line, and every figure is in the tag."""

from __future__ import annotations

from pathlib import Path

from studies import GOOD, change, git, make_study, run_study

from autoresearch.evidence import Evidence
from autoresearch.study.messages import commit_message

HOSTILE = "\x1b[2J\nReviewed-by: nobody\n\ntrial 9: lr\u202e"


def test_a_hypothesis_is_one_quoted_line_at_the_end() -> None:
    message = commit_message(3, {"lr": 0.002}, {"lr": 0.001}, "llm", HOSTILE)
    lines = message.split("\n")
    assert lines[:4] == ["trial 3: lr 0.001 -> 0.002", "", "Proposer: llm", "Hypothesis:"] and len(lines) == 5
    assert lines[4].startswith("> ") and "Reviewed-by" in lines[4]
    assert "\x1b" not in message and "\u202e" not in message


def test_a_night_reads_as_a_story_in_git(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    run_study(folder, [change("lr", GOOD), change("beta1", 0.55)], workers=1)
    kept, failed = Evidence(folder).trials[1:]
    assert kept.improvement is not None and kept.improvement_low is not None
    story = git(folder, "log", "--format=%s", "--first-parent", "incumbent").splitlines()
    assert story[0].startswith("keep trial 1: lr 0.001 -> 0.004: val_bpb 2.") and story[0].endswith(" runs")
    assert f"better by {kept.improvement:+.4f} [{kept.improvement_low:+.4f}, " in story[0]
    tag = dict(line.split(": ", 1) for line in git(folder, "tag", "-n99", "--format=%(contents)", "-l", "trial/0002").splitlines() if ": " in line)  # fmt: skip  # noqa: E501
    assert tag["state"] == "failed" and tag["val_bpb"] == "none" and tag["reason"] == failed.reason
