"""Asks a language model, now and then, what the trials teach: a few claims that arithmetic can check."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from typing import Any

from autoresearch import words
from autoresearch.proposers.completion import Answer, NoAnswer
from autoresearch.proposers.endpoint import ChatEndpoint
from autoresearch.proposers.forms import Forms
from autoresearch.proposers.lessons import denial, later
from autoresearch.proposers.lineage import lesson_claim, lineage
from autoresearch.proposers.prompt import REASON_PATTERN
from autoresearch.trial import MAX_RAW_BYTES, History, Lesson, Reflection
from rails import clean

TRIALS_BETWEEN = 10  # that were trained
FAILURES_IN_A_ROW = 5
MOST_LESSONS = 5
MOST_TRIALS = 20
MOST_CHARACTERS = 200
MORE_TOKENS = 800  # than a proposal takes
FAILED = ("failed", "timed_out")
TRAINED = ("complete", "stopped", *FAILED)

AIM = """\
You sum up what trials of a small GPT pretraining run have measured. Each trial changed knobs of a recipe. Lower
validation bits per byte (val_bpb) is better; a gain is how much lower it became."""
OTHER_AIM = """\
You sum up what trials of a program have measured. Each trial changed knobs of a recipe. A {better}
{name} is better; a gain is how much {better} it became."""
TASK = """\
Name at most five short lessons, fewer where the numbers bear fewer. A lesson is a claim about one knob: that moving it
higher, or lower, or to any other value helps or hurts. Of choices that are words, higher is later in the list. Name the
trials that it is from: they must have changed that knob. Later trials are held against each claim by arithmetic, and
one that they contradict is dropped.
Answer with one JSON object and nothing around it:
{"lessons": [{"knob": "<name>", "move": "higher" or "lower" or "other value", "effect": "helps" or "hurts", \
"trials": [<numbers>], "text": "<one sentence, plain ASCII, at most 200 characters>"}]}"""


def is_due(history: History) -> bool:
    """Whether enough was trained, or enough went wrong, since a model was last asked."""
    since = [
        trial.state for trial in history.trials if trial.number >= max(1, history.reflected) and trial.state in TRAINED
    ]
    last = since[-FAILURES_IN_A_ROW:]
    return len(since) >= TRIALS_BETWEEN or (len(last) == FAILURES_IN_A_ROW and all(state in FAILED for state in last))


def instructions(history: History) -> str:
    metric = history.metric
    other = OTHER_AIM.format(better=metric.better, name=metric.name)
    return f"{AIM if metric.is_bits_per_byte else other}\n{TASK}"


class Reflector:
    """One question, of facts alone: what models said of trials before is not in it."""

    def __init__(self, endpoint: ChatEndpoint, forms: Forms, model: str, temperature: float) -> None:
        self.model = model
        self._endpoint, self._forms, self._temperature = endpoint, forms, temperature

    def reflect(self, history: History, lineage_tokens: int, tokens: int) -> Reflection:
        """Asks, whatever comes of it. `tokens`: what a proposal of this model takes, thoughts included."""
        cut = self._endpoint.secrets.cut
        prompt = question(history, lineage_tokens)
        asked = Reflection(cut(f"{instructions(history)}\n\n{prompt}"), None, cut(self.model), 0.0, None, None, ())
        started = time.monotonic()
        try:
            answer = self._ask(prompt, history, tokens + MORE_TOKENS)
        except NoAnswer as error:
            note = f"asked for lessons, {self._endpoint.address} does not answer ({error})"
            return replace(asked, latency_seconds=time.monotonic() - started, note=note)
        said = cut(answer.text)
        lessons, note = read(said, history)
        # JSON's escapes may have spelt a secret out.
        lessons = [replace(lesson, text=cut(lesson.text)) for lesson in lessons]
        return replace(
            asked,
            answer=said,
            latency_seconds=time.monotonic() - started,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            lessons=tuple(lessons),
            note=cut(note),
        )

    def _ask(self, prompt: str, history: History, tokens: int) -> Answer:
        request: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "system", "content": instructions(history)}, {"role": "user", "content": prompt}],
            "temperature": self._temperature,
            "max_tokens": tokens,
            "seed": random.Random(f"lessons/{history.seed}/{history.number}").getrandbits(31),
        }
        return self._forms.ask(request, lambda _: answer_schema(history), time.monotonic() + self._endpoint.seconds)


# --- the question ---


def question(history: History, lineage_tokens: int) -> str:
    """The user message: the menu, and the lineage without anything that a model said."""
    facts = replace(history, trials=[replace(trial, hypothesis="") for trial in history.trials], lessons=())
    knobs = "\n".join(f"- {knob.name} ({knob.allowed})" for knob in history.menu.knobs.values())
    return f"Knobs:\n{knobs}\n{lineage(facts, lineage_tokens)}\nName the lessons of the trials before {history.number}."


def answer_schema(history: History) -> dict[str, Any]:
    """JSON Schema of an answer: knobs that some trial changed, trials that there are."""
    changed = {name for trial in history.trials if trial.state in TRAINED for name in trial.changes}
    lesson = {
        "type": "object",
        "properties": {
            "knob": {"enum": [name for name in history.menu.knobs if name in changed] or [*history.menu.knobs]},
            "move": {"enum": ["higher", "lower", "other value"]},
            "effect": {"enum": ["helps", "hurts"]},
            "trials": {
                "type": "array",
                "items": {"type": "integer", "minimum": 1, "maximum": max(1, history.number - 1)},
                "minItems": 1,
                "maxItems": MOST_TRIALS,
            },
            "text": {"type": "string", "pattern": REASON_PATTERN},
        },
        "required": ["knob", "move", "effect", "trials", "text"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"lessons": {"type": "array", "items": lesson, "maxItems": MOST_LESSONS}},
        "required": ["lessons"],
        "additionalProperties": False,
    }


# --- the answer ---


def read(text: str, history: History) -> tuple[list[Lesson], str]:
    """The lessons that can be taken, and why others are left out; '' where none is. Never raises."""
    # Often there is something around the object all the same.
    whole = text[text.find("{") : text.rfind("}") + 1] if len(text) <= MAX_RAW_BYTES else ""
    try:
        found = json.loads(whole)
    except (ValueError, RecursionError):
        found = None
    said = found.get("lessons") if isinstance(found, dict) else None
    if not isinstance(said, list):
        return [], "asked for lessons, the model answered something else"
    lessons, left_out = [], []
    for one in said[:MOST_LESSONS]:
        try:
            lessons.append(_lesson(one, history))
        except ValueError as error:
            left_out.append(str(error))
    if (more := len(said) - MOST_LESSONS) > 0:
        left_out.append(f"{more:,} beyond the first five")
    fewer = f"{len(said) - len(lessons):,} of {words.count(len(said), 'lesson')} left out: {'; '.join(left_out)}"
    return lessons, fewer if left_out else ""


def _lesson(said: object, history: History) -> Lesson:
    """Raises ValueError for what is no lesson of this study, with the reason."""
    match said:
        case {
            "knob": str(knob),
            "move": ("higher" | "lower" | "other value") as move,
            "effect": ("helps" | "hurts") as effect,
            "trials": list(numbers),
            "text": str(text),
        }:
            pass
        case _:
            raise ValueError("one has not the form that was asked for")
    if knob not in history.menu.knobs:
        raise ValueError(f"there is no knob {clean(knob, 40) or '-'}")
    text = clean(text, MOST_CHARACTERS + 1)
    if not (text.isascii() and 0 < len(text) <= MOST_CHARACTERS):
        raise ValueError(f"the text of one on {knob} is no ASCII of 1 to {MOST_CHARACTERS} characters")
    if not 1 <= len(numbers) <= MOST_TRIALS:
        raise ValueError(f"one on {knob} names {words.count(len(numbers), 'trial')}: 1 to {MOST_TRIALS} are allowed")
    of_knob = {trial.number for trial in history.trials if trial.state in TRAINED and knob in trial.changes}
    for number in numbers:
        if type(number) is not int:
            raise ValueError(f"one on {knob} names a trial by what is no whole number")
        if number not in of_knob:
            raise ValueError(f"one on {knob} names trial {number}, which trained no change of it")
    lesson = Lesson(knob, move, effect, tuple(sorted(set(numbers))), text)
    own = [trial for trial in history.trials if trial.number in lesson.trials]
    for trials in (own, later(lesson, history.trials)):
        if why := denial(lesson, trials, history.trials, history.menu, history.metric):
            raise ValueError(f"{lesson_claim(lesson)}, but {why}")
    return lesson
