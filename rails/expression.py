"""The menu's cross constraints: compiled to a whitelisted syntax tree at load, walked node by node, never executed."""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from rails.values import KnobType, RailsError, Value, clean, nearest

Kind: TypeAlias = Literal["number", "text", "truth"]

# There is no power operator, so these bounds keep every intermediate integer within a few thousand bits.
MAX_LENGTH = 300
MAX_DEPTH = 24
MAX_LITERAL = 2**53

KIND_OF_TYPE: dict[KnobType, Kind] = {"int": "number", "float": "number", "str": "text", "bool": "truth"}

_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_EQUALITY: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {ast.Eq: operator.eq, ast.NotEq: operator.ne}
_COMPARISON: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    **_EQUALITY,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_CALLS: dict[str, Callable[[list[Any]], Any]] = {"min": min, "max": max}
RESERVED = frozenset(_CALLS) | {"budget_steps"}


@dataclass(frozen=True)
class Constraint:
    """One condition that a whole recipe must meet. `names`: the knobs and derived names that it reads."""

    expr: str
    doc: str
    names: frozenset[str]
    tree: ast.expr = field(repr=False, compare=False)

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Whether the condition is met; RailsError where it has no answer (a division by zero, an overflow)."""
        try:
            return bool(_evaluate(self.tree, values))
        except (ArithmeticError, TypeError) as error:
            raise RailsError(f"{self.expr} has no answer: {error}") from None
        except KeyError as error:
            raise RailsError(f"{self.expr} reads {error.args[0]}, which the recipe lacks") from None


def compile_constraint(expr: str, doc: str, types: Mapping[str, KnobType]) -> Constraint:
    """Parse and type-check one condition over the knobs in `types` and `budget_steps`.

    Types are checked here, before any value is known, so that walking it later can fail only by arithmetic.
    RailsError for anything off the whitelist, for an unknown name, and for what is no condition.
    """
    if len(expr) > MAX_LENGTH:
        raise RailsError(f"is longer than {MAX_LENGTH} characters")
    try:
        tree = ast.parse(expr.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RailsError(f"is no expression: {clean(str(error), 100)}") from None
    kinds: dict[str, Kind] = {name: KIND_OF_TYPE[type_] for name, type_ in types.items()}
    kinds["budget_steps"] = "number"
    if _kind(tree, kinds, MAX_DEPTH) != "truth":
        raise RailsError("is no condition: compare two things")
    functions = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    names = frozenset(n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in functions)
    if not names:
        raise RailsError("names no knob")
    return Constraint(expr.strip(), doc, names, tree)


def _kind(node: ast.expr, kinds: Mapping[str, Kind], depth: int) -> Kind:
    """What a node yields; RailsError unless every part of it is on the whitelist and of a fitting kind."""
    if depth == 0:
        raise RailsError(f"is nested deeper than {MAX_DEPTH}")

    def each_is(parts: list[ast.expr], wanted: Kind, what: str) -> Kind:
        for part in parts:
            if (found := _kind(part, kinds, depth - 1)) != wanted:
                raise RailsError(f"{what} takes {wanted} only, not the {found} `{ast.unparse(part)}`")
        return wanted

    match node:
        case ast.Constant(value=bool()):
            return "truth"
        case ast.Constant(value=str()):
            return "text"
        case ast.Constant(value=int() | float() as number):
            if not abs(number) <= MAX_LITERAL:
                raise RailsError(f"has a number beyond {MAX_LITERAL}")
            return "number"
        case ast.Name(id=name):
            if name not in kinds:
                raise RailsError(f'names "{clean(name, 60)}", which is no knob{nearest(name, list(kinds))}')
            return kinds[name]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            return each_is([operand], "number", "a sign")
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return each_is([operand], "truth", "not")
        case ast.BoolOp(values=values):
            return each_is(values, "truth", "and/or")
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return each_is([left, right], "number", "arithmetic")
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _CALLS and len(arguments) > 1:
            return each_is(arguments, "number", name)
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARISON for op in ops):
            ordered = any(type(op) not in _EQUALITY for op in ops)
            first = _kind(left, kinds, depth - 1)
            if ordered and first != "number":
                raise RailsError(f"an order takes number only, not the {first} `{ast.unparse(left)}`")
            each_is(others, first, f"a comparison with `{ast.unparse(left)}`")
            return "truth"
    raise RailsError(
        f"uses {type(node).__name__}, which no constraint may "
        "(names, literals, and/or/not, comparisons, + - * / // %, min, max)"
    )


def _evaluate(node: ast.expr, values: Mapping[str, Value]) -> Any:
    """The value of a checked node. ArithmeticError, or KeyError for a name without a value."""
    match node:
        case ast.Name(id=name):
            return values[name]
        case ast.Constant(value=value):
            return value
        case ast.Compare(left=left, ops=ops, comparators=others):
            before = _evaluate(left, values)
            for op, other in zip(ops, others, strict=True):
                after = _evaluate(other, values)
                if not _COMPARISON[type(op)](before, after):
                    return False
                before = after
            return True
        case ast.BinOp(left=left, op=operation, right=right):
            result = _ARITHMETIC[type(operation)](_evaluate(left, values), _evaluate(right, values))
            if isinstance(result, float) and not math.isfinite(result):
                raise OverflowError("a result is not finite")
            return result
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_evaluate(part, values) for part in parts)
        case ast.BoolOp(values=parts):
            return any(_evaluate(part, values) for part in parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _evaluate(operand, values)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand, values)
        case ast.UnaryOp(operand=operand):
            return _evaluate(operand, values)
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return _CALLS[name]([_evaluate(argument, values) for argument in arguments])
    raise AssertionError(f"unchecked node {type(node).__name__}")
