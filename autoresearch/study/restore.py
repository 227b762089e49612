"""Before a night a study's repository is put right: what git has lost is made again from the database, id by id."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta

from autoresearch import words
from autoresearch.errors import UserError
from autoresearch.metric import Metric
from autoresearch.study import git_objects, messages
from autoresearch.study.folder import StudyFolder
from autoresearch.study.git_files import BRANCH
from autoresearch.study.git_objects import DIGESTS, GitObject
from autoresearch.study.store.trajectory import OPEN_STATES
from autoresearch.study.workspace import BASELINE_MESSAGE, held, tagged
from autoresearch.trial import Run, Trial, from_iso
from rails import render_recipe

# The baseline is committed a moment before the database notes when the study was made.
BASELINE_SECONDS = 60


def put_right(folder: StudyFolder) -> list[str]:
    """Files, objects, references and branch as the database has them; returns what to tell a person, in sentences.

    Raises UserError where a commit that the night must build upon is lost and cannot be made again to its id, and
    where a person has edited the files. The caller holds the runner's lock.
    """
    try:
        return _put_right(folder)
    except OSError as error:
        raise UserError(
            f"{folder.workspace.path}: git's files cannot be mended ({error}): give yourself the right to write there, "
            "or free some space"
        ) from None


def _put_right(folder: StudyFolder) -> list[str]:
    store, workspace, metric = folder.store, folder.workspace, folder.metric
    workspace.clear_the_way()
    there = workspace.references("refs/tags/trial", "refs/trials", BRANCH)
    trials, runs = [trial for trial in store.trials() if trial.commit], store.runs_at_close()
    open_trials = [trial for trial in trials if trial.state in OPEN_STATES]
    tags = {tagged(trial.number): _tag(trial, runs.get(trial.number, []), metric) for trial in trials}

    known = {found.id: found for found in _objects(folder, trials, runs)}
    lost = workspace.missing([*known.values(), *(tag for name, tag in tags.items() if there.get(name) == tag.id)])
    workspace.write(lost)
    beyond_repair = _beyond_repair(folder, trials, known)
    needed = {store.study()["incumbent_commit"], trials[0].commit, *(trial.commit for trial in open_trials)}
    if found := sorted(needed & beyond_repair):
        raise UserError(
            f"{workspace.path}: git has lost commit {found[0][:12]}, which another version of autoresearch made: "
            f"restore that folder from a copy, or start a new study; `autoresearch report {folder.name}` still works"
        )

    if workspace.resolve([f"{store.study()['incumbent_commit']}:menu.toml"]) != [_menu(folder, trials).id]:
        raise UserError(f"{workspace.path}: menu.toml is not the one this study began with; start a new study")

    gone = _gone(folder, [trial for trial in trials if trial not in open_trials], there, tags, beyond_repair)
    workspace.write(tags[name] for name in gone)
    holds = {held(trial.number): trial.commit for trial in open_trials}
    over = [name for name in there if name.startswith("refs/trials/") and name not in holds]
    over += [name for trial in open_trials if (name := tagged(trial.number)) in there]
    # Git writes references before it deletes others: no commit hangs on nothing in between.
    wanted = {**{name: tags[name].id for name in gone}, **holds, **dict.fromkeys(over)}
    workspace.set_references({name: id for name, id in wanted.items() if there.get(name) != id})
    told = workspace.reconcile(store.study()["incumbent_commit"], {str(trial.commit) for trial in open_trials})
    return [*_told(len(lost), len(gone) + (BRANCH not in there), len(beyond_repair)), *told]


def _told(objects: int, references: int, beyond_repair: int) -> Iterator[str]:
    parts = [words.count(n, noun) for n, noun in ((objects, "object"), (references, "reference")) if n]
    if parts:
        yield f"git had lost {' and '.join(parts)}: made again from the database"
    if beyond_repair:
        yield (
            f"git has lost {words.count(beyond_repair, 'commit')} that another version of autoresearch made; "
            "the database has their recipes and numbers"
        )


def _objects(folder: StudyFolder, trials: Sequence[Trial], runs: Mapping[int, Sequence[Run]]) -> Iterator[GitObject]:
    """All that candidates and merges are made of, and those of them whose id is that in the database."""
    digest, menu = _digest(trials[0]), _menu(folder, trials)
    yield menu
    by_number = {trial.number: trial for trial in trials}
    trees: dict[int, GitObject] = {}
    for trial in trials:
        texts = {"recipe.toml": render_recipe(trial.recipe), **folder.script_at(trial.recipe)}
        blobs = {name: git_objects.blob(text, digest) for name, text in texts.items()}
        files = {"menu.toml": menu.id, **{name: blob.id for name, blob in blobs.items()}}
        trees[trial.number] = git_objects.tree(files, digest)
        yield from (*blobs.values(), trees[trial.number])
        yield from (made for made in _commits(folder, trial, by_number, trees) if made.id == trial.commit)
    standing = baseline = str(trials[0].commit)
    for trial in (by_number[number] for number in folder.store.merged()):
        ended, gain = runs.get(trial.number, []), _gain(trial)
        if ended and gain:
            before_it = by_number[trial.parent or 0].recipe
            message = messages.merge_message(trial, before_it, gain, ended, folder.metric)
            when = messages.last_moment(trial, ended)
            for before in (standing, baseline):  # where the keeps before it were taken back the baseline stood
                parents = [before, str(trial.commit)]
                made = git_objects.commit(trees[trial.number].id, parents, message, when, digest)
                yield from [made] if made.id == trial.merge_commit else []
        standing = str(trial.merge_commit)


def _menu(folder: StudyFolder, trials: Sequence[Trial]) -> GitObject:
    return git_objects.blob(folder.menu_text, _digest(trials[0]))


def _commits(
    folder: StudyFolder, trial: Trial, by_number: Mapping[int, Trial], trees: Mapping[int, GitObject]
) -> Iterator[GitObject]:
    """What a trial's commit may be."""
    tree, digest = trees[trial.number].id, _digest(trial)
    if trial.parent is None:
        made_at = from_iso(folder.store.study()["created_at"])
        for seconds in range(BASELINE_SECONDS):
            yield git_objects.commit(tree, [], BASELINE_MESSAGE, made_at - timedelta(seconds=seconds), digest)
        return
    parent = by_number[trial.parent]
    message = messages.commit_message(trial.number, trial.changes, parent.recipe, trial.proposer, trial.hypothesis)
    yield git_objects.commit(
        tree, [str(parent.merge_commit or parent.commit)], message, from_iso(trial.started_at), digest
    )


def _tag(trial: Trial, runs: Sequence[Run], metric: Metric) -> GitObject:
    """The tag that a closed trial has."""
    message = messages.tag_message(trial, trial.state, trial.decision, trial.reason, _gain(trial), runs, metric)
    when = messages.last_moment(trial, runs)
    return git_objects.tag(f"trial/{trial.number:04d}", str(trial.commit), message, when, _digest(trial))


def _gain(trial: Trial) -> messages.Gain | None:
    if trial.improvement is None or trial.improvement_low is None or trial.improvement_high is None:
        return None
    return trial.improvement, trial.improvement_low, trial.improvement_high


def _digest(trial: Trial) -> str:
    """What the repository's ids are made with."""
    return DIGESTS[len(str(trial.commit))]


def _beyond_repair(folder: StudyFolder, trials: Sequence[Trial], known: Collection[str]) -> set[str]:
    """Commits that cannot be read, nor be made again to the id in the database: its words were others then."""
    commits = [id for trial in trials for id in (trial.commit, trial.merge_commit) if id and id not in known]
    names = [f"{commit}:{name}" for commit in commits for name in folder.workspace.files]
    return {name.partition(":")[0] for name, id in zip(names, folder.workspace.resolve(names), strict=True) if not id}


def _gone(
    folder: StudyFolder,
    closed: Sequence[Trial],
    there: Mapping[str, str],
    tags: Mapping[str, GitObject],
    beyond_repair: Collection[str],
) -> list[str]:
    """Tags of closed trials that do not lead to their commits; one in the words of another version does."""
    asked = {
        name: str(trial.commit)
        for trial in closed
        if there.get(name := tagged(trial.number)) != tags[name].id and trial.commit not in beyond_repair
    }
    found = folder.workspace.resolve([f"{name}^{{commit}}" for name in asked])
    return [name for (name, commit), id in zip(asked.items(), found, strict=True) if id != commit]
