"""A decoder of seconds: some steps on the example's night, which teach it nothing much."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

TRAJECTORY = Path(__file__).parents[2] / "trajectories" / "example" / "trajectory.jsonl"
FEW = ("--base", "scratch", "--steps", "6", "--batch", "4", "--evaluate-every", "2")


class TaughtHere(NamedTuple):
    corpus: Path
    decoder: Path


def line(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "autoresearch", *map(str, arguments)]


def teach(home: Path) -> TaughtHere:
    corpus, decoder = home / "corpus", home / "decoder"
    for arguments in (
        ("import", "example", TRAJECTORY, "--home", home),
        ("distill", "corpus", "example", "--out", corpus, "--force", "--home", home),
        ("distill", "train", corpus, "--out", decoder, *FEW),
    ):
        subprocess.run(line(*arguments), check=True, capture_output=True)
    return TaughtHere(corpus, decoder)
