"""Asks a language model behind any OpenAI-compatible endpoint; when it stays down the night goes on without it."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

import openai

from autoresearch.config import ProposerSettings
from autoresearch.errors import UserError
from autoresearch.proposers.prompt import SYSTEM, answer_schema, render, whole_prompt
from autoresearch.proposers.proposer import Proposer
from autoresearch.trial import History, Proposal
from rails import clean

NIM_URL = "https://integrate.api.nvidia.com/v1"
NIM_MODEL = "meta/llama-3.1-8b-instruct"
MAX_ANSWER_TOKENS = 400
# Proposals made without the endpoint before it is tried again: an outage must not cost every trial its timeouts.
TRIALS_BETWEEN_ATTEMPTS = 5


class LlmProposer:
    """One question per trial. The base URL, model and key come from study.toml or the environment
    (OPENAI_BASE_URL, AUTORESEARCH_MODEL, OPENAI_API_KEY); the default is NIM's Llama 3.1 8B."""

    name = "llm"

    def __init__(self, settings: ProposerSettings, fallback: Proposer) -> None:
        self.model = settings.model or os.environ.get("AUTORESEARCH_MODEL") or NIM_MODEL
        self.base_url = settings.base_url or os.environ.get("OPENAI_BASE_URL") or NIM_URL
        self._temperature = settings.temperature
        self._fallback = fallback
        self._retry_at = 0
        self._schema_works = True
        try:
            self._client = openai.OpenAI(
                base_url=self.base_url,
                api_key=os.environ.get("OPENAI_API_KEY") or "none",  # a local server wants no key
                timeout=settings.timeout_seconds,
                max_retries=settings.max_retries,  # with exponential backoff, also on 429 and 5xx
            )
        except (openai.OpenAIError, ValueError) as error:
            raise UserError(f"the language model's address {self.base_url!r} cannot be used: {error}") from None

    def propose(self, history: History) -> Proposal:
        if history.number < self._retry_at:
            return self._fallback.propose(history)
        prompt = render(history)
        started = time.monotonic()
        try:
            answer = self._ask(prompt, history)
            content = answer.choices[0].message.content or ""
            if not isinstance(content, str):
                raise TypeError("its answer is no text")
        except (openai.OpenAIError, IndexError, AttributeError, TypeError, ValueError) as error:
            # The last four: an endpoint that answers 200 with something else than a chat completion.
            self._retry_at = history.number + TRIALS_BETWEEN_ATTEMPTS
            note = (
                f"{self.base_url} does not answer ({type(error).__name__}: {clean(str(error), 200)}); "
                f"{self._fallback.name} proposes until trial {self._retry_at}"
            )
            return replace(self._fallback.propose(history), notes=[note])
        return Proposal(
            raw=content,
            proposer=self.name,
            prompt=whole_prompt(history),
            model=self.model,
            latency_seconds=time.monotonic() - started,
            prompt_tokens=_count(answer.usage, "prompt_tokens"),
            completion_tokens=_count(answer.usage, "completion_tokens"),
        )

    def _ask(self, prompt: str, history: History) -> Any:
        request: Any = {
            "model": self.model,
            "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}],
            "temperature": self._temperature,
            "max_tokens": MAX_ANSWER_TOKENS,
            "seed": history.number,
        }
        if self._schema_works:
            schema: Any = {"name": "proposal", "strict": True, "schema": answer_schema(history)}
            try:
                form: Any = {"type": "json_schema", "json_schema": schema}
                return self._client.chat.completions.create(**request, response_format=form)
            except (openai.BadRequestError, openai.UnprocessableEntityError, openai.NotFoundError):
                self._schema_works = False  # the endpoint knows no schemas; the rails check the form anyway
        return self._client.chat.completions.create(**request)


def _count(usage: Any, name: str) -> int | None:
    """What the endpoint says that it counted; None where that is no number."""
    value = getattr(usage, name, None)
    return value if type(value) is int and 0 <= value < 2**53 else None
