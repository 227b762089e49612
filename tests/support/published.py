"""The published 50-trial night as facts: what was proposed in each iteration and what it measured.

Source: manavsehgal/nvidia-learn, articles/autoresearch-agent-loop/evidence/trajectory.jsonl (NIM Llama 3.1 8B on a
DGX Spark, April 2026). Figures are the source's; the reasons are left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BASELINE_BPB = 10.9554
ACCEPT = 0.005
KNOBS = {
    "n_layer": 24, "n_head": 16, "d_model": 1024, "d_ff": 4096, "lr": 0.0003, "lr_warmup": 5, "grad_clip": 1.0,
    "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.95, "batch_size": 16, "seq_len": 1024, "precision": "fp8",
}  # fmt: skip
BASELINE = {**KNOBS, "vocab_size": 50257, "steps": 60, "val_chunk_tokens": 16384, "seed": 0}
# knob, value, val_bpb, last training loss, training seconds, proposer's latency in seconds
ITERATIONS: list[tuple[str, float, float, float, float, float]] = [
    ("n_head", 8, 10.9524, 7.446, 71.8, 1.3), ("n_head", 32, 10.9362, 7.441, 74.4, 1.18),
    ("d_model", 1536, 10.9448, 7.478, 103.9, 1.03), ("d_model", 768, 10.8722, 7.497, 61.5, 1.15),
    ("d_model", 768, 10.9373, 7.541, 61.8, 1.21), ("d_model", 768, 10.8713, 7.519, 62.6, 1.12),
    ("n_head", 8, 10.9245, 7.431, 72.3, 1.28), ("n_head", 32, 10.9347, 7.442, 75.8, 1.22),
    ("d_model", 1536, 10.9504, 7.484, 98.5, 1.23), ("n_head", 4, 10.9401, 7.441, 86.4, 1.03),
    ("d_model", 1536, 10.9385, 7.474, 102.6, 1.2), ("d_ff", 6144, 10.9125, 7.445, 79.9, 1.37),
    ("lr", 0.0002, 11.0791, 7.708, 70.5, 1.28), ("d_model", 2048, 10.9299, 7.512, 129.4, 1.19),
    ("lr", 0.0002, 11.1329, 7.749, 70.5, 1.31), ("n_head", 32, 10.935, 7.423, 74.8, 1.16),
    ("d_ff", 8192, 10.9566, 7.476, 87.5, 1.18), ("n_head", 8, 10.9371, 7.447, 73.6, 1.29),
    ("d_model", 1536, 10.9767, 7.484, 108.7, 1.09), ("beta1", 0.92, 10.9616, 7.46, 77.2, 1.42),
    ("beta2", 0.92, 10.9524, 7.448, 76.8, 1.35), ("n_head", 32, 10.9618, 7.445, 81.1, 1.27),
    ("d_model", 768, 10.8575, 7.521, 64.3, 1.33), ("d_model", 2048, 10.9479, 7.513, 139.3, 1.25),
    ("beta2", 0.96, 10.9335, 7.439, 78.3, 1.42), ("d_model", 1536, 10.9593, 7.484, 109.2, 1.12),
    ("d_model", 1536, 10.9422, 7.473, 107.4, 1.21), ("n_head", 8, 10.9504, 7.439, 77.4, 1.33),
    ("d_model", 1536, 10.946, 7.484, 105.0, 1.2), ("d_model", 2048, 10.9393, 7.515, 129.0, 1.23),
    ("d_model", 768, 10.8873, 7.533, 60.5, 1.19), ("d_model", 2048, 10.9236, 7.521, 129.0, 1.24),
    ("d_model", 768, 10.8692, 7.529, 60.5, 1.2), ("d_model", 1536, 10.9127, 7.484, 98.8, 1.19),
    ("n_head", 8, 10.9374, 7.446, 70.4, 1.31), ("d_model", 1536, 10.9571, 7.481, 99.2, 1.19),
    ("n_head", 32, 10.9469, 7.43, 74.7, 1.16), ("d_model", 256, 13.7575, 9.645, 38.7, 1.28),
    ("n_head", 4, 10.9487, 7.447, 85.0, 1.32), ("n_head", 4, 10.9405, 7.438, 84.8, 1.11),
    ("d_model", 2048, 10.9667, 7.521, 128.9, 1.35), ("lr", 0.0002, 11.1193, 7.766, 70.9, 1.19),
    ("d_ff", 6144, 10.8989, 7.425, 79.4, 1.28), ("d_model", 1536, 10.9686, 7.484, 99.0, 1.35),
    ("d_model", 768, 10.8534, 7.498, 60.5, 1.11), ("d_ff", 8192, 10.8885, 7.502, 88.0, 1.27),
    ("n_head", 32, 10.9398, 7.437, 75.1, 1.14), ("d_ff", 4096, 10.9337, 7.438, 71.1, 1.19),
    ("d_model", 2048, 10.9334, 7.513, 132.3, 1.2), ("n_head", 8, 10.9601, 7.443, 72.6, 1.05),
]  # fmt: skip


def records() -> list[dict[str, Any]]:
    """The lines of the trajectory in its published format."""
    lines: list[dict[str, Any]] = [
        {"_meta": "trajectory", "baseline_val_bpb": BASELINE_BPB, "baseline_cfg": BASELINE, "accept_delta_frac": ACCEPT}
    ]
    best = BASELINE_BPB
    for number, (knob, value, val_bpb, loss, train_seconds, latency) in enumerate(ITERATIONS, 1):
        gain = (BASELINE_BPB - val_bpb) / BASELINE_BPB
        best = min(best, val_bpb)
        minutes = 6 + 3 * number // 2
        lines.append(
            {
                "iter": number,
                "ts": f"2026-04-25 {18 + minutes // 60}:{minutes % 60:02d}:22",
                "stage": "evaluated",
                "verdict_ok": True,
                "proposal": {"knob": knob, "new_value": value, "reason": f"iteration {number}"},
                "diff": f"-    {knob} = {BASELINE[knob]}\n+    {knob} = {value}\n",
                "candidate_cfg": {**BASELINE, knob: value},
                "eval_metrics": {
                    "ok": True, "train_steps": 60, "train_loss_last": loss, "val_bpb": val_bpb,
                    "mean_step_ms": round(train_seconds / 0.06, 2), "train_wall_s": train_seconds,
                    "peak_gpu_mem_gib": 24.3,
                },
                "val_bpb": val_bpb,
                "baseline_val_bpb": BASELINE_BPB,
                "improvement_frac": round(gain, 4),
                "decision": "keep" if gain >= ACCEPT else "revert",
                "is_new_best": val_bpb == best,
                "nim_latency_s": latency,
                "iter_wall_s": round(train_seconds + latency + 1.0, 1),
            }
        )  # fmt: skip
    kept = sum(line["decision"] == "keep" for line in lines[1:])
    lines.append({"stage": "loop_complete", "iters_requested": 50, "accept_count": kept, "best_val_bpb": best})
    return lines


def write(path: Path) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in records()), encoding="utf-8")
    return path
