"""Scripts for tests, in git repositories of their own, and studies over them whose runs are the stub worker's."""

from __future__ import annotations

import subprocess
from pathlib import Path

from autoresearch.adopt.make import adopt
from autoresearch.study.folder import StudyFolder

# The knobs that the stub worker knows.
SCRIPT = """\
# what may be tuned
LR = 1e-3  # learning rate
N_LAYER = 4
D_FF = 512
WEIGHT_DECAY = 0.0
BETA1 = 0.9
BETA2 = 0.95
SEQ_LEN = 256
GRAD_CLIP = 1.0
# what stays
SEED = 1
print(f"val_bpb: {LR}")
"""


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a person", "-c", "user.email=person@example.org", "-c", "commit.gpgSign=false")
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def repository(folder: Path, text: str = SCRIPT, name: str = "train.py") -> Path:
    """A repository with this script on branch main; returns the script."""
    script = folder / name
    script.parent.mkdir(parents=True)
    script.write_bytes(text.encode("utf-8"))
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "data.bin").write_bytes(b"\0\1\2")
    commit(folder)
    return script


def commit(folder: Path, message: str = "as it is") -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)
    return git(folder, "rev-parse", "HEAD").strip()


def adopted(home: Path, script: Path, name: str = "one") -> StudyFolder:
    study = adopt(home, script, name).study
    settings = study.path / "study.toml"
    settings.write_text(settings.read_text("utf-8").replace("confirmation_runs = 5", "confirmation_runs = 0"), "utf-8")
    return StudyFolder(home, name)
