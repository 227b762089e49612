"""Writes what a study found back to its script's own repository: one commit on a branch, made from objects."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

from autoresearch import words
from autoresearch.constants import patched, read_constants, same
from autoresearch.errors import UserError
from autoresearch.evidence import Evidence
from autoresearch.evidence.sentences import improved, score
from autoresearch.program.told import script_of
from autoresearch.study.folder import StudyFolder
from autoresearch.study.messages import last_moment
from autoresearch.study.script import Script
from autoresearch.study.script_repository import TRAILER, ScriptRepository
from autoresearch.trial import Recipe
from rails import clean
from rails.values import shown

LONGEST_SUBJECT, WIDTH = 72, 76  # of a commit's message


@dataclass(frozen=True)
class Applied:
    """`new`: the branch was not there already with this very script."""

    repository: Path
    branch: str
    commit: str
    message: str
    new: bool


def apply(folder: StudyFolder, branch: str | None = None) -> Applied:
    """Raises UserError, and nothing is changed, where there is nothing to write back or no place for it."""
    script, branch = folder.script, branch or f"autoresearch/{folder.name}"
    own = folder.settings.trainer
    if script is None or own is None or own.script is None:
        raise UserError(f"study {folder.name} turns no script's constants: there is nothing to write back")
    evidence = Evidence(folder)
    trial = evidence.incumbent
    if trial.number == 0:
        raise UserError(f"study {folder.name} has kept nothing yet: the script is its best recipe as it stands")
    place = script_of(own)
    repository = ScriptRepository.of(place)
    if repository is None:
        raise UserError(
            f"{place} is in no git repository; the best version of it is {folder.workspace.path / script.name}"
        )
    tip = repository.tip(branch, folder.name)
    if tip is not None and not tip.ours and tip.commit != script.commit:
        raise UserError(
            f"branch {branch} of {repository.folder} has commits of somebody else's (the last is {tip.commit[:12]}): "
            "it is left as it is; choose another with --branch"
        )
    if tip is None:
        base = _base(repository, script)
    else:
        base = tip.commit
    text = repository.script(base)
    if text is None:
        raise UserError(f"{repository.folder}: {repository.path} is not in commit {base[:12]}: commit it first")
    if tip is None or not tip.ours:
        _require_unchanged(text, script, trial.recipe, f"{repository.path} in commit {base[:12]}")
    made = patched(text, trial.recipe)
    message = _message(evidence, script, repository.path)
    if made == text:
        return Applied(repository.folder, branch, base, message, new=False)
    commit = repository.commit(base, made, message, last_moment(trial, folder.store.runs(trial.number)))
    repository.move(branch, commit, tip.commit if tip else None)
    return Applied(repository.folder, branch, commit, message, new=True)


def _base(repository: ScriptRepository, script: Script) -> str:
    """The commit to build upon: the one that the study was made from, or what is checked out now where the script has
    changed since. Raises UserError."""
    head = repository.head()
    if head is None:
        raise UserError(f"{repository.folder}: nothing is committed there: commit {repository.path} first")
    made_from = script.commit if repository.script(script.commit) == script.text else None
    return made_from if made_from and repository.script(head) == script.text else head


def _require_unchanged(text: str, script: Script, recipe: Recipe, where: str) -> None:
    """Raises UserError where a constant of the study is gone, or has another value than when the study was made."""
    now, then = ({found.knob: found for found in read_constants(each, where)[0]} for each in (text, script.text))
    for constant in (then[knob] for knob in recipe):
        if constant.knob not in now:
            raise UserError(f"{where} has no constant {constant.name} any more, as it had when the study was made")
        if not same(now[constant.knob].value, constant.value):
            raise UserError(
                f"{where}: {constant.name} is {shown(now[constant.knob].value)} and was {shown(constant.value)} when "
                "the study was made, so what it found need not hold: put that back, or adopt the script anew"
            )


def _message(evidence: Evidence, script: Script, path: str) -> str:
    trial, baseline, metric = evidence.incumbent, evidence.baseline, evidence.folder.metric
    names = {knob: constant.name for knob, constant in script.constants().items()}
    before = {names[knob]: value for knob, value in baseline.recipe.items()}
    after = {names[knob]: value for knob, value in trial.recipe.items()}
    change = words.change({name: value for name, value in after.items() if not same(value, before[name])}, before)
    scores = f"{score(evidence.standing(trial), metric)}; before: {score(evidence.standing(baseline), metric)}"
    subject = f"{clean(path, 40)}: {change}"
    paragraphs = [f"{metric.name}: {scores}.", improved(evidence)]
    if len(subject) > LONGEST_SUBJECT:
        subject = f"{clean(path, 40)}: what study {evidence.folder.name} found"
        paragraphs.insert(0, f"{change}.")
    filled = (textwrap.fill(text, WIDTH) for text in paragraphs)
    trailers = f"{TRAILER}{evidence.folder.name}\nAutoresearch-Trial: {trial.number}"
    return "\n\n".join([subject, *filled, trailers])
