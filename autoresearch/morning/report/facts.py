"""Everything that a report says, as plain data in base units: `facts` of the study, `details` of each trial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import accumulate
from statistics import fmean, median
from typing import Any

from autoresearch import words
from autoresearch.evidence import Evidence, sentences
from autoresearch.evidence.longer_runs import longer_runs
from autoresearch.evidence.meters import measure
from autoresearch.facts import plain
from autoresearch.study.folder import StudyFolder, lock_holder
from autoresearch.trial import EPOCH, Run, Trial
from autoresearch.workers.energy import JOULES_PER_KWH
from rails import RAILS, clean
from rails.patch import unified_diff

MOST_CURVES = 8
CURVE_POINTS = 100
LOG_LINES = 5


def facts(folder: StudyFolder) -> dict[str, Any]:
    """What the page shows, but for what belongs to one trial alone. All text in it may be hostile."""
    evidence = Evidence(folder)
    meters = measure(evidence)
    promotions = longer_runs(folder)
    return plain(
        {
            "study": _study(evidence),
            "headline": sentences.headline(evidence, meters),
            "not_this": sentences.not_this(evidence, promotions),
            "warnings": sentences.warnings(evidence, meters),
            "baseline": evidence.standing(evidence.baseline),
            "incumbent": evidence.standing(evidence.incumbent),
            "noise": {
                "deviation": evidence.noise.deviation,
                "dof": evidence.noise.dof,
                "source": "measured" if evidence.measured_deviation[0] is not None else "assumed",
            },
            "meters": meters,
            "trials": _trials(evidence),
            "coverage": _coverage(evidence),
            "wall": _wall(evidence),
            "proposers": _proposers(evidence),
            "failures": _failures(evidence),
            "curves": _curves(evidence),
            "promotions": promotions,
        }
    )


def _study(evidence: Evidence) -> dict[str, Any]:
    folder, study = evidence.folder, evidence.study
    source = evidence.source
    devices = sorted({run.device for runs in evidence.runs.values() for run in runs if run.device})
    return {
        "name": study["name"],
        "preset": folder.settings.preset,
        "created_at": study["created_at"],
        "as_of": _as_of(evidence),
        "imported": {"format": source["format"], "file": clean(source["file"], 200)} if source else None,
        "control": study["control"],
        "running": lock_holder(folder.path / "runner.lock") is not None,
        "in_flight": [run.id for run in folder.store.pending_runs() if run.state == "running"],
        "budget": words.budget(evidence.budget) if evidence.budget else None,
        "devices": devices,
        "currency": folder.settings.energy.currency,
        "price_per_kwh": folder.settings.energy.price_per_kwh,
    }


def _as_of(evidence: Evidence) -> str | None:
    """When the last thing happened; of an import, when its last trial ended, None where the source does not tell."""
    if not evidence.imported:
        return str(evidence.folder.store.events(1)[-1]["at"])
    last = max(trial.finished_at or "" for trial in evidence.trials)
    return last if last > EPOCH else None


def _trials(evidence: Evidence) -> list[dict[str, Any]]:
    kwh = accumulate((trial.energy_joules or 0.0) / JOULES_PER_KWH for trial in evidence.trials)
    generations: dict[int, int] = {}
    rows = []
    for trial, standing, spent in zip(evidence.trials, evidence.bests, kwh, strict=True):
        parent = trial.parent
        generations[trial.number] = 0 if parent is None else generations[parent] + 1
        before = evidence.trials[parent].recipe if parent is not None else {}
        half = evidence.noise.half_width(trial.n_runs) if trial.val_bpb is not None and trial.n_runs else None
        rows.append(
            {
                "number": trial.number,
                "parent": parent,
                "generation": generations[trial.number],
                "proposer": trial.proposer,
                "knobs": [*trial.changes],
                "change": words.change(trial.changes, before),
                "state": trial.state,
                "outcome": trial.outcome,
                "rail": trial.rail,
                "reason": trial.reason,
                "hypothesis": trial.hypothesis,
                "val_bpb": trial.val_bpb,
                "low": trial.val_bpb - half if trial.val_bpb is not None and half is not None else None,
                "high": trial.val_bpb + half if trial.val_bpb is not None and half is not None else None,
                "n_runs": trial.n_runs,
                "reference": trial.reference,
                "improvement": trial.improvement,
                "improvement_low": trial.improvement_low,
                "improvement_high": trial.improvement_high,
                "test_bpb": trial.test_bpb,
                "energy_joules": trial.energy_joules,
                "energy_source": trial.energy_source,
                **_sums(evidence.runs[trial.number]),
                "started_at": trial.started_at,
                "finished_at": trial.finished_at,
                **_best(evidence, evidence.trials[standing]),
                "kwh": spent,
            }
        )
    return rows


def _sums(runs: list[Run]) -> dict[str, Any]:
    rates = [run.tokens_per_second for run in runs if run.tokens_per_second]
    return {
        "seconds": sum(run.total_seconds or 0.0 for run in runs),
        "params": next((run.params for run in runs if run.params), None),
        "tokens_per_second": median(rates) if rates else None,
        "peak_memory_bytes": max((run.peak_memory_bytes or 0 for run in runs), default=0) or None,
    }


def _best(evidence: Evidence, standing: Trial) -> dict[str, float | None]:
    """The standing recipe's score, as all its runs until now tell it."""
    mean, n = evidence.mean(standing), evidence.n_runs(standing)
    if mean is None:
        return {"best": None, "best_low": None, "best_high": None}
    half = evidence.noise.half_width(n)
    return {"best": mean, "best_low": mean - half, "best_high": mean + half}


def _coverage(evidence: Evidence) -> list[dict[str, Any]]:
    """One row for each tried value of a knob with its mean effect, and one for each knob that was never turned."""
    menu, rows = evidence.folder.menu, []
    tried: dict[str, dict[Any, list[Trial]]] = {}
    for trial in evidence.trials[1:]:
        for knob, value in trial.changes.items() if trial.recipe else ():
            tried.setdefault(knob, {}).setdefault(value, []).append(trial)
    for knob in [*menu.knobs, *(knob for knob in tried if knob not in menu.knobs)]:
        known = menu.knobs.get(knob)
        common = {"knob": knob, "on_menu": known is not None, "scale": known.scale if known else "linear"}
        for value, trials in tried.get(knob, {None: []}).items():
            number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
            rows.append(
                {
                    **common,
                    "value": None if value is None else words.value(value),
                    "number": number,
                    "baseline": value is not None and value == evidence.baseline.recipe.get(knob),
                    "proposed": len(trials),
                    "trained": sum(trial.n_runs > 0 for trial in trials),
                    "kept": sum(trial.decision == "keep" for trial in trials),
                    **_effect(evidence, trials),
                }
            )
    return rows


def _effect(evidence: Evidence, trials: list[Trial]) -> dict[str, float | None]:
    """Mean improvement of the trials over their references, with its 95 % interval."""
    judged = [trial for trial in trials if trial.improvement is not None]
    if not judged:
        return {"effect": None, "low": None, "high": None}
    effect = fmean(trial.improvement or 0.0 for trial in judged)
    if len(judged) == 1 and judged[0].improvement_low is not None:
        return {"effect": effect, "low": judged[0].improvement_low, "high": judged[0].improvement_high}
    candidate = sum(max(1, trial.n_runs) for trial in judged)
    reference = max(1, *(evidence.n_runs(evidence.trials[trial.reference or 0]) for trial in judged))
    half = evidence.noise.half_width(1) * (1 / candidate + 1 / reference) ** 0.5
    return {"effect": effect, "low": effect - half, "high": effect + half}


def _wall(evidence: Evidence) -> list[dict[str, Any]]:
    """Where the workers' and the proposer's seconds went."""
    proposals = evidence.folder.store.proposals().values()
    parts = {"proposing": sum(proposal["latency_seconds"] for proposal in proposals)}
    for run in (run for runs in evidence.runs.values() for run in runs):
        total, train, scoring = run.total_seconds or 0.0, run.train_seconds or 0.0, run.eval_seconds or 0.0
        if run.state == "failed":
            parts["failed runs"] = parts.get("failed runs", 0.0) + total
            continue
        steps = {
            phase: (getattr(run, f"{phase}_seconds") or 0.0) * (run.steps or 0)
            for phase in ("data", "forward", "backward", "optimizer")
        }
        known = {"starting": max(0.0, total - train - scoring), **steps, "scoring": scoring}
        known["rest of training" if any(steps.values()) else "training"] = max(0.0, train - sum(steps.values()))
        for part, seconds in known.items():
            parts[part] = parts.get(part, 0.0) + seconds
    return [{"part": part, "seconds": seconds} for part, seconds in parts.items() if seconds > 0]


def _proposers(evidence: Evidence) -> list[dict[str, Any]]:
    """Side by side; a keep's gain is how far it lowered the best mean so far, so that repeats gain nothing."""
    proposals = evidence.folder.store.proposals()
    # A step lowers the best mean from one recipe's to another's; where steps follow one another the middle falls out.
    steps = {
        trial.number: Counter({before: 1, after: -1})
        for trial, before, after in zip(evidence.trials[1:], evidence.bests, evidence.bests[1:], strict=False)
        if before != after
    }
    groups: dict[tuple[str, str | None], list[Trial]] = {}
    for trial in evidence.trials[1:]:
        proposal = proposals.get(trial.number)
        groups.setdefault((trial.proposer, proposal["model"] if proposal else None), []).append(trial)
    rows = []
    for (name, model), trials in groups.items():
        asked = [proposals[trial.number] for trial in trials if trial.number in proposals]
        kept = sum(trial.decision == "keep" for trial in trials)
        trained = sum(trial.state not in ("proposed", "blocked") for trial in trials)
        kwh = sum(trial.energy_joules or 0.0 for trial in trials) / JOULES_PER_KWH
        gain, half = _gain(evidence, [steps[trial.number] for trial in trials if trial.number in steps])
        rows.append(
            {
                "name": name,
                "model": model,
                "proposals": len(trials),
                "blocked": sum(trial.state == "blocked" for trial in trials),
                "failed": sum(trial.state in ("failed", "timed_out") for trial in trials),
                "kept": kept,
                "keep_rate": kept / trained if trained else None,
                "gain": gain,
                "gain_half_interval": half,
                "gain_per_trial": gain / trained if trained else None,
                "gain_per_kwh": gain / kwh if kwh else None,
                "latency_seconds": median(row["latency_seconds"] for row in asked) if asked else None,
                "tokens": sum((row["prompt_tokens"] or 0) + (row["completion_tokens"] or 0) for row in asked) or None,
            }
        )
    return rows


def _gain(evidence: Evidence, steps: list[Counter[int]]) -> tuple[float, float | None]:
    """How much all these steps lowered the best mean, and half of the 95 % interval of that; None without a step."""
    weights: Counter[int] = Counter()
    for step in steps:
        weights.update(step)
    ends = [(weight, evidence.standing(evidence.trials[number])) for number, weight in weights.items()]
    gain = sum(weight * (end.val_bpb or 0.0) for weight, end in ends)
    half = sum((weight * (end.val_bpb_half_interval or 0.0)) ** 2 for weight, end in ends) ** 0.5
    return gain, half if steps else None


def _failures(evidence: Evidence) -> list[dict[str, Any]]:
    groups: dict[str, list[Run]] = {}
    for run in (run for runs in evidence.runs.values() for run in runs if run.state == "failed"):
        groups.setdefault(run.failure or "failed", []).append(run)
    return [
        {
            "kind": kind,
            "count": len(runs),
            "trials": sorted({run.trial for run in runs}),
            "lines": [clean(runs[-1].message, 300), *_log(evidence.folder, runs[-1])],
        }
        for kind, runs in sorted(groups.items(), key=lambda group: -len(group[1]))
    ]


def _log(folder: StudyFolder, run: Run) -> list[str]:
    try:
        with (folder.run_folder(run.id) / "worker.log").open(encoding="utf-8", errors="replace") as file:
            return [clean(line, 300) for line, _ in zip(file, range(LOG_LINES), strict=False)]
    except OSError:
        return []  # an old night's run folders may be gone; the message in the database stays


def _curves(evidence: Evidence) -> list[dict[str, Any]]:
    """The first run of the baseline, of the latest kept trials and of the incumbent, loss over tokens."""
    kept = [trial for trial in evidence.trials if trial.decision == "keep" and trial is not evidence.incumbent]
    chosen = {trial.number: trial for trial in [evidence.baseline, *kept[-MOST_CURVES:], evidence.incumbent]}
    rows = []
    for number, trial in sorted(chosen.items()):
        run = next((run for run in evidence.runs[number] if run.state == "complete"), None)
        if run is None or not (points := evidence.folder.store.curve(number, run.seed)):
            continue
        role = "incumbent" if trial is evidence.incumbent else "kept" if number else "reference"
        parent = evidence.trials[trial.parent].recipe if trial.parent is not None else {}
        change = words.change(trial.changes, parent) or "baseline"
        per_step = run.tokens / run.steps if run.tokens and run.steps else 1.0
        rows.append(
            {
                "trial": number,
                "seed": run.seed,
                "role": role,
                "label": f"trial {number}: {change}",
                "points": [[step * per_step, loss] for step, loss in thin(points)],
            }
        )
    return rows


def details(folder: StudyFolder) -> dict[int, dict[str, Any]]:
    """Trial -> what belongs to it alone: diff, prompt, answer, verdicts, runs, curves. All text may be hostile."""
    store, evidence = folder.store, Evidence(folder)
    proposals, curves, sources = store.proposals(), store.curves(), store.sources()
    return {
        trial.number: _detail(evidence, trial, proposals.get(trial.number, {}), curves, sources.get(trial.number))
        for trial in evidence.trials
    }


def detail(folder: StudyFolder, number: int) -> dict[str, Any]:
    """The same of one trial, which must be there."""
    store, evidence = folder.store, Evidence(folder)
    curves = {(number, run.seed): store.curve(number, run.seed) for run in evidence.runs[number]}
    proposal, source = store.proposal(number) or {}, store.sources(number).get(number)
    return _detail(evidence, evidence.trials[number], proposal, curves, source)


def _detail(
    evidence: Evidence,
    trial: Trial,
    proposal: Mapping[str, Any],
    curves: Mapping[tuple[int, int], list[list[float]]],
    source: str | None,
) -> dict[str, Any]:
    changed = trial.parent is not None and trial.recipe
    return {
        "diff": unified_diff(evidence.trials[trial.parent or 0].recipe, trial.recipe) if changed else "",
        "hypothesis": trial.hypothesis,
        "prompt": proposal.get("prompt"),
        "answer": proposal.get("raw"),
        **{name: proposal.get(name) for name in ("model", "latency_seconds", "prompt_tokens", "completion_tokens")},
        "verdicts": _verdicts(trial, evidence.imported),
        "reason": trial.reason,
        "runs": [_run(run, curves.get((run.trial, run.seed), [])) for run in evidence.runs[trial.number]],
        "source": source,
        "recipe": trial.recipe,
    }


def _verdicts(trial: Trial, imported: bool) -> list[dict[str, Any]]:
    """The rails in their order, up to the one that blocked; of a stranger's rails only that one is known."""
    passed: Iterable[str] = ()
    if trial.number and trial.state != "proposed" and not imported:
        passed = RAILS if trial.rail not in RAILS else RAILS[: RAILS.index(trial.rail)]
    verdicts = [{"rail": rail, "passed": True, "reason": ""} for rail in passed]
    return verdicts + ([{"rail": trial.rail, "passed": False, "reason": trial.reason}] if trial.rail else [])


def _run(run: Run, curve: list[list[float]]) -> dict[str, Any]:
    names = (
        "seed", "purpose", "state", "failure", "message", "val_bpb", "test_bpb", "tokens_per_second", "mfu",
        "train_seconds", "peak_memory_bytes", "energy_joules",
    )  # fmt: skip
    return {**{name: getattr(run, name) for name in names}, "curve": thin(curve)}


def thin(curve: list[list[float]]) -> list[list[float]]:
    """At most CURVE_POINTS of the points, the last among them, the loss to four decimals."""
    stride = -(-len(curve) // CURVE_POINTS) or 1
    return [[step, round(loss, 4)] for step, loss in curve[::-1][::stride][::-1]]
