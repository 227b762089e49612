"""What a script tells without being run: the words it compares its constants with, and the score that it prints."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from autoresearch.constants import parsed

METRICS = {
    "bpb", "bpc", "loss", "nll", "ppl", "perplexity", "error", "err", "rmse", "mse", "mae", "cost", "objective",
    "metric", "regret",
}  # fmt: skip
HIGHER_IS_BETTER = {
    "acc", "accuracy", "f1", "score", "reward", "auc", "auroc", "r2", "bleu", "return", "precision", "recall", "map",
    "iou", "dice", "psnr", "ssim",
}  # fmt: skip
HELD_OUT = {"val", "valid", "validation", "test", "eval", "dev", "heldout"}
NO_SCORES = {
    "time", "seconds", "minutes", "step", "steps", "epoch", "iter", "memory", "mem", "mb", "tokens", "params", "lr",
    "mfu", "train", "training", "depth", "device", "seed", "baseline",
}  # fmt: skip
_PRINTED = re.compile(r"^[ \t]*([A-Za-z_][A-Za-z0-9_.-]{0,63})[ \t]*[:=][ \t]*(?:\{|%)", re.MULTILINE)


@dataclass(frozen=True)
class Score:
    """What the script's last lines call its result, and the line that prints it; None: nobody knows."""

    name: str
    lower_is_better: bool
    line: int | None = None


def alternatives(source: str) -> dict[str, tuple[str, ...]]:
    """Name -> the words that the script compares it with, in their order."""
    found: dict[str, dict[str, None]] = {}
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Name):
            words = [word for other in node.comparators for word in _words(other)]
            found.setdefault(node.left.id, {}).update(dict.fromkeys(words))
        elif isinstance(node, ast.Match) and isinstance(node.subject, ast.Name):
            values = [part.value for part in ast.walk(node) if isinstance(part, ast.MatchValue)]
            words = [word for value in values for word in _words(value)]
            found.setdefault(node.subject.id, {}).update(dict.fromkeys(words))
    return {name: tuple(words) for name, words in found.items()}


def guess_score(source: str) -> Score | None:
    """The likeliest of the lines `name: value` that the script prints: held-out before others, the last of equals."""
    best: tuple[int, int, Score] | None = None
    for node in ast.walk(parsed(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"):
            continue
        for name in _PRINTED.findall(" ".join(map(_template, node.args))):
            words = _parts(name)
            likely = 4 * bool(words & (METRICS | HIGHER_IS_BETTER)) + 2 * bool(words & HELD_OUT)
            likely -= 3 * bool(words & NO_SCORES)
            score = Score(name, lower_is_better(name), node.lineno)
            if best is None or (likely, node.lineno) >= best[:2]:
                best = likely, node.lineno, score
    return best[2] if best and best[0] > 0 else None


def lower_is_better(name: str) -> bool:
    words = _parts(name)
    return bool(words & METRICS) or not words & HIGHER_IS_BETTER


def _parts(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", name.lower()))


def _words(node: ast.expr) -> Iterator[str]:
    elements = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    yield from (each.value for each in elements if isinstance(each, ast.Constant) and isinstance(each.value, str))


def _template(node: ast.expr) -> str:
    """What is printed, with {} for all that is not written out."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=values):
            return "".join(map(_template, values))
        case ast.BinOp(left=ast.Constant(value=str() as text), op=ast.Add()):
            return text + "{}"
        case ast.BinOp(left=ast.Constant(value=str() as text), op=ast.Mod()):
            return text
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str() as text), attr="format")):
            return text
    return "{}"
