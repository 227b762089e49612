"""The diff rail: reads the unified diff that git will commit and finds anything beyond the lines proposed."""

import difflib
import re
from collections.abc import Mapping

from rails.menu import read_toml
from rails.recipe import render_line, render_recipe
from rails.values import RailsError, Value, shown

_GIT_HEADER = "diff --git a/recipe.toml b/recipe.toml"
_INDEX = re.compile(r"index [0-9a-f]{4,64}\.\.[0-9a-f]{4,64} 100644")
_FILES = ("--- a/recipe.toml", "+++ b/recipe.toml")
_HUNK = re.compile(r"@@ -\d{1,6}(?:,(\d{1,6}))? \+\d{1,6}(?:,(\d{1,6}))? @@(?: .*)?")


def unified_diff(recipe: Mapping[str, Value], candidate: Mapping[str, Value]) -> str:
    """The diff between two recipes in their canonical form, as `git diff` would print its hunks."""
    before, after = render_recipe(recipe).splitlines(keepends=True), render_recipe(candidate).splitlines(keepends=True)
    return "".join(difflib.unified_diff(before, after, "a/recipe.toml", "b/recipe.toml"))


def diff_fault(diff: str, recipe: Mapping[str, Value], changes: Mapping[str, Value]) -> str | None:
    """None when the diff is exactly these changes to recipe.toml: per knob one line out and one line in.

    Line counts in each hunk header are followed, so that a changed line cannot pass for a header or the reverse.
    """
    try:
        removed, added = _changed_lines(diff.split("\n"))
    except RailsError as error:
        return str(error)
    wanted = {render_line(name, value) for name, value in changes.items()}
    if len(added) != len(changes) or set(added) != wanted:
        return f"the diff adds {_listed(added)}; the proposal allows exactly {_listed(sorted(wanted))}"
    standing = {name: recipe[name] for name in changes if name in recipe}
    if len(removed) != len(changes) or _read(removed) != standing:
        return f"the diff removes {_listed(removed)}; the proposal allows one line for each of {', '.join(changes)}"
    return None


def _changed_lines(lines: list[str]) -> tuple[list[str], list[str]]:
    """Removed and added lines of a diff of recipe.toml; RailsError for any line that has no place in one."""
    removed: list[str] = []
    added: list[str] = []
    position = 0
    if lines[0] == _GIT_HEADER:
        position = 1
        if len(lines) > 1 and _INDEX.fullmatch(lines[1]):
            position = 2
    if tuple(lines[position : position + 2]) != _FILES:
        raise RailsError(f"the diff is not of recipe.toml alone: {shown(lines[min(position, len(lines) - 1)])}")
    position += 2
    if lines.pop() != "" or position >= len(lines):
        raise RailsError("the diff is cut short")
    while position < len(lines):
        hunk = _HUNK.fullmatch(lines[position])
        if hunk is None:
            raise RailsError(f"the diff has a line that is no part of a change: {shown(lines[position])}")
        position += 1
        before, after = (int(count) if count is not None else 1 for count in hunk.groups())
        while before > 0 or after > 0:
            line = lines[position] if position < len(lines) else ""
            mark, text = line[:1], line[1:]
            if mark not in (" ", "-", "+"):
                raise RailsError(f"the diff has a line that is no part of a change: {shown(line)}")
            before -= mark != "+"
            after -= mark != "-"
            if mark == "-":
                removed.append(text)
            elif mark == "+":
                added.append(text)
            position += 1
        if before or after:
            raise RailsError("the diff's line counts do not add up")
    return removed, added


def _read(lines: list[str]) -> dict[str, Value] | None:
    """What the removed lines set. They may be spelled by hand (`lr=1e-3`), so they are read, not compared as text."""
    try:
        return read_toml("\n".join(lines))
    except RailsError:
        return None


def _listed(lines: list[str]) -> str:
    return ", ".join(f"`{shown(line)[1:-1]}`" for line in lines[:4]) + (", ..." if len(lines) > 4 else "") or "nothing"
