"""What a study starts from: a size of model with its settings and menu, and its -wide variant with every knob."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit

from autoresearch.config import PRESETS, Settings, parse_settings
from autoresearch.errors import UserError
from autoresearch.trial import Recipe
from rails import Menu, load_menu

WIDE = "-wide"


@dataclass(frozen=True)
class Preset:
    """Texts as a person would have written them; the recipe is the menu's defaults."""

    name: str
    settings_text: str
    menu_text: str
    menu: Menu

    @property
    def settings(self) -> Settings:
        return parse_settings(self.settings_text, f"preset {self.name}, study.toml")

    @property
    def recipe(self) -> Recipe:
        return self.menu.defaults()


def own_preset(trainer: Mapping[str, Any], menu_text: str, menu_source: str) -> Preset:
    """What a study over a program of one's own starts from. trainer: the table [trainer]. Raises RailsError for what is
    no menu; the settings are judged where the study is made."""
    document = tomlkit.parse((PRESETS / "own.toml").read_text("utf-8"))
    table = tomlkit.table()
    table.update(trainer)
    document.append("trainer", table)
    return Preset("own", tomlkit.dumps(document), menu_text, load_menu(menu_text, menu_source))


def read_menu(file: Path) -> str:
    """The text of a menu that a person wrote. Raises UserError where the file cannot be read."""
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as a menu: {getattr(error, 'strerror', None) or error}") from None


def preset_names() -> list[str]:
    sizes = sorted(path.parent.name for path in PRESETS.glob("*/study.toml"))
    return [name + variant for name in sizes for variant in ("", WIDE)]


def load_preset(name: str) -> Preset:
    """Raises UserError for a name that is none."""
    if name not in preset_names():
        raise UserError(f"there is no preset {name!r}: choose one of {', '.join(preset_names())}")
    folder = PRESETS / name.removesuffix(WIDE)
    settings_text = (folder / "study.toml").read_text("utf-8")
    menu_text = (folder / "menu.toml").read_text("utf-8")
    if name.endswith(WIDE):
        settings_text = settings_text.replace(f'preset = "{folder.name}"', f'preset = "{name}"')
        menu_text += "\n" + (PRESETS / "wide.toml").read_text("utf-8")
    return Preset(name, settings_text, menu_text, load_menu(menu_text, f"preset {name}, menu.toml"))
