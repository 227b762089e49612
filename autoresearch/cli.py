"""The command line: `autoresearch COMMAND`. Bad input is one line and exit code 2."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoresearch.errors import UserError
from rails import RailsError

if TYPE_CHECKING:
    from rich.console import Console

    from autoresearch.display import Display
    from autoresearch.folder import StudyFolder
    from autoresearch.machine import Machine
    from autoresearch.night import Night

app = typer.Typer(
    name="autoresearch",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Leave it running at night: small, measured changes to a GPT training recipe, kept only on evidence.\n\n"
    "Example: autoresearch init mine --preset cpu-nano && autoresearch run mine --trials 20",
)

Name = Annotated[str, typer.Argument(help="The study's name.", show_default=False)]
Home = Annotated[
    Path | None, typer.Option("--home", help="Where studies live; default AUTORESEARCH_HOME, else ./trajectories.")
]
Preset = Annotated[
    str | None, typer.Option(help="gpt-354m or cpu-nano, or one with -wide; default: what fits the machine.")
]
AsJson = Annotated[bool, typer.Option("--json", help="The same facts as JSON, in base units.")]
Trials = Annotated[int | None, typer.Option("--trials", min=1, help="End after so many trials.")]
Hours = Annotated[float | None, typer.Option("--hours", min=0, help="End after so many hours.")]
Until = Annotated[str | None, typer.Option("--until", help="End at this local time, HH:MM.")]


def main() -> None:
    """Entry point: turns the person's mistakes into one line on stderr and exit code 2."""
    try:
        app()
    except KeyboardInterrupt:
        print("ended at once; the next run goes on where this one was", file=sys.stderr)
        sys.exit(130)
    except (UserError, RailsError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def command(example: str) -> Callable[[Any], Any]:
    """Registers a command whose help ends with an example."""
    return app.command(epilog=f"Example: {example}")


def open_study(name: str, home: Path | None) -> StudyFolder:
    from autoresearch import folder

    return folder.StudyFolder(folder.home(home), name)


def fitting_preset(machine: Machine) -> str:
    return "gpt-354m" if machine.kind == "cuda" else "cpu-nano"


@command("autoresearch init mine --preset cpu-nano --data some/folder")
def init(
    name: Name,
    preset: Preset = None,
    data: Annotated[
        str | None, typer.Option(help="stdlib, a file, a folder of .txt .md .jsonl .parquet, or hf:NAME[:CONFIG].")
    ] = None,
    proposer: Annotated[str | None, typer.Option(help="auto, llm, tpe or random.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Runs in flight at once.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Everything random follows from it.")] = None,
    home: Home = None,
) -> None:
    """Make a study: its folder, its recipe under git, its database."""
    from autoresearch import folder
    from autoresearch.machine import look

    overrides: dict[str, str | int] = {}
    if data is not None:
        local = Path(data).expanduser()
        is_path = data != "stdlib" and not data.startswith("hf:")
        if is_path and not local.exists():
            raise UserError(f"--data {data}: there is no such file or folder")
        overrides["data.source"] = str(local.resolve()) if is_path else data
    if proposer is not None:
        overrides["proposer.name"] = proposer
    if workers is not None:
        overrides["workers"] = workers
    if seed is not None:
        overrides["seed"] = seed
    machine = look()
    preset = preset or fitting_preset(machine)
    made = folder.create_study(folder.home(home), name, preset, machine, overrides)
    print(f"study {name} made in {made.path} from preset {preset}; next: autoresearch run {name}")


@command("autoresearch prepare mine")
def prepare(name: Name, home: Home = None) -> None:
    """Prepare the study's text: tokenizer, splits, memory maps. `run` does it too when it is missing."""
    from autoresearch.display import PrepareProgress
    from autoresearch.views import make_console
    from trainer.data import manifest_of

    study = open_study(name, home)
    with PrepareProgress(make_console()) as progress:
        data_dir = study.prepare_data(progress)
    sizes = ", ".join(f"{name} {split.bytes:,} bytes" for name, split in manifest_of(data_dir).splits.items())
    print(f"{study.settings.data.source}: {sizes}; in {data_dir}")


@command("autoresearch run mine --trials 20")
def run(name: Name, trials: Trials = None, hours: Hours = None, until: Until = None, home: Home = None) -> None:
    """Run trials now, until a limit, a time, or Ctrl-C (once: at the trial boundary; twice: at once)."""
    from autoresearch.night import Night
    from autoresearch.schedule import next_time, zone
    from autoresearch.views import make_console

    study, console = open_study(name, home), make_console()
    try:
        end = next_time(until, datetime.now(zone(study.settings.schedule))) if until else None
    except ValueError as error:
        raise UserError(f"--until {error}") from None
    asked = {"trials": trials, "hours": hours}
    limits = study.settings.limits.model_copy(update={key: value for key, value in asked.items() if value is not None})
    reason = night(study, console, lambda display: Night(study, display, limits=limits, until=end))
    show_outcome(study, console, reason)


def night(study: StudyFolder, console: Console, make: Callable[[Display], Night]) -> str:
    """One night under the runner's lock, from preparing the text to the reason for its end."""
    from autoresearch.display import Display, PrepareProgress
    from autoresearch.folder import RunnerLock

    with RunnerLock(study.path):
        with PrepareProgress(console) as progress:
            study.prepare_data(progress)
        with Display(study, console) as display:
            return make(display).run()


@command("autoresearch daemon mine")
def daemon(name: Name, home: Home = None) -> None:
    """Run every night in the study's window (study.toml, \\[schedule]) until stopped."""
    from autoresearch.folder import RunnerLock
    from autoresearch.night import Night, polite_signals
    from autoresearch.schedule import Daemon
    from autoresearch.views import make_console

    study, console = open_study(name, home), make_console()

    def note(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    daemon = Daemon(
        study,
        lambda end: night(study, console, lambda display: Night(study, display, until=end, on_signal=daemon.stop)),
        note,
    )
    with RunnerLock(study.path, "daemon"), polite_signals(lambda name: daemon.stop()):
        if study.store.control == "stop":
            study.store.set_control("run", "started again")
        note(f"daemon {daemon.run()}")


@command("autoresearch status mine --json")
def status(name: Name, as_json: AsJson = False, home: Home = None) -> None:
    """Where the study stands: baseline, incumbent, noise, energy, what is in flight."""
    from autoresearch import views

    facts = views.status(open_study(name, home))
    if as_json:
        print(json.dumps(facts, indent=1))
    else:
        views.make_console().print(views.status_view(facts))


@command("autoresearch trials mine --json")
def trials(name: Name, as_json: AsJson = False, home: Home = None) -> None:
    """All trials, one line each."""
    from autoresearch import views

    study = open_study(name, home)
    found = study.store.trials()
    if as_json:
        print(json.dumps([views.trial_facts(trial) for trial in found], indent=1))
    else:
        views.make_console().print(
            views.trials_table(found, {trial.number: trial.recipe for trial in found}, views.pooled(study))
        )


@command("autoresearch show mine 7")
def show(
    name: Name, number: Annotated[int, typer.Argument(help="The trial's number.", min=0)], home: Home = None
) -> None:
    """Everything about one trial: change, hypothesis, answer, runs, diff."""
    from autoresearch import views
    from rails import render_recipe

    study = open_study(name, home)
    trial = study.store.trial(number)
    if trial is None:
        raise UserError(f"study {name} has no trial {number}: its last is {len(study.store.trials()) - 1}")
    parent = study.store.trial(trial.parent) if trial.parent is not None else None
    diff = ""
    if trial.recipe and parent and parent.commit:
        diff = study.workspace.diff(parent.commit, render_recipe(trial.recipe))
    runs, proposal = study.store.runs(number), study.store.proposal(number)
    views.make_console().print(
        views.trial_view(trial, runs, proposal, parent.recipe if parent else {}, diff, views.pooled(study))
    )


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
    study = open_study(name, home)
    if (raw is None) == (knob is None or value is None):
        raise UserError("give either --knob and --value, or --raw")
    if raw is None:
        assert value is not None
        raw = json.dumps({"knob": knob, "new_value": json_value(value), "reason": reason})
    study.store.queue_idea(raw)
    print(f"queued as number {study.store.waiting_ideas()}: {raw}")


def json_value(text: str) -> Any:
    """The text as a JSON value where it is one (0.001, 8, true), else as a string (bf16)."""
    try:
        return json.loads(text)
    except ValueError:
        return text


@command("autoresearch pause mine")
def pause(name: Name, home: Home = None) -> None:
    """No new trials until `resume`; those in flight are finished."""
    open_study(name, home).store.set_control("pause", "paused by a person")
    print(f"{name} is paused: go on with `autoresearch resume {name}`")


@command("autoresearch resume mine")
def resume(name: Name, home: Home = None) -> None:
    """Go on after `pause`."""
    open_study(name, home).store.set_control("run", "resumed by a person")
    print(f"{name} goes on")


@command("autoresearch stop mine")
def stop(name: Name, home: Home = None) -> None:
    """End the night (and the daemon) at the trial boundary."""
    open_study(name, home).store.set_control("stop", "stop asked for by a person")
    print(f"{name} ends when its trials in flight are done")


@command("autoresearch calibrate mine --seeds 8")
def calibrate(
    name: Name,
    seeds: Annotated[int, typer.Option(min=2, max=64, help="Runs of the baseline to have in all.")] = 8,
    home: Home = None,
) -> None:
    """Measure the noise: run the baseline on more seeds and say what a gain must exceed to be seen."""
    from autoresearch import views
    from autoresearch.night import Night

    study, console = open_study(name, home), views.make_console()

    def only_the_baseline(display: Display) -> Night:
        study.store.queue_runs([(0, seed, "reference") for seed in range(seeds)])
        session = Night(study, display)
        session.stop.request("calibrated")
        return session

    night(study, console, only_the_baseline)
    noise = views.pooled(study)
    share = noise.deviation / views.status(study)["baseline"]["val_bpb"]
    console.print(views.outcome_line(views.status(study)), markup=False, soft_wrap=True)
    console.print(
        f"One run deviates by {noise.deviation:.4f} bits per byte, {100 * share:.2f} % "
        f"({noise.dof:.0f} degrees of freedom, the prior's included). A gain of {2 * noise.deviation:.4f} is found "
        f"nine times in ten; one of {noise.deviation:.4f} seldom.",
        markup=False,
        soft_wrap=True,
    )


@command("autoresearch sweep --batch 2,4,8 --seq 256,512 --precision bf16")
def sweep(
    preset: Preset = None,
    batch: Annotated[str | None, typer.Option(help="Batch sizes, as 2,4,8; default: the preset's.")] = None,
    seq: Annotated[str | None, typer.Option(help="Sequence lengths, as 1024,2048; default: the preset's.")] = None,
    precision: Annotated[str | None, typer.Option(help="As bf16,fp8; default: the preset's.")] = None,
    steps: Annotated[int, typer.Option(min=2, help="Steps of a run; the first is not timed.")] = 20,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Times to measure each point; default 1, with --data 3.")
    ] = None,
    data: Annotated[
        bool, typer.Option("--data", help="Also on real text, in turns: what does reading it cost?")
    ] = False,
    source: Annotated[str | None, typer.Option(help="With --data: other text than the preset's, as for init.")] = None,
    compile: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="torch.compile; default: on a GPU.")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="torch or megatron; default: the preset's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; default: sweeps/ in --home.")] = None,
    home: Home = None,
) -> None:
    """Measure speed, memory and power over batch size, sequence length and precision. Needs no study."""
    from autoresearch import folder, views
    from autoresearch.machine import look
    from autoresearch.sweep import make_plan, sweep

    machine = look()
    asked = {"batch": batch, "seq": seq, "precision": precision, "source": source, "backend": backend}
    plan = make_plan(
        preset or fitting_preset(machine), machine, **asked, steps=steps, rounds=rounds, data=data, compile=compile
    )
    sweep(plan, folder.home(home), out, views.make_console())


@command("autoresearch doctor")
def doctor(home: Home = None) -> None:
    """Look this machine over: Python, git, disk, torch, GPU, energy counters, language model."""
    from autoresearch import folder
    from autoresearch.doctor import examine

    findings = examine(folder.home(home))
    for finding in findings:
        print(f"{'ok  ' if finding.fine else 'BAD '} {finding.what}: {finding.found}")
    if not all(finding.fine for finding in findings):
        raise UserError("mend what is marked BAD above, then run `autoresearch doctor` again")


def show_outcome(study: StudyFolder, console: Console, reason: str) -> None:
    """The end of a night: the table, what came of it, and what to do next."""
    from autoresearch import views

    found = study.store.trials()
    console.print(views.trials_table(found[-40:], {trial.number: trial.recipe for trial in found}, views.pooled(study)))
    facts = views.status(study)
    energy = views.energy_text(facts["energy_joules"], facts["energy_sources"])
    inside = study.path.is_relative_to(Path.cwd())
    path = study.path.relative_to(Path.cwd()) if inside else study.path
    following = {
        f"git -C {path}/recipe log --oneline --first-parent incumbent": "the story so far",
        f"autoresearch show {study.name} 1": "one trial, whole",
        f"autoresearch propose {study.name} --knob lr --value 0.002": "an idea of your own",
        f"autoresearch run {study.name} --hours 8": "go on",
    }
    width = max(map(len, following))
    for line in (
        "",
        views.outcome_line(facts),
        f"Ended: {reason}. {facts['runs']} runs so far, {energy}, {facts['cost']:.3f} {facts['currency']}.",
        "",
        "Next (autoresearch is in .venv/bin):",
        *(f"  {command:<{width}}   {what}" for command, what in following.items()),
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
