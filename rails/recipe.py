"""The recipe as text, as values and as a key: three views of one thing that never disagree."""

import hashlib
import json
import math
import re
from collections.abc import Mapping

from rails.menu import Menu, read_toml
from rails.values import RailsError, Value, clean, nearest, shown

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def parse_recipe(text: str, menu: Menu, source: str = "recipe.toml") -> dict[str, Value]:
    """Read a recipe and check every knob against the menu; the order of the file is kept.

    RailsError names `source` and the knob: unknown, missing, of the wrong type or out of range.
    """
    try:
        table = read_toml(text)
        recipe = {}
        for name, value in table.items():
            if name not in menu.knobs:
                raise RailsError(f"{shown(name)} is no knob of the menu{nearest(name, list(menu.knobs))}")
            recipe[name] = menu.knobs[name].admit(value)
        for name, knob in menu.knobs.items():
            if name not in recipe:
                raise RailsError(f"knob {name} is missing (the menu's default is {shown(knob.default)})")
        return recipe
    except RailsError as error:
        raise RailsError(f"{clean(source)}: {error}") from None


def render_recipe(recipe: Mapping[str, Value]) -> str:
    """The canonical recipe.toml: one `knob = value` a line, in the order given.

    RailsError for a name or value that does not fit on such a line: NaN, infinity, text with control characters.
    """
    return "".join(render_line(name, value) + "\n" for name, value in recipe.items())


def render_line(name: str, value: Value) -> str:
    """One knob's line, without a line end; tomllib reads back the same name, type and value."""
    if not _BARE_KEY.fullmatch(name):
        raise RailsError(f"{shown(name)} is no name for a knob")
    match value:
        case bool():
            return f"{name} = {'true' if value else 'false'}"
        case float() if math.isfinite(value):
            return f"{name} = {value!r}"
        case int():
            return f"{name} = {value}"
        case str() if clean(value, len(value)) == value:
            return f"{name} = {json.dumps(value, ensure_ascii=False)}"
    raise RailsError(f"{name} = {shown(value)} cannot be written to a recipe")


def recipe_key(recipe: Mapping[str, Value]) -> str:
    """A short hash (16 hex digits) that two recipes share exactly when they mean the same training.

    The order of the knobs does not count, nor how a number is spelled: 1e-3 and 0.001 are one, and so are 8 and 8.0.
    """
    canonical = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value for name, value in recipe.items()
    }
    return hashlib.sha256(json.dumps(canonical, sort_keys=True).encode()).hexdigest()[:16]
