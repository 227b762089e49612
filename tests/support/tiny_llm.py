"""A real OpenAI-compatible server, llama.cpp's, of a tiny language model that answers at random: it learned nothing.

python tests/support/tiny_llm.py COMMAND runs a command for which the environment names such a model.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import numpy as np
import xllamacpp

CONTEXT = 16_384  # tokens; every character is one
WIDTH, HEADS, HIDDEN, LAYERS = 32, 2, 64, 1
SPACE = "\u2581"
CHAT = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant: "


def write_model(path: Path, seed: int = 0) -> None:
    """A Llama of random weights over bytes and printable characters; the same bytes for the same seed."""
    kind = gguf.TokenType
    tokens = [("<unk>", kind.UNKNOWN), ("<s>", kind.CONTROL), ("</s>", kind.CONTROL)]
    tokens += [(f"<0x{byte:02X}>", kind.BYTE) for byte in range(256)]
    tokens += [(SPACE if character == " " else character, kind.NORMAL) for character in map(chr, range(32, 127))]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([int(kind) for _, kind in tokens])
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT)
    rng = np.random.default_rng(seed)

    def add(name: str, *shape: int) -> None:
        weights = rng.standard_normal(shape) / shape[-1] ** 0.5 if len(shape) > 1 else np.ones(shape)
        writer.add_tensor(f"{name}.weight", weights.astype(np.float32))

    add("token_embd", len(tokens), WIDTH)
    add("output_norm", WIDTH)
    add("output", len(tokens), WIDTH)
    for block in (f"blk.{layer}" for layer in range(LAYERS)):
        for name in ("attn_norm", "ffn_norm"):
            add(f"{block}.{name}", WIDTH)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"{block}.{name}", WIDTH, WIDTH)
        for name in ("ffn_gate", "ffn_up"):
            add(f"{block}.{name}", HIDDEN, WIDTH)
        add(f"{block}.ffn_down", WIDTH, HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@contextmanager
def served(model: Path, context: int = CONTEXT, name: str = "tiny") -> Iterator[str]:
    """The base URL of a server, on one thread, of a model that was written; it listens until the end."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.model_alias = {name}
    parameters.n_ctx = context
    parameters.n_gpu_layers = 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.cache_ram_mib = 0  # of old questions, which no test asks again
    parameters.warmup = parameters.ui = False
    parameters.verbosity = 0
    server = xllamacpp.Server(parameters)
    try:
        yield f"{server.listening_address}/v1"
    finally:
        del server  # which closes it


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_model(model := Path(folder) / "tiny.gguf")
        with served(model) as url:
            named = {"OPENAI_BASE_URL": url, "AUTORESEARCH_MODEL": "tiny", "OPENAI_API_KEY": ""}
            sys.exit(subprocess.call(sys.argv[1:], env=os.environ | named))


if __name__ == "__main__":
    main()
