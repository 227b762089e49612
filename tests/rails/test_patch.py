"""The diff rail: exactly the proposed lines of recipe.toml, by what git itself says."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rails import Menu, Value, gate, render_recipe

HEADER = "diff --git a/recipe.toml b/recipe.toml\nindex 1111111..2222222 100644\n"
FILES = "--- a/recipe.toml\n+++ b/recipe.toml\n"
HUNK = "@@ -2,3 +2,3 @@ d_model = 128\n n_head = 4\n-lr = 0.001\n+lr = 0.002\n weight_decay = 0.0\n"
OTHER = "diff --git a/menu.toml b/menu.toml\nindex 1111111..2222222 100644\n--- a/menu.toml\n+++ b/menu.toml\n"

SOUND = {
    "as git prints it": HEADER + FILES + HUNK,
    "without git's header": FILES + HUNK,
    "no context": HEADER + FILES + "@@ -3 +3 @@\n-lr = 0.001\n+lr = 0.002\n",
    "the old line spelled by hand": HEADER + FILES + "@@ -3 +3 @@\n-lr=1e-3 # steady\n+lr = 0.002\n",
}
UNSOUND = {
    "empty": "",
    "nonsense": "nonsense",
    "no hunk": HEADER + FILES,
    "another file": OTHER + HUNK,
    "a second file": HEADER + FILES + HUNK + OTHER + HUNK,
    "a second file first": OTHER + HUNK + HEADER + FILES + HUNK,
    "a path outside": FILES.replace("recipe.toml", "../recipe.toml") + HUNK,
    "a rename": "diff --git a/old b/recipe.toml\nsimilarity index 90%\nrename from old\nrename to recipe.toml\n"
    + FILES
    + HUNK,
    "a mode change": "diff --git a/recipe.toml b/recipe.toml\nold mode 100644\nnew mode 100755\nindex 111111..222222\n"
    + FILES
    + HUNK,
    "an executable": HEADER.replace("100644", "100755") + FILES + HUNK,
    "a symbolic link": HEADER.replace("100644", "120000") + FILES + HUNK,
    "a new file": "diff --git a/recipe.toml b/recipe.toml\nnew file mode 100644\nindex 0000000..2222222\n"
    "--- /dev/null\n+++ b/recipe.toml\n@@ -0,0 +1 @@\n+lr = 0.002\n",
    "a deleted file": HEADER + "--- a/recipe.toml\n+++ /dev/null\n@@ -3 +0,0 @@\n-lr = 0.001\n",
    "binary": HEADER + "Binary files a/recipe.toml and b/recipe.toml differ\n",
    "another value": HEADER + FILES + HUNK.replace("0.002", "0.003"),
    "the value spelled otherwise": HEADER + FILES + HUNK.replace("0.002", "2e-3"),
    "a carriage return": HEADER + FILES + HUNK.replace("0.002", "0.002\r"),
    "another knob": HEADER + FILES + HUNK.replace("+lr", "+n_head"),
    "another knob removed": HEADER + FILES + HUNK.replace("-lr", "-beta"),
    "a comment removed": HEADER + FILES + HUNK.replace("-lr = 0.001", "-# lr = 0.001"),
    "a value removed that does not stand": HEADER + FILES + HUNK.replace("-lr = 0.001", "-lr = 0.004"),
    "only an addition": HEADER + FILES + "@@ -3,0 +3 @@\n+lr = 0.002\n",
    "only a removal": HEADER + FILES + "@@ -3 +3,0 @@\n-lr = 0.001\n",
    "the line twice": HEADER + FILES + "@@ -3 +3,2 @@\n-lr = 0.001\n+lr = 0.002\n+lr = 0.002\n",
    "another line too": HEADER + FILES + "@@ -2,2 +2,2 @@\n-n_head = 4\n-lr = 0.001\n+n_head = 8\n+lr = 0.002\n",
    "a blank line added": HEADER + FILES + "@@ -3 +3,2 @@\n-lr = 0.001\n+lr = 0.002\n+\n",
    "a missing line end": HEADER + FILES + HUNK + "\\ No newline at end of file\n",
    "a line end lost inside": HEADER + FILES + HUNK.replace("+lr", "\\ No newline at end of file\n+lr"),
    "counts too high": HEADER + FILES + HUNK.replace("-2,3 +2,3", "-2,4 +2,4"),
    "counts too low": HEADER + FILES + HUNK.replace("-2,3 +2,3", "-2,2 +2,2"),
    "counts astray": HEADER + FILES + "@@ -3,0 +3,2 @@\n-lr = 0.001\n+lr = 0.002\n",
    "a huge count": HEADER + FILES + HUNK.replace("-2,3", "-2," + "9" * 5000),
    "text after": HEADER + FILES + HUNK + "and more\n",
    "cut short": (HEADER + FILES + HUNK).rstrip("\n"),
    "a header in a change": HEADER + FILES + "@@ -3,2 +3,2 @@\n-lr = 0.001\n--- a/x\n+lr = 0.002\n+++ b/x\n",
    "an escape sequence": HEADER + FILES + HUNK.replace(" n_head", "\x1b[31m n_head"),
}


@pytest.mark.parametrize("diff", SOUND.values(), ids=SOUND)
def test_a_diff_of_exactly_the_proposed_line_passes(
    menu: Menu, recipe: dict[str, Value], propose: Callable[..., str], diff: str
) -> None:
    verdict = gate(propose("lr", 0.002), recipe, menu, diff=lambda _: diff)
    assert verdict.passed, verdict


@pytest.mark.parametrize("diff", UNSOUND.values(), ids=UNSOUND)
def test_a_diff_of_anything_else_is_blocked(
    menu: Menu, recipe: dict[str, Value], propose: Callable[..., str], diff: str
) -> None:
    verdict = gate(propose("lr", 0.002), recipe, menu, diff=lambda _: diff)
    assert verdict.rail == "diff", verdict
    assert verdict.reason.isprintable() and len(verdict.reason) < 500


def test_a_recipe_without_the_knob_is_blocked(
    menu: Menu, recipe: dict[str, Value], propose: Callable[..., str]
) -> None:
    del recipe["lr"]
    assert gate(propose("lr", 0.002), recipe, menu).rail == "diff"


@pytest.mark.parametrize(
    "changes", [{"lr": 0.002}, {"precision": "fp32", "d_model": 64}, {"d_model": 96, "tied": False, "lr": 1e-5}]
)
def test_what_git_really_prints_passes(
    menu_of_three: Menu, recipe: dict[str, Value], changes: dict[str, Value], tmp_path: Path
) -> None:
    def git(*arguments: str) -> str:
        quiet = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=quiet, check=True, capture_output=True, text=True).stdout

    path = tmp_path / "recipe.toml"
    git("init", "-q")
    path.write_text(render_recipe(recipe))
    git("add", ".")
    git("commit", "-qm", "start")

    def diff(candidate: dict[str, Value]) -> str:
        path.write_text(render_recipe(candidate))
        return git("diff")

    def diff_and_more(candidate: dict[str, Value]) -> str:
        path.chmod(0o755)
        return diff(candidate)

    raw = json.dumps({"changes": changes, "reason": "r"})
    assert gate(raw, recipe, menu_of_three, diff=diff).passed
    assert gate(raw, recipe, menu_of_three, diff=diff_and_more).rail == "diff"
