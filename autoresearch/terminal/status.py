"""The state of a study, as a person reads it in the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from autoresearch import words
from autoresearch.evidence import Standing
from autoresearch.evidence.sentences import score, test_score
from autoresearch.evidence.status import Status
from autoresearch.metric import Metric
from autoresearch.terminal.console import grid
from autoresearch.terminal.workers import node_lines
from rails import clean


def status_view(status: Status) -> RenderableType:
    who = f" by process {status.runner_pid}" if status.runner_pid else ""
    who += f", daemon {status.daemon_pid}" if status.daemon_pid else ""
    last = f"; {status.last_night}" if status.last_night else ""
    counts = ", ".join(f"{n} {words.state(outcome)}" for outcome, n in status.trials.items()) or "none yet"
    ideas = f"; {words.count(status.ideas_waiting, 'idea')} waiting" if status.ideas_waiting else ""
    energy_cost = status.cost if status.token_cost is None else status.energy_cost
    costs = words.costs(energy_cost, status.token_cost, status.currency)
    cost = f", {costs}" if status.cost is not None else ""
    repeats = "" if status.repeatable else f"; {words.NOT_REPEATABLE}"
    metric, cluster = status.metric, status.cluster
    deviation = words.difference(status.run_to_run_deviation, metric=metric)
    # Of another program nobody can tell from a recipe how large it will be.
    fit = {} if metric.has_test else {"rails": "memory and time of a run are not predicted; a recipe is tried once"}
    rows = {
        "study": f"{status.study} ({status.preset}), {status.activity}{who}{last}",
        "trials": counts + ideas,
        "baseline": _standing(status.baseline, metric),
        "incumbent": _standing(status.incumbent, metric),
        "noise": f"one run deviates by {deviation} {metric.gain_unit}{repeats}",
        **({"devices": " ".join(status.devices)} if status.devices else {}),
        **fit,
        "energy": words.energy(status.energy_joules, status.energy_sources) + cost,
        "runs": f"{words.count(status.runs, 'run')}, {words.duration(status.run_seconds)} of work",
        **({"in flight": ", ".join(status.in_flight)} if status.in_flight else {}),
        **({"cluster": "\n".join([cluster.now(), *node_lines(cluster)])} if cluster else {}),
        **({"beware": " ".join(status.trouble)} if status.trouble else {}),
        "where": status.path,
    }
    events = [
        Text(f"{event.at[:19]}Z  {event.kind:<12} {clean(event.message, 160)}", style="dim") for event in status.events
    ]
    return Group(grid(rows), Text(), *events)


def _standing(standing: Standing, metric: Metric) -> str:
    if standing.val_bpb is None:
        return "not measured yet"
    test = f", test {test_score(standing)}" if standing.n_test_runs else ""
    return f"trial {standing.trial}: {metric.name} {score(standing, metric)}{test}"
