"""A study on disk: where studies live, what is in one, and how one is made."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import tomlkit

from autoresearch.config import Settings, load_settings
from autoresearch.decide import Noise, Runs, pool_noise
from autoresearch.errors import UserError
from autoresearch.metric import Metric
from autoresearch.program import told
from autoresearch.study.preset import Preset, load_preset, own_preset, preset_names
from autoresearch.study.script import Script
from autoresearch.study.store import Store
from autoresearch.study.store.rows import sha256_of
from autoresearch.study.workspace import FILES, Workspace
from autoresearch.trial import Recipe, utc_now
from autoresearch.workers.machine import Machine
from rails import Limits, Menu, load_menu, recipe_key, render_recipe, violations

# What a val_bpb depends on besides recipe and seed.
TERMS = ("trainer", "budget", "data", "backend", "compile", "repeatable", "tensor_parallel", "data_parallel", "seed")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def home(path: Path | None = None) -> Path:
    """Where studies live: `path`, else AUTORESEARCH_HOME, else ./trajectories; symbolic links followed."""
    # Not Path.resolve, which raises an error of its own for links that lead in a circle.
    return Path(os.path.realpath(path or os.environ.get("AUTORESEARCH_HOME") or "trajectories"))


class StudyFolder:
    """Opens an existing study. Raises UserError where there is none or it is damaged."""

    def __init__(self, home: Path, name: str) -> None:
        self.path = Path(os.path.realpath(_study_path(home, name)))
        self.name = name
        if not (self.path / "study.db").exists():
            raise UserError(
                f"there is no study {name!r} in {home}{_nearby(home)}: make it with `autoresearch init {name}`"
            )
        self.data_root = self.path.parent / ".data"
        self._noise: tuple[dict[int, Runs], Noise] | None = None  # and the scores that it is of
        self.settings = load_settings(self.path / "study.toml")
        self.store = Store(self.path / "study.db")
        self.script = self.store.script()
        self.workspace = Workspace(self.path / "recipe", (*FILES, *([self.script.name] if self.script else [])))
        # Not from the folder: a file edited during the night must not change what the rails allow.
        self.menu_text = self.store.study().get("menu") or self._old_menu()
        if sha256_of(self.menu_text) != self.store.study()["menu_sha256"]:
            raise UserError(f"{self.path}/study.db: the menu is not the one this study began with; start a new study")
        self._whole_menu = load_menu(self.menu_text, "menu.toml")
        self._use(self.settings)

    def _old_menu(self) -> str:
        """The menu of a study from before the database kept it, which it does from now on: from git, else a preset's.
        Raises UserError where neither has it."""
        texts = [load_preset(name).menu_text for name in preset_names()]
        with suppress(UserError):
            texts.insert(0, self.workspace.read(self.store.study()["incumbent_commit"], "menu.toml"))
        wanted = self.store.study()["menu_sha256"]
        text = next((text for text in texts if sha256_of(text) == wanted), None)
        if text is None:
            raise UserError(
                f"{self.path}/recipe: menu.toml is not the one this study began with, or lost: restore the folder "
                "recipe from a copy, or start a new study"
            )
        if not self.store.read_only:
            self.store.keep_menu(text)
        return text

    def noise(self) -> Noise:
        """The run-to-run deviation over all runs that are complete now."""
        scores = self.store.scores_now()
        if self._noise is None or self._noise[0] is not scores:
            self._noise = scores, pool_noise(scores.values(), self.settings.decision)
        return self._noise[1]

    @property
    def metric(self) -> Metric:
        """What the runs are scored by, shown with the decimals that the baseline's score asks for."""
        metric = self.settings.metric
        if metric.decimals is None and (baseline := self.store.trial(0)) is not None:
            return metric.sized(baseline.val_bpb)
        return metric

    @property
    def vocab_size(self) -> int | None:
        """Of the prepared text, which may have too few pairs to merge for what study.toml asks; that until then. None
        where another program than the GPT's trainer is run."""
        if self.settings.trainer:
            return None
        place = self.store.study()["data_dir"]
        if place is None or not (Path(place) / "manifest.json").exists():
            return self.settings.data.vocab_size
        return _vocab_size(place)

    def run_folder(self, run_id: str) -> Path:
        return self.path / "runs" / run_id

    def require_own(self) -> None:
        """Raises UserError for an imported study, which nothing can be run in."""
        if self.store.study()["source"]:
            raise UserError(
                f"study {self.name} was imported: its runs were made elsewhere and cannot be gone on with; "
                "make one of your own with `autoresearch init`"
            )

    def reread_settings(self) -> list[str]:
        """Takes over study.toml as it stands now; returns the settings in it that are others than before. Raises
        UserError, and all stays as it was, for a file that is broken or changes what cannot change any more."""
        found = load_settings(self.path / "study.toml")
        self._changed_terms(found)
        changed = [name for name in Settings.model_fields if getattr(found, name) != getattr(self.settings, name)]
        self._use(found)
        return changed

    def script_at(self, recipe: Recipe) -> dict[str, str]:
        """Name and text of the study's script with the recipe's values in it; nothing where it has none."""
        return self.script.at(recipe) if self.script else {}

    def take_over(self, menu_text: str, menu: Menu, script: Script) -> None:
        """What the database holds by now; see study/settle.py."""
        self.script, self.menu_text, self._whole_menu = script, menu_text, menu
        self.workspace.files = (*FILES, script.name)
        self._use(self.settings)

    def _use(self, settings: Settings) -> None:
        self.settings = settings
        most = settings.proposer.max_changes
        self.menu = self._whole_menu if most is None else replace(self._whole_menu, max_changes=most)

    def prepare_data(self, progress: Callable[[str, int, int], None] | None = None) -> Path:
        """The study's prepared text; made when it is missing; another program than the GPT's trainer has its own data,
        and gets the study's folder. Raises UserError for bad input, and if the source no longer gives the text that the
        study's numbers are about."""
        from trainer.data import DataError, manifest_of, prepare

        self.require_own()
        self._settle_terms()
        if self.settings.trainer:
            return self.path
        study, data = self.store.study(), self.settings.data
        if study["data_dir"] and Path(study["data_dir"]).is_dir():
            return Path(study["data_dir"])
        try:
            made = prepare(
                data.source,
                self.data_root,
                vocab_size=data.vocab_size,
                val_bytes=data.val_bytes,
                test_bytes=data.test_bytes,
                max_bytes=data.max_bytes,
                progress=progress,
            )
        except DataError as error:
            raise UserError(str(error)) from None
        found = manifest_of(made).sha256
        if study["data_sha256"] not in (None, found):
            raise UserError(
                f"{data.source!r} no longer gives the text that study {self.name} was measured on "
                f"(sha256 {found[:12]}, was {study['data_sha256'][:12]}): restore the text or start a new study"
            )
        self.store.set_data(str(made), found)
        return made

    def _settle_terms(self) -> None:
        if changed := self._changed_terms(self.settings):
            self.store.settle(self.settings.model_dump_json(), forget_data="data" in changed)

    def _changed_terms(self, settings: Settings) -> list[str]:
        """Settings that make runs comparable may change until the first run. Raises UserError for a later change, and
        for a budget that the baseline does not fit."""
        now, then = json.loads(settings.model_dump_json()), json.loads(self.store.study()["settings"])
        for name in set(TERMS) - then.keys():  # a study made before there was this setting
            then[name] = Settings.model_fields[name].default
        changed = [name for name in TERMS if now[name] != then[name]]
        if changed and self.store.runs():
            raise UserError(
                f"{self.path}/study.toml: {changed[0]} was {json.dumps(then[changed[0]])} when this study's first run "
                "was made; with another value its numbers cannot be compared. Put it back, or start a new study"
            )
        if "budget" in changed and (baseline := self.store.trial(0)):
            broken = violations(baseline.recipe, self.menu, _limits(settings))
            if broken:
                raise UserError(f"{self.path}/study.toml: the baseline does not fit the budget: {'; '.join(broken)}")
        return changed


def _limits(settings: Settings) -> Limits:
    """What no machine has a say in; the vocabulary may turn out smaller once the text is prepared."""
    return Limits(settings.whole_budget, vocab_size=None if settings.trainer else settings.data.vocab_size)


def create_study(
    home: Path,
    name: str,
    preset: str,
    machine: Machine,
    overrides: Mapping[str, str | int],
    now: Callable[[], datetime] = utc_now,
) -> StudyFolder:
    """Makes the folder, its repository and its database, all or nothing. `overrides` maps settings ("data.source")
    to their values. Raises UserError if the study exists or the preset and settings do not fit together."""
    start = load_preset(preset)
    recipe = start.recipe
    if "fp8" in machine.precisions and "fp8" in start.menu.knobs["precision"].choices:
        recipe["precision"] = "fp8"
    return _found(home, name, start, recipe, overrides, now)


def create_own_study(
    home: Path,
    name: str,
    trainer: Mapping[str, Any],
    menu_text: str,
    menu_source: str,
    overrides: Mapping[str, Any],
    now: Callable[[], datetime] = utc_now,
) -> StudyFolder:
    """A study over a program of one's own. trainer: the table [trainer] of study.toml. menu_source: what errors call
    the menu. Raises UserError as `create_study` does, and for a program that cannot be started or told the menu's
    knobs."""
    start = own_preset(trainer, menu_text, menu_source)
    return _found(home, name, start, start.recipe, overrides, now)


def continue_study(
    home: Path,
    name: str,
    before: StudyFolder,
    overrides: Mapping[str, str | int],
    now: Callable[[], datetime] = utc_now,
) -> StudyFolder:
    """A study that begins with another one's incumbent, settings and menu. The incumbent is measured anew, with seeds
    that were never used there. Raises UserError as `create_study` does, and for a study that has measured nothing."""
    before.require_own()
    study, runs = before.store.study(), before.store.runs()
    incumbent = before.store.trial(int(study["incumbent"]))
    if incumbent is None or incumbent.val_bpb is None:
        raise UserError(f"study {before.name} has measured nothing yet: run it first, or begin from its preset")
    origin = (before.name, incumbent.number)
    seed = max(run.seed for run in runs) + 1
    return _found(home, name, _as_before(before), incumbent.recipe, overrides, now, origin, seed, before.script)


def repeat_study(home: Path, name: str, before: StudyFolder, overrides: Mapping[str, str | int]) -> StudyFolder:
    """A study that begins as another one began: its baseline, settings and menu. Raises UserError as `create_study`
    does, and for an import whose source does not tell what a run may spend."""
    source, baseline = before.store.study()["source"], before.store.trial(0)
    if baseline is None or (source and (before.settings.trainer or not json.loads(source)["budget_known"])):
        lacks = "program" if before.settings.trainer else "budget of a run"
        raise UserError(f"study {before.name} cannot be begun again: what it was imported from tells no {lacks}")
    return _found(home, name, _as_before(before), baseline.recipe, overrides, utc_now, script=before.script)


def _as_before(before: StudyFolder) -> Preset:
    text = (before.path / "study.toml").read_text("utf-8")
    return Preset(before.settings.preset, text, before.menu_text, before.menu)


def _found(
    home: Path,
    name: str,
    start: Preset,
    recipe: Recipe,
    overrides: Mapping[str, Any],
    now: Callable[[], datetime],
    begun_from: tuple[str, int] | None = None,
    first_seed: int = 0,
    script: Script | None = None,
) -> StudyFolder:
    with founding(home, name) as partial:
        (partial / "study.toml").write_text(_override(start.settings_text, overrides), encoding="utf-8")
        settings = load_settings(partial / "study.toml")
        if settings.trainer:
            if script is None and settings.trainer.recipe == "constants":
                script = Script.read(told.script_of(settings.trainer))
                script.require(start.menu)
            told.check(settings.trainer, start.menu)
        if broken := violations(recipe, start.menu, _limits(settings)):
            raise UserError(f"the recipe does not fit the study's budget: {'; '.join(broken)}")
        files = {"recipe.toml": render_recipe(recipe), "menu.toml": start.menu_text}
        files |= script.at(recipe) if script else {}
        workspace = Workspace.create(partial / "recipe", files, now())
        store = Store(partial / "study.db", now)
        store.create_study(
            name,
            settings.model_dump_json(),
            start.menu_text,
            recipe,
            recipe_key(recipe),
            workspace.incumbent,
            begun_from,
            first_seed,
            script,
        )
        store.close()
    return StudyFolder(home, name)


@contextmanager
def founding(home: Path, name: str) -> Iterator[Path]:
    """A folder to fill, which becomes the study when all went well and vanishes otherwise.

    Raises UserError for a name that is none or taken; one from within names the settings, not the passing folder.
    """
    path = _study_path(home, name)
    partial = home / f".{name}.partial"
    try:
        if path.exists() or path.is_symlink():
            raise UserError(f"{path} exists already: choose another name, or go on with `autoresearch run {name}`")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"no study can be made in {home} ({error.strerror}): choose another --home") from None
    try:
        yield partial
        (partial / "runs").mkdir()
        partial.rename(path)
    except UserError as error:
        raise UserError(str(error).replace(f"{partial}/study.toml", "the settings")) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def study_names(home: Path) -> list[str]:
    return sorted(path.parent.name for path in home.glob("*/study.db") if NAME.fullmatch(path.parent.name))


@cache
def _vocab_size(data_dir: str) -> int:
    from trainer.data import manifest_of

    return manifest_of(data_dir).vocab_size


def _study_path(home: Path, name: str) -> Path:
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} is no name for a study: use letters, digits, '.', '_' and '-', 64 at most")
    return home / name


def _nearby(home: Path) -> str:
    names = study_names(home)
    return f" (there: {', '.join(names[:10])})" if names else ""


def _override(text: str, overrides: Mapping[str, Any]) -> str:
    """study.toml with some values replaced or added, its comments kept."""
    document = tomlkit.parse(text)
    for dotted, value in overrides.items():
        *tables, key = dotted.split(".")
        table: Any = document
        for name in tables:
            table = table[name]
        if isinstance(value, int) and isinstance(table.get(key), Mapping):  # [workers], whose bare number is `most`
            table, key = table[key], "most"
        table[key] = value
    return tomlkit.dumps(document)
