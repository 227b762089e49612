"""A taught model in this process: loaded once, and held token by token to the schema of an answer."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else it warns of each process that is started

import llguidance
import llguidance.hf
import numpy as np
import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from autoresearch.proposers.completion import NoAnswer
from autoresearch.proposers.conversation import TEMPLATE

MOST_TOKENS = 800  # of an answer
CHANGE_ENDS = b'"reason"'  # in the text of an answer
# As what it was taught is written (json.dumps).
FORM = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

# A night's display is in this process too.
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


@dataclass(frozen=True)
class Said:
    """One answer, of the schema. likelihood: from 0 to 1, how likely the model held its tokens among those that the
    schema allowed; the geometric mean over the tokens up to its reason."""

    text: str
    likelihood: float


@dataclass(frozen=True)
class Batch:
    """The whole answers to one question; tokens of the question, and of all answers, those without an end too."""

    said: list[Said]
    prompt_tokens: int
    completion_tokens: int


class TaughtModel:
    """On the first GPU in bf16, where there is one, else on the processor in fp32."""

    def __init__(self, folder: Path, base: str | None) -> None:
        """base: of the adapter in the folder, itself a folder or a name on Hugging Face's hub; None: it holds a whole
        model. Raises NoAnswer."""
        try:
            self._load(folder, base)
        except torch.OutOfMemoryError:
            why = "the GPU has no memory left for it"
        except Exception as error:  # whatever libraries make of a broken folder
            why = f"it cannot be loaded: {type(error).__name__}: {error}"
        else:
            return
        _free()
        raise NoAnswer(why)

    def answers(
        self,
        messages: list[dict[str, str]],
        schema: dict[str, Any],
        count: int,
        temperature: float,
        seed: int,
        goes_on: Callable[[], bool],
    ) -> Batch:
        """So many, drawn independently; the same seed gives the same. goes_on: asked before each token. Raises
        NoAnswer."""
        try:
            return self._answers(messages, schema, count, temperature, seed, goes_on)
        except NoAnswer:
            raise
        except torch.OutOfMemoryError:
            why = "the GPU has no memory left for an answer"
        except Exception as error:  # likewise, of a question
            why = f"{type(error).__name__}: {error}"
        finally:
            _free()  # runs on the same GPU want it
        raise NoAnswer(why)

    def _load(self, folder: Path, base: str | None) -> None:
        self.device = "cuda:0" if torch.cuda.is_available() else "cpu"
        dtype = torch.float32 if self.device == "cpu" else torch.bfloat16
        source = str(folder) if base is None else base
        local = Path(source).is_dir()  # without a hub each file that is no part of it would be asked for, for a minute
        model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, local_files_only=local)
        if base is not None:
            model = PeftModel.from_pretrained(model, folder, local_files_only=True)
        self._model = model.to(self.device).eval()
        config = model.config.get_text_config()
        self._context = getattr(config, "max_position_embeddings", None) or math.inf
        of_its_own = base is None or (folder / "tokenizer_config.json").exists()
        written = str(folder) if of_its_own else source
        tokenizer: Any = AutoTokenizer.from_pretrained(written, local_files_only=of_its_own or local)
        if not tokenizer.chat_template:
            tokenizer.chat_template = TEMPLATE
        self._tokenizer = tokenizer
        self._tokens = llguidance.hf.from_tokenizer(tokenizer, n_vocab=max(len(tokenizer), config.vocab_size))

    @torch.inference_mode()
    def _answers(
        self,
        messages: list[dict[str, str]],
        schema: dict[str, Any],
        count: int,
        temperature: float,
        seed: int,
        goes_on: Callable[[], bool],
    ) -> Batch:
        prompt: list[int] = self._tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=False, add_generation_prompt=True
        )
        if len(prompt) + MOST_TOKENS > self._context:
            raise NoAnswer(f"{len(prompt):,} tokens of a question leave no room for an answer: lower lineage_tokens")
        grammar: Any = llguidance.LLMatcher.grammar_from_json_schema(schema, overrides=FORM)  # type: ignore[arg-type,unused-ignore]
        matchers = [llguidance.LLMatcher(self._tokens, grammar) for _ in range(count)]
        drawn: list[list[int]] = [[] for _ in matchers]
        logs: list[list[float]] = [[] for _ in matchers]
        generator = torch.Generator(self.device).manual_seed(seed)
        out = self._model(input_ids=torch.tensor([prompt], device=self.device), use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        cache.batch_repeat_interleave(count)  # the question is read once for all
        logits = out.logits[:, -1].expand(count, -1)
        for _ in range(MOST_TOKENS):
            if not goes_on():
                raise NoAnswer("no whole answer in the time that it has")
            likely = self._within(logits, matchers)
            tokens = _draw(likely, temperature, generator)
            chosen = likely.gather(1, tokens).squeeze(1).tolist()
            for n, (token, log) in enumerate(zip(tokens.squeeze(1).tolist(), chosen, strict=True)):
                if not matchers[n].is_stopped():
                    matchers[n].consume_token(token)
                    drawn[n].append(token)
                    logs[n].append(log)
            if wrong := next((matcher for matcher in matchers if matcher.is_error()), None):
                raise NoAnswer(f"the schema cannot be held to: {wrong.get_error()}")
            if all(matcher.is_stopped() for matcher in matchers):
                break
            logits = self._model(input_ids=tokens, past_key_values=cache, use_cache=True).logits[:, -1]
        whole = [n for n, matcher in enumerate(matchers) if matcher.is_stopped()]
        return Batch([self._said(drawn[n], logs[n]) for n in whole], len(prompt), sum(map(len, drawn)))

    def _within(self, logits: torch.Tensor, matchers: Sequence[Any]) -> torch.Tensor:
        """[answers, vocabulary]: log-likelihoods among what the schema allows next; of an ended answer anything."""
        bits = np.stack([np.frombuffer(matcher.compute_bitmask(), np.uint8) for matcher in matchers])
        allowed = np.unpackbits(bits, axis=1, bitorder="little").astype(bool)[:, : logits.shape[1]]
        allowed[[matcher.is_stopped() for matcher in matchers]] = True
        forbidden = torch.from_numpy(~allowed).to(logits.device)
        return torch.log_softmax(logits.float().masked_fill(forbidden, -math.inf), dim=-1)

    def _said(self, tokens: list[int], logs: list[float]) -> Said:
        text, change = b"", 0
        for token in tokens:
            text += self._tokens.decode_bytes([token])
            change += CHANGE_ENDS not in text
        of_change = logs[: change + 1]
        return Said(text.decode("utf-8", "replace"), math.exp(sum(of_change) / len(of_change)))


def _draw(likely: torch.Tensor, temperature: float, generator: torch.Generator) -> torch.Tensor:
    """[answers, 1]."""
    if not temperature:
        return likely.argmax(dim=-1, keepdim=True)
    return torch.multinomial(torch.softmax(likely / temperature, dim=-1), 1, generator=generator)


def _free() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
