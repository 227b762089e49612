"""A Python script's top-level constants, read with Python's own parser and replaced by their place; nothing is run."""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping
from dataclasses import dataclass

from autoresearch.errors import UserError
from autoresearch.trial import Value
from rails import clean
from rails.values import nearest

SEED = "seed"  # a constant of this name, in capitals or not, becomes the run's seed
MOST = 2**53  # of what arithmetic in a constant may come to
ARITHMETIC = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Pow: operator.pow,
}  # fmt: skip


@dataclass(frozen=True)
class Constant:
    """One assignment at the top of a script. value: None where it is no number, text, true or false, such as a list or
    a call. begin, end: where that value stands, in bytes of the script's UTF-8. line: counted from 1. times: how often
    the name is given a value at the top of the script."""

    name: str
    value: Value | None
    begin: int
    end: int
    line: int
    times: int = 1


def constants(script: str, source: str) -> dict[str, Constant]:
    """Name -> constant, in the script's order. Raises UserError naming `source` for what is no Python."""
    try:
        tree = ast.parse(script)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise UserError(f"{clean(source)} is no Python script: {clean(str(error), 200)}") from None
    starts = [0]
    for line in script.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found: dict[str, Constant] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target, value = node.target, node.value
        else:
            continue
        if isinstance(target, ast.Name):
            assert value.end_lineno is not None and value.end_col_offset is not None
            begin = starts[value.lineno - 1] + value.col_offset
            end = starts[value.end_lineno - 1] + value.end_col_offset
            times = found[target.id].times + 1 if target.id in found else 1
            found[target.id] = Constant(target.id, _value(value), begin, end, node.lineno, times)
    return found


def constant_of(knob: str, found: Mapping[str, Constant], source: str) -> Constant:
    """The constant that a knob sets: of its name, else of its name in capitals or otherwise spelled. Raises UserError
    where there is none, or no single one."""
    names = [knob] if knob in found else [name for name in found if name.lower() == knob.lower()]
    if not names:
        raise UserError(
            f"{clean(source)} has no constant {knob.upper()} at its top for knob {knob}"
            f"{nearest(knob.upper(), list(found))}: name the knob as the constant, or take it from the menu"
        )
    if len(names) > 1 or found[names[0]].times > 1:
        raise UserError(f"{clean(source)} sets {' and '.join(names)} more than once: knob {knob} needs one place")
    return found[names[0]]


def replaced(script: str, values: Mapping[str, Value], source: str) -> str:
    """The script with these constants, by knob, at other values; all else stays to the last byte. Raises UserError."""
    found, text = constants(script, source), script.encode()
    places = [(constant_of(knob, found, source), value) for knob, value in values.items()]
    for constant, value in sorted(places, key=lambda place: -place[0].begin):
        text = text[: constant.begin] + repr(value).encode() + text[constant.end :]
    return text.decode()


def has_seed(script: str, source: str) -> bool:
    return any(name.lower() == SEED for name in constants(script, source))


def _value(node: ast.expr) -> Value | None:
    """Of a literal, or of arithmetic with numbers."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            number = _number(operand)
            return None if number is None else -number
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            one, other = _number(left), _number(right)
            if one is None or other is None or (isinstance(op, ast.Pow) and abs(other) > 64):
                return None
            try:
                made = ARITHMETIC[type(op)](one, other)
            except (ArithmeticError, ValueError):
                return None
            return made if isinstance(made, int | float) and abs(made) <= MOST else None
    return None


def _number(node: ast.expr) -> int | float | None:
    value = _value(node)
    return value if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST else None
