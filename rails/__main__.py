"""`python -m rails check`: judge proposals from a file, one JSON string a line in, one JSON verdict a line out."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from rails.fit import Limits
from rails.gate import Verdict, gate
from rails.menu import Menu, load_menu, read_toml
from rails.recipe import parse_recipe
from rails.values import RailsError, Value, clean


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {clean(message)} (see python -m rails check --help)\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for a bad menu, recipe or study, 130 when interrupted."""
    parser = _Parser(prog="python -m rails", description=__doc__, allow_abbrev=False)
    check = parser.add_subparsers(dest="command", required=True).add_parser(
        "check",
        allow_abbrev=False,
        help="judge raw proposals from standard input",
        description="Reads one JSON string (a raw proposal) per line and writes one JSON verdict per line.",
        epilog="example: python -m rails check --recipe recipe.toml --menu menu.toml < proposals.jsonl",
    )
    check.add_argument("--recipe", type=Path, required=True, help="the recipe that stands (recipe.toml)")
    check.add_argument("--menu", type=Path, required=True, help="the knobs and what they may be (menu.toml)")
    check.add_argument("--study", type=Path, help="study.toml, of which [budget] and the vocabulary's size are read")
    options = parser.parse_args(arguments)
    try:
        menu = load_menu(_read(options.menu), str(options.menu))
        recipe = parse_recipe(_read(options.recipe), menu, str(options.recipe))
        limits = None if options.study is None else _read_limits(options.study)
    except RailsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        _check(sys.stdin.buffer, recipe, menu, limits, lambda line: print(line, flush=True))
    except BrokenPipeError:
        # The reader (such as head) has seen enough; Python would complain again when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    return 0


def _check(
    lines: Iterable[bytes], recipe: dict[str, Value], menu: Menu, limits: Limits | None, write: Callable[[str], None]
) -> None:
    for number, line in enumerate(lines, start=1):
        try:
            raw = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            raw = None
        if isinstance(raw, str):
            verdict = gate(raw, recipe, menu, (), limits)
        else:
            verdict = Verdict(False, "schema", f"line {number} is not one JSON string (a raw proposal)", {}, "", None)
        write(verdict.to_json())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RailsError(f"{clean(str(path))}: {error.strerror or error}") from None
    except ValueError:  # not UTF-8, or a path with a NUL
        raise RailsError(f"{clean(str(path))}: is no UTF-8 text") from None


def _read_limits(path: Path) -> Limits:
    text = _read(path)
    try:
        table = read_toml(text)
        budget, data = table.get("budget"), table.get("data")
        if not isinstance(budget, dict):
            raise RailsError("has no table [budget]")
        vocab_size = data.get("vocab_size") if isinstance(data, dict) else None
        return Limits(budget=budget, vocab_size=vocab_size if type(vocab_size) is int else None)
    except RailsError as error:
        raise RailsError(f"{clean(str(path))}: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
