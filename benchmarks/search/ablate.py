"""What each part of the language model's proposer is worth, asked of whatever model the environment names.

    OPENAI_BASE_URL=http://localhost:8000/v1 AUTORESEARCH_MODEL=NAME python -m benchmarks.search.ablate

Every arm has the same nights and as many runs, through the study loop, where a surrogate answers instead of a training.
A night waits for the model: its runs take no time here, so runs, and not the model's seconds, are what is equal.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from threadpoolctl import threadpool_limits

from autoresearch.config import ProposerSettings
from autoresearch.distill.race.paired import Figure, wilcoxon
from autoresearch.errors import UserError
from autoresearch.proposers import make_proposer
from autoresearch.proposers.classic import RandomProposer
from autoresearch.proposers.completion import NoAnswer
from autoresearch.proposers.llm import LlmProposer
from autoresearch.proposers.share import MODEL, share
from autoresearch.study.folder import StudyFolder, create_study
from autoresearch.trial import NOT_ASKED_FOR, Attempt
from rails import Value
from rails.gate import RAILS

from .ground import PRESET, the_space
from .night import MACHINE, MEMORY, AtOnce, Standing, World, simulate_in
from .results import as_table, p_text
from .surrogate import KINDS, Recorded, fit
from .table import recorded

REFERENCE = "gp"
ARMS = {
    REFERENCE: ProposerSettings(name="gp"),
    "random": ProposerSettings(name="random"),
    "llm": ProposerSettings(name="llm"),
    "llm, no lineage": ProposerSettings(name="llm", lineage=False),
    "hybrid": ProposerSettings(name="hybrid"),
    "hybrid, no lineage": ProposerSettings(name="hybrid", lineage=False),
    "hybrid, lessons": ProposerSettings(name="hybrid", reflect=True),
    "hybrid, temperature 0": ProposerSettings(name="hybrid", temperature=0),
    "hybrid, temperature 1.2": ProposerSettings(name="hybrid", temperature=1.2),
}
FORM = ("schema", "menu", "range")  # rails: what passes them is an answer in the form that was asked for
HALF, WHOLE = "val_bpb after half of the runs", "val_bpb after all runs"


class KnownWorld(World, Protocol):
    """A World whose truth is known."""

    def truth(self, recipe: Mapping[str, Value]) -> float:
        """The val_bpb that a recipe's runs scatter around."""


@dataclass(frozen=True)
class Night:
    """One night of one arm. None: there was nothing to measure, as in what a model that was not asked said."""

    arm: str
    night: int
    figures: dict[str, float | None]


def run(world: KnownWorld, arm: str, night: int, runs: int) -> Night:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as home:
        folder = create_study(Path(home), "night", PRESET, MACHINE, {"seed": night})
        try:
            proposer = AtOnce(make_proposer(ARMS[arm]))
            standings = simulate_in(folder, world, proposer, night, runs, workers=1)
            return Night(arm, night, {**_found(world, standings, runs), **_said(folder, ARMS[arm])})
        finally:
            folder.store.close()


def _found(world: KnownWorld, standings: Sequence[Standing], runs: int) -> dict[str, float | None]:
    """A night that ended early hands over the same for the rest of it."""
    half, whole = (standings[min(after, len(standings)) - 1] for after in (runs // 2, runs))
    return {HALF: world.truth(half.recipe), WHOLE: world.truth(whole.recipe)}


def _said(folder: StudyFolder, settings: ProposerSettings) -> dict[str, float | None]:
    store = folder.store
    trials = store.trials()
    changed = Counter(knob for trial in trials if trial.proposer == MODEL for knob in trial.changes)
    touched = {knob for trial in trials if trial.proposer not in NOT_ASKED_FOR for knob in trial.changes}
    answers = [attempt for attempts in store.attempts().values() for attempt in attempts]

    def mean(of: Callable[[Attempt], float | None]) -> float | None:
        known = [value for answer in answers if (value := of(answer)) is not None]
        return fmean(known) if known else None

    rails = Counter(answer.rail for answer in answers)
    blocked = {f"blocked by {rail}": rails[rail] / len(answers) if answers else None for rail in RAILS}
    reflections = [found for trial in trials if (found := store.reflection(trial.number))]
    unanswered = [event for event in store.events_of("proposer") if "does not answer" in event["message"]]
    return {
        "keeps": sum(trial.decision == "keep" for trial in trials),
        "trials": len(trials) - 1,  # without the baseline
        "trials of the model": sum(trial.proposer == MODEL for trial in trials),
        "share left to the model": share(trials, settings.model_share) if settings.name == "hybrid" else None,
        "knobs touched": len(touched),
        "answers": len(answers),
        "valid": mean(lambda answer: answer.rail not in FORM),
        **blocked,
        "knobs of the model": len(changed) if answers else None,
        "bits of knobs": _entropy(changed) if changed else None,
        "seconds an answer": mean(lambda answer: answer.latency_seconds),
        "tokens read": mean(lambda answer: answer.prompt_tokens),
        "tokens written": mean(lambda answer: answer.completion_tokens),
        "asked for lessons": len(reflections),
        "lessons": sum(len(found.lessons) for found in reflections),
        "without an answer": len(unanswered),
    }


def _entropy(counts: Counter[str]) -> float:
    return -sum(n / counts.total() * math.log2(n / counts.total()) for n in counts.values())


# --- over nights ---


@dataclass(frozen=True)
class Row:
    """One arm. Figures are over the nights that have one, each night with the same weight; None: no night has."""

    arm: str
    nights: int
    figures: dict[str, Figure | None]
    against: Figure | None  # val_bpb after all runs, minus the reference's in the same nights; None: they are not there
    p: float | None  # of the same, paired Wilcoxon
    val_bpb: list[float | None]  # after all runs, of each night


def rows(nights: Sequence[Night]) -> list[Row]:
    """In the order of ARMS."""
    by_arm = {arm: {night.night: night.figures for night in nights if night.arm == arm} for arm in ARMS}
    return [_row(arm, group, by_arm[REFERENCE]) for arm, group in by_arm.items() if group]


def _row(arm: str, nights: Mapping[int, Mapping[str, Any]], reference: Mapping[int, Mapping[str, Any]]) -> Row:
    names = list(next(iter(nights.values())))
    values = {name: [nights[n][name] for n in sorted(nights) if nights[n][name] is not None] for name in names}
    shared = sorted(nights.keys() & reference.keys()) if arm != REFERENCE else []
    gaps = np.array([nights[n][WHOLE] - reference[n][WHOLE] for n in shared])
    return Row(
        arm,
        len(nights),
        {name: Figure.of(np.array(known, float)) if known else None for name, known in values.items()},
        Figure.of(gaps) if shared else None,
        wilcoxon(gaps) if shared else None,
        [nights[n][WHOLE] for n in sorted(nights)],
    )


def as_markdown(found: Sequence[Row], runs: int) -> str:
    """What each arm found, and what the model said, as two tables."""
    heading = ["arm", f"{runs // 2} runs", f"{runs} runs", f"against {REFERENCE}", "p", "keeps", "knobs touched"]
    table = [[*heading, "trials", "of the model", "share left to it"]]
    for row in found:
        of = row.figures
        table.append(
            [
                row.arm, _cell(row, of[HALF], 4), _cell(row, of[WHOLE], 4), _cell(row, row.against, 4),
                "-" if row.p is None else p_text(row.p), _cell(row, of["keeps"], 1), _cell(row, of["knobs touched"], 1),
                _cell(row, of["trials"], 1), _cell(row, of["trials of the model"], 1),
                _cell(row, of["share left to the model"], 2),
            ]
        )  # fmt: skip
    asked = [row for row in found if row.figures["valid"]]
    text = as_table(table)
    return f"{text}\n{as_table(_answers(asked))}" if asked else text


def _answers(found: Sequence[Row]) -> list[list[str]]:
    columns = {
        "answers": 1, "valid": 3, "knobs of the model": 1, "bits of knobs": 2, "seconds an answer": 2, "tokens read": 0,
        "tokens written": 0, "asked for lessons": 1, "lessons": 1,
    }  # fmt: skip
    rails = [rail for rail in RAILS if any((of := row.figures[f"blocked by {rail}"]) and of.mean for row in found)]
    columns |= {f"blocked by {rail}": 3 for rail in rails}
    table = [["arm", *columns]]
    return table + [[row.arm, *(_cell(row, row.figures[name], n) for name, n in columns.items())] for row in found]


def _cell(row: Row, figure: Figure | None, digits: int) -> str:
    """One night has no interval."""
    if figure is None:
        return "-"
    return f"{figure.mean:.{digits}f}" + (f" ± {figure.half:.{digits}f}" if row.nights > 1 else "")


# --- the command ---


def asked() -> str:
    """The model that the environment names, and what its endpoint can do. Raises UserError where there is none."""
    if not (os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_KEY")):
        raise UserError(
            "no language model is configured: set OPENAI_BASE_URL and AUTORESEARCH_MODEL, and OPENAI_API_KEY where a "
            f"key is wanted, or choose arms without a model (--arm {REFERENCE} --arm random)"
        )
    forms = LlmProposer(ProposerSettings(name="llm"), RandomProposer()).forms
    try:
        return f"{forms.whose}: {forms.look()}"
    except NoAnswer as error:
        raise UserError(
            f"{forms.whose} does not answer ({error}): see that it runs and that OPENAI_BASE_URL is right"
        ) from None


def ended(world: KnownWorld, arms: Sequence[str], nights: int, runs: int, at_once: int) -> Iterator[Night]:
    """As they end; the first night of every arm is begun before the second of any."""
    with threadpool_limits(1), ThreadPoolExecutor(at_once) as pool:
        jobs = [pool.submit(run, world, arm, night, runs) for night in range(nights) for arm in arms]
        try:
            for job in as_completed(jobs):
                yield job.result()
        finally:
            pool.shutdown(cancel_futures=True)


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--nights", type=int, default=6, help="of each arm (default 6)")
    options.add_argument("--runs", type=int, default=60, help="of each night (default 60)")
    options.add_argument("--surrogate", choices=list(KINDS), default=next(iter(KINDS)), help="(default smooth)")
    options.add_argument("--arm", action="append", choices=list(ARMS), help="only this one, and such others")
    options.add_argument("--at-once", type=int, default=1, help="nights that run side by side (default 1)")
    options.add_argument("--out", type=Path, help="JSON file of the figures, written after each night")
    chosen = options.parse_args(arguments)
    arms = [arm for arm in ARMS if not chosen.arm or arm in chosen.arm]
    try:
        model = asked() if any(ARMS[arm].name in ("llm", "hybrid") for arm in arms) else None
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

    space = the_space()
    world = fit(chosen.surrogate, space, Recorded.of(space, recorded()))
    nights: list[Night] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    jobs = ended(world, arms, chosen.nights, chosen.runs, chosen.at_once)
    with Progress(*columns, console=Console(stderr=True)) as bar, suppress(KeyboardInterrupt):
        for night in bar.track(jobs, len(arms) * chosen.nights, description="nights"):
            nights.append(night)
            if chosen.out:
                told = {"model": model, "surrogate": chosen.surrogate, "runs": chosen.runs}
                told["arms"] = [asdict(row) for row in rows(nights)]
                chosen.out.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    if model:
        print(f"{model}\n")
    print(as_markdown(rows(nights), chosen.runs), end="")
    if silent := sum(night.figures["without an answer"] or 0 for night in nights):
        print(f"\nThe model did not answer {silent} times: what was proposed instead is in the figures of its arms.")


if __name__ == "__main__":
    main()
