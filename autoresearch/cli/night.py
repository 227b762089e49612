"""Commands that make a study, run it, and steer it while it runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoresearch.cli.app import Home, Hours, Name, Preset, Trials, Until, command, fitting_preset, open_own
from autoresearch.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from autoresearch.night.display import Display
    from autoresearch.night.session import Night
    from autoresearch.study.folder import StudyFolder


@command("autoresearch init mine --preset cpu-nano --data some/folder")
def init(
    name: Name,
    preset: Preset = None,
    data: Annotated[
        str | None, typer.Option(help="stdlib, a file, a folder of .txt .md .jsonl .parquet, or hf:NAME[:CONFIG].")
    ] = None,
    proposer: Annotated[
        str | None,
        typer.Option(
            help="auto, hybrid, llm, gp, tpe, random; what was taught: scratch:DIR, lora:DIR, hybrid:lora:DIR."
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Runs in flight at once.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Everything random follows from it.")] = None,
    before: Annotated[
        str | None,
        typer.Option("--from", help="Begin with this study's incumbent, settings and menu; it is measured anew."),
    ] = None,
    command: Annotated[
        str | None, typer.Option(help='Tune a program of yours, such as "python train.py"; it needs --menu.')
    ] = None,
    menu: Annotated[Path | None, typer.Option(help="menu.toml: the program's knobs, and what they may be.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the command is run; default: this folder.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="How the command gets its knobs: arguments, environment, file, constants or adapter."),
    ] = None,
    script: Annotated[
        str | None, typer.Option(help="With --recipe constants: the script; default: the .py that the command names.")
    ] = None,
    score: Annotated[str | None, typer.Option(help="The score's name; the command prints `NAME: 0.123`.")] = None,
    score_pattern: Annotated[
        str | None, typer.Option(help="Where it prints it otherwise: a regular expression with one group.")
    ] = None,
    score_file: Annotated[
        str | None, typer.Option(help="Where it writes it: a JSON file in the run's folder, AUTORESEARCH_FOLDER.")
    ] = None,
    unit: Annotated[str | None, typer.Option(help="Shown after scores.")] = None,
    higher_is_better: Annotated[bool, typer.Option("--higher-is-better", help="Of the score; default: lower.")] = False,
    home: Home = None,
) -> None:
    """Make a study: its folder, its recipe under git, its database."""
    from autoresearch.study import folder as studies
    from autoresearch.study.preset import read_menu
    from autoresearch.workers.machine import look

    overrides: dict[str, str | int] = {}
    if data is not None:
        local = Path(data).expanduser()
        is_path = data != "stdlib" and not data.startswith("hf:")
        if is_path and not local.exists():
            raise UserError(f"--data {data}: there is no such file or folder")
        overrides["data.source"] = str(local.resolve()) if is_path else data
    if proposer is not None:
        overrides["proposer.name"] = student(proposer) or proposer
    if workers is not None:
        overrides["workers"] = workers
    if seed is not None:
        overrides["seed"] = seed
    of_program = {
        "--menu": menu, "--folder": folder, "--recipe": recipe, "--script": script, "--score": score,
        "--score-pattern": score_pattern, "--score-file": score_file, "--unit": unit,
        "--higher-is-better": higher_is_better or None,
    }  # fmt: skip
    given = [option for option, value in of_program.items() if value is not None]
    place = studies.home(home)
    if command is not None:
        for option, value in {"--preset": preset, "--data": data, "--from": before}.items():
            if value is not None:
                raise UserError(f"--command brings a program of your own, which {option} is not for: leave it out")
        if menu is None:
            raise UserError("--command needs --menu menu.toml: which knobs the program has (docs/your-own-trainer.md)")
        trainer = {
            "command": command, "folder": str((folder or Path()).resolve()), "recipe": recipe,
            "script": script or (own_script(command) if recipe == "constants" else None), "score": score,
            "score_pattern": score_pattern, "score_file": score_file,
            "lower_is_better": False if higher_is_better else None, "unit": unit,
        }  # fmt: skip
        told = {key: value for key, value in trainer.items() if value is not None}
        made = studies.create_own_study(place, name, told, read_menu(menu), str(menu), overrides)
        print(f"study {name} made in {made.path} over `{command}`; next: autoresearch run {name}")
        return
    if given:
        raise UserError(f"{given[0]} is for a program of your own: give its --command too")
    machine = look()
    if before is not None:
        if preset is not None:
            raise UserError(f"--from {before} brings its preset along: leave --preset out")
        earlier = studies.StudyFolder(place, before)
        made = studies.continue_study(place, name, earlier, overrides)
        origin = f"with the recipe of {before}'s trial {earlier.store.study()['incumbent']}"
    else:
        preset = preset or fitting_preset(machine)
        made = studies.create_study(place, name, preset, machine, overrides)
        origin = f"from preset {preset}"
    print(f"study {name} made in {made.path} {origin}; next: autoresearch run {name}")


def student(proposer: str) -> str | None:
    """The name of a proposer that was taught, with its whole path; None: it is none. Raises UserError where its folder
    holds none."""
    from autoresearch.config import ProposerSettings
    from autoresearch.proposer_name import ProposerName
    from autoresearch.proposers import make_proposer

    try:
        named = ProposerName.read(proposer).absolute()
    except ValueError:  # which the settings tell of
        return None
    if named.folder is None:
        return None
    make_proposer(ProposerSettings(name=str(named)))
    return str(named)


def own_script(command: str) -> str:
    """The script that a command names. Raises UserError where it names none, or several."""
    found = [word for word in command.split() if word.endswith(".py")]
    if len(found) != 1:
        raise UserError("--recipe constants needs --script: the command names no single .py")
    return found[0]


@command("autoresearch prepare mine")
def prepare(name: Name, home: Home = None) -> None:
    """Prepare the study's text: tokenizer, splits, memory maps. `run` does it too when it is missing."""
    from autoresearch.terminal.bars import PrepareProgress
    from autoresearch.terminal.console import make_console
    from trainer.data import manifest_of

    study = open_own(name, home)
    if study.settings.trainer:
        print(f"{name} tunes a program that has its own data: there is nothing to prepare")
        return
    with PrepareProgress(make_console()) as progress:
        data_dir = study.prepare_data(progress)
    sizes = ", ".join(f"{name} {split.bytes:,} bytes" for name, split in manifest_of(data_dir).splits.items())
    print(f"{study.settings.data.source}: {sizes}; in {data_dir}")


@command("autoresearch run mine --trials 20")
def run(name: Name, trials: Trials = None, hours: Hours = None, until: Until = None, home: Home = None) -> None:
    """Run trials now, until a limit, a time, or Ctrl-C (once: at the trial boundary; twice: at once)."""
    from autoresearch.night.daemon import next_time, zone
    from autoresearch.night.session import Night
    from autoresearch.terminal.console import make_console
    from autoresearch.terminal.outcome import show_outcome
    from autoresearch.terminal.signals import outlive_terminal

    study, console = open_own(name, home), make_console()
    try:
        end = next_time(until, datetime.now(zone(study.settings.schedule))) if until else None
    except ValueError as error:
        raise UserError(f"--until {error}") from None
    asked = {"trials": trials, "hours": hours}
    limits = study.settings.limits.model_copy(update={key: value for key, value in asked.items() if value is not None})
    with outlive_terminal():
        reason = night(study, console, lambda display: Night(study, display, limits=limits, until=end))
        show_outcome(console, study, reason)


def night(study: StudyFolder, console: Console, make: Callable[[Display], Night]) -> str:
    """One night under the runner's lock, from preparing the text to the reason for its end."""
    from autoresearch.night.display import Display
    from autoresearch.study.lock import RunnerLock
    from autoresearch.terminal.bars import PrepareProgress

    with RunnerLock(study.path):
        with PrepareProgress(console) as progress:
            study.prepare_data(progress)
        with Display(study, console) as display:
            return make(display).run()


@command("autoresearch daemon mine")
def daemon(
    name: Name,
    install: Annotated[
        bool, typer.Option("--install", help="Write a systemd user unit that runs it, and say how to switch it on.")
    ] = False,
    home: Home = None,
) -> None:
    """Run every night in the study's window (study.toml, \\[schedule]) until stopped."""
    from autoresearch.night.daemon import Daemon
    from autoresearch.night.session import Night
    from autoresearch.study.lock import RunnerLock
    from autoresearch.terminal.console import make_console, say
    from autoresearch.terminal.signals import outlive_terminal, polite_signals

    study, console = open_own(name, home), make_console()
    if install:
        from autoresearch.night.unit import install as install_unit

        print(install_unit(study))
        return

    daemon = Daemon(
        study,
        lambda end: night(study, console, lambda display: Night(study, display, until=end, on_signal=daemon.stop)),
        partial(say, console),
    )
    with RunnerLock(study.path, "daemon"), outlive_terminal(), polite_signals(lambda name: daemon.stop()):
        if study.store.control == "stop":
            study.store.set_control("run", "started again")
        say(console, f"daemon {daemon.run()}")


@command('autoresearch propose mine --knob lr --value 0.001 --reason "lower is calmer"')
def propose(
    name: Name,
    knob: Annotated[str | None, typer.Option(help="The knob to turn.")] = None,
    value: Annotated[str | None, typer.Option(help="Its new value.")] = None,
    reason: Annotated[str, typer.Option(help="Why it should help.")] = "A person's idea.",
    raw: Annotated[str | None, typer.Option(help="A whole proposal as JSON, instead of the three above.")] = None,
    home: Home = None,
) -> None:
    """Queue an idea of your own: it goes before all others, and before the same rails."""
    study = open_own(name, home)
    if (raw is None) == (knob is None or value is None):
        raise UserError("give either --knob and --value, or --raw")
    if not all(map(is_text, (knob, value, reason, raw))):
        raise UserError("a proposal is text in UTF-8, and this holds bytes that are none: mend it and propose it again")
    if raw is None:
        assert value is not None
        raw = json.dumps({"knob": knob, "new_value": json_value(value), "reason": reason})
    study.store.queue_idea(raw)
    print(f"queued as number {study.store.waiting_ideas()}: {raw}")


def is_text(given: str | None) -> bool:
    """False where a shell passed on bytes that are no UTF-8, which stand in it as lone surrogates."""
    return not any("\ud800" <= sign <= "\udfff" for sign in given or "")


def json_value(text: str) -> Any:
    """The text as a JSON value where it is one (0.001, 8, true), else as a string (bf16)."""
    try:
        return json.loads(text)
    except ValueError:
        return text


@command("autoresearch pause mine")
def pause(name: Name, home: Home = None) -> None:
    """No new trials until `resume`; those in flight are finished."""
    open_own(name, home).store.set_control("pause", "paused by a person")
    print(f"{name} is paused: go on with `autoresearch resume {name}`")


@command("autoresearch resume mine")
def resume(name: Name, home: Home = None) -> None:
    """Go on after `pause`."""
    open_own(name, home).store.set_control("run", "resumed by a person")
    print(f"{name} goes on")


@command("autoresearch stop mine")
def stop(name: Name, home: Home = None) -> None:
    """End the night (and the daemon) at the trial boundary."""
    open_own(name, home).store.set_control("stop", "stop asked for by a person")
    print(f"{name} ends when its trials in flight are done")


@command("autoresearch calibrate mine --seeds 8")
def calibrate(
    name: Name,
    seeds: Annotated[int, typer.Option(min=2, max=64, help="Runs of the baseline to have in all.")] = 8,
    home: Home = None,
) -> None:
    """Measure the noise: run the baseline on more seeds and say what a gain must exceed to be seen."""
    from autoresearch.evidence import Evidence
    from autoresearch.evidence.sentences import improved, noise
    from autoresearch.night.session import Night
    from autoresearch.terminal.console import make_console, say

    study, console = open_own(name, home), make_console()

    def only_the_baseline(display: Display) -> Night:
        study.store.queue_runs([(0, seed, "reference") for seed in range(seeds)])
        session = Night(study, display)
        session.stop.request("calibrated")
        return session

    night(study, console, only_the_baseline)
    evidence = Evidence(study)
    say(console, improved(evidence))
    say(console, noise(evidence))
