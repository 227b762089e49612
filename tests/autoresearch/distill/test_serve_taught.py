"""What `distill train` made, before a real server: the taught model is what answers, and a night is proposed by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
from studies import make_study, query, run_study
from taught import Adapter

from autoresearch.config import ProposerSettings
from autoresearch.proposers.classic import RandomProposer
from autoresearch.proposers.llm import LlmProposer

pytestmark = pytest.mark.skipif(find_spec("peft") is None, reason="the extra distill is not installed")

tiny_llm = pytest.importorskip(
    "tiny_llm", reason="xllamacpp is not installed: it has no wheel for some platforms", exc_type=ImportError
)
NAME = "proposer"
TOKENS = 60
FORM = ("schema", "menu", "range")  # rails that a model held to its schema does not meet


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def url(adapter: Adapter, tmp_path: Path) -> Iterator[str]:
    from tiny_gguf import write_llama

    write_llama(adapter.merged, tmp_path / "merged.gguf")
    with tiny_llm.served(tmp_path / "merged.gguf", name=NAME) as address:
        yield address


def greedy(base: Path, messages: list[dict[str, str]], adapter: Path | None = None) -> str:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter)
    tokenizer: Any = AutoTokenizer.from_pretrained(adapter or base)
    asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = model.generate(**asked, do_sample=False, max_new_tokens=TOKENS, pad_token_id=tokenizer.eos_token_id)
    text: str = tokenizer.decode(said[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
    return text


def test_what_is_served_says_what_the_base_with_its_adapter_says_and_not_what_the_base_does(
    url: str, adapter: Adapter, base: Path, corpus: Path
) -> None:
    messages = json.loads((corpus / "held_out.jsonl").read_text().splitlines()[0])["messages"][:-1]
    request = {"model": NAME, "messages": messages, "temperature": 0, "max_tokens": TOKENS}
    reply = httpx.post(f"{url}/chat/completions", json=request, timeout=60)
    served = reply.json()["choices"][0]["message"]["content"]
    assert served.startswith('{"knob": ')
    assert served == greedy(base, messages, adapter.out)
    assert served != greedy(base, messages)


def test_a_night_proposed_by_a_taught_model_keeps_to_the_form_and_each_proposal_names_the_model(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.setenv("AUTORESEARCH_MODEL", NAME)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    folder = make_study(tmp_path, limits__run_seconds=2.0)
    run_study(folder, proposer=LlmProposer(ProposerSettings(), RandomProposer()), trials=5)
    asked = query(folder, "SELECT proposer, model, rail FROM proposals WHERE proposer NOT IN ('apart', 'carried')")
    assert len(asked) >= 5
    assert {(proposer, model) for proposer, model, _ in asked} == {("llm", NAME)}
    assert not [rail for _, _, rail in asked if rail in FORM]
