"""Asks a language model behind any OpenAI-compatible endpoint; while it is down or of no use others propose."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from autoresearch import words
from autoresearch.config import ProposerSettings
from autoresearch.proposers.completion import Answer, NoAnswer
from autoresearch.proposers.endpoint import ChatEndpoint, Refused
from autoresearch.proposers.forms import Forms
from autoresearch.proposers.prompt import answer_schema
from autoresearch.proposers.proposer import Meter, Proposer
from autoresearch.proposers.reflector import Reflector, is_due
from autoresearch.proposers.share import MODEL
from autoresearch.proposers.talk import Adviser, Talk, counted
from autoresearch.trial import History, Proposal, Trial

NIM_URL = "https://integrate.api.nvidia.com/v1"
NIM_MODEL = "meta/llama-3.1-8b-instruct"
# A model that thinks first may need more than an answer takes: it gets twice as many until it has answered.
ANSWER_TOKENS = 400
MOST_ANSWER_TOKENS = 12_800
FEWEST_LINEAGE_TOKENS = 200
# Proposals made without the endpoint before it is tried again: an outage must not cost every trial its timeouts.
TRIALS_BETWEEN_ATTEMPTS = 5
# Answers that were blocked, one after the other, before the model is left alone for a while; each further one doubles
# the while.
USELESS_ANSWERS = 5
MOST_TRIALS_BETWEEN_ATTEMPTS = 80


class LlmProposer:
    """One question per trial. The base URL, model and key come from study.toml or the environment
    (OPENAI_BASE_URL, AUTORESEARCH_MODEL, OPENAI_API_KEY); the default is NIM's Llama 3.1 8B."""

    name = MODEL

    def __init__(self, settings: ProposerSettings, fallback: Proposer) -> None:
        self.model = settings.model or os.environ.get("AUTORESEARCH_MODEL") or NIM_MODEL
        self._endpoint = ChatEndpoint(
            settings.base_url or os.environ.get("OPENAI_BASE_URL") or NIM_URL,
            os.environ.get("OPENAI_API_KEY"),
            settings.timeout_seconds,
            settings.max_retries,
        )
        self.forms = Forms(self._endpoint, self.model)
        self._temperature = settings.temperature
        self._lineage_tokens = settings.lineage_tokens if settings.lineage else None
        self._reflector = (
            Reflector(self._endpoint, self.forms, self.model, self._temperature) if settings.reflect else None
        )
        self._fallback = fallback
        self._has_been_asked = False
        self._retry_at = self._told_until = 0
        self._tokens, self._most_tokens = ANSWER_TOKENS, MOST_ANSWER_TOKENS

    def propose(self, history: History, adviser: Adviser | None = None) -> Proposal:
        """adviser: what an optimizer lends to the question, if one is asked beside."""
        proposal = self._propose(history, adviser)
        # After the proposal, so that only a model that answers is asked for more.
        if self._reflector and self._lineage_tokens and proposal.proposer == self.name and is_due(history):
            reflection = self._reflector.reflect(history, self._lineage_tokens, self._tokens)
            proposal = replace(proposal, reflection=reflection, notes=[*proposal.notes, reflection.note])
        if not (taken := self._endpoint.taken()):
            return proposal
        sources = sorted({each.source for each in taken})
        return replace(proposal, energy_joules=sum(each.joules for each in taken), energy_source="+".join(sources))

    def _propose(self, history: History, adviser: Adviser | None) -> Proposal:
        if history.number < self._retry_at:
            return self._fallback.propose(history)
        # A night begins with a question, whatever the last one ended with: a person may have mended it.
        if self._has_been_asked and history.number < (until := self._useless_until(history.trials)):
            return self._instead(history, until)
        self._has_been_asked = True
        talk = Talk(history, adviser, self._endpoint.seconds, self._endpoint.secrets.cut)
        try:
            while talk.goes_on:
                self._ask_in_fewer_words(talk)
        except NoAnswer as error:
            if talk.attempts and talk.is_late:  # it does answer
                return talk.proposal(self.name, self.model)
            self._retry_at = history.number + TRIALS_BETWEEN_ATTEMPTS
            note = (
                f"{self._endpoint.address} does not answer ({error}); "
                f"{self._fallback.name} proposes until trial {self._retry_at}"
            )
            return talk.told(replace(self._fallback.propose(history), notes=[note]))
        return talk.proposal(self.name, self.model)

    def takes_long(self, history: History) -> bool:
        return True

    def metered_by(self, meter: Meter) -> None:
        self._endpoint.metered_by(meter)

    def hang_up(self) -> None:
        """Ends the question that is being asked, if any."""
        self._endpoint.hang_up()

    # --- a model of no use ---

    def _useless_until(self, trials: Sequence[Trial]) -> int:
        """The trial for which the model is asked again, told from what became of its last answers; 0: it may be now."""
        answers = [trial for trial in trials if trial.proposer == self.name]
        blocked = _blocked_at_the_end(answers)
        if blocked < USELESS_ANSWERS:
            return 0
        pause = min(TRIALS_BETWEEN_ATTEMPTS * 2 ** (blocked - USELESS_ANSWERS), MOST_TRIALS_BETWEEN_ATTEMPTS)
        return answers[-1].number + 1 + pause

    def _instead(self, history: History, until: int) -> Proposal:
        """The fallback's proposal; the first of a pause says why."""
        proposal = self._fallback.propose(history)
        if until == self._told_until:
            return proposal
        self._told_until = until
        blocked = _blocked_at_the_end([trial for trial in history.trials if trial.proposer == self.name])
        answers = words.count(blocked, "answer was", "answers were")
        note = f"the last {answers} blocked ({self.model}); {self._fallback.name} proposes until trial {until}"
        return replace(proposal, notes=[self._endpoint.secrets.cut(note)])

    # --- a question ---

    def _ask_in_fewer_words(self, talk: Talk) -> None:
        """The next question of a talk, and its answer. Where the model has no room for it, what was learned is told in
        half of the words, from then on too.

        Raises NoAnswer."""
        while True:
            started = time.monotonic()
            try:
                answer = self._ask(talk)
            except Refused as error:
                if not error.is_too_long or not self._lineage_tokens:
                    raise
                fewer = self._lineage_tokens // 2
                self._lineage_tokens = fewer if fewer >= FEWEST_LINEAGE_TOKENS else None
            else:
                return talk.heard(answer, time.monotonic() - started)

    def _ask(self, talk: Talk) -> Answer:
        """Asks once more, with more tokens, while they are used up before there is anything to read. Those of every
        try are counted.

        Raises NoAnswer; Refused also where the question left the answer too little of the model's context."""
        answers = [answer := self._ask_once(talk, self._tokens)]
        while answer.cut_off and not talk.is_readable(answer.text):
            if (answer.completion_tokens or self._tokens) < self._tokens:
                raise Refused("the question leaves no room for an answer in the model's context window")
            if self._tokens >= self._most_tokens:
                break
            try:
                answers.append(answer := self._ask_once(talk, 2 * self._tokens))
            except Refused:  # more than the model has room for
                self._most_tokens = self._tokens
                break
            self._tokens *= 2
        return replace(
            answer,
            prompt_tokens=counted(each.prompt_tokens for each in answers),
            completion_tokens=counted(each.completion_tokens for each in answers),
        )

    def _ask_once(self, talk: Talk, tokens: int) -> Answer:
        history = talk.history
        request: dict[str, Any] = {
            "model": self.model,
            "messages": talk.messages(self._lineage_tokens),
            "temperature": self._temperature,
            "max_tokens": tokens,
            "seed": random.Random(f"llm/{history.seed}/{history.number}").getrandbits(31),
        }
        return self.forms.ask(
            request,
            lambda has_bounds: answer_schema(history, grid=not has_bounds, candidates=talk.candidates),
            talk.until,
        )


def _blocked_at_the_end(trials: Sequence[Trial]) -> int:
    """How many of the last trials were blocked, one after the other."""
    passed = [n for n, trial in enumerate(trials, 1) if trial.state != "blocked"]
    return len(trials) - max(passed, default=0)
