"""What became of the nights themselves: why the last one ended, and whether the language model was there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from autoresearch import words
from autoresearch.evidence.evidence import Evidence
from autoresearch.trial import NOT_ASKED_FOR
from rails import clean

# In the notes of a proposer that found its language model silent.
SILENT = "does not answer"
LONGEST_REASON = 300


def trouble(evidence: Evidence, running: bool) -> list[str]:
    """What went wrong beside the trials, in sentences; nothing where nothing did."""
    return [*silence(evidence), *_lost(evidence, running)]


def ending(evidence: Evidence) -> str:
    """ "the last night ended: 12 trials done, as asked", and how busy its cluster was, where it had one; "" where no
    night has ended, or it could not say why."""
    last = _last_night(evidence)
    if not last or last["kind"] != "ended":
        return ""
    used = evidence.folder.store.events_of("began", "cluster")[-1:]
    cluster = "".join(f"; its cluster had {_reason(event)}" for event in used if event["kind"] == "cluster")
    return f"the last night ended: {_reason(last)}{cluster}"


def silence(evidence: Evidence) -> list[str]:
    """That the language model did not answer: how often, since when, and what proposed instead."""
    asked = [event for event in evidence.folder.store.events_of("proposer") if SILENT in event["message"]]
    if not asked:
        return []
    first, last = asked[0], asked[-1]
    proposals = evidence.folder.store.proposals()
    answered = [number for number, proposal in proposals.items() if proposal["model"]]
    latest = max(answered, default=0)
    times = words.count(len(asked), "time")
    said = f'The last time: "{_cause(last)}".'
    if not answered:
        since = f"since trial {first['trial']} ({words.moment(first['at'])})"
        told = f"The language model never answered: it was asked {times} in vain {since}"
    elif last["trial"] > latest:
        gone = [event for event in asked if event["trial"] > latest]
        since = f"since trial {gone[0]['trial']} ({words.moment(gone[0]['at'])})"
        told = f"The language model has not answered {since}: in all it was asked {times} in vain"
    else:
        told = f"The language model did not answer {times}, from trial {first['trial']} to {last['trial']}"
    return [f"{told}; {_instead(evidence, proposals, first['trial'])}. {said}"]


def _instead(evidence: Evidence, proposals: Mapping[int, Mapping[str, Any]], first: int) -> str:
    others = Counter(
        trial.proposer
        for trial in evidence.trials[first:]
        if trial.proposer not in NOT_ASKED_FOR and not (trial.number in proposals and proposals[trial.number]["model"])
    )
    named = " and ".join(f"{clean(name, 40)} {words.count(n, 'trial')}" for name, n in others.most_common())
    return f"instead of it proposed {named}" if named else "nothing was proposed instead"


def _lost(evidence: Evidence, running: bool) -> Sequence[str]:
    last = _last_night(evidence)
    if last and last["kind"] == "night_lost":
        return [f"The last night was lost to an error ({words.moment(last['at'])}): {_reason(last)}."]
    if last and last["kind"] == "began" and not running:
        return [
            f"The night that began {words.moment(last['at'])} was cut off: nobody wrote down its end. The next one "
            "goes on where it was."
        ]
    return []


def _last_night(evidence: Evidence) -> dict[str, Any] | None:
    """The last that was written down of a night: its beginning or its end."""
    nights = evidence.folder.store.events_of("began", "ended", "night_lost")
    return nights[-1] if nights else None


def _reason(event: Mapping[str, Any]) -> str:
    return clean(event["message"], LONGEST_REASON).rstrip(".")


def _cause(event: Mapping[str, Any]) -> str:
    """Without what the proposer did about it."""
    message: str = event["message"]
    return clean(message.rpartition("; ")[0] or message, LONGEST_REASON)
