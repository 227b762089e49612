"""The report page as a file: its size, its policy, and that the same facts make the same page."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re

from sample_facts import HOSTILE, sample

from autoresearch.morning.report.page import page


def test_five_hundred_trials_with_long_prompts_stay_under_three_megabytes() -> None:
    facts, details = sample(500, prompt_bytes=20_000, curve_points=100)
    text = page(facts, details)
    assert len(text.encode()) < 3_000_000
    packed = re.search(r'id="details" type="application/octet-stream">([^<]*)<', text)
    assert packed
    unpacked = json.loads(gzip.decompress(base64.b64decode(packed[1])))
    lines = [unpacked["lines"][i] for i in unpacked["trials"]["400"]["prompt"]]
    assert "\n".join(lines) == details[400]["prompt"]


def test_the_policy_names_the_scripts_by_hash_and_forbids_eval_and_other_hosts() -> None:
    text = page(*sample(3))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy and "unsafe-eval" not in policy[1] and "http" not in policy[1]
    scripts = re.findall(r'<script(?: type="module")?>(.*?)</script>', text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = re.search(r"script-src ([^;]*);", policy[1])
    assert allowed and allowed[1] == " ".join(f"'sha256-{digest}'" for digest in hashes)
    assert HOSTILE not in text


def test_the_same_facts_make_the_same_bytes() -> None:
    assert page(*sample(5)) == page(*sample(5))
