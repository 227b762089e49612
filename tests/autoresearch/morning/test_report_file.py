"""The report page as a file: its size, its policy, and that the same study makes the same page."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from report_speed import make_study as make_long_study
from sample_study import HOSTILE, WORDS

from autoresearch.morning.report.detail import details
from autoresearch.morning.report.facts import facts
from autoresearch.morning.report.page import page
from autoresearch.study.folder import StudyFolder


def packed(text: str, name: str) -> Any:
    """What lies in the page under a name, and what it says as it was written."""
    found = re.search(rf'id="{name}" type="application/octet-stream">([^<]*)<', text)
    assert found
    return json.loads(gzip.decompress(base64.b64decode(found[1])))


def test_five_hundred_trials_with_long_prompts_stay_under_three_megabytes(tmp_path: Path) -> None:
    folder = make_long_study(tmp_path, 500, prompt_bytes=20_000)
    found = details(folder)
    text = page(facts(folder), found)
    assert len(text.encode()) < 3_000_000
    unpacked = packed(text, "details")
    prompts = {number: detail.prompt for number, detail in found.items() if detail.prompt is not None}
    assert len(prompts) > 400 and unpacked["prompts"].keys() == {str(number) for number in prompts}
    last = max(prompts)
    assert "\n".join(unpacked["lines"][i] for i in unpacked["prompts"][str(last)]) == prompts[last]


def test_the_policy_names_the_scripts_by_hash_and_forbids_eval_and_other_hosts(hostile_night: StudyFolder) -> None:
    text = page(facts(hostile_night), details(hostile_night))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy and "unsafe-eval" not in policy[1] and "http" not in policy[1]
    scripts = re.findall(r'<script(?: type="module")?>(.*?)</script>', text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = re.search(r"script-src ([^;]*);", policy[1])
    assert allowed and allowed[1] == " ".join(f"'sha256-{digest}'" for digest in hashes)
    assert [evil for evil in (HOSTILE, WORDS, "<img src=x") if evil in text] == []
    for name in ("facts", "details"):
        assert "<img src=x onerror" in json.dumps(packed(text, name)), "it is there, but packed"


def test_the_same_study_makes_the_same_bytes(hostile_night: StudyFolder) -> None:
    first, second = (page(facts(hostile_night), details(hostile_night)) for _ in range(2))
    assert first == second


def test_half_a_surrogate_pair_in_a_log_does_not_stop_the_report(hostile_night: StudyFolder) -> None:
    found = details(hostile_night)
    object.__setattr__(found[1], "source", "\ud83d")
    assert packed(page(facts(hostile_night), found), "details")["trials"]["1"]["source"] == "?"
