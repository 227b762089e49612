"""Corpus, training and race in one go: what is there already on the same terms is not done again."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from autoresearch.distill.corpus.make import Corpus, make_corpus
from autoresearch.distill.corpus.terms import Terms
from autoresearch.distill.corpus.write import is_written, write_corpus
from autoresearch.distill.race.compete import race
from autoresearch.distill.race.held import states_of
from autoresearch.distill.race.outcome import FLOOR, has_benchmark, outcome, require_benchmark, teacher_of
from autoresearch.distill.race.racers import Spec
from autoresearch.distill.race.text import write
from autoresearch.distill.successor import Successor, successor
from autoresearch.distill.teach.child import TRAINING, is_made
from autoresearch.distill.teach.lora import sha256, teach
from autoresearch.distill.teach.lora_terms import LoraRequest
from autoresearch.distill.teach.messages import REQUEST
from autoresearch.distill.teach.scratch import NOTHING, begun, located, teach_decoder
from autoresearch.distill.teach.scratch_terms import BATCH, EVALUATE_EVERY, STEPS, STEPS_ON, ScratchRequest
from autoresearch.errors import UserError
from autoresearch.evidence.raced import FILE, Raced, read_race
from autoresearch.proposer_name import HYBRID, SHIPPED
from autoresearch.study.folder import StudyFolder
from autoresearch.terminal.console import say
from autoresearch.terminal.signals import outlive_terminal

SCRATCH, LORA = "scratch", "lora"
# With three others than the teacher seven nights, all on one side, are the fewest that are beyond noise.
NIGHTS, RUNS = 8, 50
CARD, ITS_RACE = "README.md", "\n## Its race\n"


@dataclass(frozen=True)
class OneGo:
    """base: SCRATCH, a folder, or a name on Hugging Face's hub. begin_from, a decoder to go on from or NOTHING, and
    steps: of SCRATCH alone; batch, steps: None: as trainings have it. nights: of each proposer on each surrogate; None:
    NIGHTS where the search benchmark is there, else none."""

    base: str = SCRATCH
    begin_from: Path = SHIPPED
    hold_out: float = 0.2
    steps: int | None = None
    batch: int | None = None
    nights: int | None = None
    runs: int = RUNS
    seed: int = 0
    force: bool = False

    @property
    def kind(self) -> str:
        return SCRATCH if self.base == SCRATCH else LORA

    def request(self, corpus: Path) -> ScratchRequest | LoraRequest:
        """On what terms it is taught."""
        if self.kind == SCRATCH:
            sources = *located(corpus), *begun(self.begin_from)
            steps = self.steps or (STEPS if self.begin_from == NOTHING else STEPS_ON)
            return ScratchRequest(*sources, steps, self.batch or BATCH, EVALUATE_EVERY, self.seed)
        base = str(Path(self.base).resolve()) if Path(self.base).is_dir() else self.base
        request = LoraRequest(str(corpus.resolve()), sha256(corpus), base, seed=self.seed)
        return replace(request, batch=self.batch) if self.batch else request


def distill(folders: Sequence[StudyFolder], terms: OneGo, out: Path, console: Console) -> Successor:
    """Leaves corpus, student and race in folders of these names in `out`. What a kill ended goes on.

    Raises UserError before anything is taught where the corpus is too thin for it, nothing can be raced on, the
    benchmark is asked for and not there, or `out` has what was made of other studies or on other terms; and as the
    trainings and the race do.
    """
    out = out.absolute()
    student = out / "student"
    if terms.nights:
        require_benchmark()
    for folder in folders:
        states_of(folder, terms.hold_out)
    say(console, "1 of 3: the corpus")
    _corpus(make_corpus(folders, Terms(hold_out=terms.hold_out, seed=terms.seed)), terms, out, console)
    say(console, "2 of 3: the student")
    request = terms.request(out / "corpus")
    if is_made(request, student):
        say(console, f"{student} is there already")
    elif isinstance(request, ScratchRequest):
        teach_decoder(request, student, console)
    else:
        teach(request, student, console)
    say(console, "3 of 3: the race")
    students = [Spec(f"{terms.kind}:{student}"), Spec(f"{HYBRID}:{terms.kind}:{student}")]
    teacher, _ = teacher_of(folders)
    raced = _race(folders, list(dict.fromkeys([*students, teacher, FLOOR])), terms, out, console)
    return successor(raced, students, teacher)


def _corpus(made: Corpus, terms: OneGo, out: Path, console: Console) -> None:
    corpus, student, report = out / "corpus", out / "student", made.report
    if report.too_thin and terms.kind == LORA and not terms.force:
        raise UserError(
            f"this corpus is too thin to teach a language model: {'; '.join(report.too_thin)}; or --base scratch, "
            "which learns from simulated nights too, or --force"
        )
    for warning in [*report.warnings, *(f"too thin for a language model: {reason}" for reason in report.too_thin)]:
        print(f"warning: {warning}", file=sys.stderr)
    if is_written(made, corpus):
        say(console, f"{corpus} is there already")
        return
    if (student / REQUEST).exists() or (student / TRAINING).exists():
        raise UserError(
            f"{student} was taught other terms than these, or the studies have grown since: name another folder with "
            "--out, or remove it"
        )
    write_corpus(made, corpus)


def _race(folders: Sequence[StudyFolder], specs: Sequence[Spec], terms: OneGo, out: Path, console: Console) -> Raced:
    """As it lies beside the student then."""
    student, place = out / "student", out / "race"
    nights = (NIGHTS if has_benchmark() else 0) if terms.nights is None else terms.nights
    raced = read_race(student)
    if raced and _is_same(raced, folders, specs, terms, nights):
        say(console, f"{student / FILE} is there already")
        return raced
    with console.status("reading") as status:
        held = race(folders, specs, terms.hold_out, terms.seed, status.update)
    if nights:
        with outlive_terminal():
            held = replace(held, outcome=outcome(folders, specs, console, nights=nights, runs=terms.runs))
    write(held, place)
    say(console, f"{place / 'race.md'} has the tables; {held.verdict}")
    card = (student / CARD).read_text("utf-8").partition(ITS_RACE)[0]
    told = (place / "race.md").read_text("utf-8").replace("\n#", "\n##").removeprefix("# ")
    (student / CARD).write_text(f"{card}{ITS_RACE}\n{told}", encoding="utf-8")
    partial = student / f".{FILE}"
    shutil.copyfile(place / FILE, partial)
    partial.replace(student / FILE)
    found = read_race(student)
    assert found, "it was written a moment ago"
    return found


def _is_same(raced: Raced, folders: Sequence[StudyFolder], specs: Sequence[Spec], terms: OneGo, nights: int) -> bool:
    """The corpus and the student are the same too: a race in the student's folder came after both."""
    asked = (terms.hold_out, terms.seed, nights, terms.runs if nights else 0)
    searches = raced.outcome
    had = (raced.hold_out, raced.seed, searches.nights if searches else 0, searches.runs if searches else 0)
    names = [folder.name for folder in folders], [spec.label for spec in specs]
    return asked == had and names == (raced.studies, [racer.name for racer in raced.racers])
