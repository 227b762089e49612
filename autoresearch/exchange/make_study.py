"""Makes a study of an imported trajectory: settings, menu, baseline recipe and database, all or nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tomlkit

from autoresearch.config import load_settings
from autoresearch.errors import UserError
from autoresearch.exchange.menus import PRESET, menu_for
from autoresearch.exchange.objects import SHARED_SETTINGS
from autoresearch.exchange.source import Imported, Source
from autoresearch.study.folder import StudyFolder, founding
from autoresearch.study.preset import load_preset, preset_names
from autoresearch.study.store import Store
from autoresearch.study.store.rows import sha256_of
from autoresearch.study.workspace import Workspace
from autoresearch.trial import iso, utc_now
from rails import load_menu, render_recipe


def make_study(home: Path, name: str, source: Source, format: str, found: Imported, menu: Path | None) -> StudyFolder:
    """Raises UserError where the study exists, the name is none, or the trajectory contradicts itself."""
    menu_text = _read_menu(menu) if menu else menu_for(found)
    with founding(home, name) as partial:
        (partial / "study.toml").write_text(_settings_text(found.settings), encoding="utf-8")
        settings = load_settings(partial / "study.toml")
        files = {"recipe.toml": render_recipe(found.recipe), "menu.toml": menu_text}
        workspace = Workspace.create(partial / "recipe", files, utc_now())
        study = {
            "name": name, "created_at": found.trials[0]["started_at"], "settings": settings.model_dump_json(),
            "menu": menu_text, "menu_sha256": sha256_of(menu_text), "incumbent": found.incumbent,
            "incumbent_commit": workspace.incumbent, "control": "stop",
            "source": json.dumps(_source(source, format, found)),
        }  # fmt: skip
        found.trials[0]["commit"] = workspace.incumbent
        store = Store(partial / "study.db")
        events = _events(name, source, found)
        store.import_rows(study, found.trials, found.proposals, found.runs, events, one_by_one=found.one_by_one)
        store.close()
    return StudyFolder(home, name)


def _read_menu(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a menu: {error}") from None
    load_menu(text, str(path))
    return text


def _settings_text(given: dict[str, Any]) -> str:
    """A preset's study.toml with what the source says otherwise; only what the numbers depend on is believed."""
    preset = load_preset(given["preset"] if given.get("preset") in preset_names() else PRESET)
    standing = preset.settings.model_dump(mode="json")
    document: Any = tomlkit.parse(preset.settings_text)
    try:
        for name in (*SHARED_SETTINGS, "trainer"):
            if name == "preset" or name not in given or given[name] == standing[name]:
                continue
            if name in ("budget", "trainer") or not isinstance(given[name], dict):
                document[name] = given[name]
            else:
                document[name].update(given[name])
    except TypeError as error:
        raise UserError(f"the settings that the trajectory holds are none: {error}") from None
    return str(tomlkit.dumps(document))


def _source(source: Source, format: str, found: Imported) -> dict[str, Any]:
    return {
        "format": format,
        "file": source.name,
        "sha256": sha256_of(source.text),
        "budget_known": "budget" in found.settings,
        "head": found.head,
        "tail": found.pieces,
    }


def _events(name: str, source: Source, found: Imported) -> list[dict[str, Any]]:
    """What the study's log would say if its trials had been run here, each at its own time."""
    events = [{"at": iso(utc_now()), "kind": "imported", "trial": None, "message": f"{name} from {source.name}"}]
    for row in found.trials[1:]:
        kind = row.get("decision") or row["state"]
        events.append({"at": row["finished_at"], "kind": kind, "trial": row["number"], "message": row["reason"]})
    return events
