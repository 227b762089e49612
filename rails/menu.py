"""The menu: which knobs a proposal may turn, to what, and which conditions a whole recipe must meet."""

import keyword
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from rails.expression import RESERVED, Constraint, compile_constraint
from rails.values import KnobType, RailsError, Value, clean, nearest, shown

_TYPES: dict[KnobType, type] = {"int": int, "float": float, "str": str, "bool": bool}
_ARTICLE: dict[KnobType, str] = {"int": "an int", "float": "a float", "str": "a string", "bool": "true or false"}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
MAX_INT = 2**53  # beyond it a float no longer holds every integer, and a constraint's arithmetic could grow too long


@dataclass(frozen=True)
class Knob:
    """One knob of the recipe. Numbers have either `low` and `high` (both inclusive) or `choices`; `choices` is ()
    for a knob with a range, and (False, True) for a bool."""

    name: str
    type: KnobType
    low: int | float | None
    high: int | float | None
    choices: tuple[Value, ...]
    scale: Literal["linear", "log"]
    default: Value
    doc: str

    @property
    def allowed(self) -> str:
        """What the knob takes, in words."""
        if self.type == "bool":
            return "true or false"
        if self.choices:
            return "one of " + ", ".join(shown(choice) for choice in self.choices)
        return f"{_ARTICLE[self.type]} from {shown(self.low)} to {shown(self.high)}"

    def admit(self, value: object) -> Value:
        """The value as this knob holds it (1 becomes 1.0 for a float knob); RailsError for one it may not take."""
        right_type = type(value) is _TYPES[self.type] or (self.type == "float" and type(value) is int)
        if right_type and (value in self.choices if self.choices else self._in_range(cast(float, value))):
            # Adding 0.0 makes -0.0 and 0.0 one value, so that they render and hash alike.
            return float(cast(float, value)) + 0.0 if self.type == "float" else cast(Value, value)
        raise RailsError(f"{self.name} must be {self.allowed}, not {shown(value)}")

    def _in_range(self, value: float) -> bool:
        # False for NaN and the infinities, since both bounds are finite.
        return self.low is not None and self.high is not None and self.low <= value <= self.high


@dataclass(frozen=True)
class Menu:
    """The trust root: everything that a proposal may do is written here.

    max_compute_ratio: how many times the FLOPs of a run of the defaults a run may take; None: any.
    """

    knobs: dict[str, Knob]
    constraints: tuple[Constraint, ...]
    max_changes: int
    max_compute_ratio: float | None = None

    def defaults(self) -> dict[str, Value]:
        """A recipe of every knob's default, in the menu's order."""
        return {name: knob.default for name, knob in self.knobs.items()}


def load_menu(text: str, source: str = "menu.toml") -> Menu:
    """Read and validate a menu; RailsError names `source`, the knob and, for a slip of the pen, the nearest key."""
    try:
        table = read_toml(text)
        _only(table, ("max_changes", "max_compute_ratio", "knobs", "constraints"), "the menu")
        max_changes = table.get("max_changes", 1)
        if type(max_changes) is not int or max_changes < 1:
            raise RailsError(f"max_changes must be an int of 1 or more, not {shown(max_changes)}")
        knobs = _load_knobs(table.get("knobs"))
        constraints = _load_constraints(table.get("constraints", []), knobs)
        return Menu(knobs, constraints, max_changes, _load_ratio(table.get("max_compute_ratio")))
    except RailsError as error:
        raise RailsError(f"{clean(source)}: {error}") from None


def read_toml(text: str) -> dict[str, Any]:
    """A TOML document as a table; RailsError, never another exception, when it is none."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError also: a decimal integer of thousands of digits
        raise RailsError(f"is no valid TOML: {clean(str(error), 200)}") from None


def _load_ratio(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_INT:
        raise RailsError(f"max_compute_ratio must be a number above 0, such as 1.5, not {shown(value)}")
    return float(value)


def _load_knobs(tables: object) -> dict[str, Knob]:
    if not isinstance(tables, dict) or not tables:
        raise RailsError("has no knobs: add a table such as [knobs.lr]")
    knobs = {}
    for name, table in tables.items():
        if not _NAME.fullmatch(name) or keyword.iskeyword(name) or name in RESERVED:
            raise RailsError(f"knob {shown(name)}: a name is lower-case letters, digits and _, and no reserved word")
        try:
            knobs[name] = _load_knob(name, table)
        except RailsError as error:
            raise RailsError(f"knob {name}: {error}") from None
    return knobs


def _load_knob(name: str, table: object) -> Knob:
    if not isinstance(table, dict):
        raise RailsError(f"must be a table [knobs.{name}]")
    _only(table, ("type", "low", "high", "choices", "scale", "default", "doc"), "a knob")
    type_ = table.get("type")
    if not isinstance(type_, str) or type_ not in get_args(KnobType):
        raise RailsError(f'type must be "int", "float", "str" or "bool", not {shown(type_)}')
    kind = cast(KnobType, type_)
    if not isinstance(doc := table.get("doc", ""), str):
        raise RailsError("doc must be a string")
    if (scale := table.get("scale", "linear")) not in ("linear", "log"):
        raise RailsError(f'scale must be "linear" or "log", not {shown(scale)}')
    if "default" not in table:
        raise RailsError("has no default")
    low = high = None
    choices: tuple[Value, ...] = ()
    if kind == "bool":
        _refuse(table, ("low", "high", "choices", "scale"), "a bool knob takes true and false")
        choices = (False, True)
    elif "choices" in table:
        _refuse(table, ("low", "high", "scale"), "a knob with choices takes those alone")
        choices = _load_choices(kind, table["choices"])
    elif kind == "str":
        raise RailsError("a str knob needs choices: free text is never let through")
    else:
        low, high = (_number(kind, key, table.get(key)) for key in ("low", "high"))
        if low > high:
            raise RailsError(f"the range is empty: low {shown(low)} is above high {shown(high)}")
        if scale == "log" and low <= 0:
            raise RailsError(f'scale = "log" needs low above 0, not {shown(low)}')
    knob = Knob(name, kind, low, high, choices, scale, table["default"], doc.strip())
    try:
        default = knob.admit(table["default"])
    except RailsError as error:
        raise RailsError(f"default: {error}") from None
    return Knob(name, kind, low, high, choices, scale, default, doc.strip())


def _load_choices(kind: KnobType, choices: object) -> tuple[Value, ...]:
    if not isinstance(choices, list) or not choices:
        raise RailsError("choices must be a list of one value or more")
    if kind == "str":
        for choice in choices:
            if not isinstance(choice, str) or not choice or clean(choice, 100) != choice:
                raise RailsError(f"choices: a plain string on one line is needed, not {shown(choice)}")
        values: tuple[Value, ...] = tuple(choices)
    else:
        values = tuple(_number(kind, "choices", choice) for choice in choices)
    if len(set(values)) != len(values):
        raise RailsError("choices: one of them is there twice")
    return values


def _number(kind: KnobType, key: str, value: object) -> int | float:
    """A bound or choice as the knob's own type; RailsError unless it is a finite number of that type."""
    if type(value) is int and abs(value) <= MAX_INT:
        return float(value) if kind == "float" else value
    if kind == "float" and type(value) is float and math.isfinite(value):
        return value + 0.0
    raise RailsError(f"{key} must be {_ARTICLE[kind]}, finite, not {'missing' if value is None else shown(value)}")


def _load_constraints(tables: object, knobs: Mapping[str, Knob]) -> tuple[Constraint, ...]:
    if not isinstance(tables, list):
        raise RailsError("constraints must be a list of tables [[constraints]]")
    types = {name: knob.type for name, knob in knobs.items()}
    constraints = []
    for table in tables:
        if not isinstance(table, dict):
            raise RailsError("constraints must be a list of tables [[constraints]]")
        _only(table, ("expr", "doc"), "a constraint")
        expr, doc = table.get("expr"), table.get("doc", "")
        if not isinstance(expr, str) or not isinstance(doc, str):
            raise RailsError("a constraint needs expr, a string (and may have doc, a string)")
        try:
            constraints.append(compile_constraint(expr, doc.strip(), types))
        except RailsError as error:
            raise RailsError(f"constraint {shown(expr)} {error}") from None
    return tuple(constraints)


def _only(table: Mapping[str, object], keys: tuple[str, ...], what: str) -> None:
    for key in table:
        if key not in keys:
            raise RailsError(f"unknown key {shown(key)}{nearest(key, list(keys))} ({what} takes {', '.join(keys)})")


def _refuse(table: Mapping[str, object], keys: tuple[str, ...], why: str) -> None:
    for key in keys:
        if key in table:
            raise RailsError(f"{key} has no place here: {why}")
