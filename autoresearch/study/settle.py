"""Until its first run a study over a script is what a person has made of script and menu; then both are settled."""

from __future__ import annotations

from autoresearch.program import told
from autoresearch.study.folder import StudyFolder
from autoresearch.study.script import Script
from autoresearch.trial import from_iso
from rails import load_menu, recipe_key, render_recipe


def settle_script(folder: StudyFolder) -> str | None:
    """Takes over the script and menu.toml as they lie there, and the baseline that follows from them, as long as
    nothing was run. Returns what to tell of it. The caller holds the runner's lock.

    Raises UserError or RailsError, and the study stays as it is, for a script or menu that is none and where they do
    not fit together.
    """
    script, own, workspace = folder.script, folder.settings.trainer, folder.workspace
    if script is None or own is None:
        return None
    place, menu_file = told.script_of(own), workspace.path / "menu.toml"
    if folder.store.runs():
        if place.is_file() and place.read_bytes() != script.text.encode("utf-8"):
            return f"{place} has changed since: this study goes on with it as it was; adopt it anew for another"
        return None
    now = Script.read(place)
    edited = menu_file.read_text("utf-8", "replace").strip("\0") if menu_file.is_file() else ""
    text = edited or folder.menu_text
    if (now.text, text) == (script.text, folder.menu_text):
        return None
    menu, study = load_menu(text, str(menu_file)), folder.store.study()
    now.require(menu)
    recipe = menu.defaults()
    files = {"menu.toml": text, "recipe.toml": render_recipe(recipe), **now.at(recipe)}
    commit = workspace.baseline(files, from_iso(study["created_at"]))
    folder.take_over(text, menu, now)
    by_hand = workspace.move_incumbent(commit, study["incumbent_commit"])
    folder.store.begin_again(text, now, recipe, recipe_key(recipe), commit)
    return "; ".join(["the script and menu.toml are taken over as they are now, before the first run", *by_hand])
