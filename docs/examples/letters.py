"""A language model of letters, trained in well under a second on a CPU: constants at the top, `val_bpb:` at the end."""

import math
import os
import time
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # matrices this small lose by more, a hundredfold on a busy machine
import numpy as np

# --- what may be tuned ---
CONTEXT = 6  # characters that a prediction looks back at
EMBED_DIM = 12  # numbers that stand for a character
HIDDEN = 64  # width of the hidden layer
LEARNING_RATE = 1e-3 * 2  # of Adam, after warmup; then down a cosine
BETA1 = 0.9  # Adam's momentum
BETA2 = 0.95  # Adam's memory of gradient sizes
WEIGHT_DECAY = 0.0  # decoupled, as in AdamW
BATCH_SIZE = 2**5  # contexts a step
WARMUP_STEPS = 20
INIT_SCALE = 1.0  # of the weights, times 1 / sqrt(width)
ACTIVATION = "tanh"  # of the hidden layer
USE_BIAS = True  # in the hidden layer
# --- what stays ---
SEED = 1337
STEPS = 400  # what a run spends
VAL_CHARACTERS = 4_000
TEXT_PATH = Path(os.__file__)  # the source of Python's own module os
IN = CONTEXT * EMBED_DIM


def activated(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and slopes."""
    if ACTIVATION == "tanh":
        y = np.tanh(x)
        return y, 1 - y * y
    if ACTIVATION == "relu":
        return np.maximum(x, 0), (x > 0).astype(x.dtype)
    raise ValueError(f"no activation {ACTIVATION}")


def predict(weights: dict[str, np.ndarray], contexts: np.ndarray) -> tuple[np.ndarray, ...]:
    """Log-probabilities of the next character, and what the gradient needs. contexts: [batch, CONTEXT]."""
    x = weights["embed"][contexts].reshape(len(contexts), IN)
    h, slope = activated(x @ weights["w1"] + weights["b1"] * USE_BIAS)
    logits = h @ weights["w2"] + weights["b2"]
    logits -= logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True)), x, h, slope


def gradient(weights: dict[str, np.ndarray], contexts: np.ndarray, after: np.ndarray) -> dict[str, np.ndarray]:
    """Of the mean loss in nats."""
    log_p, x, h, slope = predict(weights, contexts)
    d = np.exp(log_p)
    d[np.arange(len(after)), after] -= 1
    d /= len(after)
    dh = d @ weights["w2"].T * slope
    found = {"w1": x.T @ dh, "b1": dh.sum(0) * USE_BIAS, "w2": h.T @ d, "b2": d.sum(0)}
    found["embed"] = np.zeros_like(weights["embed"])
    np.add.at(found["embed"], contexts, (dh @ weights["w1"].T).reshape(*contexts.shape, EMBED_DIM))
    return found


def main() -> None:
    began, draw = time.perf_counter(), np.random.default_rng(SEED)
    text = TEXT_PATH.read_text("utf-8")
    letters = {letter: n for n, letter in enumerate(sorted(set(text)))}
    known = np.array([letters[letter] for letter in text])
    train, val = known[:-VAL_CHARACTERS], known[-VAL_CHARACTERS:]

    def drawn(*shape: int) -> np.ndarray:
        return draw.normal(0, INIT_SCALE / math.sqrt(shape[0]), shape)

    weights = {"embed": draw.normal(0, INIT_SCALE, (len(letters), EMBED_DIM)), "w1": drawn(IN, HIDDEN)}
    weights |= {"b1": np.zeros(HIDDEN), "w2": drawn(HIDDEN, len(letters)), "b2": np.zeros(len(letters))}
    mean, square = ({name: np.zeros_like(w) for name, w in weights.items()} for _ in range(2))
    for step in range(1, STEPS + 1):
        at = draw.integers(CONTEXT, len(train), BATCH_SIZE)
        found = gradient(weights, train[at[:, None] - np.arange(CONTEXT, 0, -1)], train[at])
        cosine = 0.5 * (1 + math.cos(math.pi * step / STEPS))
        lr = LEARNING_RATE * min(1, step / max(1, WARMUP_STEPS)) * cosine
        for name, g in found.items():
            mean[name] += (1 - BETA1) * (g - mean[name])
            square[name] += (1 - BETA2) * (g * g - square[name])
            size = np.sqrt(square[name] / (1 - BETA2**step)) + 1e-8
            weights[name] -= lr * (mean[name] / (1 - BETA1**step) / size + WEIGHT_DECAY * weights[name])

    at = np.arange(CONTEXT, len(val))
    log_p = predict(weights, val[at[:, None] - np.arange(CONTEXT, 0, -1)])[0]
    val_bytes = len("".join(text[-VAL_CHARACTERS + CONTEXT :]).encode())
    val_bpb = -log_p[np.arange(len(at)), val[at]].sum() / math.log(2) / val_bytes
    print("---")
    print(f"val_bpb:          {val_bpb:.6f}")
    print(f"training_seconds: {time.perf_counter() - began:.1f}")
    print(f"num_params:       {sum(w.size for w in weights.values())}")


if __name__ == "__main__":
    main()
