"""A real night on two nodes, one of which is killed in the middle and comes back: python benchmarks/cluster_night.py.

Two studies of preset cpu-nano with the same seed, proposals drawn at random, 12 trials each, by the command line, on
a Ray cluster of two nodes on this machine with a slot each. The first is left alone. In the second the other node is
killed after a dozen runs and comes back once the night has noticed. Then each run of the one is laid beside the
run of the other with the same recipe and seed. Needs what the tests need.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from clusters import TwoNodes, two_nodes  # noqa: E402  # after the path

RUNS = "SELECT recipe, seed, runs.val_bpb FROM runs JOIN trials ON number = trial WHERE runs.val_bpb IS NOT NULL"
FACTS = "SELECT number, changes, state, decision FROM trials ORDER BY number"
TOLD = "SELECT message FROM events WHERE kind IN ('workers', 'worker_lost') ORDER BY id"
WORKERS = """
[workers]
launcher = "ray"
address = "{address}"
cpus = 1
"""


def autoresearch(home: Path, *words: str) -> list[str]:
    os.environ["AUTORESEARCH_HOME"] = str(home)
    return [sys.executable, "-m", "autoresearch", *words]


def make(home: Path, name: str, address: str) -> Path:
    """A study on the cluster; returns its database."""
    init = ("init", name, "--preset", "cpu-nano", "--proposer", "random", "--seed", "3")
    subprocess.run(autoresearch(home, *init), check=True, stdout=subprocess.DEVNULL)
    settings = home / name / "study.toml"
    head, _, rest = settings.read_text("utf-8").partition("[workers]")
    after = "\n[" + rest.partition("\n[")[2] if "\n[" in rest else ""
    settings.write_text(head + WORKERS.format(address=address) + after, encoding="utf-8")
    return home / name / "study.db"


def ask(database: Path, question: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        return db.execute(question).fetchall()


def wait_for(database: Path, question: str, night: subprocess.Popen[bytes]) -> None:
    while night.poll() is None and not ask(database, question):
        time.sleep(0.5)


def night(home: Path, name: str, nodes: TwoNodes, trials: int, disturbed: bool) -> tuple[Path, float]:
    """Runs one; returns its database and its seconds."""
    database, began = make(home, name, nodes.cluster.address), time.monotonic()
    running = subprocess.Popen(autoresearch(home, "run", name, "--trials", str(trials)), stdout=subprocess.DEVNULL)
    if disturbed:
        wait_for(database, f"SELECT 1 FROM runs WHERE state = 'complete' LIMIT 1 OFFSET {trials - 1}", running)
        nodes.kill(nodes.other)
        print("the other node is killed", flush=True)
        wait_for(database, "SELECT 1 FROM events WHERE message LIKE '%is lost%'", running)
        nodes.other = nodes.add()
        print("and is there again", flush=True)
    if running.wait() != 0:
        sys.exit(f"night {name} has failed")
    return database, time.monotonic() - began


def runs(database: Path) -> dict[tuple[str, int], float]:
    """Recipe and seed -> val_bpb."""
    return {
        (json.dumps(json.loads(recipe), sort_keys=True), seed): score for recipe, seed, score in ask(database, RUNS)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, two_nodes(as_driver=False) as nodes:
        calm, seconds = night(Path(home), "calm", nodes, chosen.trials, disturbed=False)
        print(f"undisturbed: {len(runs(calm))} runs in {seconds:.0f} s", flush=True)
        rough, seconds = night(Path(home), "rough", nodes, chosen.trials, disturbed=True)
        print(f"disturbed: {len(runs(rough))} runs in {seconds:.0f} s", flush=True)
        for (text,) in ask(rough, TOLD):
            print(f"  {text}")
        one, other = runs(calm), runs(rough)
        both = one.keys() & other.keys()
        print(f"done in both nights: {len(both)}; equal to the last bit: {sum(one[k] == other[k] for k in both)}")
        same = sum(a == b for a, b in zip(ask(calm, FACTS), ask(rough, FACTS), strict=True))
        print(f"trials with the same change, state and decision: {same} of {chosen.trials + 1}")


if __name__ == "__main__":
    main()
