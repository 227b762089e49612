"""The state of a study: where it stands, what is in flight, what it cost so far."""

from __future__ import annotations

from typing import Any

from autoresearch.evidence.evidence import Evidence
from autoresearch.study.folder import StudyFolder, lock_holder
from autoresearch.workers.energy import JOULES_PER_KWH


def status(folder: StudyFolder) -> dict[str, Any]:
    """The state of a study: every number a person sees in `status`, in base units."""
    store, study = folder.store, folder.store.study()
    evidence = Evidence(folder)
    trials = evidence.trials
    totals = store.totals()
    kwh = totals["joules"] / JOULES_PER_KWH
    states = [trial.decision or trial.state for trial in trials[1:]]
    return {
        "study": study["name"],
        "path": str(folder.path),
        "preset": folder.settings.preset,
        "control": study["control"],
        "runner_pid": lock_holder(folder.path / "runner.lock"),
        "daemon_pid": lock_holder(folder.path / "daemon.lock"),
        "trials": {state: states.count(state) for state in sorted(set(states))},
        "ideas_waiting": store.waiting_ideas(),
        "runs": totals["runs"],
        "run_seconds": totals["run_seconds"],
        "energy_joules": totals["joules"],
        "energy_sources": sorted(
            {run.energy_source for runs in evidence.runs.values() for run in runs if run.energy_source}
        ),
        "cost": kwh * folder.settings.energy.price_per_kwh,
        "currency": folder.settings.energy.currency,
        "run_to_run_deviation": evidence.noise.deviation,
        "baseline": evidence.standing_facts(evidence.baseline),
        "incumbent": evidence.standing_facts(evidence.incumbent),
        "in_flight": [run.id for run in store.pending_runs() if run.state == "running"],
        "events": store.events(8),
    }
