"""What was found in a script, for the person who adopted it: a short table, and what to do next."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from autoresearch import words
from autoresearch.adopt.make import Adopted
from autoresearch.adopt.menu import SEED
from autoresearch.terminal.console import listing, say
from rails import clean
from rails.values import shown

MOST_LEFT_OUT = 12


def show(found: Adopted, console: Console) -> None:
    study, script = found.study, found.script.name
    lines = {knob.constant.knob: knob.constant for knob in found.knobs}
    table = listing("line", "constant", "value", "may become", right=("line",))
    for knob in found.menu.knobs.values():
        constant = study.script.constants()[knob.name] if study.script else lines[knob.name]
        log = ", in factors" if knob.scale == "log" else ""
        texts = (str(constant.line), clean(constant.name, 40), shown(constant.value), f"{knob.allowed}{log}")
        table.add_row(*map(Text, texts))
    console.print(table)
    rest = [other for other in found.left_out if other.name.lower() not in found.menu.knobs]
    if rest:
        say(console, "left out:")
    for other in rest[:MOST_LEFT_OUT]:
        say(console, f"  line {other.line}: {clean(other.name, 40)}: {other.why}")
    if len(rest) > MOST_LEFT_OUT:
        say(console, f"  and {len(rest) - MOST_LEFT_OUT} more, which menu.toml names")
    way = "lower" if found.score.lower_is_better else "higher"
    where = f"line {found.score.line} prints it" if found.score.line else "as you named it"
    say(console, f"score: {clean(found.score.name, 64)}, {where}; {way} is better, by its name")
    if study.script and SEED not in study.script.constants():
        say(console, f"seed: {script} has no constant SEED; let it read the environment's AUTORESEARCH_SEED")
    if found.repository is not None and found.not_committed:
        say(console, f"git: {found.not_committed} ({found.repository}): commit it before you apply what is found")
    say(console, f"study {study.name} made in {study.path} with {words.count(len(found.menu.knobs), 'knob')}")
    say(console, f"menu: {study.workspace.path / 'menu.toml'}: edit it now; it is settled with the first run")
    say(console, f"settings: {study.path / 'study.toml'}: how the script is run, and the score")
    say(console, f"next: autoresearch run {study.name} --trials 20")
