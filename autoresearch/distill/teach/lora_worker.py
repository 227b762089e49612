"""The child that teaches a model: `python -m autoresearch.distill.teach.lora_worker FOLDER`.

It reads FOLDER/request.json, writes FOLDER/result.json and FOLDER/made, and tells how it stands in JSON lines on
stdout: device, progress, evaluation, done, refused. It lives as long as its stdin is open. At each evaluation all that
it takes to go on to the same bits is written down.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
import torch.nn.functional as F
import transformers
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from autoresearch.distill.teach.examples import NOT_LEARNED, Example, read_examples
from autoresearch.distill.teach.lora_terms import MERGED, Answers, LoraRequest, LoraResult, read_request
from autoresearch.distill.teach.messages import MADE, REQUEST, RESULT, STATE, write
from autoresearch.distill.teach.state import load_state, save_state
from autoresearch.distill.teach.telling import Tell, serve
from autoresearch.errors import UserError
from autoresearch.proposers.conversation import TEMPLATE
from rails import clean
from rails.proposal import read_proposal

RANK, ALPHA, DROPOUT = 16, 32, 0.05
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
WARM_UP_STEPS = 10
MAX_NORM = 1.0
TOKENS_TO_SPARE = 32  # beyond the longest answer held out
MOST_CHANGES = 64


class Training:
    """An adapter on its base, and how far it has come."""

    def __init__(self, model: PeftModel, request: LoraRequest, train: Sequence[Example], held_out: Sequence[Example]):
        self.model, self.request, self.train, self.held_out = model, request, train, held_out
        self.device = next(model.parameters()).device
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.weights, lr=request.lr, weight_decay=0.0)
        self.step, self.seconds = 0, 0.0
        self.history: list[list[float]] = []  # [step, held-out loss]
        self.best: dict[str, torch.Tensor] = {}
        self._steps_of_epoch = math.ceil(len(train) / request.batch)
        self.steps = request.epochs * self._steps_of_epoch
        # What a row counts for on average. Not the sum over a batch: a batch of failures shall move little.
        self._unit = sum(each.weight * each.supervised for each in train) / len(train)

    @property
    def best_step(self) -> int:
        return int(min(self.history[1:], key=lambda point: point[1])[0])

    @property
    def is_over(self) -> bool:
        if not self.history:
            return False
        stale = sum(step > self.best_step for step, _ in self.history) if len(self.history) > 1 else 0
        return self.step >= self.steps or stale >= self.request.patience

    def run(self, tell: Tell, state: Path) -> None:
        """Until its end, or no lower held-out loss comes; goes on where `state` was written."""
        if state.exists():
            self._load(state)
        while not self.is_over:
            started = time.monotonic()
            if self.history:
                for _ in range(min(self.request.evaluate_every, self.steps - self.step)):
                    loss = self._learn()
                    tell("progress", phase="training", step=self.step, steps=self.steps, loss=loss)
            loss = held_out_loss(self.model, self.held_out)
            if not math.isfinite(loss):
                raise UserError(f"the training diverged by step {self.step} (no finite loss): give a smaller --lr")
            self.history.append([self.step, loss])
            if self.step and self.best_step == self.step:
                self.best = self._adapter()
            self.seconds += time.monotonic() - started
            self._save(state)
            tell("evaluation", step=self.step, steps=self.steps, loss=loss, base_loss=self.history[0][1])
        set_peft_model_state_dict(self.model, self.best)

    def _learn(self) -> float:
        """One step, a row at a time: rows need no padding then. The loss of its rows by weight."""
        self.model.train()
        epoch, place = divmod(self.step, self._steps_of_epoch)
        order = torch.randperm(
            len(self.train), generator=torch.Generator().manual_seed(self.request.seed * 1_000_003 + epoch)
        )
        rows = [self.train[n] for n in order[place * self.request.batch :][: self.request.batch].tolist()]
        total = 0.0
        for row in rows:
            loss = row.weight * nats(self.model, row) / (len(rows) * self._unit)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.weights, MAX_NORM)
        self.optimizer.param_groups[0]["lr"] = self.request.lr * min(1.0, (self.step + 1) / WARM_UP_STEPS)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return total

    def _adapter(self) -> dict[str, torch.Tensor]:
        found = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        return {name: weight.detach().cpu().clone() for name, weight in found.items()}

    def _save(self, path: Path) -> None:
        state = {
            "adapter": self._adapter(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
            "step": self.step,
            "history": self.history,
            "seconds": self.seconds,
        }
        save_state(state, path)

    def _load(self, path: Path) -> None:
        state = load_state(path)
        set_peft_model_state_dict(self.model, state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"])
        self.best, self.step = state["best"], state["step"]
        self.history, self.seconds = state["history"], state["seconds"]


def nats(model: torch.nn.Module, example: Example) -> torch.Tensor:
    """Sum over the tokens of the answer; logits are worked out for these alone, since a vocabulary is large."""
    device = next(model.parameters()).device
    ids = torch.tensor([example.ids], device=device)
    labels = torch.tensor(example.labels[-example.supervised :], device=device)
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=example.supervised + 1).logits[0, :-1]
    return F.cross_entropy(logits.float(), labels, ignore_index=NOT_LEARNED, reduction="sum")


@torch.no_grad()
def held_out_loss(model: torch.nn.Module, examples: Sequence[Example]) -> float:
    """Nats per token of the answers, by weight."""
    model.eval()
    total = sum(each.weight * nats(model, each).item() for each in examples)
    return total / sum(each.weight * each.supervised for each in examples)


@torch.no_grad()
def answers(model: Any, tokenizer: Any, examples: Sequence[Example], tell: Tell, phase: str) -> Answers:
    """Greedy, and without a schema that an endpoint would enforce."""
    model.eval()
    ends = model.generation_config.eos_token_id
    ends = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}
    readable = matched = 0
    for n, example in enumerate(examples, 1):
        prompt = torch.tensor([example.prompt], device=model.device)
        out = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            repetition_penalty=1.0,  # some bases bring another
            max_new_tokens=max(each.supervised for each in examples) + TOKENS_TO_SPARE,
            eos_token_id=sorted(ends) or None,
            pad_token_id=min(ends, default=0),
        )
        said = tokenizer.decode(out[0, prompt.shape[1] :], skip_special_tokens=True)
        proposal = read_proposal(said.strip(), MOST_CHANGES)
        readable += proposal.fault is None
        matched += proposal.fault is None and proposal.changes == read_proposal(example.answer, MOST_CHANGES).changes
        tell("progress", phase=phase, step=n, steps=len(examples), loss=None)
    return Answers(len(examples), readable, matched)


def train(folder: Path, tell: Tell) -> None:
    """Raises UserError for what a person can mend."""
    request = read_request(folder / REQUEST)
    try:
        tokenizer = AutoTokenizer.from_pretrained(request.base)
        config = AutoConfig.from_pretrained(request.base)
    except (OSError, ValueError) as error:
        raise _no_base(request.base, error) from None
    ours = not tokenizer.chat_template
    if ours:
        tokenizer.chat_template = TEMPLATE
    rows, held_out = (
        read_examples(Path(request.corpus) / f"{name}.jsonl", tokenizer, request.max_length)
        for name in ("train", "held_out")
    )
    longest, most = max(len(each.ids) for each in (*rows, *held_out)), getattr(config, "max_position_embeddings", None)
    if most is not None and longest > most:
        raise UserError(f"a row has {longest:,} tokens, more than the {most:,} that --base can read: take another base")
    model = load(request, tell)
    training = Training(model, request, rows, held_out)
    training.run(tell, folder / STATE)
    started = time.monotonic()
    of_adapter = answers(model, tokenizer, held_out, tell, "its answers")
    with model.disable_adapter():
        of_base = answers(model, tokenizer, held_out, tell, "its base's answers")
    model.save_pretrained(str(folder / MADE), save_embedding_layers=False)
    tokenizer.save_pretrained(folder / MADE)
    if request.merge:
        model.merge_and_unload().save_pretrained(folder / MERGED)
        tokenizer.save_pretrained(folder / MERGED)
    result = LoraResult(
        base_loss=training.history[0][1],
        loss=min(loss for _, loss in training.history[1:]),
        best_step=training.best_step,
        step=training.step,
        steps=training.steps,
        history=training.history,
        base_answers=of_base,
        answers=of_adapter,
        rows=len(rows),
        supervised_tokens=sum(each.supervised for each in rows),
        longest_row=longest,
        trained_parameters=sum(weight.numel() for weight in training.weights),
        seconds=training.seconds + time.monotonic() - started,
        device=str(training.device),
        template="ours" if ours else "tokenizer",
        versions={"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
    )
    write(result, folder / RESULT)


def load(request: LoraRequest, tell: Tell) -> PeftModel:
    """The base with an adapter that does nothing yet: bf16 on a GPU, fp32 on the processor; the adapter is fp32."""
    torch.manual_seed(request.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)  # some of a GPU's have no such way
    on_gpu = torch.cuda.is_available()
    uuid = str(torch.cuda.get_device_properties(0).uuid) if on_gpu else None
    tell("device", device="cuda:0" if on_gpu else "cpu", uuid=uuid)
    try:
        base: Any = AutoModelForCausalLM.from_pretrained(
            request.base, dtype=torch.bfloat16 if on_gpu else torch.float32
        )
        config = LoraConfig(
            r=RANK, lora_alpha=ALPHA, lora_dropout=DROPOUT, target_modules=list(TARGETS), task_type="CAUSAL_LM"
        )
        model = get_peft_model(base.to("cuda:0" if on_gpu else "cpu"), config)
    except (OSError, ValueError) as error:
        raise _no_base(request.base, error) from None
    # Else the activations of a long row take more memory than the model.
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def _no_base(base: str, error: Exception) -> UserError:
    why = clean(str(error).strip().partition("\n")[0], 300)
    return UserError(
        f"--base {clean(base, 200)} cannot be taught ({why}): name a folder or a model of the hub, a causal one with "
        "attention and MLP projections as Llama or Qwen name them"
    )


if __name__ == "__main__":
    serve(train)
