"""How what was taught did in its night, beside what its race had shown."""

from __future__ import annotations

from dataclasses import dataclass

from autoresearch.evidence.evidence import Evidence
from autoresearch.evidence.raced import Raced, read_race
from autoresearch.evidence.shares import Average, Share
from autoresearch.proposer_name import HYBRID, ProposerName
from autoresearch.proposers.share import OPTIMIZER
from rails import clean


@dataclass(frozen=True)
class RaceShown:
    """valid: of its first samples on held-out states; earned: of what it proposed there, as far as it was measured;
    None: it was not asked alone. teacher, nights, runs, ahead: of whole searches, and by how many bits per byte it
    ended better than the teacher; None: there were none. won: whether by them it replaced its teacher."""

    valid: Share | None
    earned: Average | None
    teacher: str | None
    nights: int | None
    runs: int | None
    ahead: Average | None
    won: bool


@dataclass(frozen=True)
class StudentRecord:
    """name: as its proposals are named; form: it, or with an optimizer beside it. valid: of its proposals, those that
    the rails passed. earned: a proposal that was measured, in bits per byte against the recipe that stood, positive is
    better; optimizers: of the optimizer's, from its first one on. race: None: its folder has none that can be read;
    valid_as_raced, earned_as_raced: whether the difference is within noise; None: there is nothing to tell it from."""

    name: str
    form: str
    folder: str
    valid: Share
    earned: Average
    optimizers: Average
    race: RaceShown | None
    valid_as_raced: bool | None
    earned_as_raced: bool | None


def student_record(evidence: Evidence) -> StudentRecord | None:
    """None where nothing that was taught has proposed."""
    named = ProposerName.read(evidence.folder.settings.proposer.name)
    first = next((trial.number for trial in evidence.trials if trial.proposer == named.model), None)
    if named.folder is None or named.model is None or first is None:
        return None
    own = [trial for trial in evidence.trials[first:] if trial.proposer == named.model and trial.state != "proposed"]
    form = f"{HYBRID}:{named.model}" if named.is_hybrid else named.model
    raced = read_race(named.folder)
    race = _shown(raced, named.model, form) if raced else None
    valid = Share.of(sum(trial.state != "blocked" for trial in own), len(own))
    earned, optimizers = (
        Average.of(
            [
                trial.improvement
                for trial in evidence.trials[first:]
                if trial.proposer == name and trial.improvement is not None
            ]
        )
        for name in (named.model, OPTIMIZER)
    )
    return StudentRecord(
        name=named.model,
        form=form,
        folder=clean(str(named.folder), 300),
        valid=valid,
        earned=earned,
        optimizers=optimizers,
        race=race,
        valid_as_raced=valid.is_like(race.valid) if race and race.valid else None,
        earned_as_raced=earned.is_like(race.earned) if race and race.earned else None,
    )


def _shown(raced: Raced, model: str, form: str) -> RaceShown:
    alone, asked, searches = raced.racer(model), raced.racer(form), raced.outcome
    label = asked.name if asked else ""
    lead = searches.lead(label) if searches else None
    return RaceShown(
        valid=alone.valid.share if alone else None,
        earned=alone.earned.average if alone else None,
        teacher=clean(searches.teacher, 200) if searches and lead else None,
        nights=lead.nights if lead else None,
        runs=searches.runs if searches and lead else None,
        ahead=Average(lead.nights, lead.gain.mean, lead.gain.low, lead.gain.high) if lead else None,
        won=searches is not None and bool(label) and searches.winner == label,
    )
