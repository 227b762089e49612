"""What one run of a program is told: its command, its environment and the files of its folder, the recipe in them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from autoresearch.config import TrainerSettings
from autoresearch.constants import patched, read_constants
from autoresearch.errors import UserError
from autoresearch.metric import VAL_BPB
from autoresearch.trial import Recipe, Run, Trial, Value
from autoresearch.workers import nvml
from rails import Menu, clean, render_recipe

# Inside a run's folder, beside the files of the study's own: what a program leaves there is no one else's.
PLACE = "program"
SEED = "seed"
# What a command may hold in braces, besides knobs.
RUN_VALUES = ("seed", "budget", "folder")
# What exports and JSON call other things of a trial or run.
TAKEN = {field.name for kind in (Trial, Run) for field in fields(kind)} - {VAL_BPB.name}
# The language model's key is not the program's.
KEPT_BACK = ("OPENAI_API_KEY", "OPENAI_BASE_URL")


def tell(
    trainer: TrainerSettings, recipe: Recipe, seed: int, budget: Mapping[str, float], run: Path, text: str | None = None
) -> dict[str, Any]:
    """Fills the run's own folder anew, and returns what its worker needs: the request's `program`. text: of the script
    with the recipe's values in it, where it is told in constants."""
    place = (run / PLACE).absolute()
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / "recipe.toml").write_text(render_recipe(recipe), "utf-8")
    (place / "recipe.json").write_text(json.dumps(recipe, indent=1, ensure_ascii=False) + "\n", "utf-8")
    folder = Path(trainer.folder) if trainer.folder else place
    told: dict[str, Any] = {"score": trainer.score, "lower_is_better": trainer.lower_is_better, "place": str(place)}
    if trainer.recipe == "adapter":
        return told
    ((_, amount),) = budget.items()
    of_run = {"seed": str(seed), "budget": f"{amount:.15g}", "folder": str(place)}
    environment = {
        "AUTORESEARCH_RECIPE": str(place / "recipe.json"),
        **{f"AUTORESEARCH_{name.upper()}": value for name, value in of_run.items()},
    }
    values = of_run | {knob: _text(value) for knob, value in recipe.items()}
    command = [_filled(word, values) for word in trainer.words]
    if trainer.recipe == "arguments":
        named = {name for word in trainer.words for name in re.findall(r"\{(\w+)\}", word)}
        command += [part for knob in recipe if knob not in named for part in (f"--{knob}", values[knob])]
    elif trainer.recipe == "environment":
        environment |= {knob.upper(): values[knob] for knob in recipe}
    elif trainer.recipe == "constants":
        script = script_of(trainer)
        copy = place / script.name
        copy.write_bytes(_seeded(text or "", seed).encode("utf-8"))
        command = [str(copy) if _is_script(word, trainer) else word for word in command]
        # The copy lies elsewhere, but imports what lies beside the script.
        paths = [str(script.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    return told | {
        "command": command,
        "folder": str(folder),
        "environment": environment,
        "score_pattern": trainer.score_pattern,
        "score_file": trainer.score_file,
    }


def environment(device: str, alone: bool, threads: int) -> dict[str, str]:
    """Of a worker on this device. alone: the only one, which may use the whole machine. threads: of the libraries that
    ask the environment, unless the person's shell says."""
    found = {name: value for name, value in os.environ.items() if name not in KEPT_BACK}
    wanted = found.get("OMP_NUM_THREADS") or str(threads)
    found |= {"OMP_NUM_THREADS": wanted, "OPENBLAS_NUM_THREADS": wanted, "PYTHONUNBUFFERED": "1"}
    if device.startswith("cuda"):
        found |= nvml.ENVIRONMENT
    if device.startswith("cuda") and not alone:
        number = int(device.partition(":")[2] or 0)
        visible = found.get("CUDA_VISIBLE_DEVICES", "").split(",")
        found["CUDA_VISIBLE_DEVICES"] = visible[number] if number < len(visible) and visible[number] else str(number)
    return found


def check(trainer: TrainerSettings, menu: Menu) -> None:
    """Raises UserError, in one line, for a program that cannot be started or cannot be told this menu's knobs."""
    first, folder = trainer.words[0], trainer.folder
    beside = folder is not None and "/" in first and os.access(Path(folder, first), os.X_OK)
    if folder is not None and not Path(folder).is_dir():
        raise UserError(f"[trainer] folder {clean(folder)}: there is no such folder")
    if not beside and shutil.which(first) is None:
        where = f"in {folder} or " if folder else ""
        raise UserError(f"[trainer] command: there is no program {clean(first)!r} {where}on the PATH that may be run")
    if trainer.score in TAKEN:
        raise UserError(
            f"[trainer] score: {trainer.score} is told of every trial besides; give the score another name, and say "
            "where the program tells it with score_pattern or score_file"
        )
    for knob in menu.knobs:
        if knob in RUN_VALUES:
            raise UserError(f"the menu's knob {knob} has the name of what each run is told anyway: rename it")
        if trainer.recipe == "environment" and knob.upper() in os.environ:
            raise UserError(f"knob {knob} would take the place of this machine's variable {knob.upper()}: rename it")
    if trainer.recipe == "constants" and not any(_is_script(word, trainer) for word in trainer.words):
        raise UserError(f"[trainer] command does not name script {clean(str(trainer.script))}: no copy can be run")


def script_of(trainer: TrainerSettings) -> Path:
    """Of a program that takes its recipe as constants."""
    assert trainer.script is not None
    return Path(trainer.folder or ".", trainer.script)


def _is_script(word: str, trainer: TrainerSettings) -> bool:
    return Path(trainer.folder or ".", word) == script_of(trainer)


def _seeded(script: str, seed: int) -> str:
    """A constant SEED, in capitals or not, becomes the run's."""
    has_one = any(constant.knob == SEED for constant in read_constants(script)[0])
    return patched(script, {SEED: seed}) if has_one else script


def _filled(word: str, values: Mapping[str, str]) -> str:
    """With {lr} and the like put in; other braces stay."""
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), word)


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
