"""Made-up facts and details of a report, with hostile text in them, at any number of trials."""

from __future__ import annotations

import math
import random
from typing import Any

HOSTILE = '</script><img src=x onerror=alert(1)><script>alert(2)</script>\u202e[31m\x1b[31m & "quoted"\n<b>bold</b>'
KNOBS: dict[str, list[Any]] = {
    "lr": [0.0005, 0.001, 0.002, 0.004],
    "beta1": [0.76, 0.9, 0.97],
    "d_ff": [256, 512, 1024],
    "n_layer": [2, 4, 6],
    "precision": ["bf16", "fp32"],
    "grad_clip": [0.5, 1.0, 1.93],
}
UNTOUCHED = ["weight_decay", "activation"]
BASELINE = {"lr": 0.001, "beta1": 0.9, "d_ff": 512, "n_layer": 4, "precision": "bf16", "grad_clip": 1.0}
LOGARITHMIC = {"lr", "grad_clip"}
DEVIATION = 0.0248
JOULES_PER_RUN = 160.0

Facts = dict[str, Any]
Details = dict[int, dict[str, Any]]


def sample(
    trials: int = 28, *, prompt_bytes: int = 600, curve_points: int = 40, seed: int = 0
) -> tuple[Facts, Details]:
    """A study of so many trials after the baseline: every outcome occurs from twelve on, trial 3 is hostile all over,
    and trial 4 is a terrible outlier."""
    rng = random.Random(seed)
    rows = [_baseline()]
    best = rows[0]
    for number in range(1, trials + 1):
        row = _trial(number, best, rng)
        rows.append(row)
        if row["outcome"] == "keep":
            best = row
        row |= {"best": best["val_bpb"], "best_low": best["low"], "best_high": best["high"]}
        row["kwh"] = rows[-2]["kwh"] + (row["energy_joules"] or 0.0) / 3.6e6
    facts = _facts(rows, best, rng, curve_points)
    return facts, {row["number"]: _detail(row, rows, rng, prompt_bytes, curve_points) for row in rows}


def _baseline() -> Facts:
    half = 1.96 * DEVIATION / math.sqrt(11)
    return {
        "number": 0, "parent": None, "generation": 0, "proposer": "baseline", "knobs": [], "change": "",
        "state": "complete", "outcome": "baseline", "rail": None, "reason": "", "hypothesis": "", "val_bpb": 2.8175,
        "low": 2.8175 - half, "high": 2.8175 + half, "n_runs": 11, "reference": None, "improvement": None,
        "improvement_low": None, "improvement_high": None, "test_bpb": 2.7235, "energy_joules": 11 * JOULES_PER_RUN,
        "energy_source": "estimate", "seconds": 88.0, "params": 1_050_000, "tokens_per_second": 51_000.0,
        "peak_memory_bytes": 410_000_000, "started_at": "2026-11-20T22:00:00+00:00",
        "finished_at": "2026-11-20T22:02:00+00:00", "best": 2.8175, "best_low": 2.8175 - half,
        "best_high": 2.8175 + half, "kwh": 11 * JOULES_PER_RUN / 3.6e6, "recipe": dict(BASELINE),
    }  # fmt: skip


def _trial(number: int, best: Facts, rng: random.Random) -> Facts:
    knob = rng.choice(list(KNOBS))
    old = best["recipe"][knob]
    new = rng.choice([value for value in KNOBS[knob] if value != old])
    outcome = {3: "discard", 4: "discard", 5: "keep", 7: "blocked", 9: "failed", 11: "timed_out", 12: "abandoned"}.get(
        number
    ) or rng.choices(["discard", "keep", "blocked", "failed"], [85, 4, 9, 2])[0]
    scored = outcome in ("keep", "discard")
    n_runs = (rng.randint(4, 8) if outcome == "keep" else rng.choice([1, 1, 1, 2, 4])) if scored else 0
    gain = rng.uniform(0.002, 0.03) if outcome == "keep" else -abs(rng.gauss(0.03, 0.05))
    if number == 4:
        gain = -3.2
    value = best["val_bpb"] - gain if scored else None
    half = 1.96 * DEVIATION / math.sqrt(n_runs) if scored else 0.0
    error = half * 1.1
    return {
        "number": number,
        "parent": best["number"],
        "generation": best["generation"] + 1,
        "proposer": HOSTILE if number == 3 else rng.choice(["tpe", "llama-3.1-8b"]),
        "knobs": [knob],
        "change": HOSTILE if number == 3 else f"{knob} {old} -> {new}",
        "state": "complete" if scored else outcome,
        "outcome": outcome,
        "rail": "novelty" if outcome == "blocked" else None,
        "reason": HOSTILE if number == 3 else "the same recipe was trial 2" if outcome == "blocked" else "",
        "hypothesis": HOSTILE if number == 3 else f"A calmer {knob} should help the first steps.",
        "val_bpb": value,
        "low": value - half if value else None,
        "high": value + half if value else None,
        "n_runs": n_runs,
        "reference": best["number"],
        "improvement": gain if scored else None,
        "improvement_low": gain - error if scored else None,
        "improvement_high": gain + error if scored else None,
        "test_bpb": value - 0.09 if value and outcome == "keep" else None,
        "energy_joules": None if outcome == "blocked" else JOULES_PER_RUN * max(n_runs, 1) * rng.uniform(0.8, 1.3),
        "energy_source": None if outcome == "blocked" else "estimate" if number % 3 else "rapl",
        "seconds": None if outcome == "blocked" else 8.0 * max(n_runs, 1),
        "params": 1_050_000 if scored else None,
        "tokens_per_second": 51_000.0 if scored else None,
        "peak_memory_bytes": 410_000_000 if scored else None,
        "started_at": "2026-11-20T22:10:00+00:00",
        "finished_at": "2026-11-20T22:11:00+00:00",
        "recipe": best["recipe"] | {knob: new},
    }


def _facts(rows: list[Facts], best: Facts, rng: random.Random, curve_points: int) -> Facts:
    kept = [row for row in rows if row["outcome"] == "keep"]
    return {
        "study": {
            "name": "first-night",
            "preset": "cpu-nano",
            "created_at": "2026-11-20T21:59:00+00:00",
            "as_of": "2026-11-21T06:12:00+00:00",
            "imported": None,
            "control": "run",
            "running": False,
            "in_flight": [],
            "budget": "200,000 tokens a run",
            "devices": ["cpu"],
            "currency": "EUR",
            "price_per_kwh": 0.3,
        },
        "headline": [
            f"{len(rows) - 1} changes were tried, {len(kept)} were kept.",
            "The best recipe needs 0.0641 \u00b1 0.0226 bits per byte less than the baseline (2.3 %) on the decision "
            "text and 0.0647 \u00b1 0.0316 on the untouched test text, for 4.1 Wh (estimate) and 0.001 EUR.",
        ],
        "not_this": "This is a recipe for training, measured at a small budget. It is not a model to use.",
        "warnings": ["Energy is an estimate: this machine has no counter.", HOSTILE],
        "baseline": _standing(rows[0]),
        "incumbent": _standing(best),
        "noise": {"deviation": DEVIATION, "dof": 21, "source": "measured"},
        "meters": _meters(rows, kept),
        "trials": [{key: value for key, value in row.items() if key != "recipe"} for row in rows],
        "coverage": _coverage(rows),
        "wall": [
            {"part": part, "seconds": seconds}
            for part, seconds in {
                "proposing": 61.0,
                "starting": 32.0,
                "data": 9.0,
                "forward": 140.0,
                "backward": 280.0,
                "optimizer": 66.0,
                "scoring": 88.0,
                "other": 20.0,
            }.items()
        ],
        "proposers": [
            {
                "name": name,
                "model": model,
                "proposals": len(rows) // 2,
                "blocked": 2,
                "failed": 1,
                "kept": 1,
                "keep_rate": 0.08,
                "gain": 0.0322,
                "gain_half_interval": 0.0214,
                "gain_per_trial": 0.0023,
                "gain_per_kwh": 15.2,
                "latency_seconds": latency,
                "tokens": tokens,
            }
            for name, model, latency, tokens in [
                ("tpe", None, 0.01, None),
                ("llm", "meta/llama-3.1-8b-instruct", 1.9, 81_234),
                ("odd", HOSTILE, None, None),
            ]
        ],
        "failures": [
            {"kind": "out_of_memory", "count": 1, "trials": [9], "lines": ["RuntimeError: out of memory", HOSTILE]}
        ],
        "curves": [
            {
                "trial": row["number"],
                "seed": 0,
                "label": row["change"] or "baseline",
                "role": {best["number"]: "incumbent", 0: "reference"}.get(row["number"], "kept"),
                "points": _curve(row["val_bpb"], rng, curve_points),
            }
            for row in [rows[0], *kept]
        ],
        "promotions": [],
    }


def promotions(rows: list[Facts]) -> list[Facts]:
    """What a longer budget said of the first two kept of these trials."""
    kept = [row for row in rows if row["outcome"] == "keep"][:2]
    return [
        {
            "factor": 16.0, "budget": "3,200,000 tokens a run", "seeds": [900, 901, 902], "spearman": 0.5,
            "held": False, "sentence": "At 16 times the budget the order changed.", "energy_joules": 12_000.0,
            "rows": [
                {
                    "trial": row["number"], "label": row["change"], "n_runs": 3, "search_val_bpb": row["val_bpb"],
                    "search_gain": 0.03, "search_low": 0.01, "search_high": 0.05, "long_val_bpb": 2.1,
                    "long_gain": 0.01, "long_low": -0.02, "long_high": 0.04, "verdict": "shrank",
                }
                for row in kept
            ],
        }
    ]  # fmt: skip


def _standing(row: Facts) -> Facts:
    half = row["high"] - row["val_bpb"]
    return {
        "trial": row["number"], "val_bpb": row["val_bpb"], "val_bpb_half_interval": half, "n_runs": row["n_runs"],
        "test_bpb": row["test_bpb"], "test_bpb_half_interval": half, "n_test_runs": 3, "recipe": row["recipe"],
    }  # fmt: skip


def _meters(rows: list[Facts], kept: list[Facts]) -> Facts:
    trials = len(rows) - 1
    return {
        "proposals": trials, "trained": trials - 2, "knobs_on_menu": 8, "knobs_touched": 6, "touched": list(KNOBS),
        "untouched": UNTOUCHED, "unique_pairs": 16, "repeats": 5, "repeat_rate": 0.18,
        "windows": [
            {"first": first, "last": min(first + 9, trials), "repeat_rate": (first * 7 % 50) / 100}
            for first in range(1, trials + 1, 10)
        ],
        "most_proposed": {"knob": "lr", "value": "0.002", "count": 5, "share": 0.18},
        "most_kept": {"knob": "d_ff", "value": HOSTILE, "count": 1, "share": 0.5},
        "kept": len(kept), "keep_rate": 0.07, "first_keep": kept[0]["number"] if kept else None,
        "best_keep": kept[-1]["number"] if kept else None, "plateau": 9, "blocked": 1,
        "blocked_by_rail": {"novelty": 1}, "failed": 2, "run_deviation": DEVIATION, "run_deviation_dof": 21,
        "gain": 0.0641, "gain_half_interval": 0.0226, "energy_joules": 15_000.0, "gain_per_kwh": 15.2,
        "best_observed": 2.7188, "best_observed_trial": 5, "best_recipe_mean": 2.7534, "best_recipe_runs": 8,
        "luck": 0.0346, "measured_again": [],
        "judged_both_ways": [
            {"change": HOSTILE, "trials": [2, 8], "mean": 2.8, "low": 2.79, "high": 2.81, "kept": [8], "discarded": [2]}
        ],
        "forecasts": 6, "forecasts_right": 4, "forecast_error": 0.0213, "forecast_rank_correlation": 0.31,
        "verdict": "researching",
        "why": "of the last 20 proposals 3 repeated an earlier one and 2 more were blocked or failed",
    }  # fmt: skip


def _coverage(rows: list[Facts]) -> list[Facts]:
    found = []
    for knob, values in KNOBS.items():
        for value in values:
            change = f"-> {value}"
            tried = [row for row in rows if row["knobs"] == [knob] and row["change"].endswith(change)]
            gains = [row["improvement"] for row in tried if row["improvement"] is not None]
            effect = sum(gains) / len(gains) if gains else None
            half = 1.96 * DEVIATION / math.sqrt(len(gains)) if gains else 0.0
            if tried or value == BASELINE[knob]:
                found.append(
                    {
                        "knob": knob, "on_menu": True, "value": str(value),
                        "number": None if isinstance(value, str) else float(value),
                        "scale": "log" if knob in LOGARITHMIC else "linear", "baseline": value == BASELINE[knob],
                        "proposed": len(tried), "trained": len(gains),
                        "kept": sum(row["outcome"] == "keep" for row in tried), "effect": effect,
                        "low": None if effect is None else effect - half,
                        "high": None if effect is None else effect + half,
                    }
                )  # fmt: skip
    nothing = {"value": None, "number": None, "scale": "linear", "baseline": False, "proposed": 0, "trained": 0}
    untouched = [{"knob": knob, "on_menu": True, **nothing} for knob in UNTOUCHED]
    return found + [row | {"kept": 0, "effect": None, "low": None, "high": None} for row in untouched]


def _curve(end: float, rng: random.Random, points: int) -> list[list[float]]:
    """[tokens, loss in nats]: falls as a power of tokens."""
    return [
        [tokens, round(end / 0.35 + 3.2 * (1 + tokens / 9_000) ** -0.8 + rng.gauss(0, 0.03) - 4.0, 4)]
        for tokens in (round(200_000 * (i + 1) / points) for i in range(points))
    ]


def _detail(row: Facts, rows: list[Facts], rng: random.Random, prompt_bytes: int, curve_points: int) -> Facts:
    number, knob = row["number"], (row["knobs"] or ["lr"])[0]
    return {
        "diff": HOSTILE if number == 3 else "" if number == 0 else f"--- recipe.toml\n+++ recipe.toml\n-{knob} = 1\n"
        f"+{knob} = {row['recipe'][knob]}\n n_head = 4\n",
        "hypothesis": row["hypothesis"],
        "prompt": HOSTILE if number == 3 else _prompt(row, rows, prompt_bytes) if number else None,
        "answer": HOSTILE if number == 3 else f'{{"knob": "{knob}"}}' if number else None,
        "model": "meta/llama-3.1-8b-instruct" if number % 2 else None,
        "latency_seconds": 1.9 if number else None,
        "prompt_tokens": 4_000 if number else None,
        "completion_tokens": 51 if number else None,
        "verdicts": [
            {"rail": rail, "passed": row["rail"] != rail, "reason": HOSTILE if number == 3 else ""}
            for rail in ("schema", "menu", "range", "cross", "diff", "novelty")
        ],
        "reason": row["reason"],
        "runs": [
            {
                "seed": seed, "purpose": "search", "state": "complete", "failure": None, "message": None,
                "val_bpb": row["val_bpb"] + rng.gauss(0, DEVIATION), "test_bpb": None, "tokens_per_second": 51_000.0,
                "mfu": 0.21, "train_seconds": 4.0, "peak_memory_bytes": 410_000_000, "energy_joules": JOULES_PER_RUN,
                "curve": _curve(row["val_bpb"], rng, curve_points),
            }
            for seed in range(row["n_runs"])
        ],
        "source": None,
        "recipe": row["recipe"],
    }  # fmt: skip


def _prompt(row: Facts, rows: list[Facts], prompt_bytes: int) -> str:
    """The menu and the history so far, of about so many bytes: what a language model is shown."""
    menu = "\n".join(f"- {knob} = {value}: one of the knobs of the recipe" for knob, value in BASELINE.items())
    lines = [f"- trial {other['number']}: {other['change']}: {other['outcome']}" for other in rows[: row["number"]]]
    rules = "- a rule: what a proposal may never do, spelt out at some length\n" * (prompt_bytes // 60)
    return f"{menu}\n" + "\n".join([*lines, rules])[:prompt_bytes] + f"\nPropose trial {row['number']}."
