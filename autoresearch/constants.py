"""A script's top-level constants: read with Python's own parser and replaced in a copy; nothing of it is ever run."""

from __future__ import annotations

import ast
import io
import keyword
import math
import operator
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from autoresearch.errors import UserError
from autoresearch.trial import Value
from rails import clean
from rails.expression import RESERVED

MOST_BYTES = 2**20  # of a script
MOST = 2**53  # beyond it a float no longer holds every whole number, and no menu takes one
MOST_NESTED = 20  # signs and operators of one value
_KNOB = re.compile(r"[a-z][a-z0-9_]{0,63}")
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


@dataclass(frozen=True)
class Constant:
    """`NAME = value` at a script's top level, bound nowhere else. `start` and `end` are where the value's text lies, in
    bytes of the source as UTF-8; `line` counts from 1."""

    name: str
    value: Value
    line: int
    start: int
    end: int

    @property
    def knob(self) -> str:
        return knob_of(self.name)


@dataclass(frozen=True)
class NoConstant:
    """A name at a script's top level that no menu can turn."""

    name: str
    line: int
    why: str


def knob_of(name: str) -> str:
    """What a constant is called in menu and recipe, which take lower-case names: DEPTH is depth, LAMBDA is lambda_."""
    lower = name.lower()
    return f"{lower}_" if keyword.iskeyword(lower) or lower in RESERVED else lower


def parsed(source: str, name: str = "the script") -> ast.Module:
    """The script's syntax tree. Raises UserError, which names the line, for what is no Python."""
    if len(source) > MOST_BYTES or len(source.encode("utf-8", "replace")) > MOST_BYTES:
        raise UserError(f"{name} is larger than {MOST_BYTES:,} bytes: constants are read from shorter scripts only")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the script, which are its author's business
            return ast.parse(source.removeprefix("\ufeff"))
    except SyntaxError as error:
        where = f"{name}, line {error.lineno}" if error.lineno else name
        raise UserError(f"{where}: this is no Python: {clean(str(error.msg), 200)}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{name}: this is no Python: {clean(str(error), 200) or 'nested too deeply'}") from None


@lru_cache(8)  # a study asks for the same script with each trial
def read_constants(source: str, name: str = "the script") -> tuple[tuple[Constant, ...], tuple[NoConstant, ...]]:
    """The constants of a script in their order, and the other names that it assigns at its top level, with why they are
    none. Raises UserError for what is no Python."""
    tree = parsed(source, name)
    bound = Counter(_bound(tree))
    elsewhere = {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
    knobs = Counter(map(knob_of, bound))
    starts = _line_starts(source)
    found: list[Constant] = []
    others: list[NoConstant] = []
    for target, value, line in _assignments(tree):
        if bound[target] > 1 or target in elsewhere:
            why = "assigned more than once"
        elif not _KNOB.fullmatch(knob_of(target)):
            why = "a knob's name is letters, digits and _, and begins with a letter"
        elif knobs[knob_of(target)] > 1:
            why = "another name differs from it in capitals alone"
        elif value is None:
            why = "assigned together with others"
        elif (known := _literal(value)) is None:
            names = sorted({node.id for node in ast.walk(value) if isinstance(node, ast.Name)} & bound.keys())
            why = f"made from {', '.join(names[:3])}" if names else "no plain number, word, True or False"
        else:
            assert value.end_lineno is not None and value.end_col_offset is not None, "ast.parse gives all positions"
            start = starts[value.lineno - 1] + value.col_offset
            found.append(Constant(target, known, line, start, starts[value.end_lineno - 1] + value.end_col_offset))
            continue
        if all(other.name != target for other in others):
            others.append(NoConstant(target, line, why))
    return tuple(found), tuple(others)


def patched(source: str, values: Mapping[str, Value]) -> str:
    """The script with these constants at these values; all else stays as it is, to the byte.

    values: knob -> value, where a knob is a constant's name in lower case (`knob_of`). A constant that has the value
    already keeps its text (`2**16`). Raises UserError for a knob that is no constant of the script.
    """
    constants = {found.knob: found for found in read_constants(source)[0]}
    if lost := [knob for knob in values if knob not in constants]:
        raise UserError(f"the script has no constant {clean(lost[0], 64).upper()} at its top level to replace")
    text = source.encode("utf-8")
    changes = [(constants[knob], value) for knob, value in values.items() if not same(constants[knob].value, value)]
    for constant, value in sorted(changes, key=lambda change: change[0].start, reverse=True):
        spelt = _spelt(value, text[constant.start : constant.start + 1] == b'"')
        text = text[: constant.start] + spelt.encode("utf-8") + text[constant.end :]
    return text.decode("utf-8")


def same(one: Value, other: Value) -> bool:
    """Whether two values are one to a script: 1 and 1.0 are, 1 and True are not."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _spelt(value: Value, double_quotes: bool) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{value} cannot be written into a script")
    spelt = repr(value)
    plain = isinstance(value, str) and spelt == f"'{value}'" and '"' not in value
    return f'"{value}"' if plain and double_quotes else spelt


def _assignments(tree: ast.Module) -> Iterator[tuple[str, ast.expr | None, int]]:
    """(name, value, line) of each plain assignment to names at the top level; value None: to several at once."""
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=targets, value=value):
                names = [name.id for target in targets for name in _names(target)]
                alone = len(targets) == 1 and isinstance(targets[0], ast.Name)
                yield from ((name, value if alone else None, statement.lineno) for name in names)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield name, value, statement.lineno


def _names(target: ast.expr) -> Iterator[ast.Name]:
    return (node for node in ast.walk(target) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))


def _bound(tree: ast.Module) -> Iterator[str]:
    """Each name that is bound, or unbound, in the module's own scope, as often as it is."""
    waiting: list[ast.AST] = [tree]  # no recursion: an expression may be nested deeper than Python's stack
    while waiting:
        match node := waiting.pop():
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                yield name
            case ast.alias(name=name, asname=other):
                yield other or name.partition(".")[0]
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name
            case ast.MatchMapping(rest=str(name)):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
        if isinstance(node, ast.comprehension):
            waiting.append(node.iter)
        elif not isinstance(node, _SCOPES):
            waiting.extend(ast.iter_child_nodes(node))


def _literal(node: ast.expr, depth: int = MOST_NESTED) -> Value | None:
    """What a literal, or simple arithmetic of number literals, is; None for all else and beyond what a menu takes."""
    match node:
        case ast.Constant(value=bool() | str() as value):
            return value
        case ast.Constant(value=int() | float() as value):
            return _number(value)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand) if depth:
            inner = _literal(operand, depth - 1)
            if inner is None or isinstance(inner, bool | str):
                return None
            return -inner if isinstance(sign, ast.USub) else inner
        case ast.BinOp(left=left, op=op, right=right) if depth and type(op) in _ARITHMETIC:
            one, other = _literal(left, depth - 1), _literal(right, depth - 1)
            if one is None or other is None or isinstance(one, bool | str) or isinstance(other, bool | str):
                return None
            try:
                if isinstance(op, ast.Pow):
                    float(one) ** float(other)  # before a whole number of a million digits is made
                result = _ARITHMETIC[type(op)](one, other)
            except (ArithmeticError, ValueError):
                return None
            return _number(result)
    return None


def _number(value: object) -> int | float | None:
    """None for what is no number that a menu takes: complex, infinite, NaN, or a whole one that is too large."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int) and abs(value) <= MOST else None


def _line_starts(source: str) -> list[int]:
    """Where each line begins, in bytes of UTF-8, as Python counts lines: at \\n, \\r and \\r\\n and nothing else."""
    text = source.removeprefix("\ufeff")
    at = len(source.encode("utf-8")) - len(text.encode("utf-8"))
    starts = []
    for line in io.StringIO(text, newline=""):
        starts.append(at)
        at += len(line.encode("utf-8"))
    return starts
