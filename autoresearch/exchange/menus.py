"""The menu of an imported study: the one it came with, a preset's that fits, or one inferred from the values seen."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import tomlkit

from autoresearch.exchange.source import Imported
from autoresearch.study.preset import load_preset
from autoresearch.trial import Value
from rails import Menu, RailsError, load_menu

PRESET = "gpt-354m"
# What the published loop keeps beside the knobs. They count as knobs only where a proposal turned them.
BOOKKEEPING = ("seed", "steps", "vocab_size", "val_chunk_tokens")
DOC = "Inferred from the imported trajectory: the values that it holds."
NOTHING_KNOWN = '[knobs.unknown]\ntype = "bool"\ndefault = false\ndoc = "The source does not say what was changed."\n'


def menu_for(found: Imported) -> str:
    """The text of a menu.toml that load_menu accepts."""
    if found.menu_text is not None:
        try:
            load_menu(found.menu_text)
            return found.menu_text
        except RailsError:
            pass  # an untrusted file: what it calls a menu may be none
    seen = _seen(found)
    preset = load_preset(PRESET)
    if set(preset.menu.knobs) <= found.recipe.keys():
        widened = _widened(preset.menu_text, preset.menu, seen)
        if widened is not None:
            return widened
    return _inferred(found, seen)


def _seen(found: Imported) -> dict[str, list[Value]]:
    """Knob -> its values in the recipes that were trained, the baseline's first."""
    seen: dict[str, dict[tuple[str, Value], Value]] = {}
    for recipe in [found.recipe, *(json.loads(row["recipe"]) for row in found.trials)]:
        for name, value in recipe.items():
            seen.setdefault(name, {})[(str(isinstance(value, bool)), value)] = value
    return {name: list(values.values()) for name, values in seen.items()}


def _widened(text: str, menu: Menu, seen: dict[str, list[Value]]) -> str | None:
    """The preset's menu, opened as far as the values lie outside; None where a knob is of another type here."""
    document: Any = tomlkit.parse(text)
    for name, knob in menu.knobs.items():
        outside = [value for value in seen[name] if not _admits(menu, name, value)]
        if not outside:
            continue
        table = document["knobs"][name]
        if knob.choices:
            table["choices"] = sorted({*knob.choices, *outside}, key=lambda value: (isinstance(value, str), value))
        elif all(isinstance(value, int | float) for value in outside):
            table["low"] = min(table["low"], *outside)
            table["high"] = max(table["high"], *outside)
            if knob.scale == "log" and table["low"] <= 0:
                del table["scale"]
    widened = str(tomlkit.dumps(document))
    try:
        opened = load_menu(widened)
    except RailsError:
        return None
    fits = all(_admits(opened, name, value) for name in menu.knobs for value in seen[name])
    return widened if fits else None


def _admits(menu: Menu, name: str, value: Value) -> bool:
    try:
        menu.knobs[name].admit(value)
    except RailsError:
        return False
    return True


def _inferred(found: Imported, seen: dict[str, list[Value]]) -> str:
    changes = [json.loads(row["changes"]) for row in found.trials]
    turned = {name for change in changes for name in change}
    knobs = [text for name in seen if name in turned or name not in BOOKKEEPING if (text := _knob(name, seen[name]))]
    most = max((len(change) for change in changes), default=1)
    return f"max_changes = {max(1, most)}\n\n" + ("\n".join(knobs) or NOTHING_KNOWN)


def _knob(name: str, values: list[Value]) -> str | None:
    """One table of the menu; None for what cannot be a knob there."""
    kind = _kind(values)
    if kind is None:
        return None
    typed: list[Any] = [float(value) for value in values] if kind == "float" else list(values)
    table: dict[str, Any] = {"type": kind}
    if kind != "bool":
        table["choices"] = sorted(dict.fromkeys(typed))
    text = tomlkit.dumps({"knobs": {name: {**table, "default": typed[0], "doc": DOC}}})
    try:
        load_menu(text)
    except RailsError:
        return None
    return text.removeprefix("[knobs]\n")


def _kind(values: Iterable[Value]) -> str | None:
    kinds = {type(value) for value in values}
    for name, members in (("bool", {bool}), ("int", {int}), ("float", {int, float}), ("str", {str})):
        if kinds <= members:
            return name
    return None
