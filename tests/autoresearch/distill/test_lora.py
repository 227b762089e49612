"""A LoRA out of a corpus, on a tiny Llama that is made here: what is learned, refused, gone on with, and written."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from command_line import Command
from taught import KNOBS, Adapter, begin, finish, line, row, write_rows

from autoresearch.distill.teach.examples import NOT_LEARNED, Example, read_examples
from autoresearch.distill.teach.lora_terms import LoraRequest
from autoresearch.errors import UserError
from autoresearch.proposers.conversation import TEMPLATE

pytestmark = pytest.mark.skipif(find_spec("peft") is None, reason="the extra distill is not installed")


def silent(event: str, **facts: Any) -> None:
    pass


def test_an_adapter_is_better_than_its_base_on_what_was_held_out_and_its_card_says_so(
    adapter: Adapter, corpus: Path, base: Path
) -> None:
    found = adapter.result
    assert found["loss"] < 0.7 * found["base_loss"]
    assert found["history"][0] == [0, found["base_loss"]] and found["best_step"] > 0
    assert found["base_answers"] == {"asked": 4, "readable": 0, "matched": 0} and found["answers"]["asked"] == 4
    text = (adapter.out / "README.md").read_text()
    files = [(corpus / f"{name}.jsonl").read_bytes() for name in ("train", "held_out")]
    assert hashlib.sha256(b"".join(files)).hexdigest() in text
    assert f"{found['base_loss']:.4f} | {found['loss']:.4f}" in text and "Wh (" in text and "24 rows" in text
    assert f"held-out loss {found['loss']:.4f} (base {found['base_loss']:.4f})" in adapter.said
    assert "step 3 of 24: held-out loss" in adapter.said
    assert not (adapter.out / "training").exists()


def test_an_adapters_folder_loads_with_peft_alone_and_the_merged_one_without_it(
    adapter: Adapter, corpus: Path, base: Path, tokenizer: Any
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from autoresearch.distill.teach.lora_worker import held_out_loss

    names = {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md", "training.json"}
    assert names <= {file.name for file in adapter.out.iterdir()}
    config = json.loads((adapter.out / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (16, 32, 0.05)
    assert {"q_proj", "o_proj", "up_proj", "down_proj"} < set(config["target_modules"])
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter.out)
    held_out = read_examples(corpus / "held_out.jsonl", AutoTokenizer.from_pretrained(adapter.out), 256)
    assert held_out_loss(model, held_out) == pytest.approx(adapter.result["loss"], rel=1e-5)
    merged = AutoModelForCausalLM.from_pretrained(adapter.merged, dtype=torch.float32)
    assert held_out_loss(merged, held_out) == pytest.approx(adapter.result["loss"], rel=1e-4)


def test_a_training_killed_and_begun_again_gives_the_same_bytes_as_one_that_was_not(
    adapter: Adapter, corpus: Path, base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    arguments = line(corpus, base, out, "--merge")
    with begin(arguments) as running:
        assert running.stdout is not None
        for said in running.stdout:
            if said.startswith("step 6 of"):
                break
        running.send_signal(signal.SIGKILL)
    assert (out / "training" / "state.pt").exists() and not (out / "adapter_model.safetensors").exists()
    said = finish(arguments)
    assert "step 3 of" not in said and "step 24 of 24" in said
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (out / name).read_bytes() == (adapter.out / name).read_bytes()
    again, whole = (json.loads((each / "training.json").read_text()) for each in (out, adapter.out))
    assert again["history"] == whole["history"]


def test_the_answer_alone_is_learned(base: Path, corpus: Path, tokenizer: Any) -> None:
    import torch
    import torch.nn.functional as F
    from transformers import AutoModelForCausalLM

    from autoresearch.distill.teach.lora_worker import nats

    example = read_examples(corpus / "held_out.jsonl", tokenizer, 256)[0]
    learned = [label for label in example.labels if label != NOT_LEARNED]
    assert tokenizer.decode(learned) == f"{example.answer}<|im_end|>\n"
    assert tokenizer.decode(example.prompt).endswith("<|im_start|>assistant\n")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    labels = torch.tensor(example.labels)
    logits = model(input_ids=torch.tensor([example.ids])).logits[0]
    of_all = F.cross_entropy(logits[:-1], labels[1:], ignore_index=NOT_LEARNED, reduction="sum")
    assert (labels == NOT_LEARNED).sum() == len(example.prompt) > 20
    assert nats(model, example).item() == pytest.approx(of_all.item(), rel=1e-5)


@pytest.mark.parametrize("weights", [(1.0, 0.01), (0.01, 1.0)])
def test_of_two_answers_to_one_question_the_one_that_weighs_more_is_learned(
    weights: tuple[float, float], base: Path, tokenizer: Any, tmp_path: Path
) -> None:
    from autoresearch.distill.teach.lora_worker import Training, load, nats

    rows = [row(n, weights[n], f'{{"knob": "{KNOBS[n]}"}}', "which?") for n in (0, 1)]
    write_rows(tmp_path, train=rows, held_out=[row(3)])
    examples = read_examples(tmp_path / "train.jsonl", tokenizer, 256)
    request = LoraRequest(str(tmp_path), "", str(base), 20, 2, 0.01, 256, 9, 20, 0, False)
    model = load(request, silent)
    Training(model, request, examples, examples).run(silent, tmp_path / "state.pt")
    per_token = [nats(model, each).item() / each.supervised for each in examples]
    better = weights.index(1.0)
    assert per_token[better] < per_token[1 - better]


def test_it_ends_early_and_keeps_the_best_where_what_is_held_out_gets_worse(
    base: Path, tokenizer: Any, tmp_path: Path
) -> None:
    from autoresearch.distill.teach.lora_worker import Training, held_out_loss, load

    train = [row(0, 1.0, f'{{"knob": "{KNOBS[0]}"}}', "which?")]
    write_rows(tmp_path, train=train, held_out=[row(1, 1.0, f'{{"knob": "{KNOBS[1]}"}}', "which?")])
    of_train, held_out = (read_examples(tmp_path / f"{name}.jsonl", tokenizer, 256) for name in ("train", "held_out"))
    request = LoraRequest(str(tmp_path), "", str(base), 200, 1, 0.05, 256, 2, 5, 0, False)
    model = load(request, silent)
    training = Training(model, request, of_train, held_out)
    training.run(silent, tmp_path / "state.pt")
    losses = [loss for _, loss in training.history[1:]]
    assert training.step < 200
    assert training.step == training.best_step + 2 * request.evaluate_every
    assert held_out_loss(model, held_out) == min(losses)


def refusal(tmp_path: Path, tokenizer: Any, rows: list[dict[str, Any]], max_length: int = 256) -> str:
    write_rows(tmp_path, train=rows)
    with pytest.raises(UserError) as refused:
        read_examples(tmp_path / "train.jsonl", tokenizer, max_length)
    return str(refused.value)


def test_a_row_that_is_too_long_is_refused_by_name_and_never_cut(tmp_path: Path, tokenizer: Any) -> None:
    rows = [row(0), row(1, question="lr " * 300), row(2, question="lr " * 600)]
    said = refusal(tmp_path, tokenizer, rows)
    longest = len(tokenizer.apply_chat_template(rows[2]["messages"], tokenize=True, return_dict=False))
    assert f"train.jsonl line 3 has {longest} tokens" in said and f"--max-length {longest}" in said
    assert len(read_examples(tmp_path / "train.jsonl", tokenizer, longest)) == 3


def test_a_row_without_a_token_to_learn_is_refused_by_name(tmp_path: Path, tokenizer: Any) -> None:
    assert "train.jsonl line 2 has no answer" in refusal(tmp_path, tokenizer, [row(0), row(1, answer=" ")])
    asked = {**row(1), "messages": row(1)["messages"][:2]}
    assert "train.jsonl line 1 has no answer" in refusal(tmp_path, tokenizer, [asked])

    class LeavesAnswersOut:
        def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> list[int]:
            return [n for n, each in enumerate(conversation) if each["role"] != "assistant"]

    assert "line 1 has no token that would be learned" in refusal(tmp_path, LeavesAnswersOut(), [row(0)])


def test_a_template_that_changes_the_question_once_it_is_answered_is_refused(tmp_path: Path) -> None:
    class CountsMessages:
        def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> list[int]:
            return [len(conversation), 7, 7]

    assert "line 1: the tokenizer's chat template changes the question" in refusal(tmp_path, CountsMessages(), [row(0)])


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ({"weight": 1.0}, "line 1 is no row"),
        ({**row(0), "weight": float("nan")}, "line 1 is no row"),
        ({**row(0), "weight": -1.0}, "line 1 is no row"),
        (row(0, 0.0), "all weights are 0"),
    ],
)
def test_a_row_that_means_nothing_is_refused(broken: dict[str, Any], why: str, tmp_path: Path, tokenizer: Any) -> None:
    assert why in refusal(tmp_path, tokenizer, [broken])


def test_a_tokenizer_without_a_template_gets_one_that_ends_its_answers(
    tmp_path: Path, corpus: Path, base: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = TEMPLATE
    example: Example = read_examples(corpus / "held_out.jsonl", tokenizer, 256)[0]
    assert tokenizer.decode(example.prompt).endswith("<|assistant|>\n")
    assert tokenizer.decode(example.ids[len(example.prompt) :]) == f"{example.answer}<|im_end|>\n"


def test_a_refusal_of_the_child_is_one_line_and_an_adapter_is_never_written_over(
    command: Command, adapter: Adapter, corpus: Path, base: Path, tmp_path: Path
) -> None:
    code, _, error = command(*line(corpus, base, tmp_path / "out", "--max-length", "20"))
    assert code == 2 and error.startswith("error: train.jsonl line") and error.count("\n") == 1
    (tmp_path / "out" / "training" / "state.pt").touch()  # as if it had been begun
    code, _, error = command(*line(corpus, base, tmp_path / "out"))
    assert code == 2 and "holds a training on other terms" in error
    code, _, error = command(*line(corpus, base, adapter.out))
    assert code == 2 and "holds what a training made already" in error
    code, _, error = command(*line(tmp_path / "nowhere", base, tmp_path / "new"))
    assert code == 2 and "make a corpus with `autoresearch distill corpus`" in error


def test_without_the_extra_one_line_says_how_to_install_it(
    command: Command, corpus: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    code, _, error = command(*line(corpus, base, tmp_path / "out"))
    assert (code, error) == (2, "error: peft not installed: run `pip install -e '.[distill]'`\n")
