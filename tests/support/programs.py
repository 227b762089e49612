"""Tiny programs of somebody's own, which know nothing of this project, and studies over them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from studies import MACHINE

from autoresearch.config import LimitSettings
from autoresearch.night.limits import StopRule
from autoresearch.night.loop import StudyLoop
from autoresearch.night.watch import Watch
from autoresearch.proposers.classic import ScriptedProposer
from autoresearch.study.folder import StudyFolder, create_own_study
from autoresearch.study.observer import Observer, Observers
from autoresearch.study.requests import start_workers

PYTHON = sys.executable
MENU = """\
[knobs.lr]
type = "float"
low = 1e-4
high = 1.0
scale = "log"
default = 0.01
doc = "step size"

[knobs.depth]
type = "int"
choices = [2, 4, 8]
default = 4

[knobs.kind]
type = "str"
choices = ["plain", "fancy one"]
default = "plain"

[knobs.wide]
type = "bool"
default = false
"""
# The score that every program of the tests tells: best at lr 0.1, a little by depth, and by the seed.
SCORE = "abs(math.log10(LR / 0.1)) + 0.01 * DEPTH + 0.001 * (SEED % 7) + (KIND == 'fancy one') + 2 * WIDE"
CONSTANTS = f'''\
"""A stranger's script."""
import math, os, time
# Rates
LR = 0.01      # step size; keep the comment
DEPTH: int = 2 ** 2
KIND = ("plain")
WIDE = False
SEED = 1337
NAME = "ünïcode"; OTHER = 1

score = {SCORE}
print("step 1 of 1")
print(f"val_bpb:          {{score:.6f}}")
'''
ARGUMENTS = f"""\
import argparse, json, math, os, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
parser.add_argument("--depth", type=int)
parser.add_argument("--kind")
parser.add_argument("--wide", type=lambda text: text == "true")
given = parser.parse_args()
LR, DEPTH, KIND, WIDE = given.lr, given.depth, given.kind, given.wide
SEED = int(os.environ["AUTORESEARCH_SEED"])
score = {SCORE}
"""
SHELL = """\
#!/bin/sh
# A program that is no Python: it reads its knobs from the environment.
echo "seed $AUTORESEARCH_SEED budget $AUTORESEARCH_BUDGET" >&2
echo "loss = 0.5 at lr $LR"
echo "final accuracy was $DEPTH.25 percent"
"""


def script(folder: Path, text: str, name: str = "train.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def make_own_study(
    home: Path, trainer: dict[str, Any], menu: str = MENU, name: str = "own", **overrides: Any
) -> StudyFolder:
    """`decision__max_runs=4` overrides max_runs in [decision]. Nights end without runs that confirm, unless asked."""
    overrides = {"decision__confirmation_runs": 0, "decision__baseline_runs": 2, **overrides}
    settings = {key.replace("__", "."): value for key, value in overrides.items()}
    return create_own_study(home, name, trainer, menu, "menu.toml", settings)


class Notes(Observer):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def run_own_study(folder: StudyFolder, answers: list[str]) -> list[str]:
    """One night with the workers that the study asks for. Returns what the person was told."""
    notes, launcher = Notes(), start_workers(folder, MACHINE)
    observers = Observers([notes, Watch(folder, notes.note)])
    stop = StopRule(folder, LimitSettings(min_free_disk_bytes=0))
    try:
        StudyLoop(folder, launcher, ScriptedProposer(answers), MACHINE, folder.path, stop, observers).run()
    finally:
        launcher.close()
    return notes.said
